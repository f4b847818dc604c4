"""The arithmetic of blocks and runs; pure."""

import sys
from collections.abc import Iterable, Iterator, Sequence

from empiarfs.model import Span


def clamped(offset: int, size: int, length: int) -> Span:
    """Return the part of the `size` bytes at `offset` that lies in a file of `length` bytes; empty past its end."""
    start = min(max(offset, 0), length)
    return Span(start, min(max(start, offset + size), length))


def covering(span: Span, block_bytes: int) -> range:
    """Return the numbers of the blocks that hold `span`; none if it is empty."""
    if span.size <= 0:
        return range(0)
    return range(span.start // block_bytes, (span.stop - 1) // block_bytes + 1)


def span_of(numbers: range, block_bytes: int, length: int) -> Span:
    """Return the span of the consecutive blocks `numbers` in a file of `length` bytes."""
    return Span(numbers.start * block_bytes, min(numbers.stop * block_bytes, length))


def runs(numbers: Iterable[int], longest: int = sys.maxsize) -> Iterator[range]:
    """Join ascending block numbers into runs of at most `longest` consecutive blocks."""
    run = range(0)
    for number in numbers:
        if run and number == run.stop and len(run) < longest:
            run = range(run.start, number + 1)
            continue
        if run:
            yield run
        run = range(number, number + 1)
    if run:
        yield run


def cut(span: Span, longest: int) -> list[Span]:
    """Cut `span` into parts of `longest` bytes; the last may be shorter."""
    return [Span(start, min(start + longest, span.stop)) for start in range(span.start, span.stop, longest)]


def coalesced(spans: Sequence[Span], gap: int, longest: int) -> list[Span]:
    """Return ascending spans that cover all of `spans`, joined across small gaps.

    Args:
        spans: the requested spans, in any order; they may overlap, and empty ones are ignored.
        gap: the largest gap in bytes that is cheaper to fetch than to skip.
        longest: the most bytes of a joined span; a single requested span may be longer.
    """
    joined: list[Span] = []
    for span in sorted((span for span in spans if span.size > 0), key=lambda span: (span.start, span.stop)):
        last = joined[-1] if joined else None
        if last is not None and span.stop <= last.stop:
            continue
        if last is not None and span.start - last.stop <= gap and span.stop - last.start <= longest:
            joined[-1] = Span(last.start, span.stop)
        else:
            joined.append(span)
    return joined
