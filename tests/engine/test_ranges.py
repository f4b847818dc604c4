"""Ranges of a file are planned together, read in parallel, and returned in the caller's order."""

from hypothesis import given
from hypothesis import strategies as st
from support.parts import in_order

from empiarfs.engine import ranges
from empiarfs.engine.blocks import coalesced
from empiarfs.engine.ranges import read_ranges
from empiarfs.model import Span
from empiarfs.units import KIB, MIB

CONTENT = bytes(index % 251 for index in range(1200))
SPANS = st.lists(
    st.builds(lambda start, size: Span(start, start + size), st.integers(0, 1000), st.integers(0, 200))
)


@given(spans=SPANS, gap=st.integers(0, 100), longest=st.integers(1, 500))
def test_joined_spans_cover_all_and_no_wide_gap(spans: list[Span], gap: int, longest: int) -> None:
    """Each requested span lies in a joined one, and none contains a gap wider than the limit."""
    joined = coalesced(spans, gap, longest)
    assert joined == sorted(joined, key=lambda span: span.start)
    wanted = [span for span in spans if span.size]
    for span in wanted:
        assert any(one.start <= span.start and span.stop <= one.stop for one in joined)
    longest_wanted = max((span.size for span in wanted), default=0)
    for one in joined:
        assert one.size <= max(longest, longest_wanted)
        inside = sorted(
            (span for span in wanted if one.start <= span.start < one.stop), key=lambda span: span.start
        )
        reached = one.start
        for span in inside:
            assert span.start - reached <= gap
            reached = max(reached, span.stop)
        assert reached >= one.stop


@given(spans=SPANS)
def test_every_range_has_its_own_bytes(spans: list[Span]) -> None:
    """Ranges in any order, overlapping, empty or repeated, are as if each were read separately."""
    runs: list[Span] = []

    def read(span: Span) -> bytes:
        runs.append(span)
        return CONTENT[span.start : span.stop]

    assert read_ranges(spans, read, in_order) == [CONTENT[span.start : span.stop] for span in spans]
    assert len(runs) <= len(spans)


def test_neighbours_are_one_request_and_far_ones_several() -> None:
    """A small gap is fetched too, a large one is skipped, and long runs are split for all connections."""
    near = [Span(number * 100 * KIB, number * 100 * KIB + 64 * KIB) for number in range(10)]
    assert coalesced(near, ranges.LARGEST_GAP, ranges.LONGEST_RUN) == [Span(0, 964 * KIB)]
    far = [Span(number * MIB, number * MIB + 64 * KIB) for number in range(10)]
    assert coalesced(far, ranges.LARGEST_GAP, ranges.LONGEST_RUN) == far
    whole = [Span(number * MIB, (number + 1) * MIB) for number in range(10)]
    assert [span.size for span in coalesced(whole, ranges.LARGEST_GAP, ranges.LONGEST_RUN)] == [4 * MIB] * 2 + [
        2 * MIB
    ]
