"""Cancellation: of waits by a condition, and of requests by another thread."""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from empiarfs.errors import Cancelled

log = logging.getLogger(__name__)

FIRST_LOOK_SECONDS = 0.03
LOOK_SECONDS = 0.2
LOOK_SHARE = 0.02  # of one CPU, for looking at the conditions of however many waits
LONGEST_LOOK_SECONDS = 2.0
IDLE_LOOKS = 10  # after which the thread that looks ends, if nothing waits

_condition: ContextVar[Callable[[], bool] | None] = ContextVar("condition", default=None)


@contextmanager
def cancel_scope(condition: Callable[[], bool] | None) -> Iterator[None]:
    """Limit the waits of this block, in this thread, to as long as `condition` is true; no limit if it is None.

    `condition` is called in another thread, or in this one while locks are held; it must not raise or wait.
    """
    token = _condition.set(condition)
    try:
        yield
    finally:
        _condition.reset(token)


def wait(
    poll: Callable[[float | None], bool], seconds: float | None = None, wake: Callable[[], None] | None = None
) -> bool:
    """Wait, and return whether the event has happened.

    Args:
        poll: waits for at most the given seconds, None for no limit, and returns the same, as
            `threading.Event.wait`.
        seconds: the timeout; None for none.
        wake: ends `poll` from another thread. Then one thread looks at the conditions of all waits, and this one
            sleeps; without it, this thread looks.

    Raises:
        Cancelled: the condition of the scope is false.
    """
    condition = _condition.get()
    if condition is None:
        return poll(seconds)
    if wake is not None and (entry := _watch.add(condition, wake)) is not None:
        try:
            has_happened = poll(seconds)
        finally:
            _watch.remove(entry)
        if entry.is_cancelled:
            raise Cancelled("")
        return has_happened
    until = math.inf if seconds is None else time.monotonic() + seconds
    look = FIRST_LOOK_SECONDS
    while not poll(max(0.0, min(look, until - time.monotonic()))):
        if time.monotonic() >= until:
            return False
        if not condition():
            raise Cancelled("")
        look = LOOK_SECONDS
    return True


class _Wait:
    """A wait, and whether it was cancelled."""

    __slots__ = ("condition", "is_cancelled", "wake")

    def __init__(self, condition: Callable[[], bool], wake: Callable[[], None]) -> None:
        self.condition = condition
        self.wake = wake
        self.is_cancelled = False


class _Watch:
    """Looks at the conditions of all waits in one thread, so that a thousand of them cost no more than a few."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waits: set[_Wait] = set()
        self._has_thread = False

    def add(self, condition: Callable[[], bool], wake: Callable[[], None]) -> _Wait | None:
        """Look at `condition` from now on; return None if the system starts no thread for that."""
        entry = _Wait(condition, wake)
        with self._lock:
            if not self._has_thread:
                try:
                    threading.Thread(target=self._look, name="cancellation", daemon=True).start()
                except RuntimeError:
                    return None
                self._has_thread = True
            self._waits.add(entry)
        return entry

    def remove(self, entry: _Wait) -> None:
        """Look at it no more; it is not cancelled from now on."""
        with self._lock:
            self._waits.discard(entry)

    def _look(self) -> None:
        idle_looks = 0
        pause = LOOK_SECONDS
        while True:
            time.sleep(pause)
            with self._lock:
                waits = list(self._waits)
                idle_looks = 0 if waits else idle_looks + 1
                if idle_looks > IDLE_LOOKS:
                    self._has_thread = False
                    return
            begun = time.thread_time()
            for entry in waits:
                if not self._is_wanted(entry):
                    self._cancel(entry)
            # a look at a thousand waits takes longer, and is taken more rarely
            pause = min(max(LOOK_SECONDS, (time.thread_time() - begun) / LOOK_SHARE), LONGEST_LOOK_SECONDS)

    def _is_wanted(self, entry: _Wait) -> bool:
        """Return whether the condition of `entry` is true; one that raises is false, and affects no other wait."""
        try:
            return entry.condition()
        except Exception:
            log.exception("the condition of a wait failed; it is cancelled")
            return False

    def _cancel(self, entry: _Wait) -> None:
        with self._lock:
            if entry in self._waits:
                self._waits.discard(entry)
                entry.is_cancelled = True
                entry.wake()


def _reset_after_fork() -> None:
    """In the child of a fork there is no thread that looks, and the lock may be held by one that is gone."""
    global _watch  # noqa: PLW0603 - a process has one
    _watch = _Watch()


_watch = _Watch()
os.register_at_fork(after_in_child=_reset_after_fork)


def wait_future(future: "Future[Any]", seconds: float | None = None) -> bool:
    """Wait for `future`, and return whether it is done; see `wait`."""
    if _condition.get() is not None and not future.done():
        over = threading.Event()
        future.add_done_callback(lambda _: over.set())
        wait(over.wait, seconds, over.set)
        return future.done()
    try:
        future.exception(seconds)  # `concurrent.futures.wait` takes longer than a lookup in the disk cache
    except TimeoutError:
        return False
    except CancelledError:
        pass
    return True


class CancelToken:
    """Lets one thread cancel the request of another, which ends with an error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._act: Callable[[], None] | None = None
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether the request was cancelled."""
        return self._is_cancelled

    def on_cancel(self, act: Callable[[], None] | None) -> bool:
        """Set what aborts the request, None once it is over; return False if it was cancelled already."""
        with self._lock:
            self._act = act
            return not self._is_cancelled

    def cancel(self) -> None:
        """Abort the request, or prevent its start."""
        with self._lock:
            self._is_cancelled = True
            if self._act is not None:
                self._act()
