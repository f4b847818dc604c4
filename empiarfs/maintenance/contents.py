"""The results of inspecting the cache folder; values only."""

from dataclasses import dataclass

from empiarfs.storage.chunks import Chunk


@dataclass(frozen=True, slots=True)
class EntryUsage:
    """The stored blocks of one entry of one archive."""

    archive: str
    entry: str
    files: int
    blocks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a cache folder.

    Attributes:
        parts: the usage of each entry.
        oldest, newest: when the least and the most recently used block was used, in seconds since 1970; None if
            there is none.
        index_bytes: the bytes of all indexes.
        directories: the number of listed directories.
        measured: the number of files whose exact size is known.
        free, min_free: the free bytes of the file system, and those that the cache always leaves free.
    """

    parts: tuple[EntryUsage, ...]
    oldest: float | None
    newest: float | None
    index_bytes: int
    directories: int
    measured: int
    free: int
    min_free: int

    @property
    def bytes(self) -> int:
        """The bytes of all blocks."""
        return sum(part.bytes for part in self.parts)

    @property
    def blocks(self) -> int:
        """The number of all blocks."""
        return sum(part.blocks for part in self.parts)

    @property
    def files(self) -> int:
        """The number of files with blocks."""
        return sum(part.files for part in self.parts)


@dataclass(slots=True)
class VerifyReport:
    """The result of verifying every block.

    Attributes:
        blocks: the number of blocks that were read.
        bytes: the bytes of their chunks.
        damaged: the number of blocks that failed verification; they are removed, the others of their chunks stay.
        missing: the number of chunks without a file; their rows are removed.
        foreign: the number of rows that another program wrote; they are removed.
        orphans: the number of files without a row; they are removed.
    """

    blocks: int = 0
    bytes: int = 0
    damaged: int = 0
    missing: int = 0
    foreign: int = 0
    orphans: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether nothing was wrong."""
        return not (self.damaged or self.missing or self.foreign)


@dataclass(frozen=True, slots=True)
class SampledBlock:
    """One stored block, to be compared with the server's.

    Attributes:
        chunk: the chunk that holds it.
        number: the number of the block in the file.
        data: its bytes.
    """

    chunk: Chunk
    number: int
    data: bytes
