"""The values used last, up to a weight."""

from hypothesis import given
from hypothesis import strategies as st
from support.fakes import at_once

from empiarfs.lru import LruCache


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
