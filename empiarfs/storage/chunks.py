"""The format of a chunk, the blocks of an aligned part of a file that are stored together; pure.

The head holds the digest of the key, and for each block that the chunk may hold its length and the checksum of all
bytes up to its end, which begins with the digest. So one checksum verifies neighbouring blocks at once, and each
block can be verified by itself: truncated, swapped and flipped blocks are detected, and the others stay usable. The
head has a checksum of its own. Absent blocks take no room behind it.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from empiarfs.model import File, Span
from empiarfs.units import MIB

CHUNK_BYTES = MIB

_MAGIC = b"EFB4"
_HEAD = struct.Struct("<4s16sI")  # magic, digest, checksum of the entries
_ENTRY = struct.Struct("<II")  # length, checksum
_ABSENT = 0xFFFFFFFF  # in place of a length
_KEY = re.compile(
    r"(?P<archive>\S+) (?P<block_bytes>[1-9]\d{0,9}) (?P<path>[\x00-\xff]*) (?P<size>\d{1,19}) "
    r"(?P<modified>None|-?\d{1,19}) (?P<coarse>[01]) (?P<number>\d{1,18})",
    re.ASCII | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The name of a chunk.

    Attributes:
        archive: the archive of the file.
        block_bytes: the length of a block.
        file: the version of the file.
        number: the number of the chunk in the file.
    """

    archive: str
    block_bytes: int
    file: File
    number: int

    @property
    def key(self) -> str:
        """The key of the chunk in the database, which `parse_key` parses."""
        file = self.file
        # SQLite's text holds no surrogate escapes
        path = file.path.encode("utf-8", "surrogateescape").decode("latin-1")
        coarse = int(file.coarse_mtime)
        return f"{self.archive} {self.block_bytes} {path} {file.size} {file.modified} {coarse} {self.number}"

    @property
    def numbers(self) -> range:
        """The numbers of the blocks that the chunk may hold, also those behind the end of the file."""
        count = blocks_in_chunk(self.block_bytes)
        return range(self.number * count, (self.number + 1) * count)

    @property
    def head_bytes(self) -> int:
        """The length of the head."""
        return _HEAD.size + len(self.numbers) * _ENTRY.size

    @property
    def max_bytes(self) -> int:
        """The length of the chunk with all of its blocks."""
        return self.head_bytes + len(self.numbers) * self.block_bytes

    def is_complete(self, blocks: Mapping[int, bytes]) -> bool:
        """Return whether `blocks`, all of this chunk, are all blocks that the file has in it."""
        end = min(self.numbers.stop, -(-self.file.size // self.block_bytes))
        return len(blocks) >= max(1, end - self.numbers.start)


class Head:
    """The head of a chunk: where in its file each block lies.

    Attributes:
        spans: the spans of the present blocks in the chunk's file, by number, consecutive.
    """

    def __init__(self, chunk: Chunk, entries: Iterable[tuple[int, int]]) -> None:
        self._checksums: dict[int, tuple[int, int]] = {}  # before the block, and behind it
        self.spans: dict[int, Span] = {}
        end, before = chunk.head_bytes, _first_checksum(chunk)
        for number, (length, checksum) in zip(chunk.numbers, entries, strict=True):
            if length != _ABSENT:
                self.spans[number] = Span(end, end + length)
                self._checksums[number] = before, checksum
                end, before = end + length, checksum

    def intact(self, numbers: Sequence[int], data: "memoryview[int]") -> dict[int, bytes]:
        """Return those of the present neighbours `numbers` that `data`, their bytes, holds as they were stored."""
        first = self.spans[numbers[0]].start
        parts = {}
        for number in numbers:
            span = self.spans[number]
            parts[number] = data[span.start - first : span.stop - first]
        if not self._is_whole(numbers[0], numbers[-1], data):
            parts = {number: part for number, part in parts.items() if self._is_whole(number, number, part)}
        return {number: bytes(part) for number, part in parts.items()}

    def _is_whole(self, first: int, last: int, data: "memoryview[int]") -> bool:
        is_complete = len(data) == self.spans[last].stop - self.spans[first].start
        return is_complete and zlib.crc32(data, self._checksums[first][0]) == self._checksums[last][1]


def blocks_in_chunk(block_bytes: int) -> int:
    """Return the maximum number of blocks of `block_bytes` in a chunk, at least one."""
    return max(1, CHUNK_BYTES // block_bytes)


def split(numbers: Iterable[int], block_bytes: int) -> list[tuple[int, list[int]]]:
    """Return ascending block numbers by chunk: for each chunk its number, and those of its blocks."""
    count = blocks_in_chunk(block_bytes)
    return [(chunk, list(inside)) for chunk, inside in groupby(numbers, lambda number: number // count)]


def pack(chunk: Chunk, blocks: Mapping[int, bytes]) -> list[bytes]:
    """Return the content of the file of `chunk` with `blocks`, by number: the head, then each block."""
    checksum = _first_checksum(chunk)
    present = []
    entries = []
    for number in chunk.numbers:
        data = blocks.get(number)
        if data is None:
            entries.append(_ENTRY.pack(_ABSENT, 0))
        else:
            checksum = zlib.crc32(data, checksum)
            entries.append(_ENTRY.pack(len(data), checksum))
            present.append(data)
    index = b"".join(entries)
    return [_HEAD.pack(_MAGIC, _digest(chunk.key), zlib.crc32(index)) + index, *present]


def parse(chunk: Chunk, head: bytes) -> Head | None:
    """Return `head` parsed; None if it is not the intact head of `chunk`."""
    index = head[_HEAD.size :]
    start = _HEAD.pack(_MAGIC, _digest(chunk.key), zlib.crc32(index))
    if len(head) != chunk.head_bytes or head[: _HEAD.size] != start:
        return None
    return Head(chunk, _ENTRY.iter_unpack(index))


def file_name(key: str) -> str:
    """Return the name of the file of the chunk `key`, relative to the folder of the store."""
    name = _digest(key).hex()
    return f"{name[:2]}/{name[2:]}.val"


def parse_key(key: str) -> Chunk | None:
    """Return the chunk whose key is `key`; None if it is not a key of a chunk."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    path = match["path"].encode("latin-1").decode("utf-8", "surrogateescape")
    modified = None if match["modified"] == "None" else int(match["modified"])
    file = File(path, int(match["size"]), modified, match["coarse"] == "1")
    return Chunk(match["archive"], int(match["block_bytes"]), file, int(match["number"]))


def block_count(chunk: Chunk, size: int) -> int:
    """Return the number of blocks in a chunk file of `size` bytes: all are full but the last of the file."""
    return max(0, -(-(size - chunk.head_bytes) // chunk.block_bytes))


def _first_checksum(chunk: Chunk) -> int:
    return zlib.crc32(_digest(chunk.key))


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()
