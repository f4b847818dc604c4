"""Segments: whatever became of one, a block of it is given whole, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empiarfs.storage import segments

SEGMENT = st.lists(st.binary(max_size=60), min_size=1, max_size=5)
NAMES = st.text("abc 0\u0436", max_size=10)


def stored(name: str, blocks: list[bytes]) -> bytes:
    """Return what stands in the file of a segment."""
    return segments.head(name, blocks) + b"".join(blocks)


def block(name: str, count: int, index: int, file: bytes) -> bytes | None:
    """Read one block as a store does."""
    head = file[: segments.head_bytes(count)]
    part = segments.part(name, count, index, head)
    if part is None:
        return None
    data = file[part.start : part.stop]
    return data if segments.is_whole(name, index, head, data) else None


def blocks_of(name: str, count: int, file: bytes) -> list[bytes | None]:
    """Read all blocks of a segment."""
    return [block(name, count, index, file) for index in range(count)]


@given(name=NAMES, blocks=SEGMENT)
def test_each_block_comes_back(name: str, blocks: list[bytes]) -> None:
    """What was put together comes apart again."""
    assert blocks_of(name, len(blocks), stored(name, blocks)) == blocks


@pytest.mark.promise(
    "A cached block is verified against its checksum and its name whenever it is read from disk; one that fails is "
    "fetched again."
)
@given(name=NAMES, blocks=SEGMENT, flip=st.integers(0, 10_000))
def test_a_flipped_bit_costs_the_blocks_it_is_in_at_most_and_changes_none(
    name: str, blocks: list[bytes], flip: int
) -> None:
    """Whichever bit flips: a block is as it was or not there, and the one that holds the bit is not there."""
    file = bytearray(stored(name, blocks))
    place = flip // 8 % len(file)
    file[place] ^= 1 << flip % 8
    got = blocks_of(name, len(blocks), bytes(file))
    assert all(new in {None, old} for new, old in zip(got, blocks, strict=True))
    begin = segments.head_bytes(len(blocks))
    for new, old in zip(got, blocks, strict=True):
        assert new is None or not begin <= place < begin + len(old)
        begin += len(old)


@given(name=NAMES, blocks=SEGMENT, cut=st.integers(0, 400), more=st.binary(max_size=9))
def test_a_segment_that_is_cut_or_longer_changes_no_block(
    name: str, blocks: list[bytes], cut: int, more: bytes
) -> None:
    """Whatever its length, a block is whole or not there; what stands behind the last one is nobody's."""
    file = stored(name, blocks)
    assert blocks_of(name, len(blocks), file + more) == blocks
    short = file[: cut % len(file)]
    got = blocks_of(name, len(blocks), short)
    assert all(new in {None, old} for new, old in zip(got, blocks, strict=True))
    assert blocks[-1] == b"" or got[-1] is None


@given(name=NAMES, other=NAMES, blocks=SEGMENT)
def test_a_block_is_given_under_its_own_name_alone(name: str, other: str, blocks: list[bytes]) -> None:
    """A segment read under another name has no block."""
    got = blocks_of(other, len(blocks), stored(name, blocks))
    assert got == (blocks if name == other else [None] * len(blocks))


@given(blocks=st.lists(st.binary(min_size=5, max_size=5), min_size=2, max_size=5, unique=True))
def test_blocks_that_changed_places_are_not_there(blocks: list[bytes]) -> None:
    """Whole bytes of another block are the wrong bytes, also with the other's checksum."""
    file = stored("name", blocks)
    turned = stored("name", [blocks[1], blocks[0], *blocks[2:]])
    mixed = file[: segments.head_bytes(len(blocks))] + turned[segments.head_bytes(len(blocks)) :]
    assert blocks_of("name", len(blocks), mixed)[:2] == [None, None]
    before, first, second = (segments.head_bytes(count) for count in range(3))
    entries = file[first:second] + file[before:first]
    assert blocks_of("name", len(blocks), file[:before] + entries + mixed[second:])[:2] == [None, None]


@given(start=st.integers(0, 10**12), count=st.integers(1, 4096))
def test_a_name_tells_the_numbers_it_was_made_of(start: int, count: int) -> None:
    """The numbers come back from the name, and from nothing that only looks like one."""
    numbers = range(start, start + count)
    assert segments.numbers("prefix ", segments.name("prefix ", numbers)) == numbers


@given(st.sampled_from(["", "7", "+", "7+", "+1", "-1+2", "1+99999", "\u0661+1", "1+1 ", "1+1\n", "9" * 19 + "+1"]))
def test_what_is_no_segment_has_no_numbers(end: str) -> None:
    """A row that someone else wrote names no blocks."""
    assert not segments.numbers("prefix ", "prefix " + end)
