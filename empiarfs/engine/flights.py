"""Single flight: who fetches what, and who waits for it; the only place where readers meet.

Whoever claims a block lands it or fails it. A thread finishes its own claims before it waits for another's, so
no ring of waiting can form.
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from empiarfs.engine.wanted import settled, waited
from empiarfs.errors import ArchiveError, Unwanted
from empiarfs.model import Block

T = TypeVar("T")


class Flight:
    """One block on its way. Waiters get the bytes from here, whatever a cache has evicted meanwhile."""

    __slots__ = ("_data", "_error", "_over", "_rescued", "_waiters", "asked", "begun")

    def __init__(self) -> None:
        self.asked = 0.0  # when its request was sent; 0 before
        self.begun = False  # whether bytes of its request have come
        self._rescued = False
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

    def _awaited(self) -> threading.Event:
        """Give what is set when it ends."""
        over = threading.Event()
        self._waiters.append(over)
        if self._over:
            over.set()
        return over

    def is_late(self, seconds: float) -> bool:
        """Wait; tell one of those who wait, once, if nothing has come `seconds` after its request was sent."""
        over = self._awaited()
        while not waited(over.wait, seconds):
            if self.begun or self._rescued:
                return False
            if self.asked and time.monotonic() - self.asked >= seconds:
                self._rescued = True  # two threads here at once are two requests where one would do
                return True
        return False

    def wait(self) -> bytes | None:
        """Wait for the block; None where the flight was given up, and the caller may claim it itself.

        Raises:
            ArchiveError: the reader who fetched it met this; asking again would only meet it later.
        """
        if not self._over:  # most are
            waited(self._awaited().wait)
        if self._error is not None:
            raise again(self._error)
        return self._data


def again(error: ArchiveError) -> ArchiveError:
    """Give the error for another thread: one exception raised twice would mix their tracebacks."""
    kind, values = error.__reduce__()
    copy = kind(*values)
    copy.__cause__ = error.__cause__
    return copy


class Flights:
    """The blocks under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[Block, Flight] = {}

    def __repr__(self) -> str:
        return f"<Flights under_way={self.count}>"

    @property
    def count(self) -> int:
        """How many blocks are under way."""
        return len(self._under_way)

    def claim(self, wanted: Iterable[Block]) -> tuple[list[Block], dict[Block, Flight]]:
        """Give the blocks that are now the caller's to fetch, in order, and those that others fetch."""
        mine: list[Block] = []
        theirs: dict[Block, Flight] = {}
        blocks = list(wanted)
        with self._lock:
            for block in blocks:
                flight = self._under_way.get(block)
                if flight is None:
                    self._under_way[block] = Flight()
                    mine.append(block)
                else:
                    theirs[block] = flight
        return mine, theirs

    def of(self, blocks: Iterable[Block]) -> dict[Block, Flight]:
        """Give the flights of claimed blocks, for who has them fetched by another thread."""
        with self._lock:
            return {block: self._under_way[block] for block in blocks}

    def asked(self, blocks: Iterable[Block]) -> list[Flight]:
        """Note that a request for these claimed blocks is sent now; give their flights."""
        now = time.monotonic()
        with self._lock:
            flights = [self._under_way[block] for block in blocks if block in self._under_way]
        for flight in flights:
            flight.asked = now
        return flights

    def land(self, block: Block, data: bytes) -> None:
        """Give the bytes of a claimed block to all who wait; the caller has put them into the cache before."""
        with self._lock:
            flight = self._under_way.pop(block)
        flight.finish(data, None)

    def fail(self, blocks: Iterable[Block], error: ArchiveError | None) -> None:
        """Give claimed blocks up: with an error that is everyone's, or None and the next one may try."""
        for block in list(blocks):
            with self._lock:
                flight = self._under_way.pop(block, None)  # one that had landed when its thread was interrupted
            if flight is not None:
                flight.finish(None, error)


class Together:
    """Many callers that want the same thing at the same time, and one call that gets it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[Hashable, Future[Any]] = {}

    def call(self, key: Hashable, ask: Callable[[], T]) -> T:
        """Give what `ask` gives, or what another thread's call for the same `key` is about to give."""
        while True:
            with self._lock:
                future: Future[T] | None = self._under_way.get(key)
                if future is None:
                    mine: Future[T] = Future()
                    self._under_way[key] = mine
                    break
            settled(future)
            try:
                return future.result()
            except Unwanted:  # who asked was ended; ask ourselves
                continue
            except ArchiveError as error:
                raise again(error) from error.__cause__
        try:
            result = ask()
        except BaseException as error:
            self._leave(key)
            mine.set_exception(error if isinstance(error, ArchiveError) else Unwanted(""))
            raise
        self._leave(key)
        mine.set_result(result)
        return result

    def alone(self, key: Hashable, ask: Callable[[], T], *, unless: Hashable) -> T | None:
        """Give what `ask` gives; None, without waiting, where another thread asks for `key` or `unless` now."""
        with self._lock:
            if key in self._under_way or unless in self._under_way:
                return None
            mine: Future[None] = Future()
            self._under_way[key] = mine
        try:
            return ask()
        finally:
            self._leave(key)
            mine.set_result(None)

    def settled(self, key: Hashable, seconds: float) -> bool:
        """Wait for at most `seconds` for another thread's asking; tell whether there was one and it is over."""
        with self._lock:
            future = self._under_way.get(key)
        return future is not None and settled(future, seconds)

    def _leave(self, key: Hashable) -> None:
        with self._lock:
            del self._under_way[key]
