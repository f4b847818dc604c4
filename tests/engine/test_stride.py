"""Equally spaced pieces are recognised, and exactly the next ones are predicted."""

import random
from collections.abc import Iterable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from empiarfs.engine import stride as strides
from empiarfs.engine.stride import MAX_GAP, MAX_ROUNDING, MIN_JUMPS, Stride
from empiarfs.model import Span
from empiarfs.units import KIB, MIB

MOST = 64 * MIB
LENGTH = 1 << 40
SIZE = 64 * KIB
PAGE = 4 * KIB


def fed(starts: Iterable[int], size: int = SIZE, *, length: int = LENGTH) -> tuple[list[list[Span]], Stride]:
    """Return the pieces to prefetch after each read at `starts`, and the stride at the end."""
    stride: Stride | None = None
    ahead = []
    for start in starts:
        stride = strides.advance(stride, Span(start, start + size), is_jump=True)
        stride, pieces = strides.next_pieces(stride, length, MOST)
        ahead.append(pieces)
    assert stride is not None
    return ahead, stride


def flat(ahead: Sequence[list[Span]]) -> list[Span]:
    """Return all pieces of `ahead`."""
    return [piece for pieces in ahead for piece in pieces]


@given(first=st.integers(0, MIB), step=st.integers(SIZE + MAX_GAP + 1, 64 * MIB), count=st.integers(4, 300))
def test_equal_jumps_predict_exactly_the_next_pieces(first: int, step: int, count: int) -> None:
    """After some equal jumps each piece is prefetched before it is read, and nothing else is."""
    ahead, _ = fed(first + number * step for number in range(count))
    assert flat(ahead[:MIN_JUMPS]) == []
    predicted = flat(ahead)
    assert predicted == [
        Span(first + number * step, first + number * step + SIZE)
        for number in range(MIN_JUMPS + 1, MIN_JUMPS + 1 + len(predicted))
    ]
    for number in range(MIN_JUMPS + 1, count):
        assert first + number * step in {piece.start for piece in flat(ahead[:number])}


@given(count=st.integers(1, 500))
def test_at_most_half_as_many_pieces_are_prefetched_in_vain(count: int) -> None:
    """A reader that ends after any piece has caused at most half as many further ones to be prefetched."""
    predicted = flat(fed(number * MIB for number in range(count))[0])
    assert len([piece for piece in predicted if piece.start >= count * MIB]) <= count / 2


@given(seed=st.integers(0, 2**32))
def test_pieces_that_do_not_begin_on_a_page_are_predicted(seed: int) -> None:
    """Jumps that differ by a page, because the kernel reads whole pages, are equal ones."""
    step = random.Random(seed).randrange(MIB, 8 * MIB)
    starts = [(1024 + number * step) // PAGE * PAGE for number in range(100)]
    ahead, stride = fed(starts)
    assert stride.jumps == 99
    predicted = flat(ahead)
    assert len(predicted) >= 100 - MIN_JUMPS - 1
    for start, piece in zip(starts[MIN_JUMPS + 1 :], predicted, strict=False):
        assert abs(piece.start - start) <= MAX_ROUNDING


def test_jumps_that_differ_predict_nothing() -> None:
    """Rising pieces at random places, and two equal jumps by chance, prefetch nothing."""
    places, starts = random.Random(5), [0]
    for number in range(200):
        starts.append(starts[-1] + (number // 2 * 37 % 50 + 1) * MIB + places.randrange(1, 3) * 16 * KIB)
    assert flat(fed(starts)[0]) == []


def test_falling_pieces_predict_nothing() -> None:
    """A reader of equal jumps backwards prefetches nothing."""
    assert flat(fed(range(100 * MIB, 0, -MIB))[0]) == []


def test_a_new_pass_is_recognised_anew() -> None:
    """A reader that begins again at the first piece has its pieces predicted again."""
    starts = [number * MIB for number in range(20)]
    ahead, _ = fed([*starts, *starts])
    assert {piece.start for piece in flat(ahead[20:])} >= set(starts[MIN_JUMPS + 1 :])


def test_the_reads_of_one_piece_are_no_jumps() -> None:
    """The kernel reads a piece in parts, and reorders them: all of them together are one piece."""
    stride: Stride | None = None
    predicted = []
    for number in range(10):
        start = number * 4 * MIB
        for shift, size in ((0, 4), (132, 124), (4, 128)):  # KiB
            read = Span(start + shift * KIB, start + (shift + size) * KIB)
            stride = strides.advance(stride, read, is_jump=not shift)
            stride, pieces = strides.next_pieces(stride, LENGTH, MOST)
            predicted += pieces
    assert predicted[0] == Span(16 * MIB, 16 * MIB + 256 * KIB)
    assert {piece.start % (4 * MIB) for piece in predicted} == {0}
    assert {piece.size for piece in predicted} == {256 * KIB}


def test_a_late_read_of_another_piece_changes_nothing() -> None:
    """A read of an earlier piece that continues its stream leaves the prediction as it is."""
    stride = fed(number * MIB for number in range(10))[1]
    late = Span(7 * MIB + SIZE, 7 * MIB + 2 * SIZE)
    assert strides.advance(stride, late, is_jump=False) == stride


def test_pieces_that_the_kernel_holds_are_passed_over() -> None:
    """A piece that is not read, because it is cached, does not end the prediction."""
    starts = [number * MIB for number in range(40) if number not in {20, 21, 30}]
    ahead, stride = fed(starts)
    assert stride.jumps == 39
    assert len(flat(ahead)) == len({piece.start for piece in flat(ahead)})


def test_pieces_that_are_passed_over_count_against_the_reader() -> None:
    """Pieces that are prefetched and not read, and those to come, are at most half as many as were read."""
    starts = [*range(0, 20 * MIB, MIB), 24 * MIB, 28 * MIB, 30 * MIB]
    ahead, _ = fed(starts)
    for number in range(1, len(starts) + 1):
        unread = {piece.start for piece in flat(ahead[:number])} - set(starts[:number])
        assert len(unread) <= number / 2


def test_the_end_of_the_file_ends_the_pieces() -> None:
    """No piece reaches past the end of the file, and what is prefetched has a limit."""
    length = 50 * MIB + 1000
    ahead, _ = fed((number * MIB for number in range(51)), length=length)
    assert max(piece.stop for piece in flat(ahead)) == length
    large = fed((number * 40 * MIB for number in range(20)), 32 * MIB)[0]
    assert max(len(pieces) for pieces in large) <= MOST // (32 * MIB)
