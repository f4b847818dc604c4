"""Delays forks until no thread is inside a library that they would break: a child inherits no held locks of it."""

import os
import threading


class _ForkGuard:
    """Counts the threads inside; no thread enters while the process forks."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._forking = False

    def __enter__(self) -> None:
        with self._changed:
            while self._forking:
                self._changed.wait()
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._count -= 1
            if not self._count:
                self._changed.notify_all()

    def before(self) -> None:
        """Let no thread enter, and wait until all have left; the lock is held during the fork."""
        self._changed.acquire()
        self._forking = True
        while self._count:
            self._changed.wait()

    def after(self) -> None:
        """Let threads enter again, in the parent and in the child."""
        self._forking = False
        self._changed.notify_all()
        self._changed.release()


fork_guard = _ForkGuard()
os.register_at_fork(before=fork_guard.before, after_in_parent=fork_guard.after, after_in_child=fork_guard.after)
