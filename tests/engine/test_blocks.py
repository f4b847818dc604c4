"""The arithmetic of blocks holds for every file, span and block size."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from empiarfs.engine import blocks
from empiarfs.model import Span

LENGTHS = st.integers(0, 10_000)
SIZES = st.integers(1, 300)


@given(offset=st.integers(-100, 12_000), size=st.integers(-100, 12_000), length=LENGTHS)
def test_clamped_is_the_requested_part_in_the_file(offset: int, size: int, length: int) -> None:
    """`clamped` holds exactly the requested offsets that the file has."""
    span = blocks.clamped(offset, size, length)
    wished = set(range(max(offset, 0), offset + size)) & set(range(length))
    assert set(range(span.start, span.stop)) == wished


@given(offset=st.integers(-100, 12_000), size=st.integers(-100, 12_000), length=LENGTHS)
def test_clamped_never_leaves_the_file(offset: int, size: int, length: int) -> None:
    """An empty span also lies in the file, and no span has a negative size."""
    span = blocks.clamped(offset, size, length)
    assert 0 <= span.start <= span.stop <= length


@given(start=st.integers(0, 5_000), size=st.integers(0, 5_000), block_bytes=SIZES)
def test_covering_names_every_block_that_holds_a_byte_and_no_other(start: int, size: int, block_bytes: int) -> None:
    """`covering` returns exactly the numbers of the blocks with a byte of the span."""
    numbers = blocks.covering(Span(start, start + size), block_bytes)
    assert set(numbers) == {offset // block_bytes for offset in range(start, start + size)}


@given(start=st.integers(0, 5_000), size=st.integers(1, 5_000), block_bytes=SIZES, beyond=st.integers(0, 99))
def test_the_span_of_the_covering_blocks_holds_the_span(
    start: int, size: int, block_bytes: int, beyond: int
) -> None:
    """The span of the covering blocks contains the span, in whole blocks except at the end of the file."""
    length = start + size + beyond
    around = blocks.span_of(blocks.covering(Span(start, start + size), block_bytes), block_bytes, length)
    assert around.start <= start < start + size <= around.stop <= length
    assert around.start % block_bytes == 0
    assert around.stop % block_bytes == 0 or around.stop == length


@given(numbers=st.sets(st.integers(0, 80)), longest=st.integers(1, 12))
def test_runs_contain_every_number_once_and_in_order(numbers: set[int], longest: int) -> None:
    """The runs in order are the numbers."""
    runs = list(blocks.runs(sorted(numbers), longest))
    assert [number for run in runs for number in run] == sorted(numbers)


@given(numbers=st.sets(st.integers(0, 80)), longest=st.integers(1, 12))
def test_runs_are_as_long_as_the_limit_allows(numbers: set[int], longest: int) -> None:
    """No run is empty or over the limit, and two adjacent ones are split only because the first is full."""
    runs = list(blocks.runs(sorted(numbers), longest))
    assert all(1 <= len(run) <= longest for run in runs)
    touching = [(a, b) for a, b in itertools.pairwise(runs) if a.stop == b.start]
    assert all(len(first) == longest for first, _ in touching)
