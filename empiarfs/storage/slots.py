"""The machine's budget of connections: one locked file each, over all processes of a user.

The kernel frees the lock of a process that dies, however it dies.
"""

import fcntl
import hashlib
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from empiarfs.storage.folders import secure

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # between two looks for a free slot; other processes cannot wake us


class Slots:
    """At most `count` slots for `server`, whoever holds them; where files cannot be locked, no limit but our own.

    Args:
        folder: where the files are, as `runtime_folder` gives it.
        server: host and port; each server has a budget of its own.
        count: how many slots this process may use of them.
    """

    def __init__(self, folder: Path, server: str, count: int) -> None:
        digest = hashlib.blake2b(server.encode(), digest_size=8).hexdigest()
        self._count = count
        self._folder: Path | None = folder / digest
        try:
            secure(folder)
            secure(self._folder)
        except OSError as error:
            log.warning("%s: connections of other processes are not counted", error)
            self._folder = None

    def take(self, patience: float) -> Callable[[], None]:
        """Take a slot; give what gives it back.

        Raises:
            TimeoutError: all were in use for `patience` seconds.
        """
        if self._folder is None:
            return lambda: None
        release = self._free_one()
        if release is not None:
            return release
        deadline = time.monotonic() + patience
        waiting = self._opened("waiting")
        try:
            fcntl.flock(waiting, fcntl.LOCK_SH)  # seen by `wanted` in the processes that hold the slots
            while time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                release = self._free_one()
                if release is not None:
                    return release
        finally:
            os.close(waiting)
        raise TimeoutError("other programs of yours use all connections to the server")

    def wanted(self) -> bool:
        """Tell whether someone waits for a slot, so that idle connections should be closed."""
        if self._folder is None:
            return False
        try:
            waiting = self._opened("waiting")
        except OSError:
            return False
        try:
            fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(waiting)
        return False

    def _free_one(self) -> Callable[[], None] | None:
        numbers = list(range(self._count))
        random.shuffle(numbers)  # processes that look at once look at different files first
        for number in numbers:
            held = self._opened(f"slot-{number:02}")
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(held)
                continue
            return _Held(held).close
        return None

    def _opened(self, name: str) -> int:
        assert self._folder is not None  # noqa: S101 - the callers have looked
        try:
            return os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # taken away under us: at logout, by a cleaner of temporary files
            secure(self._folder.parent)
            secure(self._folder)
            return os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


class _Held:
    """A locked file, which is closed once: its number may be another file's afterwards."""

    def __init__(self, number: int) -> None:
        self._file = os.fdopen(number, "rb", buffering=0)

    def close(self) -> None:
        """Give the lock back."""
        self._file.close()
