"""Reads and writes the file of a chunk: written at once, read whole or in part, verified at each read."""

import errno
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from empiarfs.model import Span
from empiarfs.storage import chunks
from empiarfs.storage.chunks import Chunk


@dataclass(frozen=True, slots=True)
class Stored:
    """The requested blocks that a file holds, by number, and how many of them are damaged."""

    blocks: dict[int, bytes] = field(default_factory=dict)
    damaged: int = 0


def read(folder: str, chunk: Chunk, numbers: range) -> Stored:
    """Read those blocks of `numbers`, all of `chunk`, that its file in `folder` holds; none if there is no file.

    If that is most of the chunk, one call reads all of it: a call to a cold disk takes milliseconds.

    Raises:
        OSError: the file cannot be read now.
    """
    try:
        file = os.open(f"{folder}/{chunks.file_name(chunk.key)}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return _read(file, chunk, numbers)
        finally:
            os.close(file)
    except FileNotFoundError:
        return Stored()
    except OSError as error:
        if error.errno not in {errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENOTDIR}:
            raise
        return Stored(damaged=1)  # of this file alone, and not of the disk


def _read(file: int, chunk: Chunk, numbers: range) -> Stored:
    is_most = 2 * len(numbers) >= len(chunk.numbers)
    data = os.pread(file, chunk.max_bytes if is_most else chunk.head_bytes, 0)
    head = chunks.parse(chunk, data[: chunk.head_bytes])
    if head is None:
        return Stored(damaged=1)
    present = [number for number in numbers if number in head.spans]
    if not present:
        return Stored()
    span = Span(head.spans[present[0]].start, head.spans[present[-1]].stop)
    part = memoryview(data)[span.start : span.stop] if is_most else os.pread(file, span.size, span.start)
    blocks = head.intact(present, memoryview(part))
    return Stored(blocks, len(present) - len(blocks))


class Written:
    """A complete chunk file of `size` bytes at `path`, which is not in its place yet."""

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size

    def move(self, path: str) -> None:
        """Put the file in its place; a reader of the file that was there reads on."""
        try:
            os.replace(self.path, path)  # noqa: PTH105 - a Path costs as much as the file
        except IsADirectoryError:  # another program made it
            shutil.rmtree(path)
            os.replace(self.path, path)  # noqa: PTH105 - see above
        self.path = path

    def delete(self) -> None:
        """Delete the file, wherever it is."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)  # noqa: PTH108 - see `move`


def write(place: str, pieces: Sequence[bytes]) -> Written:
    """Write `pieces` to a new file in the folder of `place`; delete it if it cannot be written completely.

    That folder is created, but not the store's own, which needs checks.

    Raises:
        OSError: it cannot be written.
    """
    folder = os.path.dirname(place)  # noqa: PTH120 - see `Written.move`
    path = f"{folder}/{os.urandom(15).hex()}.val"
    written = Written(path, sum(map(len, pieces)))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        file = os.open(path, flags, 0o600)
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)  # noqa: PTH102 - see `Written.move`
        file = os.open(path, flags, 0o600)
    try:
        if os.writev(file, pieces) != written.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)  # noqa: TRY301 - a short write
    except OSError:
        written.delete()
        raise
    finally:
        os.close(file)
    return written
