"""The machine's budget of connections: one locked file each, over all processes of a user.

The kernel frees the lock of a process that dies, however it dies.
"""

import errno
import fcntl
import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from empiarfs.private_dirs import ensure_private
from empiarfs.storage.circuit_breaker import CircuitBreaker

POLL_SECONDS = 0.05  # between two looks for a free slot; other processes cannot wake us
_COUNTING = "counting"


class ProcessSemaphore:
    """At most `count` slots for `server`, whoever holds them; where files cannot be locked, no limit but our own.

    Args:
        folder: where the files are, as `runtime_folder` gives it.
        server: host and port; each server has a budget of its own.
        count: how many slots this process may use of them.
    """

    def __init__(self, folder: Path, server: str, count: int) -> None:
        digest = hashlib.blake2b(server.encode(), digest_size=8).hexdigest()
        self._count = count
        self._folder = folder / digest
        self._breaker = CircuitBreaker(f"the count of the connections of other processes in {folder}")
        self._is_secured = False
        try:
            self._ensure_private()
        except OSError as error:
            self._breaker.failure(error, _COUNTING)

    def acquire(self, patience: float) -> Callable[[], None]:
        """Take a slot; give what gives it back.

        Raises:
            TimeoutError: all were in use for `patience` seconds.
        """
        if self._breaker.is_open(_COUNTING):
            return _nothing
        try:
            if not self._is_secured:
                self._ensure_private()
            release = self._wait_for_slot(patience)
        except TimeoutError:
            raise
        except OSError as error:  # no locks here, or no room for files
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                raise  # there is no connection to be had either
            self._is_secured = False
            self._breaker.failure(error, _COUNTING)
            return _nothing
        self._breaker.success()
        return release

    def _wait_for_slot(self, patience: float) -> Callable[[], None]:
        release = self._try_acquire()
        if release is not None:
            return release
        deadline = time.monotonic() + patience
        waiting = self._open("waiting")
        try:
            fcntl.flock(waiting, fcntl.LOCK_SH)  # seen by `wanted` in the processes that hold the slots
            while time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                release = self._try_acquire()
                if release is not None:
                    return release
        finally:
            os.close(waiting)
        raise TimeoutError("other programs of yours use all connections to the server")

    def has_waiters(self) -> bool:
        """Return whether someone waits for a slot, so that idle connections should be closed."""
        if not self._is_secured:
            return False
        try:
            waiting = self._open("waiting")
        except OSError:
            return False
        try:
            fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(waiting)
        return False

    def _try_acquire(self) -> Callable[[], None] | None:
        numbers = list(range(self._count))
        random.shuffle(numbers)  # processes that look at once look at different files first
        for number in numbers:
            held = self._open(f"slot-{number:02}")
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(held)
                continue
            except OSError:
                os.close(held)
                raise
            return _HeldSlot(held).close
        return None

    def _ensure_private(self) -> None:
        ensure_private(self._folder.parent)
        ensure_private(self._folder)
        self._is_secured = True

    def _open(self, name: str) -> int:
        try:
            return os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # taken away under us: at logout, by a cleaner of temporary files
            self._ensure_private()
            return os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


class _HeldSlot:
    """A locked file, which is closed once: its number may be another file's afterwards."""

    def __init__(self, number: int) -> None:
        self._file = os.fdopen(number, "rb", buffering=0)

    def close(self) -> None:
        """Return the lock back; a child that was forked meanwhile holds the file open, and must not keep it."""
        if not self._file.closed:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()


def _nothing() -> None:
    """Return back what was never counted."""
