"""Retries: wrappers that are themselves an origin or a listing; `host.py` composes them."""

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import TypeVar, cast

from empiarfs.cancellation import CancelToken, wait
from empiarfs.errors import Cancelled, CertificateError, Closed, NotFound, Throttled, Unavailable
from empiarfs.model import File, Node, Span
from empiarfs.ports import NEVER, Listing, Origin

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE = 0.1  # seconds before the second attempt
LONGEST_PAUSE = 20.0
MOST_DOUBLINGS = 10  # of a pause
PROGRESS = 64 * 1024  # bytes of a response after which patience begins again
MAX_LOGGED = 1000  # paths
NEWS = 2  # the failure of a request that is logged: one is common, about 3 % of requests hang


@dataclass(slots=True)
class Attempts:
    """The attempts at one request, for which one patience lasts.

    Attributes:
        path: the path that is requested.
        since: the time from which patience counts.
        token: ends the attempts once it is cancelled.
        failed: how many have failed.
    """

    path: str
    since: float
    token: CancelToken | None = None
    failed: int = 0


class RetryPolicy:
    """Retries requests with a growing pause, for a limited time (the patience).

    Args:
        seconds: the patience, from the first request.
        clock: monotonic seconds.
        chance: returns a number from 0 to 1; spreads the pauses of many readers.
        stopping: set when the archive closes; ends every pause.
        cool_down: returns the seconds for which no request is to be sent to the server.
        interactive: whether a user waits, who can act on a certificate that cannot be verified.
    """

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float],
        chance: Callable[[], float],
        stopping: threading.Event,
        cool_down: Callable[[], float] = lambda: 0.0,
        *,
        interactive: bool = False,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._chance = chance
        self._stopping = stopping
        self._cool_down = cool_down
        self._logged: dict[str, float] = {}  # logged paths, and until when their failures are not logged again
        self.retries = 0
        self._interactive = interactive

    def call(self, path: str, ask: Callable[[float], T], token: CancelToken | None = None) -> T:
        """Return what `ask` returns; call it again while it raises `Unavailable` and patience lasts.

        Args:
            path: the path that is requested.
            ask: sends one request; takes its deadline.
            token: ends the attempts once it is cancelled.

        Raises:
            Unavailable: the last one, when patience ends.
            Cancelled: the caller is to stop waiting.
            Closed: the archive closes.
        """
        attempts = self.attempts(path, token)
        while True:
            try:
                answer = ask(self.begin(attempts))
            except Unavailable as error:
                delay = self.record_failure(attempts, error)
            else:
                self._logged.pop(path, None)
                return answer
            # outside the `except`: its traceback would keep the broken connection open
            self.pause(attempts, delay)
            self.retries += 1

    def attempts(self, path: str, token: CancelToken | None = None) -> Attempts:
        """Return the state of a request for `path` whose patience begins now."""
        return Attempts(path, self._clock(), token)

    def begin(self, attempts: Attempts) -> float:
        """Return the deadline of the next attempt; wait for the end of the server's cool-down, if patience lasts.

        Raises:
            Closed: the archive closes.
            Cancelled: the caller is to stop waiting.
        """
        deadline = attempts.since + self._seconds
        left_alone = self._cool_down()
        if left_alone or self._stopping.is_set():
            self.pause(attempts, min(left_alone, max(0.0, deadline - self._clock())))
        return deadline

    def record_failure(self, attempts: Attempts, error: Unavailable) -> float:
        """Return how long to wait before the next attempt.

        Raises:
            Unavailable: `error`, if patience has ended.
            Cancelled: the token of the attempts is cancelled.
        """
        if attempts.token is not None and attempts.token.is_cancelled:
            raise Cancelled(attempts.path) from error
        left = attempts.since + self._seconds - self._clock()
        untrusted = isinstance(error, CertificateError)
        if left <= 0 or (untrusted and self._interactive):
            raise error
        pause = min(FIRST_PAUSE * 2.0 ** min(attempts.failed, MOST_DOUBLINGS), LONGEST_PAUSE)
        attempts.failed += 1
        cool_down = error.pause if isinstance(error, Throttled) else 0.0
        # the limiter logs the server's cool-down
        is_due = attempts.failed == (1 if untrusted else NEWS) and not cool_down
        if is_due and self._is_news(error.path, left):
            log.warning("%s; retrying for up to %.0f s", error, left)
        return min(left, max(cool_down, pause * (0.5 + self._chance())))

    def pause(self, attempts: Attempts, seconds: float) -> None:
        """Wait for `seconds`.

        Raises:
            Closed: the archive closes.
            Cancelled: the caller is to stop waiting.
        """
        if self._stopping.is_set() or (seconds and wait(self._stopping.wait, seconds)):
            raise Closed(attempts.path, "the archive was closed")

    def _is_news(self, path: str, left: float) -> bool:
        """Return whether the failure of `path` is to be logged; the requests of one reader fail together."""
        now = self._clock()
        if now < self._logged.get(path, now):
            return False
        if len(self._logged) >= MAX_LOGGED:
            self._logged.clear()
        self._logged[path] = now + left
        return True


