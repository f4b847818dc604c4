"""The memory cache in front of a block store, and the write queue behind it."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import NamedTuple

from empiarfs.engine import blocks
from empiarfs.lru import LruCache
from empiarfs.model import Block, File
from empiarfs.ports import BlockStore

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.5  # how long the blocks of an incomplete chunk wait in the write queue for the missing ones
ROOM_SECONDS = 0.5  # how long prefetch waits for the store at most: a store that hangs must not stop it
PREFETCH_SHARE = 0.75  # the share of the write queue that prefetch may fill; the rest is for demand reads


class _Held(NamedTuple):
    """The bytes of a block in memory, and whether they came from the store, which has them still."""

    data: bytes
    is_stored: bool


class Cache:
    """The blocks in memory, in front of those of a store.

    Args:
        memory: the most bytes to hold, the write queue included.
        store: the block store.
        chunk_blocks: the number of blocks of a chunk of the store; a chunk is written in one call.
        clock: monotonic seconds.
    """

    def __init__(
        self, memory: int, store: BlockStore, chunk_blocks: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lru: LruCache[Block, _Held] = LruCache(memory - memory // 4, lambda held: len(held.data))
        self._store = store
        self._chunk_blocks = chunk_blocks
        self._queue = _WriteQueue(memory // 4, chunk_blocks, clock)
        self._lock = threading.Lock()
        self._writer: threading.Thread | None = None
        self.memory_hits = self.store_hits = self.misses = 0

    def __repr__(self) -> str:
        return (
            f"<Cache size={self.size} memory_hits={self.memory_hits} store_hits={self.store_hits} "
            f"misses={self.misses} dropped_writes={self.dropped_writes}>"
        )

    @property
    def size(self) -> int:
        """The bytes in memory, the write queue included."""
        return self._lru.size + self._queue.size

    @property
    def write_queue_bytes(self) -> int:
        """The bytes in the write queue."""
        return self._queue.size

    @property
    def dropped_writes(self) -> int:
        """The number of blocks that were not stored because the write queue was full."""
        return self._queue.dropped

    def __contains__(self, block: Block) -> bool:
        return block in self._lru

    def in_memory(self, block: Block, *, fully_read: bool = False) -> bytes | None:
        """Return `block` if it is in memory; never waits.

        Args:
            block: the block.
            fully_read: whether a sequential reader now has all of it. The kernel caches it: if it came from the
                store it is dropped at once, else it is evicted before prefetched ones, which are still to be read.
        """
        held = self._demote(block) if fully_read else self._lru.get(block)
        if held is None:
            return None
        self.memory_hits += 1
        return held.data

    def demote(self, blocks: Iterable[Block]) -> None:
        """Record that `blocks` were fully read; see `in_memory`."""
        for block in blocks:
            self._demote(block)

    def _demote(self, block: Block) -> _Held | None:
        held = self._lru.demote(block)
        if held is not None and held.is_stored:
            self._lru.drop(block)
        return held

    def load(self, file: File, numbers: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Load the blocks of the ascending `numbers` that the store holds into memory; yield them by chunk."""
        for _, chunk in groupby(numbers, lambda number: number // self._chunk_blocks):
            inside = list(chunk)
            found: dict[int, bytes] = {}
            for run in blocks.runs(inside):
                found |= self._store.get(file, run)
            for number, data in found.items():
                self._lru.put(Block(file, number), _Held(data, is_stored=True))
            self.store_hits += len(found)
            self.misses += len(inside) - len(found)
            yield from found.items()

    def put(self, block: Block, data: bytes) -> None:
        """Put `block` into memory and into the write queue; a full queue drops it."""
        self._lru.put(block, _Held(data, is_stored=False))
        self._queue.put(block, data)
        if self._writer is None:
            with self._lock:
                if self._writer is None:
                    self._writer = threading.Thread(target=self._write, name="block writer", daemon=True)
                    self._writer.start()

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Reserve room for `size` bytes in the write queue; wait briefly if it is full."""
        self._queue.reserve(size)
        try:
            yield
        finally:
            self._queue.unreserve(size)

    def close(self, seconds: float) -> None:
        """Write the queued blocks; wait at most `seconds` for that."""
        self._queue.close()
        if self._writer is not None:
            self._writer.join(seconds)

    def _write(self) -> None:
        while (chunk := self._queue.take()) is not None:
            file, data = chunk
            try:
                self._store.put(file, data)
            except Exception:
                log.exception("%s: blocks could not be stored", file.path)
            self._queue.done(data)


class _WriteQueue:
    """The blocks to be stored, by chunk; a chunk is due when it is complete or has waited `GATHER_SECONDS`."""

    def __init__(self, most: int, chunk_blocks: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._chunk_blocks = chunk_blocks
        self._clock = clock
        self._changed = threading.Condition()
        self._chunks: dict[tuple[File, int], dict[int, bytes]] = {}  # oldest first
        self._since: dict[tuple[File, int], float] = {}
        self._whole: list[tuple[File, int]] = []
        self._reserved = 0
        self._is_closed = False
        self.size = self.dropped = 0

    def put(self, block: Block, data: bytes) -> None:
        """Add a block, or drop it if there is no room."""
        key = block.file, block.number // self._chunk_blocks
        with self._changed:
            if self.size + len(data) > self._most:
                self.dropped += 1
                return
            chunk = self._chunks.get(key)
            if chunk is None:
                chunk = self._chunks[key] = {}
                self._since[key] = self._clock()
                self._changed.notify_all()
            before = len(chunk)
            self.size += len(data) - len(chunk.get(block.number, b""))
            chunk[block.number] = data
            if before < len(chunk) == self._chunk_blocks:
                self._whole.append(key)
                self._changed.notify_all()

    def reserve(self, size: int) -> None:
        """Reserve room for `size` bytes; wait at most `ROOM_SECONDS` for it."""
        most = int(self._most * PREFETCH_SHARE)
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or self.size + self._reserved + min(size, most) <= most, ROOM_SECONDS
            )
            self._reserved += size

    def unreserve(self, size: int) -> None:
        """Release reserved room: the fetched blocks are in the queue now."""
        with self._changed:
            self._reserved -= size
            self._changed.notify_all()

    def take(self) -> tuple[File, dict[int, bytes]] | None:
        """Wait for a chunk that is due, remove it and return it; None once the queue is closed and empty."""
        with self._changed:
            while True:
                key = self._due()
                if key is not None:
                    del self._since[key]
                    return key[0], self._chunks.pop(key)
                if self._is_closed:
                    return None
                first = next(iter(self._since.values()), None)
                self._changed.wait(None if first is None else max(0.0, first + GATHER_SECONDS - self._clock()))

    def done(self, chunk: dict[int, bytes]) -> None:
        """Record that `chunk` was written, or lost."""
        with self._changed:
            self.size -= sum(map(len, chunk.values()))
            self._changed.notify_all()

    def close(self) -> None:
        """Make all chunks due now."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _due(self) -> tuple[File, int] | None:
        """Return the chunk to be written now: a complete one, else the oldest if it is due."""
        if self._whole:
            return self._whole.pop(0)
        key, since = next(iter(self._since.items()), (None, 0.0))
        is_late = self._is_closed or 2 * self.size > self._most or self._clock() - since >= GATHER_SECONDS
        return key if is_late else None
