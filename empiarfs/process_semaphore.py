"""The limit on connections of all processes of a user on a machine: one locked file for each connection.

The kernel releases the locks of a process that dies.
"""

import errno
import fcntl
import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from empiarfs.circuit_breaker import CircuitBreaker
from empiarfs.private_dirs import ensure_private

POLL_SECONDS = 0.05  # between two attempts to acquire a slot; other processes cannot notify this one
_COUNTING = "counting"


class ProcessSemaphore:
    """Limits all processes of a user to `count` slots for `server`; no limit if files cannot be locked.

    Args:
        folder: the folder of the files; see `runtime_folder`.
        server: host and port; each server has its own slots.
        count: the number of slots that this process may use.
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
        """Acquire a slot; return what releases it.

        Raises:
            TimeoutError: all slots were in use for `patience` seconds.
        """
        if self._breaker.is_open(_COUNTING):
            return _nothing
        try:
            if not self._is_secured:
                self._ensure_private()
            release = self._wait_for_slot(patience)
        except TimeoutError:
            raise
        except OSError as error:  # the file system has no locks, or no space
            if error.errno in {errno.EMFILE, errno.ENFILE}:
                raise  # a connection could not be opened either
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
            fcntl.flock(waiting, fcntl.LOCK_SH)  # `has_waiters` sees it in the processes that hold the slots
            while time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                release = self._try_acquire()
                if release is not None:
                    return release
        finally:
            os.close(waiting)
        raise TimeoutError("other programs of yours use all connections to the server")

    def has_waiters(self) -> bool:
        """Return whether another process waits for a slot, so that idle connections should be closed."""
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
        random.shuffle(numbers)  # processes that try at the same time try different files first
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
        except FileNotFoundError:  # the folder was removed, at logout or by a cleaner of temporary files
            self._ensure_private()
            return os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


class _HeldSlot:
    """A locked file that is closed only once: its descriptor may be reused afterwards."""

    def __init__(self, number: int) -> None:
        self._file = os.fdopen(number, "rb", buffering=0)

    def close(self) -> None:
        """Release the lock; closing is not enough, as a child that was forked meanwhile has the file open."""
        if not self._file.closed:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()


def _nothing() -> None:
    """Release nothing: the connection was not counted."""
