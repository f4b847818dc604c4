"""The interfaces that the engine uses: listings, origins, block stores and indexes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from empiarfs.cancellation import CancelToken
from empiarfs.model import Directory, File, Node, Span, Stub

NEVER: Final = math.inf  # no deadline


class Listing(Protocol):
    """Lists directories at the server."""

    def scan(self, directory: str) -> Sequence[Node]:
        """Return the direct children of `directory`, in the server's order, each name once.

        Raises:
            NotFound, Forbidden, Unavailable: see `empiarfs.errors`.
        """
        ...


class Origin(Protocol):
    """Measures and fetches files."""

    def measure(self, path: str, *, deadline: float = NEVER, token: CancelToken | None = None) -> File:
        """Return the file at `path` with its exact size and date.

        Args:
            path: the path to measure.
            deadline: when the response must have come, in seconds of `time.monotonic`.
            token: lets another thread cancel the request.

        Raises:
            NotFound, Forbidden, Unavailable; IsADirectory if the server says that it is one.
        """
        ...

    def open(
        self, path: str, size: int, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> tuple[File, bytes]:
        """Return the file at `path`, as `measure` does, and its first `size` bytes, with one request.

        The bytes are fewer if the file is shorter, or if the server does not send exactly this part.

        Raises:
            NotFound, Forbidden, Unavailable, IsADirectory: as `measure`.
        """
        ...

    def fetch(
        self, file: File, span: Span, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> Iterator[bytes]:
        """Fetch `span`, a part of `file`, in pieces: exactly `span.size` bytes in order.

        Closing the iterator early closes its connection.

        Args:
            file: the version that is read.
            span: the bytes to fetch.
            deadline: when the first byte must have come, in seconds of `time.monotonic`.
            token: lets another thread cancel the request.

        Raises:
            NotFound, Forbidden, Stale, Unavailable; at the call or at any piece.
        """
        ...


class Timings(Protocol):
    """Records the latency and rate of a server, and derives timeouts from them."""

    def record(self, seconds: float, kind: str = "") -> None:
        """Record that the first byte of a reply to a request of `kind` came after `seconds`."""
        ...

    def record_rate(self, count: int, seconds: float) -> None:
        """Record that `count` bytes of one reply, those after its first bytes, came in `seconds`."""
        ...

    def record_timeout(self, kind: str) -> None:
        """Record that a request of `kind` timed out."""
        ...

    def read_timeout(self, kind: str = "") -> float:
        """Return the seconds of silence after which a request times out; more after timeouts of its `kind`."""
        ...


class Sizes(Protocol):
    """Measures all files of a directory at once."""

    def measure_all(self, directory: str, stubs: Sequence[Stub]) -> Sequence[File]:
        """Return the files among `stubs`, all in `directory`, whose exact size is now known; none if in doubt.

        Raises:
            Unavailable: the sizes are not available, or not now.
        """
        ...


class BatchedSizes(Protocol):
    """Measures some files of a directory at once, a batch, over one connection."""

    def is_usable(self) -> bool:
        """Return whether a batch is faster than single requests, and safe, as far as is known."""
        ...

    def measure_batch(self, directory: str, stubs: Sequence[Stub]) -> Iterator[Sequence[File]]:
        """Yield the files among `stubs`, all in `directory`, whose exact size is now known, in parts as they come.

        Of a file that is left out nothing is known: it is to be measured by itself. A part that is empty says that
        the rest takes longer.

        Raises:
            Unavailable: the rest is not available, or not now.
        """
        ...


class BlockStore(Protocol):
    """Stores blocks between runs; a store that cannot be used holds nothing, and raises only Cancelled."""

    def get(self, file: File, numbers: range) -> dict[int, bytes]:
        """Return those blocks of `numbers` that are stored and intact, by number.

        Raises:
            Cancelled: the condition of the scope is false.
        """
        ...

    def put(self, file: File, blocks: Mapping[int, bytes]) -> None:
        """Store blocks of `file`, by number, in addition to those stored before, or drop them."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """The contents of a directory in the index.

    Attributes:
        nodes: its children, by name, in the server's order.
        scanned: when it was last listed, in seconds since 1970.
    """

    nodes: dict[str, Node]
    scanned: float


class Index(Protocol):
    """Stores the tree between runs; like a store, an index that cannot be used holds nothing and never raises."""

    def directory(self, path: str) -> Known | None:
        """Return what is known of the directory `path`; None if it was never listed."""
        ...

    def node(self, path: str) -> Node | None:
        """Return the node at `path`; None if it is not known."""
        ...

    def holds(self, path: str) -> bool:
        """Return whether `path`, or a directory below it, was ever listed."""
        ...

    def replace(self, path: str, nodes: Sequence[Node], scanned: float) -> Known:
        """Store a new listing of `path`, and return what is now known of it.

        A measured file whose listed size and date are unchanged stays measured. A name that the new listing lacks
        stays until a second listing lacks it too; a name that was never listed, only measured, stays.
        """
        ...

    def add(self, node: File | Directory) -> None:
        """Store `node`, which was measured."""
        ...

    def add_all(self, files: Sequence[File]) -> None:
        """Store `files`, which were measured together."""
        ...

    def remove(self, path: str, asked: float) -> None:
        """Remove `path`, and record that it was absent at the time `asked`."""
        ...

    def absent_since(self, path: str) -> float | None:
        """Return when `path` was last requested and absent; None if it was not."""
        ...

    def unmeasure(self, file: File) -> Stub:
        """Remove the size and date of `file`, which has changed; return it as not measured."""
        ...
