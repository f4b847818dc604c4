"""Offline: an origin and a listing that refuse at once whatever would need the network, and cannot connect."""

from collections.abc import Iterator, Sequence

from empiarfs.errors import IsADirectory, Offline
from empiarfs.model import Directory, File, Node, Span
from empiarfs.ports import Index

REASON = "not in the cache, and empiarfs is offline"


class OfflineOrigin:
    """An origin that knows what the index knows, and has no bytes.

    Args:
        index: where another program of the user may meanwhile keep what it measures.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def measure(self, path: str) -> File:
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

    def fetch(self, file: File, span: Span) -> Iterator[bytes]:  # noqa: ARG002 - none of it is to be had
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
