"""An origin and a listing that make no connection: what would need one fails at once."""

from collections.abc import Iterator, Sequence

from empiarfs.cancellation import CancelToken
from empiarfs.errors import IsADirectory, Offline
from empiarfs.model import Directory, File, Node, Span
from empiarfs.ports import NEVER, Index

REASON = "not in the cache, and empiarfs is offline"


class OfflineOrigin:
    """An origin that measures from the index, and has no bytes.

    Args:
        index: the index, which another program of the user may extend meanwhile.
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def measure(self, path: str, *, deadline: float = NEVER, token: CancelToken | None = None) -> File:  # noqa: ARG002 - see `Origin`
        """See `Origin.measure`.

        Raises:
            IsADirectory: it is known to be a directory, whether or not its parent was listed.
            Offline: it is not known, or only its name is.
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
    """A listing that has no listing of any directory."""

    def scan(self, directory: str) -> Sequence[Node]:
        """See `Listing.scan`.

        Raises:
            Offline: always.
        """
        raise Offline(directory, f"its listing is {REASON}")
