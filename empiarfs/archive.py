"""The archive, as every face speaks to it: what is there, and the bytes."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Self

from empiarfs.counters import Counters
from empiarfs.engine import blocks, readahead, walk
from empiarfs.engine.reader import Reader
from empiarfs.engine.tree import Tree
from empiarfs.errors import Closed, IsADirectory, Stale
from empiarfs.files import ArchiveFile
from empiarfs.lru import LruCache
from empiarfs.model import Directory, File, Node, Span, parent_path
from empiarfs.units import MIB

MOST_FOLLOWED = 4096  # files whose reading is followed at once
STILL_SECONDS = 2.0  # after which a file that is not read on gives its share of the memory back
LARGEST_READ = 4 * MIB  # a larger one is read in line, so that windows open and all connections help
LONGEST_HEAD = MIB  # of a file; what is longer is read as a whole

_forks = itertools.count()
_generation = next(_forks)  # another number in every child of a fork; cheaper to look at than the process id


def _forked() -> None:
    global _generation  # noqa: PLW0603 - a process has one
    _generation = next(_forks)


os.register_at_fork(after_in_child=_forked)


class OpenFile:
    """One file, open for reading; safe for threads, and holds nothing that must be closed.

    It is one version of the file: when the file changes at the server, reads raise `Stale`.
    """

    def __init__(self, archive: "Archive", file: File) -> None:
        self._archive = archive
        self.file = file

    def __repr__(self) -> str:
        return f"<OpenFile {self.file.path!r} size={self.file.size}>"

    def read(self, offset: int, size: int) -> bytes:
        """Return the `size` bytes at `offset`; fewer only where the file ends, none past its end.

        Raises:
            ArchiveError: Stale, NotFound, Forbidden, Unavailable (after the patience set), Closed.
        """
        return self._archive.read(self.file, offset, size)


class Archive:
    """One read-only tree.

    Args:
        tree: what is there.
        reader: the bytes.
        background: runs a task behind the reader's back.
        close: called once at the end.
        most_ahead: the most bytes to be ahead of one stream of reading.
        request_size_bounds: gives the least and the most bytes of one request ahead of the reader.
        counters: tells what goes on inside; never waits for the server.
        has_answered: returns whether the server has answered since the archive was opened; true if none is asked.
        clock: seconds that only grow.

    Attributes:
        closed: whether it was closed.
        recipe: returns the archive of the same settings in whatever process it is called, and can be pickled; None
            where nothing does. By it an archive and its files go to other processes, and into the child of a fork.
    """

    closed = False
    recipe: Callable[[], "Archive"] | None = None

    def __init__(  # noqa: PLR0913 - each is a part that wire puts in by name
        self,
        tree: Tree,
        reader: Reader,
        background: Callable[[Callable[[], object]], None],
        close: Callable[[], None],
        *,
        most_ahead: int,
        request_size_bounds: Callable[[], tuple[int, int]],
        counters: Callable[[], Counters] = Counters,
        has_answered: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tree = tree
        self._reader = reader
        self._background = background
        self._close = close
        self._most_ahead = most_ahead
        self._request_size_bounds = request_size_bounds
        self.counters = counters
        self.has_answered = has_answered
        self._clock = clock
        self._generation = _generation
        self._following = threading.Lock()  # the kernel's threads read one file at once, and each step counts
        self._readings: LruCache[File, readahead.Reading] = LruCache(MOST_FOLLOWED, lambda _: 1)
        self._sequential: dict[File, float] = {}  # files with a window, and when they were read last
        self._newest: LruCache[str, File] = LruCache(
            MOST_FOLLOWED, lambda _: 1
        )  # the file begun last, by directory

    def __repr__(self) -> str:
        return f"<Archive {self._reader!r}>"

    def listdir(self, directory: str) -> list[Node]:
        """Return the children of `directory`, in the server's order; files not measured yet are `Stub`.

        Raises:
            ArchiveError: NotFound, NotADirectory, Forbidden (no listing), Unavailable.
        """
        self._check_process(directory)
        return self._tree.listdir(directory)

    def stat(self, path: str) -> File | Directory:
        """Return what is at `path`, a file with its exact size.

        Raises:
            ArchiveError: NotFound, Forbidden, Unavailable.
        """
        self._check_process(path)
        return self._tree.stat(path)

    def check(self, entry: str) -> None:
        """Ask whether there is `entry`, unless that is known; `stat` believes it of one that was named.

        Raises:
            ArchiveError: NotFound, Forbidden, Unavailable.
        """
        self._check_process(entry)
        self._tree.check(entry)

    def open(self, path: str) -> ArchiveFile:
        """Open the file at `path`; it need not be closed.

        Raises:
            ArchiveError: as `stat`; IsADirectory.
        """
        found = self.stat(path)
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
        """Return the `size` bytes of `file` at `offset`; see `OpenFile.read`."""
        self._check_process(file.path)
        span = blocks.clamped(offset, size, file.size)
        if not span.size:
            return b""
        if span.size > LARGEST_READ:
            return b"".join(self.read(file, part.start, part.size) for part in blocks.cut(span, LARGEST_READ))
        shortest, longest = self._request_size_bounds()
        with self._following:
            reading, ahead = readahead.plan(
                self._readings.get(file) or readahead.Reading(),
                span,
                file.size,
                most=self._most_ahead // self._sequential_readers(file),
                shortest=shortest,
                longest=longest,
            )
            self._readings.put(file, reading)
            if reading.streams[0].window:
                self._sequential[file] = self._clock()
        for run in ahead:
            self._background(partial(self._fetch_ahead, file, run))
        if span.start == 0:
            self._begun(file)
        try:
            window = reading.streams[0].window
            return self._reader.read(file, span, beyond=min(window // readahead.REQUESTS_PER_WINDOW, LONGEST_HEAD))
        except Stale:
            self._tree.mark_changed(file)
            raise

    def _fetch_ahead(self, file: File, run: Span) -> None:
        """Fetch what a reader is to come to; where he was faster and has passed it, nobody needs it any more."""
        reading = self._readings.get(file) or readahead.Reading()
        passed = [one.position for one in reading.streams if one.start <= run.start < one.position]
        start = max((run.start, *passed))
        if start < run.stop:
            self._reader.fetch_ahead(file, Span(start, run.stop))

    def _check_process(self, path: str) -> None:
        """Raise Closed in a child process: it would talk over its parent's connections, and get his replies."""
        if self._generation != _generation:
            raise Closed(path, "the archive was opened before a fork; open it again in this process")

    def _sequential_readers(self, file: File) -> int:
        """Give how many files are read in line now, `file` among them: they share the memory for what is ahead."""
        since = self._clock() - STILL_SECONDS
        for other, last in list(self._sequential.items()):
            if last < since:
                self._sequential.pop(other, None)
        return len(self._sequential.keys() | {file})

    def _begun(self, file: File) -> None:
        """Record that `file` is read from its start; where its reader walks from file to file, go before him.

        He gets the part of the next files that he took of the last one, if it is a short part: the headers of ten
        thousand micrographs. Whole movies have windows of their own.
        """
        directory = parent_path(file.path)
        before = self._newest.get(directory)
        if before == file:
            return
        self._newest.put(directory, file)
        following = self._tree.next_after(file.path, use="read")
        reading = self._readings.get(before) if before is not None else None
        streams = reading.streams if reading is not None else ()
        part = next((stream.position for stream in streams if not stream.start), 0)
        if 0 < part <= LONGEST_HEAD:
            for path in following:
                self._background(partial(self._make_ready, path, part))

    def _make_ready(self, path: str, part: int) -> None:
        found = self._tree.measure_ahead(path)
        if isinstance(found, File) and found.size:
            self._reader.fetch_ahead(found, Span(0, min(part, found.size)))

    def close(self) -> None:
        """Stop all waiting, write what waits to be kept, close the connections; in a child process, do nothing.

        Its parent's threads, locks and transactions are not the child's to end.
        """
        if self._generation == _generation:
            self.closed = True
            self._close()

    def in_this_process(self) -> "Archive":
        """Return this archive; in a child of a fork the child's own of the same settings, if there is a recipe."""
        return self if self._generation == _generation or self.recipe is None else self.recipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[], "Archive"], tuple[()]]:
        """Return the recipe: unpickled, it is the archive of the same settings in the other process.

        Raises:
            TypeError: it has none.
        """
        if self.recipe is None:
            raise TypeError("an archive has connections and threads, and stays in its process; open one in each")
        return self.recipe, ()
