"""Single flight: who fetches what, and who waits for it; the only place where readers meet.

Whoever claims a block lands it or fails it. A thread finishes its own claims before it waits for another's, so
no ring of waiting can form.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from empiarfs.cancellation import wait, wait_future
from empiarfs.errors import ArchiveError, Cancelled
from empiarfs.model import Block

T = TypeVar("T")


class InFlightBlock:
    """One block on its way. Waiters get the bytes from here, whatever a cache has evicted meanwhile."""

    __slots__ = ("_data", "_error", "_is_hedged", "_over", "_waiters", "has_started", "sent_at")

    def __init__(self) -> None:
        self.sent_at = 0.0  # when its request was sent; 0 before
        self.has_started = False  # whether bytes of its request have come
        self._is_hedged = False
        self._over = False
        self._waiters: list[threading.Event] = []  # most flights land before anyone waits
        self._data: bytes | None = None
        self._error: ArchiveError | None = None

    def finish(self, data: bytes | None, error: ArchiveError | None) -> None:
        """Wake everyone who waits. The first word counts: a late flight may have been rescued."""
        if self._over:
            return
        self._data, self._error = data, error
        self._over = True  # before the look at who waits, as they look in the other order
        for waiter in self._waiters:
            waiter.set()

    def _completion_event(self) -> threading.Event:
        """Return what is set when it ends."""
        over = threading.Event()
        self._waiters.append(over)
        if self._over:
            over.set()
        return over

    def is_late(self, seconds: float) -> bool:
        """Wait; tell one of those who wait, once, if nothing has come `seconds` after its request was sent."""
        over = self._completion_event()
        while not wait(over.wait, seconds):
            if self.has_started or self._is_hedged:
                return False
            if self.sent_at and time.monotonic() - self.sent_at >= seconds:
                self._is_hedged = True  # two threads here at once are two requests where one would do
                return True
        return False

    def wait(self) -> bytes | None:
        """Wait for the block; None where the flight was given up, and the caller may claim it itself.

        Raises:
            ArchiveError: the reader who fetched it met this; asking again would only meet it later.
        """
        if not self._over:  # most are
            wait(self._completion_event().wait)
        if self._error is not None:
            raise copy_error(self._error)
        return self._data


def copy_error(error: ArchiveError) -> ArchiveError:
    """Return the error for another thread: one exception raised twice would mix their tracebacks."""
    kind, values = error.__reduce__()
    copy = kind(*values)
    copy.__cause__ = error.__cause__
    return copy


class InFlightBlocks:
    """The blocks under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight: dict[Block, InFlightBlock] = {}

    def __repr__(self) -> str:
        return f"<InFlightBlocks in_flight={self.count}>"

    @property
    def count(self) -> int:
        """How many blocks are under way."""
        return len(self._in_flight)

    def claim(self, wanted: Iterable[Block]) -> tuple[list[Block], dict[Block, InFlightBlock]]:
        """Return the blocks that are now the caller's to fetch, in order, and those that others fetch."""
        mine: list[Block] = []
        theirs: dict[Block, InFlightBlock] = {}
        blocks = list(wanted)
        with self._lock:
            for block in blocks:
                flight = self._in_flight.get(block)
                if flight is None:
                    self._in_flight[block] = InFlightBlock()
                    mine.append(block)
                else:
                    theirs[block] = flight
        return mine, theirs

    def of(self, blocks: Iterable[Block]) -> dict[Block, InFlightBlock]:
        """Return the flights of claimed blocks, for who has them fetched by another thread."""
        with self._lock:
            return {block: self._in_flight[block] for block in blocks}

    def mark_sent(self, blocks: Iterable[Block]) -> list[InFlightBlock]:
        """Note that a request for these claimed blocks is sent now; give their flights."""
        now = time.monotonic()
        with self._lock:
            flights = [self._in_flight[block] for block in blocks if block in self._in_flight]
        for flight in flights:
            flight.sent_at = now
        return flights

    def complete(self, block: Block, data: bytes) -> None:
        """Return the bytes of a claimed block to all who wait; the caller has put them into the cache before."""
        with self._lock:
            flight = self._in_flight.pop(block)
        flight.finish(data, None)

    def fail(self, blocks: Iterable[Block], error: ArchiveError | None) -> None:
        """Return claimed blocks up: with an error that is everyone's, or None and the next one may try."""
        for block in list(blocks):
            with self._lock:
                flight = self._in_flight.pop(block, None)  # one that had landed when its thread was interrupted
            if flight is not None:
                flight.finish(None, error)


class SingleFlight:
    """Many callers that want the same thing at the same time, and one call that gets it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_flight: dict[Hashable, Future[Any]] = {}

    def call(self, key: Hashable, ask: Callable[[], T]) -> T:
        """Return what `ask` gives, or what another thread's call for the same `key` is about to give."""
        while True:
            with self._lock:
                future: Future[T] | None = self._in_flight.get(key)
                if future is None:
                    mine: Future[T] = Future()
                    self._in_flight[key] = mine
                    break
            wait_future(future)
            try:
                return future.result()
            except Cancelled:  # who asked was ended; ask ourselves
                continue
            except ArchiveError as error:
                raise copy_error(error) from error.__cause__
        try:
            result = ask()
        except BaseException as error:
            self._leave(key)
            mine.set_exception(error if isinstance(error, ArchiveError) else Cancelled(""))
            raise
        self._leave(key)
        mine.set_result(result)
        return result

    def try_run(self, key: Hashable, ask: Callable[[], T], *, unless: Hashable) -> T | None:
        """Return what `ask` gives; None, without waiting, where another thread asks for `key` or `unless` now."""
        with self._lock:
            if key in self._in_flight or unless in self._in_flight:
                return None
            mine: Future[None] = Future()
            self._in_flight[key] = mine
        try:
            return ask()
        finally:
            self._leave(key)
            mine.set_result(None)

    def wait(self, key: Hashable, seconds: float) -> bool:
        """Wait for at most `seconds` for another thread's asking; tell whether there was one and it is over."""
        with self._lock:
            future = self._in_flight.get(key)
        return future is not None and wait_future(future, seconds)

    def _leave(self, key: Hashable) -> None:
        with self._lock:
            del self._in_flight[key]
