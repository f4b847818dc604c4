"""A segment: blocks of one file that follow each other, kept together; how it is named and verified. Pure.

Its head holds the digest of its name, and for each block its length and a checksum over name, place and bytes: a
block that was cut, swapped or flipped is told from a whole one, and the others in its segment are still good.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Sequence

from empiarfs.model import Span

_MAGIC = b"EFB2"
_HEAD = struct.Struct("<4s16s")
_ENTRY = struct.Struct("<II")  # length, checksum
_INDEX = struct.Struct("<I")
_END = re.compile(r"(\d{1,18})\+(\d{1,4})", re.ASCII)


def name(prefix: str, numbers: range) -> str:
    """Return the name of the segment of the blocks `numbers` of the file that `prefix` stands for."""
    return f"{prefix}{numbers.start}+{len(numbers)}"


def numbers(prefix: str, name: str) -> range:
    """Return the numbers of the blocks in the segment `name`, which begins with `prefix`; none if in doubt."""
    match = _END.fullmatch(name[len(prefix) :])
    return range(int(match[1]), int(match[1]) + int(match[2])) if match else range(0)


def head(name: str, blocks: Sequence[bytes]) -> bytes:
    """Return what stands before `blocks` in the file of the segment `name`."""
    digest = _digest(name)
    entries = (_ENTRY.pack(len(data), _checksum(digest, index, data)) for index, data in enumerate(blocks))
    return b"".join((_HEAD.pack(_MAGIC, digest), *entries))


def head_bytes(count: int) -> int:
    """Return the length of the head of a segment of `count` blocks."""
    return _HEAD.size + count * _ENTRY.size


def part(name: str, count: int, index: int, head: bytes) -> Span | None:
    """Return where in its file block `index` lies; None where `head` is not that of `name`, or not whole."""
    if len(head) != head_bytes(count) or head[: _HEAD.size] != _HEAD.pack(_MAGIC, _digest(name)):
        return None
    lengths = [length for length, _ in _ENTRY.iter_unpack(head[_HEAD.size :])]
    start = len(head) + sum(lengths[:index])
    return Span(start, start + lengths[index])


def is_whole(name: str, index: int, head: bytes, data: bytes) -> bool:
    """Return whether `data` is block `index` of the segment `name`, of whose `head` `part` has thought well."""
    length, checksum = _ENTRY.unpack_from(head, head_bytes(index))
    return bool(len(data) == length and _checksum(_digest(name), index, data) == checksum)


def _checksum(digest: bytes, index: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(digest + _INDEX.pack(index)))


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()
