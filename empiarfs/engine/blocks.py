"""The arithmetic of blocks and runs; pure."""

from collections.abc import Iterable, Iterator

from empiarfs.model import Span


def clamped(offset: int, size: int, length: int) -> Span:
    """Return the part of `size` bytes at `offset` that lies in a file of `length` bytes; empty past its end."""
    start = min(max(offset, 0), length)
    return Span(start, min(max(start, offset + size), length))


def covering(span: Span, block_bytes: int) -> range:
    """Return the numbers of the blocks that hold `span`; none for an empty one."""
    if span.size <= 0:
        return range(0)
    return range(span.start // block_bytes, (span.stop - 1) // block_bytes + 1)


def span_of(numbers: range, block_bytes: int, length: int) -> Span:
    """Return the bytes of the blocks `numbers`, which follow each other, in a file of `length` bytes."""
    return Span(numbers.start * block_bytes, min(numbers.stop * block_bytes, length))


def runs(numbers: Iterable[int], longest: int) -> Iterator[range]:
    """Join ascending block numbers that follow each other into runs of at most `longest` blocks."""
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
