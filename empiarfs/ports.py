"""What the engine needs of the world: what is there, the bytes, kept bytes, a kept tree."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from empiarfs.model import Directory, File, Node, Span, Stub


class Listing(Protocol):
    """What is there."""

    def scan(self, directory: str) -> Sequence[Node]:
        """Return the direct children of `directory`, in the server's order, each name once.

        Raises:
            NotFound, Forbidden, Unavailable: as `empiarfs.errors` tells.
        """
        ...


class Origin(Protocol):
    """The bytes."""

    def measure(self, path: str) -> File:
        """Ask for the exact length and date of the file at `path`.

        Raises:
            NotFound, Forbidden, Unavailable; IsADirectory where the server says that it is one.
        """
        ...

    def fetch(self, file: File, span: Span) -> Iterator[bytes]:
        """Return the bytes of `span`, a part of `file`, in order, in pieces: exactly `span.size` in all.

        Raises:
            NotFound, Forbidden, Stale, Unavailable; at the call or at any piece. Closing the iterator early
            gives its connection up.
        """
        ...


class Sizes(Protocol):
    """Exact sizes of a whole directory at once."""

    def measure_all(self, directory: str, stubs: Sequence[Stub]) -> Sequence[File]:
        """Return the files among `stubs`, all in `directory`, whose exact size is now known; none when in doubt.

        Raises:
            Unavailable: there is no such source, or not now.
        """
        ...


class BlockStore(Protocol):
    """Stored bytes. A store that is broken is a store that holds nothing: neither method raises."""

    def get(self, file: File, numbers: range) -> dict[int, bytes]:
        """Return those blocks of `numbers` that are here and whole, by number.

        Raises:
            Cancelled: no reader waits for them any more.
        """
        ...

    def put(self, file: File, blocks: Mapping[int, bytes]) -> None:
        """Store blocks of `file`, by number, beside those stored before, or drop them."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """What the index holds of a directory.

    Attributes:
        nodes: its children, by name, in the server's order.
        scanned: when it was last listed, in seconds since 1970.
    """

    nodes: dict[str, Node]
    scanned: float


class Index(Protocol):
    """A tree kept between runs. Like a store, a broken index knows nothing and never raises."""

    def directory(self, path: str) -> Known | None:
        """Return what is known of the directory `path`; None if it was never listed."""
        ...

    def node(self, path: str) -> Node | None:
        """Return what is known of the one name `path`; None if nothing is."""
        ...

    def holds(self, path: str) -> bool:
        """Return whether `path`, or a directory somewhere below it, was ever listed."""
        ...

    def replace(self, path: str, nodes: Sequence[Node], scanned: float) -> Known:
        """Take a new listing of `path` in, and give what is now known of it.

        A measured file whose listed size and date are as before stays measured. A name that the new listing
        lacks is kept until a second listing lacks it too; one that was only ever found by asking is kept.
        """
        ...

    def add(self, node: File | Directory) -> None:
        """Keep `node`: a file that was measured, or a directory that was found by asking."""
        ...

    def add_all(self, files: Sequence[File]) -> None:
        """Keep many files that were measured together."""
        ...

    def remove(self, path: str, asked: float) -> None:
        """Forget `path`, and keep that it was not there at `asked`."""
        ...

    def absent_since(self, path: str) -> float | None:
        """Tell when `path` was last asked for and not there; None if it was not."""
        ...

    def unmeasure(self, file: File) -> Stub:
        """Forget the length and date of `file`, which has changed; give it as not measured."""
        ...
