"""What a look into the cache folder finds; values only."""

from dataclasses import dataclass
from pathlib import Path

from empiarfs.storage.chunks import Chunk
from empiarfs.storage.database import Place


@dataclass(frozen=True, slots=True)
class EntryUsage:
    """What is kept of one entry of one archive."""

    archive: str
    entry: str
    files: int
    blocks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a cache folder holds.

    Attributes:
        parts: entry by entry.
        oldest, newest: when a block was stored or used last, in seconds since 1970; None where there is none.
        index_bytes: of all listings together.
        directories: how many are listed.
        measured: of how many files the exact size is known.
        free: bytes free on the file system.
        min_free: bytes of it that the cache always leaves free.
        errors: what cannot be used, and why.
        unrecognised: what is not ours.
    """

    parts: tuple[EntryUsage, ...]
    oldest: float | None
    newest: float | None
    index_bytes: int
    directories: int
    measured: int
    free: int
    min_free: int
    errors: tuple[str, ...]
    unrecognised: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Of all blocks."""
        return sum(part.bytes for part in self.parts)

    @property
    def blocks(self) -> int:
        """How many."""
        return sum(part.blocks for part in self.parts)

    @property
    def files(self) -> int:
        """Of how many files there are blocks."""
        return sum(part.files for part in self.parts)


@dataclass(slots=True)
class VerifyReport:
    """What a look at every block has found.

    Attributes:
        blocks: how many were read.
        bytes: those of their chunks.
        damaged: how many were not what their names say; their chunks are removed.
        missing: of how many chunks the file was gone; their rows are removed.
        orphans: how many files belonged to no row; they are removed.
        errors: what could not be looked at, and why.
        unrecognised: what is not ours, and stays.
    """

    blocks: int = 0
    bytes: int = 0
    damaged: int = 0
    missing: int = 0
    orphans: int = 0
    errors: tuple[str, ...] = ()
    unrecognised: tuple[Path, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether nothing was damaged."""
        return not (self.damaged or self.missing or self.errors)


@dataclass(frozen=True, slots=True)
class SampledBlock:
    """One stored block, to be compared with the server's.

    Attributes:
        chunk: the chunk that holds it.
        place: where that is.
        number: which block of the file it is.
        data: its bytes.
    """

    chunk: Chunk
    place: Place
    number: int
    data: bytes
