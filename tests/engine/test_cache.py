"""Memory in front of a store: bounded, least recently used, and never delaying a reader."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import SOON, BrokenStore, FakeClock, MemoryStore, SlowStore

from empiarfs.engine.cache import GATHER_SECONDS, Cache
from empiarfs.model import Block, File

FILE = File("10028/data/a.mrc", 10**9, 5)


def block(number: int) -> Block:
    """Return a block of one file."""
    return Block(FILE, number)


@contextmanager
def closing(cache: Cache) -> Iterator[Cache]:
    """Close the cache at the end, even after an error."""
    try:
        yield cache
    finally:
        cache.close(SOON)


def test_a_block_is_in_memory_at_once() -> None:
    """A block is returned from memory before the store has it."""
    store = SlowStore()
    with closing(Cache(1000, store, 2)) as cache:
        cache.put(block(0), b"data")
        assert cache.in_memory(block(0)) == b"data"
        assert store.blocks == {}
        store.barrier.lift()


def test_closing_writes_the_queue() -> None:
    """Closing writes the queued blocks."""
    store = SlowStore()
    cache = Cache(1000, store, 2)
    cache.put(block(0), b"a")
    cache.put(block(1), b"b")
    store.barrier.lift()
    cache.close(SOON)
    assert store.blocks == {block(0): b"a", block(1): b"b"}


def test_closing_waits_no_longer_than_its_timeout() -> None:
    """A store that hangs does not delay the end of the program beyond the timeout."""
    store = SlowStore()
    cache = Cache(1000, store, 2)
    cache.put(block(0), b"a")
    cache.close(0.0)
    assert store.blocks == {}
    store.barrier.lift()
    cache.close(SOON)
    assert store.blocks == {block(0): b"a"}


def test_a_cache_that_was_never_used_closes() -> None:
    """Without a put there is no thread, and closing does not wait."""
    Cache(1000, MemoryStore(), 2).close(SOON)


def test_a_block_of_the_store_comes_to_memory() -> None:
    """A block is read from the store once; then it is in memory."""
    store = MemoryStore()
    store.blocks[block(3)] = b"kept"
    with closing(Cache(1000, store, 2)) as cache:
        assert cache.in_memory(block(3)) is None
        assert dict(cache.load(FILE, [3])) == {3: b"kept"}
        assert cache.in_memory(block(3)) == b"kept"
        assert store.asked == [block(3)]


def test_neighbours_are_read_together() -> None:
    """The store is read once for each run, and missing blocks are left out."""
    store = MemoryStore()
    store.blocks |= {block(number): bytes([number]) for number in (2, 3, 7)}
    with closing(Cache(1000, store, 2)) as cache:
        assert dict(cache.load(FILE, [2, 3, 4, 7])) == {2: b"\2", 3: b"\3", 7: b"\7"}
        assert store.asked == [block(2), block(3), block(4), block(7)]
        assert (cache.store_hits, cache.misses) == (3, 1)


def test_a_memory_lookup_never_reads_the_store() -> None:
    """`in_memory` does not wait for a disk."""
    store = MemoryStore()
    store.blocks[block(3)] = b"kept"
    with closing(Cache(1000, store, 2)) as cache:
        assert cache.in_memory(block(3)) is None
        assert store.asked == []


def test_a_fully_read_block_is_evicted_before_an_unread_one() -> None:
    """A block that was fully read is evicted before a prefetched one."""
    with closing(Cache(400, BrokenStore(), 2)) as cache:  # 300 of them for blocks
        for number in range(3):
            cache.put(block(number), bytes(100))
        assert cache.in_memory(block(0), fully_read=True) == bytes(100)
        cache.put(block(3), bytes(100))
        held = [number for number in range(4) if cache.in_memory(block(number), fully_read=True)]
        assert held == [1, 2, 3]
        assert cache.in_memory(block(1)) == bytes(100)
        cache.put(block(4), bytes(100))
        assert [number for number in range(5) if cache.in_memory(block(number), fully_read=True)] == [1, 3, 4]


def test_a_fully_read_block_of_the_store_leaves_memory_at_once() -> None:
    """The store has it still, and the kernel too; until then it is in memory for every reader."""
    store = MemoryStore()
    store.blocks |= {block(number): bytes(100) for number in range(3)}
    with closing(Cache(4000, store, 8)) as cache:
        assert len(dict(cache.load(FILE, range(3)))) == 3
        assert cache.in_memory(block(0)) == bytes(100)
        assert cache.in_memory(block(0), fully_read=True) == bytes(100)
        cache.demote([block(1)])
        assert [block(number) in cache for number in range(3)] == [False, False, True]
        assert cache.size == 100
        assert dict(cache.load(FILE, [0])) == {0: bytes(100)}
        assert block(0) in cache


def test_a_block_from_the_store_is_not_written_back() -> None:
    """A block that came from the store is not stored again."""
    store = MemoryStore()
    store.blocks[block(3)] = b"kept"
    cache = Cache(1000, store, 2)
    dict(cache.load(FILE, [3]))
    del store.blocks[block(3)]
    cache.close(SOON)
    assert store.blocks == {}


def test_a_missing_block_is_a_miss() -> None:
    """A block that is in neither memory nor store is None, and counts as a miss."""
    with closing(Cache(1000, MemoryStore(), 2)) as cache:
        assert dict(cache.load(FILE, [0])) == {}
        assert (cache.misses, cache.memory_hits, cache.store_hits) == (1, 0, 0)


def test_hits_are_counted_where_they_happen() -> None:
    """Memory and store have their own counters, which the repr of the cache shows."""
    store = MemoryStore()
    store.blocks[block(3)] = b"kept"
    with closing(Cache(1000, store, 2)) as cache:
        dict(cache.load(FILE, [3]))
        cache.in_memory(block(3))
        cache.in_memory(block(3))
        assert (cache.misses, cache.memory_hits, cache.store_hits) == (0, 2, 1)
        assert "memory_hits=2 store_hits=1" in repr(cache)


def test_a_broken_store_leaves_memory_working() -> None:
    """Memory serves blocks that the store has lost."""
    store = BrokenStore()
    cache = Cache(1000, store, 2)
    cache.put(block(0), b"a")
    cache.close(SOON)
    assert store.puts == 1
    assert cache.in_memory(block(0)) == b"a"
    assert dict(cache.load(FILE, [1])) == {}


def test_a_store_that_cannot_keep_up_loses_writes_and_delays_no_reader() -> None:
    """With a store that hangs every put returns; blocks beyond the queue are dropped and counted."""
    store = SlowStore()
    cache = Cache(400, store, 2)
    for number in range(10):
        cache.put(block(number), bytes(30))
    assert cache.dropped_writes == 7  # three of 30 bytes fit in the quarter of 400
    store.barrier.lift()
    cache.close(SOON)
    assert set(store.blocks) == {block(0), block(1), block(2)}


def test_the_queue_takes_blocks_again_once_the_store_has_caught_up() -> None:
    """A written block leaves room for the next."""
    store = SlowStore()
    cache = Cache(400, store, 2)
    for number in range(3):
        cache.put(block(number), bytes(30))
    store.barrier.lift()
    cache.close(SOON)
    assert cache.write_queue_bytes == 0
    assert len(store.blocks) == 3


@given(sizes=st.lists(st.integers(1, 80), max_size=60), memory=st.integers(16, 400))
def test_memory_and_queue_stay_within_the_limit(sizes: list[int], memory: int) -> None:
    """While the store hangs, memory and queue together hold no more than the limit."""
    store = SlowStore()
    cache = Cache(memory, store, 2)
    for number, size in enumerate(sizes):
        cache.put(block(number), bytes(size))
        held = sum(len(cache.in_memory(block(n)) or b"") for n in range(number + 1))
        assert held + cache.write_queue_bytes <= memory
    store.barrier.lift()
    cache.close(SOON)
    written = sum(map(len, store.blocks.values()))
    assert written + sum(sizes[n] for n in range(len(sizes)) if block(n) not in store.blocks) == sum(sizes)
    assert len(store.blocks) + cache.dropped_writes == len(sizes)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until `condition` is true."""
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.001)


