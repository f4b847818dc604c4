"""Reads and writes the file of a chunk: written at once, read whole or in part, verified at each read."""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from empiarfs.model import Span
from empiarfs.storage import chunks
from empiarfs.storage.chunks import Chunk

MOST_TRIES = 5  # to create a file


@dataclass(frozen=True, slots=True)
class Stored:
    """The requested blocks that a file holds, by number, and how many of them are damaged."""

    blocks: dict[int, bytes] = field(default_factory=dict)
    damaged: int = 0


def read(path: str, chunk: Chunk, numbers: Sequence[int]) -> Stored:
    """Read those blocks of the ascending `numbers` of `chunk` that the file `path` holds.

    If that is most of the chunk, one call reads all of it: a call to a cold disk takes milliseconds.

    Raises:
        FileNotFoundError: the file is gone.
        OSError: it cannot be read now.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return _read(file, chunk, numbers)
        finally:
            os.close(file)
    except OSError as error:
        if not _is_damage(error):
            raise
        return Stored(damaged=1)


def _read(file: int, chunk: Chunk, numbers: Sequence[int]) -> Stored:
    is_most = 2 * len(numbers) >= len(chunk.numbers)
    size = min(os.fstat(file).st_size, chunk.max_bytes) if is_most else chunk.head_bytes
    data = os.pread(file, size, 0)
    head = chunks.parse(chunk, data[: chunk.head_bytes])
    if head is None:
        return Stored(damaged=1)
    present = [number for number in numbers if number in head.spans]
    if not present:
        return Stored()
    span = Span(head.spans[present[0]].start, head.spans[present[-1]].stop)
    start = 0 if is_most else span.start
    view = memoryview(data if is_most else os.pread(file, span.size, start))
    blocks = {}
    for number in present:
        part = head.spans[number]
        block = view[part.start - start : part.stop - start]
        if head.is_whole(number, block):
            blocks[number] = bytes(block)
    return Stored(blocks, len(present) - len(blocks))


def write(path: str, pieces: Sequence[bytes]) -> int:
    """Create the file `path` from `pieces`, and return its length; delete it if it cannot be written completely.

    Raises:
        OSError: it cannot be written.
    """
    file = _create(path)
    try:
        size = sum(map(len, pieces))
        if os.writev(file, pieces) != size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)  # noqa: TRY301 - a short write
    except OSError:
        os.unlink(path)  # noqa: PTH108 - see below
        raise
    finally:
        os.close(file)
    return size


def _create(path: str) -> int:
    """Create the file `path` and its two folders, again if another thread removes empty folders meanwhile.

    The store's own folder is not created here: it needs checks.
    """
    for _ in range(MOST_TRIES):
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            folder = os.path.dirname(path)  # noqa: PTH120 - a Path costs as much as the file
            for one in (os.path.dirname(folder), folder):  # noqa: PTH120 - see above
                with suppress(FileNotFoundError, FileExistsError):
                    os.mkdir(one, 0o700)  # noqa: PTH102 - see above
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _is_damage(error: OSError) -> bool:
    """Return whether `error`, from reading a file, concerns that file alone and not the disk."""
    return error.errno in {errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENOTDIR}
