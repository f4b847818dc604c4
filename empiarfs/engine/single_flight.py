"""Single flight: one thread fetches a value, and all others that need it wait for that thread.

The thread that claims a key completes or fails it. A thread finishes its own claims before it waits for those of
another, so threads cannot deadlock.
"""

import threading
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Generic, Protocol, TypeVar

from empiarfs.cancellation import wait
from empiarfs.engine.hedge import Hedgeable
from empiarfs.errors import ArchiveError

LONGEST_LOOK_SECONDS = 2.0  # between two looks whether a request is silent: many wait for a silent server

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Submit(Protocol):
    """Runs a task in a thread of its own, soon."""

    def __call__(self, task: Callable[[], object], /) -> object:
        """Run `task`."""
        ...


class Flight(Generic[T]):
    """One fetch in flight; waiters get its value from here, even if a cache has evicted it meanwhile."""

    __slots__ = ("_error", "_hedge_delay", "_is_over", "_value", "_waiters", "requests")

    def __init__(self, hedge_delay: Callable[[], float]) -> None:
        self._hedge_delay = hedge_delay
        self.requests: tuple[Hedgeable, ...] = ()  # the requests that fetch it
        self._is_over = False
        self._waiters: list[threading.Event] = []  # most flights end before any thread waits
        self._value: T | None = None
        self._error: BaseException | None = None

    def finish(self, value: T | None, error: BaseException | None) -> None:
        """Wake all waiters; only the first call counts."""
        if self._is_over:
            return
        self._value, self._error = value, error
        self._is_over = True  # before the waiters are read: `wait` adds a waiter, then checks this
        for waiter in self._waiters:
            waiter.set()

    def wait(self) -> T | None:
        """Wait for the value, and hedge the requests that fetch it while they are silent.

        Returns:
            The value; None if its owner gave the claim up: the caller may claim the key.

        Raises:
            ArchiveError: a copy of the owner's error.
            Cancelled: the condition of the scope is false.
        """
        if not self._is_over:
            over = threading.Event()
            self._waiters.append(over)
            seconds = 0.0
            while not self._is_over:
                delay = self._hedge_delay()
                for request in self.requests:  # a prefetch may have been silent for long
                    request.hedge_if_silent(delay)
                seconds = max(delay, min(2 * seconds, LONGEST_LOOK_SECONDS))
                wait(over.wait, seconds, over.set)
        if self._error is not None:
            raise copy_error(self._error)
        return self._value


def copy_error(error: BaseException) -> BaseException:
    """Return a copy of `error` for another thread: one exception raised in two would mix their tracebacks."""
    if not isinstance(error, ArchiveError):
        return error
    kind, values = error.__reduce__()
    copy = kind(*values)
    copy.__cause__ = error.__cause__
    return copy


class SingleFlight(Generic[K, T]):
    """The fetches in flight, by key.

    Args:
        hedge_delay: returns the seconds of silence after which a waiter hedges.
        submit: runs a task in another thread.
    """

    def __init__(self, hedge_delay: Callable[[], float], submit: Submit) -> None:
        self._hedge_delay = hedge_delay
        self._submit = submit
        self._lock = threading.Lock()
        self._flights: dict[K, Flight[T]] = {}

    def __repr__(self) -> str:
        return f"<SingleFlight in_flight={self.count}>"

    @property
    def count(self) -> int:
        """The number of fetches in flight."""
        return len(self._flights)

    def claim(self, keys: Iterable[K]) -> tuple[dict[K, Flight[T]], dict[K, Flight[T]]]:
        """Claim `keys`; return the flights that the caller must complete or fail, in order, and those of others."""
        mine: dict[K, Flight[T]] = {}
        theirs: dict[K, Flight[T]] = {}
        wanted = list(keys)
        with self._lock:
            for key in wanted:
                flight = self._flights.get(key)
                if flight is None:
                    mine[key] = self._flights[key] = Flight(self._hedge_delay)
                else:
                    theirs[key] = flight
        return mine, theirs

    def complete(self, key: K, value: T) -> None:
        """Return `value` to all waiters; the caller has cached it before, so that later callers find it."""
        with self._lock:
            flight = self._flights.pop(key)
        flight.finish(value, None)

    def fail(self, keys: Iterable[K], error: BaseException | None) -> None:
        """Release the claims of `keys`: raise `error` in every waiter, or with None let a waiter claim the key."""
        for key in list(keys):
            with self._lock:
                flight = self._flights.pop(key, None)  # it is complete if its thread was interrupted after that
            if flight is not None:
                flight.finish(None, error)

    def call(self, key: K, fetch: Callable[[Hedgeable], T]) -> T:
        """Return what `fetch` returns, or join another thread's call for the same `key`.

        `fetch` runs to its end in a thread of its own, even if the caller stops waiting.
        """
        while True:
            mine, theirs = self.claim([key])
            if mine:
                try:
                    self._submit(partial(self._run, key, fetch, mine[key]))
                except BaseException:
                    self.fail([key], None)
                    raise
            value = (mine or theirs)[key].wait()
            if value is not None:
                return value

    def try_run(self, key: K, fetch: Callable[[Hedgeable], T]) -> T | None:
        """Run `fetch` in this thread and return its value; return None at once if `key` is in flight.

        An error is raised in this thread only; a waiter claims the key.
        """
        mine, _ = self.claim([key])
        if not mine:
            return None
        try:
            request = Hedgeable()
            mine[key].requests = (request,)
            value = fetch(request)
        except BaseException:
            self.fail([key], None)
            raise
        self.complete(key, value)
        return value

    def _run(self, key: K, fetch: Callable[[Hedgeable], T], flight: Flight[T]) -> None:
        request = Hedgeable()
        flight.requests = (request,)
        try:
            value = fetch(request)
        except BaseException as error:  # noqa: BLE001 - raised in the waiting threads
            self.fail([key], error)
        else:
            self.complete(key, value)
