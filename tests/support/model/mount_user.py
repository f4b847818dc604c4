"""A process that uses a mount as a test says over a socket, `mount_user.py ADDRESS`; it alone may hang or die."""

import mmap
import os
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Client
from typing import Any

KEY = b"empiarfs tests"
SIGBUS = -int(signal.SIGBUS)


class MountUser:
    """What can be done; files are named by their descriptors."""

    def entries(self, directory: str) -> list[str]:
        """List a directory."""
        return os.listdir(directory)  # noqa: PTH208 - names alone

    def stat(self, path: str) -> tuple[int, int]:
        """Return length and date."""
        status = os.stat(path)  # noqa: PTH116 - a string as it came
        return status.st_size, int(status.st_mtime)

    def open(self, path: str) -> tuple[int, int, int]:
        """Open a file; return its descriptor, size and date."""
        file = os.open(path, os.O_RDONLY)
        status = os.fstat(file)
        return file, status.st_size, int(status.st_mtime)

    def read(self, file: int, offset: int, size: int) -> bytes:
        """Read all of a part, in as many calls as it takes."""
        parts: list[bytes] = []
        while size and (part := os.pread(file, size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def mapped(self, file: int, offset: int, size: int) -> bytes | int:
        """Read a part through a map, in a child that a signal may end; return the bytes or its status."""
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            with mmap.mmap(file, 0, prot=mmap.PROT_READ) as memory, os.fdopen(write_end, "wb") as pipe:
                pipe.write(memory[offset : offset + size])
            os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            data = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status or data

    def drop(self, file: int) -> None:
        """Let the kernel forget what it has of a file."""
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self, file: int) -> None:
        """Close a file."""
        os.close(file)


def main(address: str) -> None:
    """Execute commands until the connection ends."""
    line: Any = Client(address, "AF_UNIX", authkey=KEY)
    hands = MountUser()
    with suppress(EOFError):
        while True:
            command, arguments = line.recv()
            try:
                line.send(getattr(hands, command)(*arguments))
            except OSError as error:
                line.send(error)


if __name__ == "__main__":
    main(sys.argv[1])
