"""Cancellation: of waits by a condition, and of requests by another thread."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from empiarfs.errors import Cancelled

FIRST_LOOK_SECONDS = 0.03
LOOK_SECONDS = 0.2

_condition: ContextVar[Callable[[], bool] | None] = ContextVar("condition", default=None)


@contextmanager
def cancel_scope(condition: Callable[[], bool] | None) -> Iterator[None]:
    """Limit the waits of this block, in this thread, to as long as `condition` is true; no limit if it is None.

    `condition` is called in this thread, while locks are held.
    """
    token = _condition.set(condition)
    try:
        yield
    finally:
        _condition.reset(token)


def wait(poll: Callable[[float | None], bool], seconds: float | None = None) -> bool:
    """Wait, and return whether the event has happened.

    Args:
        poll: waits for at most the given seconds, None for no limit, and returns the same, as
            `threading.Event.wait`.
        seconds: the timeout; None for none.

    Raises:
        Cancelled: the condition of the scope is false.
    """
    condition = _condition.get()
    if condition is None:
        return poll(seconds)
    until = math.inf if seconds is None else time.monotonic() + seconds
    look = FIRST_LOOK_SECONDS
    while not poll(max(0.0, min(look, until - time.monotonic()))):
        if time.monotonic() >= until:
            return False
        if not condition():
            raise Cancelled("")
        look = LOOK_SECONDS
    return True


def wait_future(future: "Future[Any]", seconds: float | None = None) -> bool:
    """Wait for `future`, and return whether it is done; see `wait`."""

    def poll(most: float | None) -> bool:
        try:
            future.exception(most)  # `concurrent.futures.wait` takes longer than a lookup in the disk cache
        except TimeoutError:
            return False
        except CancelledError:
            pass
        return True

    return wait(poll, seconds)


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
