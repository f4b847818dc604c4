"""Retries: wrappers that are themselves an origin or a listing; `host.py` composes them."""

import itertools
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from typing import TypeVar

from empiarfs.cancellation import CancelToken, wait
from empiarfs.engine.hedge import start_fetch
from empiarfs.errors import Cancelled, CertificateError, Closed, NotFound, Throttled, Unavailable
from empiarfs.model import File, Node, Span
from empiarfs.ports import NEVER, Listing, Origin

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE = 0.1  # seconds before the second attempt
LONGEST_PAUSE = 20.0
PROGRESS = 64 * 1024  # bytes of a response after which patience begins again
MAX_LOGGED = 1000  # paths
NEWS = 2  # the failure of a request that is logged: one is common, about 3 % of requests hang


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

    def call(self, path: str, ask: Callable[[float], T], since: float | None = None) -> T:
        """Return what `ask` returns; call it again while it raises `Unavailable` and patience lasts.

        No request is sent during the server's cool-down, except a last one when patience ends.

        Args:
            path: the path that is requested.
            ask: sends one request; takes its deadline.
            since: the time from which patience counts; None for now.

        Raises:
            Unavailable: the last one, when patience ends.
            Cancelled: the caller is to stop waiting.
            Closed: the archive closes.
        """
        since = self._clock() if since is None else since
        deadline = since + self._seconds
        pause = FIRST_PAUSE
        for tries in itertools.count(1):
            left_alone = min(self._cool_down(), max(0.0, deadline - self._clock()))
            if self._stopping.is_set() or (left_alone and wait(self._stopping.wait, left_alone)):
                break
            try:
                answer = ask(deadline)
            except Unavailable as error:
                delay = self._pause(error, since, pause, tries)
            else:
                self._logged.pop(path, None)
                return answer
            # outside the `except`: its traceback would keep the broken connection open
            if wait(self._stopping.wait, delay):
                break
            self.retries += 1
            pause = min(2 * pause, LONGEST_PAUSE)
        raise Closed(path, "the archive was closed")

    def now(self) -> float:
        """Return the time of the clock that measures patience."""
        return self._clock()

    def backoff(self, path: str, since: float, breaks: int) -> None:
        """Wait before a response that broke off is continued: longer each time, while patience lasts.

        Raises:
            Unavailable: patience, counted from `since`, has ended.
            Closed: the archive closes.
        """
        error = Unavailable(path, "the server breaks its replies off")
        pause = min(FIRST_PAUSE * 2**breaks, LONGEST_PAUSE)
        if wait(self._stopping.wait, self._pause(error, since, pause, breaks)):
            raise Closed(path, "the archive was closed")

    def _pause(self, error: Unavailable, since: float, pause: float, tries: int) -> float:
        """Return how long to wait before the next attempt; raise `error` if patience has ended."""
        left = since + self._seconds - self._clock()
        untrusted = isinstance(error, CertificateError)
        if left <= 0 or (untrusted and self._interactive):
            raise error
        cool_down = error.pause if isinstance(error, Throttled) else 0.0
        # the limiter logs the server's cool-down
        if tries == (1 if untrusted else NEWS) and not cool_down and self._is_news(error.path, left):
            log.warning("%s; retrying for up to %.0f s", error, left)
        return min(left, max(cool_down, pause * (0.5 + self._chance())))

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
        return self._call(
            path, lambda last: self._origin.measure(path, deadline=min(last, deadline), token=token), token
        )

    def open(
        self, path: str, size: int, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> tuple[File, bytes]:
        """See `Origin.open`."""
        return self._call(
            path, lambda last: self._origin.open(path, size, deadline=min(last, deadline), token=token), token
        )

    def fetch(
        self, file: File, span: Span, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> Iterator[bytes]:
        """See `Origin.fetch`."""
        start = mark = span.start
        since, breaks = self._retry_policy.now(), 0
        while start < span.stop:
            left = Span(start, span.stop)

            def begin(last: float, left: Span = left) -> tuple[bytes, Generator[bytes]]:
                return self._begin(file, left, min(last, deadline), token)

            first, pieces = self._call(file.path, begin, token, since)
            with closing(pieces):
                start += len(first)
                yield first
                try:
                    for piece in pieces:
                        start += len(piece)
                        yield piece
                except Unavailable as error:
                    log.debug("%s; going on at byte %d", error, start)
            if start - mark >= PROGRESS:
                mark, since, breaks = start, self._retry_policy.now(), 0
            elif start < span.stop:
                breaks += 1
                self._retry_policy.backoff(file.path, since, breaks)
            if start < span.stop:
                self._retry_policy.retries += 1

    def _call(
        self, path: str, ask: Callable[[float], T], token: CancelToken | None, since: float | None = None
    ) -> T:
        """Retry `ask`, but not once `token` is cancelled."""

        def ask_unless_cancelled(deadline: float) -> T:
            try:
                return ask(deadline)
            except Unavailable as error:
                if token is not None and token.is_cancelled:
                    raise Cancelled(path) from error
                raise

        return self._retry_policy.call(path, ask_unless_cancelled, since)

    def _begin(
        self, file: File, span: Span, deadline: float, token: CancelToken | None
    ) -> tuple[bytes, Generator[bytes]]:
        """Begin a fetch; once more if a server does not know a measured file: another server may."""
        try:
            return start_fetch(file.path, self._origin.fetch(file, span, deadline=deadline, token=token))
        except NotFound as error:
            log.debug("%s; trying once more", error)
        return start_fetch(file.path, self._origin.fetch(file, span, deadline=deadline, token=token))


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
