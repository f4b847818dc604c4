"""Memory in front of a store of blocks, and the writing to it."""

import logging
import queue
import threading
import time
from collections.abc import Iterable

from empiarfs.lru import LruCache
from empiarfs.model import Block
from empiarfs.ports import BlockStore
from empiarfs.units import MIB

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.1  # for which blocks wait for their neighbours, on their way to the store


class Cache:
    """Blocks in memory, in front of a store that is written behind the reader's back.

    Args:
        memory: the most bytes in memory; a quarter of it is for blocks on their way to the store.
        store: where blocks are kept for longer.
        coalesce: the most bytes of neighbouring blocks that are stored as one.
    """

    def __init__(self, memory: int, store: BlockStore, coalesce: int = MIB) -> None:
        self._lru: LruCache[Block, bytes] = LruCache(memory - memory // 4, len)
        self._store = store
        self._coalesce = coalesce
        self._most_waiting = memory // 4
        self._waiting = 0
        self._lock = threading.Lock()
        self._writes: queue.SimpleQueue[tuple[Block, bytes] | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self.memory_hits = self.store_hits = self.misses = self.dropped_writes = 0

    def __repr__(self) -> str:
        return (
            f"<Cache size={self._lru.size} waiting={self._waiting} memory_hits={self.memory_hits} "
            f"store_hits={self.store_hits} misses={self.misses} dropped_writes={self.dropped_writes}>"
        )

    @property
    def size(self) -> int:
        """The bytes in memory, those on their way to the store included."""
        return self._lru.size + self._waiting

    @property
    def write_queue_bytes(self) -> int:
        """The bytes on their way to the store."""
        return self._waiting

    def __contains__(self, block: Block) -> bool:
        return block in self._lru

    def in_memory(self, block: Block, *, fully_read: bool = False) -> bytes | None:
        """Return `block` if it is in memory; never waits.

        Args:
            block: which one.
            fully_read: whether its reader has now had all of it, as one who reads in line has. It then goes first:
                the kernel has it now, and what was fetched ahead, in whatever order it came, is still to be read.
        """
        data = self._lru.demote(block) if fully_read else self._lru.get(block)
        if data is not None:
            self.memory_hits += 1
        return data

    def demote(self, blocks: Iterable[Block]) -> None:
        """Record that the reader of `blocks` has taken the whole of them; see `in_memory`."""
        for block in blocks:
            self._lru.demote(block)

    def get(self, block: Block) -> bytes | None:
        """Return `block` from memory, or from the store, whence it comes to memory."""
        data = self.in_memory(block)
        if data is not None:
            return data
        data = self._store.get(block.file, range(block.number, block.number + 1)).get(block.number)
        if data is None:
            self.misses += 1
            return None
        self.store_hits += 1
        self._lru.put(block, data)
        return data

    def put(self, block: Block, data: bytes) -> None:
        """Keep `block` now in memory, soon in the store; a store that cannot keep up loses it."""
        self._lru.put(block, data)
        with self._lock:
            if self._waiting + len(data) > self._most_waiting:
                self.dropped_writes += 1
                return
            self._waiting += len(data)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="block writer", daemon=True)
                self._writer.start()
        self._writes.put((block, data))

    def close(self, patience: float) -> None:
        """Write what waits, for at most `patience` seconds."""
        if self._writer is not None:
            self._writes.put(None)
            self._writer.join(patience)

    def _write(self) -> None:
        going_on = True
        while going_on:
            waiting = [self._writes.get()]
            if waiting[0] is not None:
                time.sleep(GATHER_SECONDS)
            while not self._writes.empty():  # this is the only thread that takes from it
                waiting.append(self._writes.get())
            going_on = None not in waiting
            for segment in _coalesced([item for item in waiting if item is not None], self._coalesce):
                try:
                    self._store.put(segment[0][0].file, {block.number: data for block, data in segment})
                except Exception:
                    log.exception("a block could not be kept")
                with self._lock:
                    self._waiting -= sum(len(data) for _, data in segment)


def _coalesced(blocks: list[tuple[Block, bytes]], most: int) -> list[list[tuple[Block, bytes]]]:
    """Put blocks that follow each other together, up to `most` bytes."""
    segments: list[list[tuple[Block, bytes]]] = []
    room = 0
    after = None
    for block, data in sorted(blocks, key=lambda item: (item[0].file.path, item[0].number)):
        if block != after or len(data) > room:
            segments.append([])
            room = most
        segments[-1].append((block, data))
        room -= len(data)
        after = Block(block.file, block.number + 1)
    return segments