def test_a_complete_chunk_is_stored_in_one_call_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete chunk is stored in one call without a wait, whatever the order of its blocks."""
    monkeypatch.setattr("empiarfs.engine.cache.GATHER_SECONDS", 1000.0)
    store = MemoryStore()
    with closing(Cache(10_000, store, 4)) as cache:
        for number in (9, 4, 6, 5, 7):
            cache.put(block(number), bytes(1))
        wait_for(lambda: bool(store.puts))
        assert sorted(store.puts[0]) == [4, 5, 6, 7]
    assert sorted(map(sorted, store.puts)) == [[4, 5, 6, 7], [9]]


def test_an_incomplete_chunk_waits_briefly() -> None:
    """An incomplete chunk is stored after a short wait, as a random reader fetches no neighbours."""
    clock = FakeClock()
    store = MemoryStore()
    with closing(Cache(10_000, store, 4, clock)) as cache:
        cache.put(block(1), bytes(1))
        cache.put(block(2), bytes(1))
        time.sleep(0.05)
        assert store.puts == []
        clock.go_on(GATHER_SECONDS)
        cache.put(block(40), bytes(1))  # which wakes the writer
        wait_for(lambda: bool(store.puts))
        assert store.puts == [[1, 2]]


def test_blocks_put_twice_are_written_once() -> None:
    """A block that is put again before its chunk is written replaces the first."""
    store = SlowStore()
    cache = Cache(10_000, store, 2)
    for data in (b"old", b"new"):
        cache.put(block(0), data)
    assert cache.write_queue_bytes == 3
    store.barrier.lift()
    cache.put(block(1), b"1")
    cache.close(SOON)
    assert store.blocks == {block(0): b"new", block(1): b"1"}
    assert cache.write_queue_bytes == 0


def test_prefetch_waits_for_a_store_that_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefetch waits while the queue has no room for its blocks, so that none is dropped."""
    monkeypatch.setattr("empiarfs.engine.cache.ROOM_SECONDS", SOON)
    store = SlowStore()
    cache = Cache(4000, store, 1)  # a queue of 1000, of which 750 are for prefetch
    for number in range(7):
        cache.put(block(number), bytes(100))
    entered = threading.Event()

    def prefetch() -> None:
        with cache.room(100):
            entered.set()
            cache.put(block(100), bytes(100))

    with ThreadPoolExecutor(1) as pool:
        prefetching = pool.submit(prefetch)
        assert not entered.wait(0.1)
        cache.put(block(50), bytes(100))  # a reader's own does not wait
        store.barrier.lift()
        prefetching.result(SOON)
    cache.close(SOON)
    assert cache.dropped_writes == 0
    assert len(store.blocks) == 9


def test_requests_in_flight_share_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room that one prefetch has reserved is not available to another."""
    monkeypatch.setattr("empiarfs.engine.cache.ROOM_SECONDS", 0.1)
    with closing(Cache(4000, MemoryStore(), 1)) as cache:
        begun = time.monotonic()
        with cache.room(700):
            assert time.monotonic() - begun < 0.1
            with cache.room(100):
                assert time.monotonic() - begun >= 0.1
        begun = time.monotonic()
        with cache.room(5000):
            assert time.monotonic() - begun < 0.1, "what is larger than the queue goes when that is empty"


def test_a_store_that_hangs_does_not_stop_prefetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefetch waits for room only briefly."""
    monkeypatch.setattr("empiarfs.engine.cache.ROOM_SECONDS", 0.05)
    store = SlowStore()
    cache = Cache(400, store, 1)
    for number in range(3):
        cache.put(block(number), bytes(30))
    with cache.room(30):
        pass
    store.barrier.lift()
    cache.close(SOON)
