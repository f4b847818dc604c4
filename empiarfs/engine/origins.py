"""Asked again: wrappers that are themselves an origin or a listing. Their order is written in `wire.py`."""

import itertools
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from functools import partial
from typing import TypeVar

from empiarfs.cancellation import call_cancellable, deadline, wait
from empiarfs.engine.hedge import start_fetch
from empiarfs.errors import CertificateError, Closed, NotFound, Throttled, Unavailable
from empiarfs.model import File, Node, Span
from empiarfs.ports import Listing, Origin

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE = 0.1  # seconds before the second try
LONGEST_PAUSE = 20.0
PROGRESS = 64 * 1024  # bytes after which a reply that breaks off counts as one that went on
MAX_LOGGED = 1000  # paths
NEWS = 2  # the failure that is worth a line in the log: one is everyday, about 3 % of requests hang


Enter = Callable[[], AbstractContextManager[None]]


class RetryPolicy:
    """How long to ask again.

    Args:
        seconds: how long in all, from the first asking.
        clock: seconds that only grow.
        chance: a number from 0 to 1; spreads the pauses of many readers.
        stopping: set when the archive closes; ends every pause.
        asked_for: gives for how many seconds the server wants to be left alone by all.
        interactive: whether somebody waits who can do something about a certificate that cannot be verified.
    """

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float],
        chance: Callable[[], float],
        stopping: threading.Event,
        asked_for: Callable[[], float] = lambda: 0.0,
        *,
        interactive: bool = False,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._chance = chance
        self._stopping = stopping
        self._asked_for = asked_for
        self._logged: dict[
            str, float
        ] = {}  # paths whose trouble is in the log, and how long it was said to be tried
        self.retries = 0  # requests that were asked again
        self._interactive = interactive

    def call(self, path: str, ask: Callable[[], T], since: float | None = None) -> T:
        """Return what `ask` gives, asking again while it says `Unavailable` and patience lasts.

        A server that wants to be left alone is, for as long as it says, but not beyond patience: then it is asked
        once more.

        Args:
            path: what it is about.
            ask: asks once.
            since: the time from which patience counts; now where it is None.

        Raises:
            Unavailable: the last one, when patience is at its end.
            Cancelled: nobody waits for it any more.
            Closed: the archive closes.
        """
        since = self._clock() if since is None else since
        pause = FIRST_PAUSE
        for tries in itertools.count(1):
            left_alone = min(self._asked_for(), max(0.0, since + self._seconds - self._clock()))
            if self._stopping.is_set() or (left_alone and wait(self._stopping.wait, left_alone)):
                break
            try:
                with deadline(max(0.0, since + self._seconds - self._clock())):
                    answer = ask()
            except Unavailable as error:
                delay = self._pause(error, since, pause, tries)
            else:
                self._logged.pop(path, None)
                return answer
            # outside the `except`: its traceback would keep the broken connection open all the while
            if wait(self._stopping.wait, delay):
                break
            self.retries += 1
            pause = min(2 * pause, LONGEST_PAUSE)
        raise Closed(path, "the archive was closed")

    def now(self) -> float:
        """Return the time that patience is counted by."""
        return self._clock()

    def backoff(self, path: str, since: float, breaks: int) -> None:
        """Wait before a reply that broke off is asked to go on: longer each time, for as long as patience lasts.

        Raises:
            Unavailable: nothing of any length has come since `since`.
            Closed: the archive closes.
        """
        error = Unavailable(path, "the server breaks its replies off")
        pause = min(FIRST_PAUSE * 2**breaks, LONGEST_PAUSE)
        if wait(self._stopping.wait, self._pause(error, since, pause, breaks)):
            raise Closed(path, "the archive was closed")

    def _pause(self, error: Unavailable, since: float, pause: float, tries: int) -> float:
        """Return how long to wait before the next try; raise `error` when patience is at its end."""
        left = since + self._seconds - self._clock()
        untrusted = isinstance(error, CertificateError)
        if left <= 0 or (untrusted and self._interactive):
            raise error
        asked_for = error.pause if isinstance(error, Throttled) else 0.0
        # the pause that a server asks for is told by the gate
        if tries == (1 if untrusted else NEWS) and not asked_for and self._is_news(error.path, left):
            log.warning("%s; asking again for up to %.0f s", error, left)
        return min(left, max(asked_for, pause * (0.5 + self._chance())))

    def _is_news(self, path: str, left: float) -> bool:
        """Return whether the trouble with `path` is to be told; the many requests of one reader are one trouble."""
        now = self._clock()
        if now < self._logged.get(path, now):
            return False
        if len(self._logged) >= MAX_LOGGED:
            self._logged.clear()
        self._logged[path] = now + left
        return True


class Retrying:
    """An origin that asks again; a fetch that broke off goes on at the byte where it stopped."""

    def __init__(self, origin: Origin, retry_policy: RetryPolicy) -> None:
        self._origin = origin
        self._retry_policy = retry_policy

    def measure(self, path: str) -> File:
        """See `Origin.measure`."""
        return self._retry_policy.call(path, lambda: self._origin.measure(path))

    def fetch(self, file: File, span: Span) -> Iterator[bytes]:
        """See `Origin.fetch`."""
        start = mark = span.start
        since, breaks = self._retry_policy.now(), 0
        while start < span.stop:
            left = Span(start, span.stop)
            first, pieces = self._retry_policy.call(file.path, partial(self._begun, file, left), since)
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

    def _begun(self, file: File, span: Span) -> tuple[bytes, Generator[bytes]]:
        """Begin a fetch; once more where a server does not know a file that was measured: another one may."""
        try:
            return start_fetch(file.path, self._origin.fetch(file, span))
        except NotFound as error:
            log.debug("%s; asking once more", error)
        return start_fetch(file.path, self._origin.fetch(file, span))


class LimitedListing:
    """A listing that asks only while it holds a place at the gate, and asks again."""

    def __init__(
        self, listing: Listing, enter: Callable[[str], AbstractContextManager[None]], retry_policy: RetryPolicy
    ) -> None:
        self._listing = listing
        self._enter = enter
        self._retry_policy = retry_policy

    def scan(self, directory: str) -> Sequence[Node]:
        """See `Listing.scan`."""
        return self._retry_policy.call(directory, lambda: self._scan(directory))

    def _scan(self, directory: str) -> Sequence[Node]:
        with self._enter(directory):
            return call_cancellable(lambda: self._listing.scan(directory))
