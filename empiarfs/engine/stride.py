"""Recognises a reader of equally spaced pieces of a file, and predicts its next pieces; pure.

Every 50th particle of a stack, a row of each section of a tomogram, the headers in a tar: each piece begins as far
behind the one before it, give or take some pages, because the kernel reads whole ones.
"""

from dataclasses import dataclass, replace

from empiarfs.model import Span
from empiarfs.units import KIB

MAX_ROUNDING = 8 * KIB  # the kernel reads whole pages: each jump begins and ends at one
MAX_GAP = 128 * KIB  # between two reads of one piece, which the kernel may reorder
MIN_JUMPS = 3  # equal ones, from which on the next pieces are predicted; two are equal by chance
MAX_PIECES = 64  # that are prefetched at once: enough for all connections while the reader waits for a silent one


@dataclass(frozen=True, slots=True)
class Stride:
    """The newest of rising pieces of a file, and the equal jumps that led to it.

    Attributes:
        start: the offset of the newest piece.
        stop: one past its last byte that was read.
        first: the offset of the piece at which the equal jumps began.
        jumps: their number.
        pieces: how many of the pieces since `first` were read.
        lengths: the lengths of the last two pieces before this one.
        reached: the number of jumps from `first` to the furthest piece that was prefetched.
    """

    start: int
    stop: int
    first: int
    jumps: int = 0
    pieces: int = 1
    lengths: tuple[int, ...] = ()
    reached: int = 0


def advance(stride: Stride | None, read: Span, *, is_jump: bool) -> Stride:
    """Return the pieces after `read`.

    Args:
        stride: the pieces so far; None if there was no read.
        read: the span that is read.
        is_jump: whether it continues no stream of sequential reads.
    """
    if stride is None or (is_jump and read.start < stride.start):
        return Stride(read.start, read.stop, read.start)
    if read.start < stride.start:  # a late read of another piece
        return stride
    if read.start <= stride.stop + MAX_GAP:
        if read.stop <= stride.stop:
            return stride
        return Stride(  # not `replace`, which is slower: every sequential read comes here
            stride.start, read.stop, stride.first, stride.jumps, stride.pieces, stride.lengths, stride.reached
        )
    lengths = (stride.stop - stride.start, *stride.lengths[:1])
    jumped = _jumps(stride, read.start)
    if not jumped:
        return Stride(read.start, read.stop, stride.start, 1, 2, lengths, 1)
    jumps = stride.jumps + jumped
    return Stride(
        read.start, read.stop, stride.first, jumps, stride.pieces + 1, lengths, max(stride.reached, jumps)
    )


def _jumps(stride: Stride, start: int) -> int:
    """Return how many of the equal jumps lead from the newest piece to `start`; 0 if none do.

    A piece that the kernel has cached is not read: then it is two jumps or more, but none that was not predicted.
    """
    if not stride.jumps:
        return 0
    step = (stride.start - stride.first) / stride.jumps
    jumps = round((start - stride.start) / step)
    is_predicted = jumps == 1 or stride.jumps + jumps <= stride.reached
    return jumps if jumps and is_predicted and abs(start - stride.start - jumps * step) <= MAX_ROUNDING else 0


def next_pieces(stride: Stride, length: int, most: int) -> tuple[Stride, list[Span]]:
    """Return the stride, and the pieces to prefetch now.

    Those that were passed over and those to come are at most half as many as were read.

    Args:
        stride: the pieces so far.
        length: the length of the file.
        most: the most bytes to have prefetched.
    """
    if stride.jumps < MIN_JUMPS:
        return stride, []
    shorter, longer = sorted(stride.lengths)
    size = longer if longer <= 2 * shorter else shorter
    passed_over = stride.jumps + 1 - stride.pieces
    count = min(stride.pieces // 2 - passed_over, MAX_PIECES, most // size)
    distance = stride.start - stride.first
    pieces = []
    for number in range(stride.reached + 1, stride.jumps + count + 1):
        start = stride.first + number * distance // stride.jumps
        if start >= length:
            break
        pieces.append(Span(start, min(start + size, length)))
    return (replace(stride, reached=stride.reached + len(pieces)) if pieces else stride), pieces