class Retrying:
    """An origin that retries; a fetch that broke off continues at the byte where it stopped."""

    def __init__(self, origin: Origin, retry_policy: RetryPolicy) -> None:
        self._origin = origin
        self._retry_policy = retry_policy

    def measure(self, path: str, *, deadline: float = NEVER, token: CancelToken | None = None) -> File:
        """See `Origin.measure`."""
        return self._retry_policy.call(
            path, lambda last: self._origin.measure(path, deadline=min(last, deadline), token=token), token
        )

    def open(
        self, path: str, size: int, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> tuple[File, bytes]:
        """See `Origin.open`."""
        return self._retry_policy.call(
            path, lambda last: self._origin.open(path, size, deadline=min(last, deadline), token=token), token
        )

    def fetch(
        self, file: File, span: Span, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> Iterator[bytes]:
        """See `Origin.fetch`."""
        policy = self._retry_policy
        attempts = policy.attempts(file.path, token)
        start = mark = span.start
        unknown = 0
        while start < span.stop:
            last = policy.begin(attempts)
            delay = 0.0
            try:
                left = Span(start, span.stop)
                fetched = self._origin.fetch(file, left, deadline=min(last, deadline), token=token)
                with closing(cast("Generator[bytes]", fetched)) as pieces:
                    for piece in pieces:
                        start += len(piece)
                        yield piece
                if start < span.stop:
                    raise Unavailable(file.path, f"the reply was cut at byte {start}")  # noqa: TRY301 - retried
            except NotFound as error:
                unknown += 1  # a server does not know a measured file: another server may
                if unknown > 1:
                    raise
                log.debug("%s; trying once more", error)
                continue
            except Unavailable as error:
                log.debug("%s; going on at byte %d", error, start)
                if start - mark >= PROGRESS:
                    mark, attempts = start, policy.attempts(file.path, token)
                else:
                    delay = policy.record_failure(attempts, error)
            if start < span.stop:
                policy.pause(attempts, delay)
                policy.retries += 1


class LimitedListing:
    """A listing that holds a connection of the limiter during a request, and retries."""

    def __init__(
        self, listing: Listing, enter: Callable[[str], AbstractContextManager[None]], retry_policy: RetryPolicy
    ) -> None:
        self._listing = listing
        self._enter = enter
        self._retry_policy = retry_policy

    def scan(self, directory: str) -> Sequence[Node]:
        """See `Listing.scan`."""
        return self._retry_policy.call(directory, lambda _: self._scan(directory))

    def _scan(self, directory: str) -> Sequence[Node]:
        with self._enter(directory):
            return self._listing.scan(directory)
