"""Prefetch: fetches what a reader will need next, of its file and of the following files."""

import threading
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import Protocol

from empiarfs.engine import readahead
from empiarfs.engine.reader import Reader
from empiarfs.lru import LruCache
from empiarfs.model import File, Node, Span, parent_path
from empiarfs.units import MIB

MOST_FOLLOWED = 4096  # files whose access pattern is tracked
STILL_SECONDS = 2.0  # after which a file that is not read any more does not share the memory
LONGEST_HEAD = MIB  # bytes; a reader that has read more reads whole files


class Files(Protocol):
    """Predicts and measures the files that are used next."""

    def next_after(self, path: str, *, use: str) -> list[str]:
        """Record that `path` is used; return the siblings that a sequential user needs next."""
        ...

    def measure_ahead(self, path: str, head: int = 0) -> Node | None:
        """Measure `path` and cache its first `head` bytes; return None if that fails."""
        ...


class Background(Protocol):
    """Runs tasks soon, unless they are dropped before."""

    def __call__(self, task: Callable[[], object], about: Hashable = None) -> None:
        """Queue `task`, which is done for `about`."""
        ...

    def drop(self, about: Hashable) -> None:
        """Drop the queued tasks for `about`."""
        ...


class Prefetcher:
    """Reads files, and starts the prefetch that the planner returns.

    Args:
        reader: reads the bytes.
        files: predicts which files come next.
        background: runs tasks soon.
        most_ahead: the largest window, in bytes.
        request_size_bounds: returns the least and the most bytes of one request.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        reader: Reader,
        files: Files,
        background: Background,
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
        self._lock = threading.Lock()  # several kernel threads read one file, and no read may be lost
        self._readings: LruCache[File, readahead.Reading] = LruCache(MOST_FOLLOWED, lambda _: 1)
        self._sequential: dict[File, float] = {}  # files with a window, and when they were last read
        self._newest: LruCache[str, File] = LruCache(MOST_FOLLOWED, lambda _: 1)  # last started, by directory

    def read(self, file: File, span: Span) -> bytes:
        """Read `span`, which lies in `file`; see `Reader.read`."""
        shortest, longest = self._request_size_bounds()
        with self._lock:
            limits = readahead.Limits(self._most_ahead, shortest, longest, self._sequential_readers(file))
            reading = self._readings.get(file) or readahead.Reading()
            reading, ahead = readahead.plan(reading, span, file.size, limits)
            self._readings.put(file, reading)
            stream = reading.streams[0]
            if stream.window:
                self._sequential[file] = self._clock()
        for run in ahead:
            self._background(partial(self._prefetch, file, run, stream.start), file)
        if not span.start:
            self._begin(file)
        beyond = min(stream.beyond, longest, self._most_ahead // readahead.MOST_REQUESTS)
        return self._reader.read(file, span, beyond=beyond)

    def close(self, file: File) -> None:
        """Drop the queued prefetch of `file`, which is no longer open."""
        with self._lock:
            self._sequential.pop(file, None)
            reading = self._readings.get(file)
            if reading is not None:
                self._readings.put(file, readahead.dropped(reading))
        self._background.drop(file)

    def _prefetch(self, file: File, run: Span, begun: int) -> None:
        """Fetch `run` for the newest stream that began at `begun`, without what it has passed meanwhile."""
        reading = self._readings.get(file) or readahead.Reading()
        passed = next((stream.position for stream in reading.streams if stream.start == begun), 0)
        start = max(run.start, passed)
        if start < run.stop and self._reader.prefetch(file, Span(start, run.stop)):
            with self._lock:
                reading = self._readings.get(file) or readahead.Reading()
                self._readings.put(file, readahead.found_on_disk(reading, run))

    def _sequential_readers(self, file: File) -> int:
        """Return how many files, with `file`, are read sequentially now: they share the memory for prefetch."""
        since = self._clock() - STILL_SECONDS
        for other, last in list(self._sequential.items()):
            if last < since:
                self._sequential.pop(other, None)
        return len(self._sequential.keys() | {file})

    def _begin(self, file: File) -> None:
        """Record that `file` is read from its start; prefetch the heads and tails of the next files of a sequence.

        They are as long as what was read of the previous file, if that is short, like the headers of ten thousand
        micrographs, and the directories at the ends of TIFF files. Movies that are read whole have windows of their
        own.
        """
        directory = parent_path(file.path)
        before = self._newest.get(directory)
        if before == file:
            return
        self._newest.put(directory, file)
        following = self._files.next_after(file.path, use="read")
        reading = self._readings.get(before) if before is not None else None
        if before is None or reading is None:
            return
        head = next((stream.position for stream in reading.streams if not stream.start), 0)
        ends = (before.size - stream.start for stream in reading.streams if stream.position == before.size)
        tail = next((end for end in ends if end <= LONGEST_HEAD), 0)
        if 0 < head <= LONGEST_HEAD:
            for path in following:
                self._background(partial(self._prefetch_ends, path, head, tail))

    def _prefetch_ends(self, path: str, head: int, tail: int) -> None:
        found = self._files.measure_ahead(path, self._reader.whole_blocks(head))
        if isinstance(found, File) and found.size:
            self._reader.prefetch(found, Span(0, min(head, found.size)))
            if head < found.size - tail < found.size:
                self._reader.prefetch(found, Span(found.size - tail, found.size))
