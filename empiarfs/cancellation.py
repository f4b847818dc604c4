"""Waiting for as long as anybody wants it: whoever the present thread works for may be ended meanwhile."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from empiarfs.errors import Cancelled

T = TypeVar("T")

FIRST_LOOK_SECONDS = 0.03
LOOK_SECONDS = 0.2

_condition: ContextVar[Callable[[], bool] | None] = ContextVar("wanted", default=None)
_limit: ContextVar[float] = ContextVar("most", default=math.inf)


@contextmanager
def cancel_scope(condition: Callable[[], bool] | None) -> Iterator[None]:
    """Work in this block and thread only as long as `condition` is true; to the end where it is None.

    It is looked at where something is waited for, in this thread, and while locks are held.
    """
    token = _condition.set(condition)
    try:
        yield
    finally:
        _condition.reset(token)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Ask in this block and thread for at most `seconds`, as far as what answers can be given up."""
    token = _limit.set(seconds)
    try:
        yield
    finally:
        _limit.reset(token)


def remaining() -> float:
    """Return the most seconds that one asking may take."""
    return _limit.get()


def is_cancellable() -> bool:
    """Return whether anybody may cease to want what this thread does."""
    return _condition.get() is not None


def wait(poll: Callable[[float | None], bool], seconds: float | None = None) -> bool:
    """Wait, and tell whether what was waited for has come.

    Args:
        poll: waits for at most so many seconds, or without end, and tells the same; as `threading.Event.wait`.
        seconds: how long at most; without end where it is None.

    Raises:
        Cancelled: nobody wants it any more.
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


def wait_future(future: "Future[T]", seconds: float | None = None) -> bool:
    """Wait for `future` in the same way."""

    def poll(most: float | None) -> bool:
        try:
            future.exception(most)  # `concurrent.futures.wait` costs more than a look at the disk cache
        except TimeoutError:
            return False
        except CancelledError:
            pass
        return True

    return wait(poll, seconds)


def run_in_thread(ask: Callable[[], T], name: str = "request") -> "Future[T]":
    """Return what `ask` is about to give in a thread of its own, called `name`; it goes on to its end."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            with cancel_scope(None):
                future.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            future.set_exception(error)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:  # no more threads to be had
        run()
    return future


def call_cancellable(ask: Callable[[], T]) -> T:
    """Return what `ask` gives; where somebody may cease to want it, it is asked apart.

    Raises:
        Cancelled: nobody wants it any more.
    """
    if not is_cancellable():
        return ask()
    future = run_in_thread(ask)
    wait_future(future)
    return future.result()
