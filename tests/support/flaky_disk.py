"""A file system that shows a directory until a test makes it fail: a disk that is full or broken.

Run as a program: `ailing.py SOURCE MOUNTPOINT ILLNESS`. ILLNESS is a file; each line of it is an operation and what
it fails with, like `write ENOSPC`. It is looked at each time.
"""

import ctypes
import errno
import fcntl
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")

import mfusepy


class FlakyDisk(mfusepy.Operations):  # type: ignore[misc] # the binding ships no types
    """The directory `source`, and what is wrong with it."""

    use_ns = True

    def __init__(self, source: str, illness: str) -> None:
        self._source = source
        self._illness = Path(illness)

    def _check(self, operation: str) -> None:
        """Raise what `operation` is to fail with."""
        for line in self._illness.read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == operation:
                raise OSError(getattr(errno, number), number)

    def _real(self, path: str) -> str:
        return self._source + path

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        """Return the attributes of the real file."""
        status = os.lstat(self._real(path))
        names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_ino", "st_blocks")
        times = {f"st_{one}time": getattr(status, f"st_{one}time_ns") for one in "acm"}
        return {name: getattr(status, name) for name in names} | times

    def readdir(self, path: str, _handle: int) -> list[str]:
        """List the real directory."""
        return [".", "..", *os.listdir(self._real(path))]  # noqa: PTH208 - names alone

    def open(self, path: str, flags: int) -> int:
        """Open the real file."""
        self._check("open")
        return os.open(self._real(path), flags & ~os.O_APPEND)

    def create(self, path: str, mode: int, _info: Any = None) -> int:
        """Make the real file."""
        self._check("create")
        return os.open(self._real(path), os.O_RDWR | os.O_CREAT, mode)

    def read(self, _path: str, size: int, offset: int, handle: int) -> bytes:
        """Read from it."""
        self._check("read")
        return os.pread(handle, size, offset)

    def write(self, _path: str, data: bytes, offset: int, handle: int) -> int:
        """Write to it."""
        self._check("write")
        return os.pwrite(handle, data, offset)

    def truncate(self, path: str, length: int, _handle: int | None = None) -> int:
        """Cut it."""
        self._check("write")
        os.truncate(self._real(path), length)
        return 0

    def release(self, _path: str, handle: int) -> int:
        """Close it."""
        os.close(handle)
        return 0

    def lock(self, _path: str, _handle: int, command: int, lock: Any) -> int:
        """Lock nothing, and say that it was done: one process at a time is on this disk."""
        self._check("lock")
        if command == fcntl.F_GETLK:
            ctypes.cast(lock, ctypes.POINTER(ctypes.c_short))[0] = (
                fcntl.F_UNLCK
            )  # struct flock begins with its type
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        """Make a directory."""
        self._check("create")
        os.mkdir(self._real(path), mode)  # noqa: PTH102 - a string as it is
        return 0

    def rmdir(self, path: str) -> int:
        """Take a directory away."""
        os.rmdir(self._real(path))  # noqa: PTH106 - see above
        return 0

    def unlink(self, path: str) -> int:
        """Take a file away."""
        os.unlink(self._real(path))  # noqa: PTH108 - see above
        return 0

    def rename(self, old: str, new: str, _flags: int = 0) -> int:
        """Return a file another name."""
        os.rename(self._real(old), self._real(new))  # noqa: PTH104 - see above
        return 0

    def chmod(self, path: str, mode: int) -> int:
        """Let others in, or not."""
        os.chmod(self._real(path), mode)  # noqa: PTH101 - see above
        return 0

    def utimens(self, _path: str, _times: Any = None) -> int:
        """Leave the times as they are."""
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        """Return the free space of the real disk."""
        status = os.statvfs(self._real(path))
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_frsize", "f_files", "f_ffree", "f_favail")
        return {name: getattr(status, name) for name in names} | {"f_namemax": 255}


if __name__ == "__main__":
    os.umask(0)
    mfusepy.FUSE(FlakyDisk(sys.argv[1], sys.argv[3]), sys.argv[2], foreground=True, attr_timeout=0, entry_timeout=0)
