"""What the engine needs of the world: what is there, the bytes, kept bytes, a kept tree."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from empiarfs.cancellation import CancelToken
from empiarfs.model import Directory, File, Node, Span, Stub

NEVER: Final = math.inf  # a deadline that does not come


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

    def measure(self, path: str, *, deadline: float = NEVER, token: CancelToken | None = None) -> File:
        """Return the file at `path` with its exact size and date.

        Args:
            path: where it is.
            deadline: when the answer must be here, in seconds of `time.monotonic`.
            token: lets another thread break the request off.

        Raises:
            NotFound, Forbidden, Unavailable; IsADirectory where the server says that it is one.
        """
        ...

    def open(
        self, path: str, size: int, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> tuple[File, bytes]:
        """Return the file at `path`, as `measure` does, and its first `size` bytes; in one request.

        The bytes are fewer where the file is shorter, or where the server tells of it in another way.

        Raises:
            NotFound, Forbidden, Unavailable, IsADirectory: as `measure`.
        """
        ...

    def fetch(
        self, file: File, span: Span, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> Iterator[bytes]:
        """Return the bytes of `span`, a part of `file`, in order, in pieces: exactly `span.size` in all.

        Args:
            file: the version that is read.
            span: which of its bytes.
            deadline: when the first of them must be here, in seconds of `time.monotonic`.
            token: lets another thread break the request off.

        Raises:
            NotFound, Forbidden, Stale, Unavailable; at the call or at any piece. Closing the iterator early
            closes its connection.
        """
        ...


class Timings(Protocol):
    """How soon and how fast a server usually answers; learns from every reply."""

    def record(self, seconds: float, kind: str = "") -> None:
        """Record how long the reply to a request of `kind` took to begin."""
        ...

    def record_rate(self, count: int, seconds: float) -> None:
        """Record that `count` bytes of one reply came in `seconds`, its first bytes left out."""
        ...

    def record_timeout(self, kind: str) -> None:
        """Record that a request of `kind` was given up for silence."""
        ...

    def read_timeout(self, kind: str = "") -> float:
        """Return after how many seconds of silence a request is given up; more after timeouts of its kind."""
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
    """Blocks kept between runs. A store that is broken holds nothing, and raises nothing else."""

    def get(self, file: File, numbers: range) -> dict[int, bytes]:
        """Return those blocks of `numbers` that are here and whole, by number.

        Raises:
            Cancelled: the condition of the scope is false.
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
