"""A pool of daemon threads that starts a thread only when none is idle, and ends threads that are idle for long."""

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context
from typing import Any, TypeVar

from empiarfs.errors import Closed

T = TypeVar("T")

log = logging.getLogger(__name__)

IDLE_SECONDS = 60.0


class ThreadPool:
    """Runs calls in daemon threads, which never delay the end of the process.

    A call runs in an empty context: no cancel scope of the submitting thread applies there. In the child of a fork
    the pool is empty, and calls that had not ended before the fork never do.

    Args:
        name: the name of the threads, followed by a number.
        most: the maximum number of threads; None for one for each call.
        on_exit: called in each thread before it ends, to release what the thread holds.
        idle_seconds: the seconds without a call after which a thread ends.
    """

    def __init__(
        self,
        name: str,
        most: int | None = None,
        *,
        on_exit: Callable[[], object] | None = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._name = name
        self._most = most
        self._on_exit = on_exit
        self._idle_seconds = idle_seconds
        self._started = 0
        self._is_closed = False
        self._reset()
        _pools.add(self)

    def __repr__(self) -> str:
        return f"<ThreadPool {self._name!r} threads={self.threads} waiting={self.waiting}>"

    @property
    def threads(self) -> int:
        """The number of threads."""
        return len(self._threads)

    @property
    def waiting(self) -> int:
        """The number of queued calls."""
        return len(self._calls)

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        """Run `call` in a thread, and return its future, which can be cancelled until a thread begins the call.

        If the system starts no more threads the call runs in this thread, unless a bounded pool has threads.

        Raises:
            Closed: the pool is closed.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._is_closed:
                raise Closed("", "the archive was closed")
            self._calls.append((future, call))
            is_served = len(self._calls) <= self._idle or (self._has_room() and self._start())
            if is_served or (self._threads and self._most is not None):
                self._changed.notify()
                return future
            self._calls.pop()
        _run(future, call)
        self._exit()
        return future

    def close(self, seconds: float = 0.0) -> bool:
        """Accept no more calls, end each thread once no call is queued, and return whether all have ended.

        Args:
            seconds: how long to wait for that; a thread that hangs in a call is abandoned.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            threads = self._threads - {threading.current_thread()}
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _reset(self) -> None:
        """Drop all threads and calls, and create a new lock: a thread that does not exist may hold the old one."""
        self._changed = threading.Condition()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0

    def _has_room(self) -> bool:
        return self._most is None or len(self._threads) < self._most

    def _start(self) -> bool:
        """Start a thread; return whether the system could."""
        thread = threading.Thread(target=self._work, name=f"{self._name} {self._started}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system's limit
            return False
        self._started += 1
        self._threads.add(thread)
        return True

    def _work(self) -> None:
        while (task := self._next()) is not None:
            _run(*task)
            del task  # an idle thread must not hold a call or its result
        self._exit()

    def _next(self) -> tuple["Future[Any]", Callable[[], Any]] | None:
        """Wait for the next call and return it; None if this thread is to end."""
        with self._changed:
            self._idle += 1
            deadline = time.monotonic() + self._idle_seconds
            while not self._calls and not self._is_closed and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            self._idle -= 1
            if self._calls:
                return self._calls.popleft()
            self._threads.discard(threading.current_thread())
            return None

    def _exit(self) -> None:
        if self._on_exit is not None:
            try:
                self._on_exit()
            except Exception:
                log.exception("on_exit of a thread of %r failed", self._name)


def _run(future: "Future[T]", call: Callable[[], T]) -> None:
    """Run `call` and complete `future`, unless it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = Context().run(call)
    except BaseException as error:  # noqa: BLE001 - raised in the waiting thread
        future.set_exception(error)
    else:
        future.set_result(result)
    finally:
        del future, call  # the traceback of an error refers to this frame: no reference cycle with the future


def _reset_all() -> None:
    for pool in _pools:
        pool._reset()  # noqa: SLF001 - of this module


_pools: "weakref.WeakSet[ThreadPool]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_reset_all)
