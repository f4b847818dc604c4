"""The archive: the common interface of the mount, the command line and the Python API."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from empiarfs.counters import Counters
from empiarfs.engine import blocks, walk
from empiarfs.engine.prefetch import Prefetcher
from empiarfs.engine.ranges import read_ranges
from empiarfs.engine.reader import Reader
from empiarfs.engine.tree import Tree
from empiarfs.errors import Closed, IsADirectory, Stale
from empiarfs.files import ArchiveFile
from empiarfs.model import Directory, File, Node, Span, Stub
from empiarfs.units import MIB

LARGEST_READ = 4 * MIB  # a larger read is split, so that prefetch begins and all connections are used

_forks = itertools.count()
_generation = next(_forks)  # differs in every child of a fork; cheaper to check than the process id


def _forked() -> None:
    global _generation  # noqa: PLW0603 - a process has one
    _generation = next(_forks)


os.register_at_fork(after_in_child=_forked)


class Archive:
    """One read-only tree of directories and files.

    Args:
        tree: the directories and files.
        reader: reads bytes without prefetch.
        prefetcher: reads bytes, and prefetches.
        run_all: runs calls in parallel, as many at once as there may be connections.
        close: called by `close`.
        counters: returns the statistics; never waits for the server.
        has_answered: returns whether the server has answered since the archive was opened.

    Attributes:
        closed: whether it was closed.
        recipe: returns the archive of the same settings in the process that calls it, and can be pickled; None if
            there is none. It carries an archive and its files to other processes, and into the child of a fork.
    """

    closed = False
    recipe: Callable[[], "Archive"] | None = None

    def __init__(
        self,
        tree: Tree,
        reader: Reader,
        prefetcher: Prefetcher,
        run_all: Callable[[Sequence[Callable[[], bytes]]], list[bytes]],
        close: Callable[[], None],
        *,
        counters: Callable[[], Counters] = Counters,
        has_answered: Callable[[], bool] = lambda: True,
    ) -> None:
        self._tree = tree
        self._reader = reader
        self._prefetcher = prefetcher
        self._run_all = run_all
        self._close = close
        self.counters = counters
        self.has_answered = has_answered
        self._generation = _generation

    def __repr__(self) -> str:
        return f"<Archive {self._reader!r}>"

    def listdir(self, directory: str) -> list[Node]:
        """Return the children of `directory`, in the server's order; files not measured yet are `Stub`.

        Raises:
            ArchiveError: NotFound, NotADirectory, Forbidden (no listing), Unavailable.
        """
        self._check_process(directory)
        return self._tree.listdir(directory)

    def known(self, stub: Stub) -> Node:
        """Return the file of `stub`, which `listdir` has returned, if it was measured meanwhile; else `stub`."""
        return self._tree.known(stub)

    def stat(self, path: str) -> File | Directory:
        """Return what is at `path`, a file with its exact size.

        Raises:
            ArchiveError: NotFound, Forbidden, Unavailable.
        """
        self._check_process(path)
        return self._tree.stat(path)

    def check(self, entry: str) -> None:
        """Check that `entry` exists at the server; `stat` does not request an entry of `open_archive(only=...)`.

        Raises:
            ArchiveError: NotFound, Forbidden, Unavailable.
        """
        self._check_process(entry)
        self._tree.check(entry)

    def open(self, path: str) -> ArchiveFile:
        """Open the file at `path`; if its size is not known yet, request its first bytes together with it.

        The file need not be closed.

        Raises:
            ArchiveError: as `stat`; IsADirectory.
        """
        self._check_process(path)
        found = self._tree.stat(path, self._reader.whole_blocks(0))
        if isinstance(found, Directory):
            raise IsADirectory(path)
        return ArchiveFile(self, found)

    def walk(
        self, directory: str = "", *, onerror: Callable[[OSError], object] | None = None
    ) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield each directory from `directory` down, with the names in it; see `empiarfs.engine.walk.walk`.

        >>> import empiarfs
        >>> for directory, directories, files in empiarfs.default_archive().walk("99001/data"):
        ...     print(directory, len(files))
        99001/data 1
        99001/data/Coordinates 6
        99001/data/Micrographs 6
        99001/data/Particles 3
        """
        return walk.walk(self.listdir, directory, onerror)

    def glob(self, pattern: str) -> Iterator[str]:
        """Yield the paths that match `pattern`, with `*`, `?`, `[abc]` and `**`; see `empiarfs.engine.walk.glob`.

        >>> import empiarfs
        >>> for path in empiarfs.default_archive().glob("99001/data/Micrographs/*_00[12].mrc"):
        ...     print(path)
        99001/data/Micrographs/mic_001.mrc
        99001/data/Micrographs/mic_002.mrc
        """
        return walk.glob(self.listdir, pattern)

    def read(self, file: File, offset: int, size: int) -> bytes:
        """Read the `size` bytes of `file` at `offset`; see `ArchiveFile.read_at`."""
        self._check_process(file.path)
        span = blocks.clamped(offset, size, file.size)
        try:
            if 0 < span.size <= LARGEST_READ:
                return self._prefetcher.read(file, span)
            return b"".join(self._prefetcher.read(file, part) for part in blocks.cut(span, LARGEST_READ))
        except Stale:
            self._tree.mark_changed(file)
            raise

    def release(self, file: File) -> None:
        """Drop the queued prefetch of `file`, which its last reader has closed."""
        self._prefetcher.close(file)

    def read_ranges(self, file: File, spans: Sequence[Span]) -> list[bytes]:
        """Read each of `spans`, up to the end of `file`; return their bytes in the same order.

        Neighbouring ranges are fetched together, and all in parallel, without prefetch.

        >>> import empiarfs
        >>> archive = empiarfs.default_archive()
        >>> file = archive.stat("99001/data/Micrographs/mic_001.mrc")
        >>> archive.read_ranges(file, [empiarfs.Span(208, 212), empiarfs.Span(209, 211)])
        [b'MAP ', b'AP']

        Raises:
            ArchiveError: as `ArchiveFile.read_at`.
            ValueError: a span begins before the file, or ends before it begins.
        """
        self._check_process(file.path)
        for span in spans:
            if not 0 <= span.start <= span.stop:
                raise ValueError(f"{file.path}: no bytes from {span.start} to {span.stop}")
        wanted = [blocks.clamped(span.start, span.size, file.size) for span in spans]
        try:
            return read_ranges(wanted, lambda span: self._reader.read(file, span), self._run_all)
        except Stale:
            self._tree.mark_changed(file)
            raise

    def close(self) -> None:
        """End all waits, write the queued blocks, close the connections; in a child process, do nothing.

        The threads, locks and transactions belong to the parent.
        """
        if self._generation == _generation:
            self.closed = True
            self._close()

    def in_this_process(self) -> "Archive":
        """Return this archive; in a child of a fork, if there is a recipe, the child's own of the same settings."""
        return self if self._generation == _generation or self.recipe is None else self.recipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[], "Archive"], tuple[()]]:
        """Return the recipe, which opens the archive of the same settings in the process that unpickles it.

        Raises:
            TypeError: there is no recipe.
        """
        if self.recipe is None:
            raise TypeError("an archive has connections and threads, and stays in its process; open one in each")
        return self.recipe, ()

    def _check_process(self, path: str) -> None:
        """Raise Closed after `close`, and in a child process, which would receive its parent's replies."""
        if self.closed:
            raise Closed(path, "the archive was closed")
        if self._generation != _generation:
            raise Closed(path, "the archive was opened before a fork; open it again in this process")
