"""Memory in front of a store: bounded, least recently used, and never in the reader's way."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from support.fakes import SOON, BrokenStore, MemoryStore, SlowStore, at_once

from empiarfs.engine.cache import Cache, _coalesced
from empiarfs.lru import LruCache
from empiarfs.model import Block, File
from empiarfs.units import KIB, MIB

FILE = File("10028/data/a.mrc", 10**9, 5)


def block(number: int) -> Block:
    """Return a block of one file."""
    return Block(FILE, number)


@contextmanager
def closing(cache: Cache) -> Iterator[Cache]:
    """Close the cache at the end, whatever happens."""
    try:
        yield cache
    finally:
        cache.close(SOON)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60)), max_size=40))
def test_recent_holds_what_was_used_last_and_never_more_than_its_weight(
    puts: list[tuple[int, int]],
) -> None:
    """After any puts the weight is in bounds, the last put is there unless too heavy, and it is the last to go."""
    recent: LruCache[int, bytes] = LruCache(100, len)
    for number, size in puts:
        recent.put(number, bytes(size))
        assert recent.size <= 100
        assert recent.get(number) == bytes(size)


def test_recent_drops_what_was_not_used_for_longest() -> None:
    """Getting a value makes it the one used last."""
    recent: LruCache[str, bytes] = LruCache(3, len)
    for name in "abc":
        recent.put(name, b"1")
    recent.get("a")
    recent.put("d", b"1")
    assert [name for name in "abcd" if recent.get(name)] == ["a", "c", "d"]


def test_what_was_spent_goes_first() -> None:
    """A value that was given for the last time makes room before older ones, unless it is used or put again."""
    recent: LruCache[str, bytes] = LruCache(4, len)
    for name in "abcd":
        recent.put(name, b"1")
    assert (recent.demote("d"), recent.demote("z")) == (b"1", None)
    recent.put("e", b"1")
    assert [name for name in "abcde" if name in recent] == ["a", "b", "c", "e"]
    recent.demote("c")
    recent.get("c")
    recent.put("f", b"1")
    assert [name for name in "abcef" if name in recent] == ["b", "c", "e", "f"]
    recent.demote("e")
    recent.put("e", b"1")
    recent.put("g", b"1")
    assert [name for name in "bcefg" if name in recent] == ["c", "e", "f", "g"]


def test_recent_makes_room_by_weight() -> None:
    """One heavy value pushes out as many light ones as it needs, and no more."""
    recent: LruCache[str, bytes] = LruCache(4, len)
    for name in "abcd":
        recent.put(name, b"1")
    recent.put("e", b"12")
    assert [name for name in "abcde" if recent.get(name)] == ["c", "d", "e"]


def test_a_value_too_heavy_is_not_kept_and_pushes_nothing_out() -> None:
    """What does not fit at all costs nobody his place."""
    recent: LruCache[str, bytes] = LruCache(4, len)
    recent.put("a", b"1")
    recent.put("b", b"12345")
    assert (recent.get("a"), recent.get("b")) == (b"1", None)


def test_recent_is_safe_for_threads() -> None:
    """Threads that put and get at once keep the weight in bounds and lose no order."""
    recent: LruCache[int, bytes] = LruCache(50, len)

    def work() -> None:
        for number in range(500):
            recent.put(number % 20, bytes(7))
            recent.get((number * 7) % 20)

    assert at_once([work] * 8) == [None] * 8
    assert recent.size == 49


def test_what_is_put_is_got_from_memory_at_once() -> None:
    """The store need not have it yet."""
    store = SlowStore()
    with closing(Cache(1000, store)) as cache:
        cache.put(block(0), b"data")
        assert cache.in_memory(block(0)) == b"data"
        assert store.blocks == {}
        store.barrier.lift()


def test_what_is_put_reaches_the_store() -> None:
    """Closing writes what waits."""
    store = SlowStore()
    cache = Cache(1000, store)
    cache.put(block(0), b"a")
    cache.put(block(1), b"b")
    store.barrier.lift()
    cache.close(SOON)
    assert store.blocks == {block(0): b"a", block(1): b"b"}


def test_closing_waits_no_longer_than_it_is_told() -> None:
    """A store that hangs does not keep the program."""
    store = SlowStore()
    cache = Cache(1000, store)
    cache.put(block(0), b"a")
    cache.close(0.0)
    assert store.blocks == {}
    store.barrier.lift()
    cache.close(SOON)
    assert store.blocks == {block(0): b"a"}


def test_a_cache_that_was_never_used_closes() -> None:
    """No put, no thread, nothing to wait for."""
    Cache(1000, MemoryStore()).close(SOON)


def test_a_block_of_the_store_comes_to_memory() -> None:
    """The store is asked once; then the block is in memory."""
    store = MemoryStore()
    store.blocks[block(3)] = b"kept"
    with closing(Cache(1000, store)) as cache:
        assert cache.in_memory(block(3)) is None
        assert cache.get(block(3)) == b"kept"
        assert cache.in_memory(block(3)) == b"kept"
        assert cache.get(block(3)) == b"kept"
        assert store.asked == [block(3)]


def test_looking_into_memory_never_asks_the_store() -> None:
    """`in_memory` does not wait for a disk."""
    store = MemoryStore()
    store.blocks[block(3)] = b"kept"
    with closing(Cache(1000, store)) as cache:
        assert cache.in_memory(block(3)) is None
        assert store.asked == []


def test_a_block_that_is_used_up_goes_before_one_that_nobody_has_read() -> None:
    """What was fetched ahead is still wanted; what was taken whole is not."""
    with closing(Cache(400, BrokenStore())) as cache:  # 300 of them for blocks
        for number in range(3):
            cache.put(block(number), bytes(100))
        assert cache.in_memory(block(0), fully_read=True) == bytes(100)
        cache.put(block(3), bytes(100))
        held = [number for number in range(4) if cache.in_memory(block(number), fully_read=True)]
        assert held == [1, 2, 3]
        assert cache.in_memory(block(1)) == bytes(100)
        cache.put(block(4), bytes(100))
        assert [number for number in range(5) if cache.in_memory(block(number), fully_read=True)] == [1, 3, 4]


def test_what_the_store_gives_is_not_written_back() -> None:
    """A block that came from the store is there already."""
    store = MemoryStore()
    store.blocks[block(3)] = b"kept"
    cache = Cache(1000, store)
    cache.get(block(3))
    del store.blocks[block(3)]
    cache.close(SOON)
    assert store.blocks == {}


def test_a_block_nobody_has_is_none() -> None:
    """Neither memory nor store: None, and it counts as missed."""
    with closing(Cache(1000, MemoryStore())) as cache:
        assert cache.get(block(0)) is None
        assert (cache.misses, cache.memory_hits, cache.store_hits) == (1, 0, 0)


def test_hits_are_counted_where_they_happen() -> None:
    """Memory and store have counters of their own, shown in the text of the cache."""
    store = MemoryStore()
    store.blocks[block(3)] = b"kept"
    with closing(Cache(1000, store)) as cache:
        cache.get(block(3))
        cache.get(block(3))
        cache.in_memory(block(3))
        assert (cache.misses, cache.memory_hits, cache.store_hits) == (0, 2, 1)
        assert "memory_hits=2 store_hits=1" in repr(cache)


def test_a_broken_store_leaves_memory_working() -> None:
    """Memory serves what the store has lost."""
    store = BrokenStore()
    cache = Cache(1000, store)
    cache.put(block(0), b"a")
    cache.close(SOON)
    assert store.puts == 1
    assert cache.get(block(0)) == b"a"
    assert cache.get(block(1)) is None


def test_a_store_that_cannot_keep_up_loses_writes_and_delays_no_reader() -> None:
    """With the store standing still every put returns; what does not fit the queue is dropped and counted."""
    store = SlowStore()
    cache = Cache(400, store)
    for number in range(10):
        cache.put(block(number), bytes(30))
    assert cache.dropped_writes == 7  # three of 30 bytes fit in the quarter of 400
    store.barrier.lift()
    cache.close(SOON)
    assert set(store.blocks) == {block(0), block(1), block(2)}


def test_the_queue_takes_blocks_again_once_the_store_has_caught_up() -> None:
    """A written block leaves room for the next."""
    store = SlowStore()
    cache = Cache(400, store)
    for number in range(3):
        cache.put(block(number), bytes(30))
    store.barrier.lift()
    cache.close(SOON)
    assert "waiting=0" in repr(cache)


@given(sizes=st.lists(st.integers(1, 80), max_size=60), memory=st.integers(16, 400))
def test_memory_and_queue_together_stay_within_the_bytes_given(sizes: list[int], memory: int) -> None:
    """However much is put while the store stands still, no more is held than the memory allowed."""
    store = SlowStore()
    cache = Cache(memory, store)
    for number, size in enumerate(sizes):
        cache.put(block(number), bytes(size))
        held = sum(len(cache.in_memory(block(n)) or b"") for n in range(number + 1))
        assert held + cache._waiting <= memory
    store.barrier.lift()
    cache.close(SOON)
    written = sum(map(len, store.blocks.values()))
    assert written + sum(sizes[n] for n in range(len(sizes)) if block(n) not in store.blocks) == sum(sizes)
    assert len(store.blocks) + cache.dropped_writes == len(sizes)


@given(numbers=st.sets(st.integers(0, 30)), size=st.sampled_from([1, 64 * KIB, MIB // 2, MIB, 4 * MIB]))
def test_neighbours_go_to_the_store_together_as_far_as_a_segment_reaches(numbers: set[int], size: int) -> None:
    """Each block once, in runs without a gap, none longer than a segment unless one block is."""
    data = bytes(size)
    segments = _coalesced([(block(number), data) for number in sorted(numbers, reverse=True)], MIB)
    assert sorted(one.number for segment in segments for one, _ in segment) == sorted(numbers)
    for segment in segments:
        first = segment[0][0].number
        assert [one.number for one, _ in segment] == list(range(first, first + len(segment)))
        assert len(segment) == 1 or len(segment) * size <= MIB
    for segment, after in pairwise(segments):
        touches = segment[-1][0].number + 1 == after[0][0].number
        assert not touches or (len(segment) + 1) * size > MIB
