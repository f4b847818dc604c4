"""Prefetch: what a reader will want next, of its file and of the files behind it, fetched before it asks."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from empiarfs.engine import readahead
from empiarfs.engine.reader import Reader
from empiarfs.lru import LruCache
from empiarfs.model import File, Node, Span, parent_path
from empiarfs.units import MIB

MOST_FOLLOWED = 4096  # files whose reading is followed at once
STILL_SECONDS = 2.0  # after which a file that is not read on gives its share of the memory back
LONGEST_HEAD = MIB  # of a file; what is longer is read as a whole


class Files(Protocol):
    """Which files come next."""

    def next_after(self, path: str, *, use: str) -> list[str]:
        """Record that `path` is used; return the siblings that a reader of file after file wants next."""
        ...

    def measure_ahead(self, path: str, head: int = 0) -> Node | None:
        """Return what is at `path`, its first `head` bytes cached; None if that does not work out now."""
        ...


class Prefetcher:
    """Reads files, and starts what the planner asks for.

    Args:
        reader: the bytes.
        files: which files come next.
        background: runs a task soon.
        most_ahead: the most bytes to be ahead of one reader.
        request_size_bounds: returns the least and the most bytes of one request.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        reader: Reader,
        files: Files,
        background: Callable[[Callable[[], object]], None],
        *,
        most_ahead: int,
        request_size_bounds: Callable[[], tuple[int, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._files = files
        self._background = background
        self._most_ahead = most_ahead
        self._request_size_bounds = request_size_bounds
        self._clock = clock
        self._lock = threading.Lock()  # the kernel's threads read one file at once, and each step counts
        self._readings: LruCache[File, readahead.Reading] = LruCache(MOST_FOLLOWED, lambda _: 1)
        self._sequential: dict[File, float] = {}  # files with a window, and when they were read last
        self._newest: LruCache[str, File] = LruCache(MOST_FOLLOWED, lambda _: 1)  # begun last, by directory

    def read(self, file: File, span: Span) -> bytes:
        """Return the bytes of `span`, which lies in `file`; see `Reader.read`."""
        shortest, longest = self._request_size_bounds()
        with self._lock:
            reading, ahead = readahead.plan(
                self._readings.get(file) or readahead.Reading(),
                span,
                file.size,
                most=self._most_ahead // self._sequential_readers(file),
                shortest=shortest,
                longest=longest,
            )
            self._readings.put(file, reading)
            window = reading.streams[0].window
            if window:
                self._sequential[file] = self._clock()
        for run in ahead:
            self._background(partial(self._prefetch, file, run))
        if not span.start:
            self._begin(file)
        return self._reader.read(file, span, beyond=min(window // readahead.REQUESTS_PER_WINDOW, LONGEST_HEAD))

    def _prefetch(self, file: File, run: Span) -> None:
        """Fetch what a reader is to come to; what it has passed meanwhile, it needs no more."""
        reading = self._readings.get(file) or readahead.Reading()
        passed = [one.position for one in reading.streams if one.start <= run.start < one.position]
        start = max((run.start, *passed))
        if start < run.stop:
            self._reader.prefetch(file, Span(start, run.stop))

    def _sequential_readers(self, file: File) -> int:
        """Return how many files are read in sequence now, `file` among them: they share the memory for prefetch."""
        since = self._clock() - STILL_SECONDS
        for other, last in list(self._sequential.items()):
            if last < since:
                self._sequential.pop(other, None)
        return len(self._sequential.keys() | {file})

    def _begin(self, file: File) -> None:
        """Record that `file` is read from its start; prefetch the heads of the next files of a sequence.

        As much of each as was read of the last one, if that is short: the headers of ten thousand micrographs.
        Whole movies have windows of their own.
        """
        directory = parent_path(file.path)
        before = self._newest.get(directory)
        if before == file:
            return
        self._newest.put(directory, file)
        following = self._files.next_after(file.path, use="read")
        reading = self._readings.get(before) if before is not None else None
        streams = reading.streams if reading is not None else ()
        head = next((stream.position for stream in streams if not stream.start), 0)
        if 0 < head <= LONGEST_HEAD:
            for path in following:
                self._background(partial(self._prefetch_head, path, head))

    def _prefetch_head(self, path: str, head: int) -> None:
        found = self._files.measure_ahead(path, head)
        if isinstance(found, File) and found.size:
            self._reader.prefetch(found, Span(0, min(head, found.size)))
