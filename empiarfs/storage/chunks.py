"""The format of a chunk, the blocks of an aligned part of a file that are stored together; pure.

The head holds the digest of the key, and for each block that the chunk may hold its length and a checksum over
key, position and bytes: truncated, swapped and flipped blocks are detected, and the other blocks stay usable.
Absent blocks take no room behind the head.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from empiarfs.model import File, Span
from empiarfs.units import MIB

CHUNK_BYTES = MIB

_MAGIC = b"EFB3"
_HEAD = struct.Struct("<4s16s")
_ENTRY = struct.Struct("<II")  # length, checksum
_INDEX = struct.Struct("<I")
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
        self._first = chunk.numbers.start
        self._digest = _digest(chunk)
        self._checksums: dict[int, int] = {}
        self.spans: dict[int, Span] = {}
        end = chunk.head_bytes
        for number, (length, checksum) in zip(chunk.numbers, entries, strict=True):
            if length != _ABSENT:
                self.spans[number] = Span(end, end + length)
                self._checksums[number] = checksum
                end += length

    def is_whole(self, number: int, data: "bytes | memoryview[int]") -> bool:
        """Return whether `data` is the present block `number` as it was stored."""
        checksum = _checksum(self._digest, number - self._first, data)
        return len(data) == self.spans[number].size and checksum == self._checksums[number]


def blocks_in_chunk(block_bytes: int) -> int:
    """Return the maximum number of blocks of `block_bytes` in a chunk, at least one."""
    return max(1, CHUNK_BYTES // block_bytes)


def split(numbers: Iterable[int], block_bytes: int) -> list[tuple[int, list[int]]]:
    """Return ascending block numbers by chunk: for each chunk its number, and those of its blocks."""
    count = blocks_in_chunk(block_bytes)
    return [(chunk, list(inside)) for chunk, inside in groupby(numbers, lambda number: number // count)]


def pack(chunk: Chunk, blocks: Mapping[int, bytes]) -> list[bytes]:
    """Return the content of the file of `chunk` with `blocks`, by number: the head, then each block."""
    digest = _digest(chunk)
    present = [(index, blocks[number]) for index, number in enumerate(chunk.numbers) if number in blocks]
    entries = [_ENTRY.pack(_ABSENT, 0)] * len(chunk.numbers)
    for index, data in present:
        entries[index] = _ENTRY.pack(len(data), _checksum(digest, index, data))
    return [b"".join((_HEAD.pack(_MAGIC, digest), *entries)), *(data for _, data in present)]


def parse(chunk: Chunk, head: bytes) -> Head | None:
    """Return `head` parsed; None if it is not the complete head of `chunk`."""
    if len(head) != chunk.head_bytes or head[: _HEAD.size] != _HEAD.pack(_MAGIC, _digest(chunk)):
        return None
    entries = list(_ENTRY.iter_unpack(head[_HEAD.size :]))
    if any(length > chunk.block_bytes for length, _ in entries if length != _ABSENT):
        return None  # a wrong length could demand any amount of memory
    return Head(chunk, entries)


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


def _checksum(digest: bytes, index: int, data: "bytes | memoryview[int]") -> int:
    return zlib.crc32(data, zlib.crc32(digest + _INDEX.pack(index)))


def _digest(chunk: Chunk) -> bytes:
    return hashlib.blake2b(chunk.key.encode(), digest_size=16).digest()
