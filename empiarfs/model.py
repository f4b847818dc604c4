"""The values that all modules share; they cannot fail, wait or change.

A path is a `str` relative to the root of the archive, without a slash at either end: `""` is the root,
`"10028/data/Micrographs"` a directory. Bytes of a name that are not UTF-8 are surrogate escapes (PEP 383).
"""

from dataclasses import dataclass, field
from typing import Final

MINUTE: Final = 60  # seconds
QUARTER: Final = 900
FARTHEST_ZONE: Final = 15 * 3600


@dataclass(frozen=True, slots=True)
class File:
    """One version of a file: the same path, size, `modified` and `coarse_mtime` mean the same bytes.

    Attributes:
        path: its path in the archive.
        size: its exact length in bytes, never a rounded one.
        modified: the server's Last-Modified in seconds since 1970 UTC; None if the server sends none.
        coarse_mtime: whether `modified` is the date of a listing: whole minutes, in a time zone that is not known.
        exact_mtime: the exact date of a file whose `modified` is that of a listing, once a reply has told it; no
            part of the version, so that what is cached of it stays.
    """

    path: str
    size: int
    modified: int | None
    coarse_mtime: bool = False
    exact_mtime: int | None = field(default=None, compare=False)

    def __hash__(self) -> int:
        return hash(self.path)  # a string caches its hash; a read looks a file up some twenty times

    @property
    def mtime(self) -> int | None:
        """The best date that is known, in seconds since 1970; None if there is none."""
        return self.modified if self.exact_mtime is None else self.exact_mtime

    def is_dated(self, modified: int) -> bool:
        """Return whether this version may have the exact date `modified`, in seconds since 1970."""
        if self.modified is None or not self.coarse_mtime or self.exact_mtime is not None:
            return self.mtime in {None, modified}
        # a listing drops the seconds, and has its own time zone: an offset of whole quarters of an hour
        apart = modified - self.modified
        return abs(apart) <= FARTHEST_ZONE and apart % QUARTER < MINUTE

    def could_be(self, other: "File") -> bool:
        """Return whether this version, with the date of a listing, may be `other`, with an exact date."""
        is_sized_alike = self.path == other.path and self.size == other.size
        is_dated_alike = other.modified is not None and self.is_dated(other.modified)
        return self.coarse_mtime and not other.coarse_mtime and is_sized_alike and is_dated_alike


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory.

    Attributes:
        path: its path in the archive.
        modified: the listed date in seconds since 1970, good to a minute and a time zone; None if not known.
    """

    path: str
    modified: int | None = None


@dataclass(frozen=True, slots=True)
class Stub:
    """A file that is listed and not yet measured.

    Attributes:
        path: its path in the archive.
        listed_size: the size as the listing rounds it (`"543M"`); for display and checks, never a length.
        listed_date: the date as the listing writes it; with the size a sign that a file has changed.
    """

    path: str
    listed_size: str = ""
    listed_date: str = ""


Node = File | Directory | Stub


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes from `start` to `stop`, `stop` not included."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Block:
    """The name of one cached block: number `number` of `file`, counted from 0."""

    file: File
    number: int

    def __hash__(self) -> int:
        return hash(self.file.path) ^ self.number  # see File


def parent_path(path: str) -> str:
    """Return the directory of `path`; the parent of the root is the root."""
    return path.rpartition("/")[0]


def base_name(path: str) -> str:
    """Return the last part of `path`."""
    return path.rpartition("/")[2]


def join(directory: str, name: str) -> str:
    """Return the path of `name` in `directory`."""
    return f"{directory}/{name}" if directory else name


def is_entry_number(name: str) -> bool:
    """Return whether `name` can be the name of an entry's directory."""
    return name.isascii() and name.isdigit()
