"""A file of the archive as a Python file object; the only module that implements the protocol of `io`."""

import io
import operator
import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

from empiarfs.model import File
from empiarfs.units import MIB

PIECE = 4 * MIB  # the most bytes of one read into the buffer of a caller

# Guards the positions of all files. It is held for an addition and never during a fetch, so one lock is enough; and
# a fork acquires it, so that no child inherits it held by a thread that does not exist there.
_positions = threading.RLock()
os.register_at_fork(
    before=_positions.acquire, after_in_parent=_positions.release, after_in_child=_positions.release
)


class Readable(Protocol):
    """The methods of an archive that an `ArchiveFile` uses."""

    def read(self, file: File, offset: int, size: int) -> bytes:
        """Return the `size` bytes of `file` at `offset`; fewer only at the end of the file."""
        ...

    def in_this_process(self) -> "Readable":
        """Return itself; in a child of a fork the child's own archive of the same settings, if there is one."""
        ...


class ArchiveFile(io.RawIOBase):
    """A file of the archive, open for reading: a raw binary file, as `open(path, "rb", buffering=0)` returns it.

    It is one version of the file: after a change at the server reads raise `Stale`, and the file must be opened
    again. It holds no descriptor and no connection. Threads may share it: two calls of `read` return different
    parts, and `read_at` does not use the position. In a child of a fork it reads through the child's own archive.
    It pickles as the settings of its archive, its version and its position.

    >>> import empiarfs
    >>> file = empiarfs.open("99001/data/Micrographs/mic_001.mrc")
    >>> file.seek(208)
    208
    >>> file.read(4)
    b'MAP '

    Args:
        archive: the archive.
        file: the version of the file.
        position: the initial position, in bytes.
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
        """Return the arguments that open this version again, if the archive has a recipe (see `Archive`).

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
        """The exact length in bytes."""
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
        """Return the `size` bytes at `offset`, fewer only at the end of the file; ignore the position.

        Raises:
            ArchiveError: Stale, NotFound, Forbidden, Unavailable (after `patience`), Closed.
            ValueError: it is closed, or `offset` or `size` is negative.
        """
        self._check_open()
        if offset < 0 or size < 0:
            raise ValueError(f"{self.name}: no {size} bytes at {offset}")
        here = self._archive.in_this_process()
        if here is not self._archive:
            self._inherited = self._archive  # never collected here: its locks and databases are the parent's
            self._archive = here
        return here.read(self._file, offset, size)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, fewer only at the end of the file; all up to the end if `size` is negative.

        Raises:
            ArchiveError: as `read_at`; the position is then unchanged.
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
        """Fill `buffer` with the next bytes and return their number, smaller only at the end of the file.

        Raises:
            ArchiveError: as `read_at`; the position is then unchanged.
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

    def write(self, data: Any, /) -> int:  # noqa: ARG002 - the signature of `io`
        """Refuse to write.

        Raises:
            io.UnsupportedOperation: always.
        """
        raise io.UnsupportedOperation("not writable")

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position and return it; it may be beyond the end, where reads return nothing.

        Args:
            offset: the distance in bytes.
            whence: 0 from the start, 1 from the position, 2 from the end.

        Raises:
            ValueError: the position would be negative, `whence` is invalid, or the file is closed.
        """
        self._check_open()
        offset = operator.index(offset)
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
        """Move the position over the next `size` bytes, and return where they start and stop."""
        with _positions:
            start = self._position
            stop = max(start, min(start + size, self._file.size))
            self._position = stop
        return start, stop

    def _retreat(self, start: int, stop: int) -> None:
        """Move the position back to `start`, unless another thread has moved it from `stop`."""
        with _positions:
            if self._position == stop:
                self._position = start

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
