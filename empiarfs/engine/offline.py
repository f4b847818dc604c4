"""Offline: an origin and a listing that refuse at once whatever would need the network, and cannot connect."""

from collections.abc import Iterator, Sequence

from empiarfs.cancellation import CancelToken
from empiarfs.errors import IsADirectory, Offline
from empiarfs.model import Directory, File, Node, Span
from empiarfs.ports import NEVER, Index

REASON = "not in the cache, and empiarfs is offline"


class OfflineOrigin:
    """An origin that knows what the index knows, and has no bytes.

    Args:
        index: where another program of the user may meanwhile keep what it measures.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def measure(self, path: str, *, deadline: float = NEVER, token: CancelToken | None = None) -> File:  # noqa: ARG002 - see `Origin`
        """See `Origin.measure`.

        Raises:
            IsADirectory: it is known to be one, whether or not its parent was listed.
            Offline: nothing is known of it, or only that it is there.
        """
        node = self._index.node(path)
        if isinstance(node, File):
            return node
        if isinstance(node, Directory) or self._index.holds(path):
            raise IsADirectory(path)
        raise Offline(path, REASON)

    def open(
        self,
        path: str,
        size: int,  # noqa: ARG002 - there are no bytes
        *,
        deadline: float = NEVER,
        token: CancelToken | None = None,
    ) -> tuple[File, bytes]:
        """See `Origin.open`.

        Raises:
            IsADirectory, Offline: as `measure`.
        """
        return self.measure(path, deadline=deadline, token=token), b""

    def fetch(
        self,
        file: File,
        span: Span,  # noqa: ARG002 - there are no bytes
        *,
        deadline: float = NEVER,  # noqa: ARG002 - nothing is waited for
        token: CancelToken | None = None,  # noqa: ARG002 - nothing is begun
    ) -> Iterator[bytes]:
        """See `Origin.fetch`.

        Raises:
            Offline: always.
        """
        raise Offline(file.path, REASON)


class OfflineListing:
    """A listing that knows nothing that is not known already."""

    def scan(self, directory: str) -> Sequence[Node]:
        """See `Listing.scan`.

        Raises:
            Offline: always.
        """
        raise Offline(directory, f"its listing is {REASON}")
