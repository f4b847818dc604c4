"""The LRU cache evicts the least recently used values beyond a total weight."""

from hypothesis import given
from hypothesis import strategies as st
from support.fakes import at_once

from empiarfs.lru import LruCache


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60)), max_size=40))
def test_the_weight_is_bounded_and_recent_values_stay(
    puts: list[tuple[int, int]],
) -> None:
    """After any puts the weight is within the limit, and the last put is the last to be evicted."""
    recent: LruCache[int, bytes] = LruCache(100, len)
    for number, size in puts:
        recent.put(number, bytes(size))
        assert recent.size <= 100
        assert recent.get(number) == bytes(size)


def test_the_least_recently_used_value_is_evicted() -> None:
    """Getting a value makes it the most recently used."""
    recent: LruCache[str, bytes] = LruCache(3, len)
    for name in "abc":
        recent.put(name, b"1")
    recent.get("a")
    recent.put("d", b"1")
    assert [name for name in "abcd" if recent.get(name)] == ["a", "c", "d"]


def test_a_demoted_value_is_evicted_first() -> None:
    """A demoted value is evicted before older ones, unless it is used or put again."""
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


def test_eviction_counts_weight() -> None:
    """One heavy value evicts as many light ones as it needs, and no more."""
    recent: LruCache[str, bytes] = LruCache(4, len)
    for name in "abcd":
        recent.put(name, b"1")
    recent.put("e", b"12")
    assert [name for name in "abcde" if recent.get(name)] == ["c", "d", "e"]


def test_a_value_over_the_limit_is_not_stored() -> None:
    """A value heavier than the limit is not stored, and evicts nothing."""
    recent: LruCache[str, bytes] = LruCache(4, len)
    recent.put("a", b"1")
    recent.put("b", b"12345")
    assert (recent.get("a"), recent.get("b")) == (b"1", None)


def test_the_cache_is_thread_safe() -> None:
    """Threads that put and get at once keep the weight within the limit and get no error."""
    recent: LruCache[int, bytes] = LruCache(50, len)

    def work() -> None:
        for number in range(500):
            recent.put(number % 20, bytes(7))
            recent.get((number * 7) % 20)

    assert at_once([work] * 8) == [None] * 8
    assert recent.size == 49
