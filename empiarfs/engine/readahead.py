"""Plans prefetch within one file; pure: from reads to spans.

A file is read by several streams at once: RELION opens a movie once for each frame, and the kernel passes
neighbouring reads out of order to several threads. A stream is a position where sequential reading continues.
After a jump nothing is prefetched until the reader has read sequentially for longer than random readers do. Then
its window grows with the bytes that it reads, not with the distance that it jumps: at first to half of them, so
that at most that much is prefetched in vain, and faster once it surely reads on. What it skips counts against it,
but gaps that are fetched sooner than another request is answered count little.

Two kinds of jumps are predicted. If each of several is followed by a read of the same length, that length is
fetched at once; if several are equally long, the next pieces are fetched in parallel (see `stride`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from empiarfs.engine import stride as strides
from empiarfs.engine.stride import Stride
from empiarfs.model import Span
from empiarfs.units import KIB, MIB

MAX_BACKWARD_SEEK = 512 * KIB  # how far behind the newest read of a stream a reordered one may lie
MAX_FORWARD_SEEK = 512 * KIB  # how far before it
MAX_REORDER = 4 * MIB  # the same within what was prefetched: the kernel may read as far ahead in parallel
TRUST_AT_START = 192 * KIB  # bytes from the start of a file that make a reader sequential; a header is shorter
TRUST_AFTER_JUMP = 2 * MIB  # most particles, slices and tiles that are read in random order are shorter
LARGEST_LEARNT = 4 * MIB  # the longest reads after jumps that delay the trust in the next one
MAX_FREE_GAP = MIB  # the longest gap that may cost less to fetch than to skip
FREE_GAP_COST = 6  # such gaps are fetched for a reader that reads more than one byte in six
CAUTIOUS_AT_START = 3 * MIB // 2  # credit up to which the window is half of it; `head -c 1M` is shorter
CAUTIOUS_AFTER_JUMP = 6 * MIB  # the members of a tar, say, are shorter
SURE = 8 * MIB  # credit up to which the window grows by a byte for each byte: `file` reads the first 7 MiB of files
GROWTH = 4  # bytes of the window for each byte of credit beyond that: it fills a link of long latency
MAX_STREAMS = 16
REQUESTS_PER_WINDOW = 12  # one for each connection, and some that are complete or queued
MOST_REQUESTS = 32  # that fill the largest window: longer ones would wait for room in the queue of writes
PIECE = 128 * KIB  # the kernel's largest request; requests end at its multiples
MIN_REQUEST = 256 * KIB  # the latency of a shorter request outweighs its gain, once there is a choice
USUAL_REQUEST = MIB  # of a window of a few of them
TAPER = 8  # a request is at most this fraction of the rest of a file: all connections are busy to the end


@dataclass(frozen=True, slots=True)
class Stream:
    """One sequential stream of reads of a file.

    Attributes:
        start: the offset of its first read.
        position: one past the last byte that was read.
        ahead: one past the last byte that was prefetched; never below `position`.
        credit: the bytes that it has read, less what it has skipped for good costs.
        holes: skipped bytes that a reordered read may still fill.
        owed: what they will cost of the credit if none does.
        expected: where it ends if it is as long as previous ones; 0 if that is not known.
        on_disk: one past the last byte that is known to come from disk.
        window: how far to prefetch beyond `position` because of what was read; 0 until the stream is trusted.
        beyond: how far beyond `position` a demand request may reach that finds nothing prefetched.
    """

    start: int
    position: int
    ahead: int
    credit: int = 0
    holes: int = 0
    owed: int = 0
    expected: int = 0
    on_disk: int = 0
    window: int = 0
    beyond: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """The access pattern of one file.

    Attributes:
        streams: the most recently used first.
        lengths: the lengths of the last two streams that began with a jump and ended with another.
        stride: the pieces that are read, and how far apart they are; None before the first read.
    """

    streams: tuple[Stream, ...] = ()
    lengths: tuple[int, ...] = ()
    stride: Stride | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of prefetch.

    Attributes:
        most: the largest window, of all sequential streams together.
        shortest: the least bytes of a request, except at the end of the file or in a small window.
        longest: the most bytes of one.
        files: the number of files that are read sequentially: they share the window and the connections.
    """

    most: int
    shortest: int
    longest: int
    files: int = 1


