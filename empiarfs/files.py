"""One file of the archive as Python's own file object; the only module that knows the protocol of `io`."""

import io
import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

from empiarfs.model import File
from empiarfs.units import MIB

PIECE = 4 * MIB  # bytes that are fetched at once into the buffer of a caller

# Guards the positions of all files. It is held for an addition and never while anything is fetched, so one serves
# all; and a fork waits for it, so that no child finds it held by a thread that it does not have.
_positions = threading.RLock()
os.register_at_fork(
    before=_positions.acquire, after_in_parent=_positions.release, after_in_child=_positions.release
)


class Readable(Protocol):
    """What an `ArchiveFile` needs of an archive."""

    def read(self, file: File, offset: int, size: int) -> bytes:
        """Return the `size` bytes of `file` at `offset`; fewer only where the file ends."""
        ...

    def in_this_process(self) -> "Readable":
        """Return itself; in a child of a fork the child's own archive of the same settings, where there is one."""
        ...


class ArchiveFile(io.RawIOBase):
    """One file of the archive, open for reading: a raw binary file, as `open(path, "rb", buffering=0)` returns it.

    It is one version of the file: when the file changes at the server, reads raise `Stale`, and the file is to be
    opened again. It holds no descriptor and no connection. Threads may share it: two that `read` get different
    parts, and `read_at` uses no position at all. In a child of a fork it reads through the child's own archive; it
    pickles as the settings of its archive, its version and its position.

    >>> import empiarfs
    >>> file = empiarfs.open("99001/data/Micrographs/mic_001.mrc")
    >>> file.seek(208)
    208
    >>> file.read(4)
    b'MAP '

    Args:
        archive: where it is read.
        file: which version of which file.
        position: where reading begins, in bytes.
    """

    mode = "rb"

    def __init__(self, archive: Readable, file: File, position: int = 0) -> None:
        super().__init__()
        self._archive = archive
        self._inherited: Readable | None = None
        self._file = file
        self._position = position

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"position={self._position}"
        return f"<ArchiveFile {self._file.path!r} size={self._file.size} {state}>"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return what opens this very version again, where the archive has its settings (see `Archive`).

        Raises:
            ValueError: it is closed.
        """
        self._check_open()
        return type(self), (self._archive, self._file, self._position)

    @property
    def file(self) -> File:
        """The version that is open."""
        return self._file

    @property
    def name(self) -> str:
        """The path in the archive."""
        return self._file.path

    @property
    def size(self) -> int:
        """The length in bytes, exact."""
        return self._file.size

    def readable(self) -> bool:
        """Return True.

        Raises:
            ValueError: it is closed.
        """
        self._check_open()
        return True

    def seekable(self) -> bool:
        """Return True.

        Raises:
            ValueError: it is closed.
        """
        self._check_open()
        return True

    def read_at(self, offset: int, size: int) -> bytes:
        """Return the `size` bytes at `offset`, wherever the position is; fewer only where the file ends.

        Raises:
            ArchiveError: Stale, NotFound, Forbidden, Unavailable (after the patience set), Closed.
            ValueError: it is closed.
        """
        self._check_open()
        here = self._archive.in_this_process()
        if here is not self._archive:
            self._inherited = self._archive  # its locks and databases are the parent's: never to be collected here
            self._archive = here
        return here.read(self._file, offset, size)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, all up to the end where it is negative; fewer only where the file ends.

        Raises:
            ArchiveError: as `read_at`; the position is then where it was.
            ValueError: it is closed.
        """
        self._check_open()
        start, stop = self._advance(self._file.size if size is None or size < 0 else size)
        try:
            return self.read_at(start, stop - start)
        except BaseException:
            self._retreat(start, stop)
            raise

    def readall(self) -> bytes:
        """Return all bytes up to the end; see `read`."""
        return self.read()

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer` with the next bytes and return how many these are: fewer only where the file ends.

        Raises:
            ArchiveError: as `read_at`; the position is then where it was.
            ValueError: it is closed.
        """
        self._check_open()
        view = memoryview(buffer).cast("B")
        start, stop = self._advance(len(view))
        try:
            for offset in range(start, stop, PIECE):
                part = self.read_at(offset, min(PIECE, stop - offset))
                view[offset - start : offset - start + len(part)] = part
        except BaseException:
            self._retreat(start, stop)
            raise
        return stop - start

    def write(self, data: Any, /) -> int:  # noqa: ARG002 - as every file
        """Refuse to write.

        Raises:
            io.UnsupportedOperation: always.
        """
        raise io.UnsupportedOperation("not writable")

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position and return it; it may lie beyond the end, where nothing is read.

        Args:
            offset: how many bytes from there.
            whence: 0 from the start, 1 from the position, 2 from the end.

        Raises:
            ValueError: it would lie before the start, `whence` is another, or the file is closed.
        """
        self._check_open()
        with _positions:
            match whence:
                case os.SEEK_SET:
                    position = offset
                case os.SEEK_CUR:
                    position = self._position + offset
                case os.SEEK_END:
                    position = self._file.size + offset
                case _:
                    raise ValueError(f"invalid whence {whence!r}; 0, 1 or 2")
            if position < 0:
                raise ValueError(f"negative seek position {position}")
            self._position = position
        return position

    def tell(self) -> int:
        """Return the position, in bytes.

        Raises:
            ValueError: it is closed.
        """
        self._check_open()
        return self._position

    def _advance(self, size: int) -> tuple[int, int]:
        """Return where the next `size` bytes start and stop, and move the position there."""
        with _positions:
            start = self._position
            stop = max(start, min(start + size, self._file.size))
            self._position = stop
        return start, stop

    def _retreat(self, start: int, stop: int) -> None:
        """Move the position back to `start`, unless another thread has moved on from `stop`."""
        with _positions:
            if self._position == stop:
                self._position = start

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
