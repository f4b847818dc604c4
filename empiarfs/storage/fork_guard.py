"""Forks wait until no thread is inside SQLite: a child finds its locks open, and nothing of its parent's begun."""

import os
import threading


class _ForkGuard:
    """How many threads are inside; none goes in while the process forks."""

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
        """Let no thread in, and wait until all are out; the lock is held through the fork."""
        self._changed.acquire()
        self._forking = True
        while self._count:
            self._changed.wait()

    def after(self) -> None:
        """Let all in again, in the parent and in the child."""
        self._forking = False
        self._changed.notify_all()
        self._changed.release()


fork_guard = _ForkGuard()
os.register_at_fork(before=fork_guard.before, after_in_parent=fork_guard.after, after_in_child=fork_guard.after)