def plan(reading: Reading, read: Span, length: int, limits: Limits) -> tuple[Reading, list[Span]]:
    """Return the access pattern after one read, and the spans to prefetch now, one for each request.

    Args:
        reading: the access pattern so far.
        read: the span that is read.
        length: the length of the file.
        limits: the limits of prefetch.
    """
    is_strided = reading.stride is not None and reading.stride.jumps >= strides.MIN_JUMPS
    # all connections together transfer more than that in a round trip; the next pieces of a stride are known
    free_gap = 0 if is_strided else min(2 * limits.shortest, MAX_FREE_GAP)
    stream = _continued(reading.streams, read, free_gap)
    stride = strides.advance(reading.stride, read, is_jump=stream is None)
    if stream is not None:
        lengths = reading.lengths
        others = [other for other in reading.streams if other is not stream]
        moved = _followed(stream, read, SURE + limits.most // GROWTH, free_gap)
        earned = _earned(moved, lengths)
    else:
        lengths = _lengths(reading)
        moved, others = _begun(reading.streams, read, lengths, length)
        earned = 0  # one read is no sequence
    streams = limits.files * (1 + sum(other.window > 0 and other.position < length for other in others))
    most = limits.most // streams
    window = min(earned, most)
    reach = max(window, min(moved.expected - moved.position, most))
    if window and moved.on_disk > moved.position:  # what is known to be on disk takes no request
        reach = max(reach, min(moved.on_disk + window - moved.position, most))
    share = _share(reach, limits, streams)
    ahead = _requests(moved, others, reach, length, share, max(1, TAPER // streams), limits.shortest)
    moved = Stream(  # not `replace`, which is slower: every read comes here
        moved.start,
        moved.position,
        ahead[-1].stop if ahead else max(moved.ahead, moved.position),
        moved.credit,
        moved.holes,
        moved.owed,
        moved.expected,
        moved.on_disk,
        window,
        max(window, min(share, reach)),
    )
    stride, pieces = strides.next_pieces(stride, length, limits.most // limits.files)
    return Reading((moved, *others), lengths, stride), ahead + pieces


def found_on_disk(reading: Reading, span: Span) -> Reading:
    """Return the access pattern after `span`, which was to be prefetched, was found on disk."""
    streams = [
        replace(stream, on_disk=max(stream.on_disk, span.stop))
        if span.start in range(stream.start, stream.ahead)
        else stream
        for stream in reading.streams
    ]
    return replace(reading, streams=tuple(streams))


def dropped(reading: Reading) -> Reading:
    """Return the access pattern after what was to be prefetched was dropped."""
    return Reading(
        tuple(replace(stream, ahead=stream.position) for stream in reading.streams),
        reading.lengths,
        reading.stride and replace(reading.stride, reached=reading.stride.jumps),
    )


def _continued(streams: Sequence[Stream], read: Span, free_gap: int) -> Stream | None:
    """Return the stream that `read` continues; None if it is a jump."""
    for stream in streams:
        free = free_gap + stream.credit // 8 if stream is streams[0] else 0  # others are read in random order
        position = stream.position
        least = position - (MAX_REORDER if stream.holes else MAX_BACKWARD_SEEK)
        most = max(
            position + max(MAX_FORWARD_SEEK, free),
            min(stream.ahead, position + MAX_REORDER),
        )
        if least <= read.start <= most:
            return stream
    return None


def _followed(stream: Stream, read: Span, most_credit: int, free_gap: int) -> Stream:
    """Return `stream` after `read`, which continues it."""
    position = max(stream.position, read.stop)
    fresh = position - max(stream.position, read.start)
    gap = max(0, read.start - stream.position)
    filled = min(max(0, min(read.stop, stream.position) - read.start), stream.holes)
    if read.stop <= stream.on_disk:  # what is read so fast says nothing about the need for what is not on disk
        most_credit = max(stream.credit, SURE)
    credit = stream.credit + fresh + filled
    holes, owed = stream.holes + gap, stream.owed + _cost(gap, free_gap)
    if filled:
        owed -= owed * filled // holes
        holes -= filled
    if holes > MAX_REORDER:  # the rest is skipped for good
        paid = owed * (holes - MAX_REORDER) // holes
        credit -= paid
        owed -= paid
        holes = MAX_REORDER
    return Stream(
        stream.start,
        position,
        stream.ahead,
        max(min(credit, most_credit), -TRUST_AFTER_JUMP),
        holes,
        owed,
        stream.expected,
        stream.on_disk,
    )


def _cost(gap: int, free_gap: int) -> int:
    """Return what it costs a stream to skip `gap` bytes, of its credit."""
    return min(gap, free_gap) // FREE_GAP_COST + 2 * max(0, gap - free_gap)


def _lengths(reading: Reading) -> tuple[int, ...]:
    """Return the lengths of the last two streams after a jump, when a new one begins."""
    if not reading.streams or not reading.streams[0].start:
        return reading.lengths
    last = reading.streams[0]
    return (
        max(0, min(last.credit - last.owed, last.position - last.start)),
        *reading.lengths[:1],
    )  # none if it has skipped


def _begun(
    streams: Sequence[Stream], read: Span, lengths: Sequence[int], length: int
) -> tuple[Stream, list[Stream]]:
    """Begin a stream; return it and the others.

    A reader that jumps into what another stream has prefetched goes on with it, and with the credit that is left.
    """
    usual = min(lengths) if len(lengths) > 1 else 0
    expected = min(read.start + usual, length) if max(lengths, default=0) <= 2 * usual else 0
    others = list(streams[: MAX_STREAMS - 1])
    for number, other in enumerate(others):
        if other.position < read.start <= other.ahead:
            others[number] = replace(other, ahead=read.start)
            credit = read.size + max(0, other.credit - other.owed - 2 * (read.start - other.position))
            ahead = max(other.ahead, read.stop)
            return Stream(read.start, read.stop, ahead, credit, 0, 0, expected, other.on_disk), others
    return Stream(read.start, read.stop, read.stop, read.size, expected=expected), others


def _earned(stream: Stream, lengths: Sequence[int]) -> int:
    """Return the window that `stream` has earned by what it has read.

    After a jump, a stream is trusted if it is longer than recent ones.
    """
    if stream.start:
        trust = max((TRUST_AFTER_JUMP, *(length for length in lengths if length <= LARGEST_LEARNT)))
        cautious = CAUTIOUS_AFTER_JUMP
    else:
        trust, cautious = TRUST_AT_START, CAUTIOUS_AT_START
    credit = stream.credit - stream.owed
    if credit <= trust:
        return 0
    return min(credit, cautious) // 2 + max(0, min(credit, SURE) - cautious) + GROWTH * max(0, credit - SURE)


def _share(reach: int, limits: Limits, streams: int) -> int:
    """Return the length of the requests that fetch the next `reach` bytes of one of `streams`."""
    fewest = MIN_REQUEST if reach >= 2 * MIN_REQUEST else PIECE
    share = max(reach // max(2, REQUESTS_PER_WINDOW // streams), min(reach // 4, USUAL_REQUEST), fewest)
    return min(share, limits.longest, max(limits.most // MOST_REQUESTS, fewest))


def _requests(
    stream: Stream, others: Sequence[Stream], reach: int, length: int, share: int, taper: int, shortest: int
) -> list[Span]:
    """Return the requests that reach so far beyond `stream`, shorter ones towards the end of the file."""
    position = stream.position
    # another reader prefetches for itself
    ends = [other.start for other in others if other.window and other.start >= position]
    end = min([length, *ends])
    stop = min(position + reach, end)
    requests = []
    at = max(stream.ahead, position)
    while at < stop:
        size = min(share, max((length - at) // taper, shortest))
        after = min((at + size) // PIECE * PIECE, end)
        if after > stop:
            if stop not in {end, stream.expected}:  # enough is in flight
                break
            after = stop
        requests.append(Span(at, after))
        at = after
    return requests
