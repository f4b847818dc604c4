"""The archive, as every face speaks to it: what is there, and the bytes."""

import re
from collections.abc import Callable

from empiarfs.engine import blocks, readahead
from empiarfs.engine.cache import Recent
from empiarfs.engine.reader import Reader
from empiarfs.engine.tree import Tree
from empiarfs.errors import Changed, IsADirectory
from empiarfs.model import Directory, Entry, File, Span

_ACCESSION = re.compile(r"EMPIAR-(\d+)", re.IGNORECASE)
MOST_FOLLOWED = 4096  # files whose reading is followed at once


def entry_of(name: str) -> str | None:
    """Give the directory that the accession `name` stands for: `"EMPIAR-10028"` is `"10028"`; else None."""
    match = _ACCESSION.fullmatch(name)
    return match[1] if match and match[1].isascii() else None


class OpenFile:
    """One file, open for reading; safe for threads, and holds nothing that must be closed.

    It is one version of the file: when the file changes at the server, reads raise `Changed`.
    """

    def __init__(self, archive: "Archive", file: File) -> None:
        self._archive = archive
        self.file = file

    def __repr__(self) -> str:
        return f"<OpenFile {self.file.path!r} size={self.file.size}>"

    def read(self, offset: int, size: int) -> bytes:
        """Give the `size` bytes at `offset`; fewer only where the file ends, none past its end.

        Raises:
            ArchiveError: Changed, NotFound, Refused, Unavailable (after the patience set), Closed.
        """
        return self._archive.read(self.file, offset, size)


class Archive:
    """One read-only tree.

    Args:
        tree: what is there.
        reader: the bytes.
        prefetch: fetches a span later, behind the reader's back.
        most_ahead: the most bytes to be ahead of one stream of reading.
        close: called once at the end.
    """

    def __init__(
        self,
        tree: Tree,
        reader: Reader,
        prefetch: Callable[[File, Span], None],
        most_ahead: int,
        close: Callable[[], None],
    ) -> None:
        self._tree = tree
        self._reader = reader
        self._prefetch = prefetch
        self._most_ahead = most_ahead
        self._close = close
        self._streams: Recent[File, readahead.Streams] = Recent(MOST_FOLLOWED, lambda _: 1)

    def __repr__(self) -> str:
        return f"<Archive {self._reader!r}>"

    def entries(self, directory: str) -> list[Entry]:
        """Give the children of `directory`, in the server's order; files not measured yet are `Stub`.

        Raises:
            ArchiveError: NotFound, NotADirectory, Refused (no listing), Unavailable.
        """
        return self._tree.entries(directory)

    def stat(self, path: str) -> File | Directory:
        """Give what is at `path`, a file with its exact size.

        Raises:
            ArchiveError: NotFound, Refused, Unavailable.
        """
        return self._tree.stat(path)

    def open(self, path: str) -> OpenFile:
        """Open the file at `path`.

        Raises:
            ArchiveError: as `stat`; IsADirectory.
        """
        found = self._tree.stat(path)
        if isinstance(found, Directory):
            raise IsADirectory(path)
        return OpenFile(self, found)

    def read(self, file: File, offset: int, size: int) -> bytes:
        """Give the `size` bytes of `file` at `offset`; see `OpenFile.read`."""
        span = blocks.clamped(offset, size, file.size)
        if not span.size:
            return b""
        # two readers of one file may each overwrite what the other noted: a prefetch more or less, no wrong byte
        streams, ahead = readahead.advanced(self._streams.get(file) or (), span, file.size, self._most_ahead)
        self._streams.put(file, streams)
        if ahead.size:
            self._prefetch(file, ahead)
        try:
            return self._reader.read(file, span)
        except Changed:
            self._tree.changed(file)
            raise

    def close(self) -> None:
        """Stop all waiting, write what waits to be kept, close the connections."""
        self._close()
