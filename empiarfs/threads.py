"""A pool of daemon threads that starts one only when none is idle, and ends those that idle for long."""

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

T = TypeVar("T")

log = logging.getLogger(__name__)

IDLE_SECONDS = 60.0


class ThreadPool:
    """Runs calls in daemon threads, which never hold up the end of the process.

    A call runs in an empty context: no cancel scope or deadline of the thread that submits it applies there. In the
    child of a fork the pool is empty, and calls that had not ended before the fork never do.

    Args:
        name: of the threads, with a number behind it.
        most: how many threads run at once; as many as there are calls where it is None.
        on_exit: called in each thread before it ends, to free what the thread holds.
        idle_seconds: after how long without a call a thread ends.
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
        """How many threads there are."""
        return len(self._threads)

    @property
    def waiting(self) -> int:
        """How many calls no thread has begun yet."""
        return len(self._calls)

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        """Return the future result of `call`; cancelling it works until a thread begins it.

        Where the system starts no more threads the call runs in this thread, unless a bounded pool has some.

        Raises:
            RuntimeError: the pool is closed.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._is_closed:
                raise RuntimeError(f"the pool {self._name!r} is closed")
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
        """Accept no more calls, end each thread once no call waits, and return whether all have ended.

        Args:
            seconds: how long to wait for that; a thread that hangs in a call is left to itself.
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
        """Forget all threads and calls; the lock is a new one, as a thread that is gone may have held the old."""
        self._changed = threading.Condition()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0

    def _has_room(self) -> bool:
        return self._most is None or len(self._threads) < self._most

    def _start(self) -> bool:
        """Start a thread; return whether the system let us."""
        thread = threading.Thread(target=self._work, name=f"{self._name} {self._started}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads to be had
            return False
        self._started += 1
        self._threads.add(thread)
        return True

    def _work(self) -> None:
        while (task := self._next()) is not None:
            _run(*task)
            del task  # an idle thread holds no call, nor its result
        self._exit()

    def _next(self) -> tuple["Future[Any]", Callable[[], Any]] | None:
        """Return the next call, once there is one; None where this thread is to end."""
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
                log.exception("the end of a thread of %r", self._name)


def _run(future: "Future[T]", call: Callable[[], T]) -> None:
    """Run `call` and complete `future`, unless it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = Context().run(call)
    except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
        future.set_exception(error)
    else:
        future.set_result(result)
    finally:
        del future, call  # the traceback of an error holds this frame, and would hold its future in a cycle


def _reset_all() -> None:
    for pool in _pools:
        pool._reset()  # noqa: SLF001 - of this module


_pools: "weakref.WeakSet[ThreadPool]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_reset_all)
