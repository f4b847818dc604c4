"""Plans prefetch within one file; pure: from reads to spans.

A file is read by several streams at once: RELION opens a movie once for each frame, and the kernel passes
neighbouring reads out of order to several threads. A stream is a position where sequential reading continues. After
a jump nothing is prefetched until the reader has read sequentially for longer than random readers do; then the
window grows as long as the reader follows. If each of several jumps is followed by a read of the same length, that
length is fetched at once.
"""

from dataclasses import dataclass

from empiarfs.engine import blocks
from empiarfs.model import Span
from empiarfs.units import KIB, MIB

MAX_BACKWARD_SEEK = 512 * KIB  # how far behind the newest read of a stream a reordered one may lie
MAX_FORWARD_SEEK = 512 * KIB  # a gap that is cheaper to fetch than a second request
TRUST_AT_START = 192 * KIB  # bytes from the start of a file that make a reader sequential; a header is shorter
TRUST_AFTER_JUMP = 2 * MIB  # most particles, slices and tiles that are read in random order are shorter
LARGEST_LEARNT = 4 * MIB
MAX_STREAMS = 16
REQUESTS_PER_WINDOW = 12  # one for each connection, and some that are complete or queued
MIN_REQUEST = 256 * KIB  # the latency of a shorter request outweighs its gain
TAPER = 8  # a request is at most this fraction of the rest of a file: all connections are busy to the end
GROWTH = 4  # factor of a window when its reader has passed a quarter of it: three steps fill a long-latency link


@dataclass(frozen=True, slots=True)
class Stream:
    """One sequential stream of reads of a file.

    Attributes:
        start: the offset of its first read.
        position: one past the last byte that was read.
        ahead: one past the last byte that was prefetched; never below `position`.
        window: how far to prefetch; 0 until the stream is trusted.
        last_growth: the position when the window last grew.
    """

    start: int
    position: int
    ahead: int
    window: int = 0
    last_growth: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """The access pattern of one file.

    Attributes:
        streams: the most recently used first.
        lengths: the lengths of the last two streams that began with a jump and ended with another.
    """

    streams: tuple[Stream, ...] = ()
    lengths: tuple[int, ...] = ()


def plan(
    reading: Reading, read: Span, length: int, *, most: int, shortest: int, longest: int
) -> tuple[Reading, list[Span]]:
    """Return the access pattern after one read, and the spans to prefetch now, one for each request.

    Args:
        reading: the access pattern so far.
        read: the span that is read.
        length: the length of the file.
        most: the largest window.
        shortest: the least bytes of a prefetch request, except at the end of the file.
        longest: the most bytes of one.
    """
    for stream in reading.streams:
        if (
            stream.position - MAX_BACKWARD_SEEK
            <= read.start
            <= max(stream.position, stream.ahead) + MAX_FORWARD_SEEK
        ):
            others = tuple(other for other in reading.streams if other is not stream)
            # streams share the memory, but those at the end of the file need none
            most //= 1 + sum(other.window > 0 and other.position < length for other in others)
            trust = _trust(stream, reading.lengths)
            moved, ahead = _followed(stream, read, length, most, range(shortest, longest), trust)
            return Reading((moved, *others), reading.lengths), ahead
    return _jumped(reading, read, length)


def _trust(stream: Stream, lengths: tuple[int, ...]) -> int:
    """Return how many bytes make `stream` sequential; after a jump, more than recent jumps read."""
    if not stream.start:
        return TRUST_AT_START
    return max((TRUST_AFTER_JUMP, *(length for length in lengths if length <= LARGEST_LEARNT)))


def _followed(
    stream: Stream, read: Span, length: int, most: int, shares: range, trust: int
) -> tuple[Stream, list[Span]]:
    """Return `stream` after `read`, and the requests that fill its window once it is trusted."""
    position = max(stream.position, read.stop)
    start = max(stream.ahead, position)
    window, grown = stream.window, stream.last_growth
    gone = position - stream.start
    if not window and gone > trust:
        full = REQUESTS_PER_WINDOW * shares.start
        window, grown = min(full if not stream.start else gone, full, most), position
    elif window and position - grown >= window // 4:
        window, grown = min(GROWTH * window, most), position
    stop = max(start, min(position + window, length))
    share = min(max(window // REQUESTS_PER_WINDOW, MIN_REQUEST), shares.stop)
    ahead = _requests(Span(start, stop), length, share, shares.start)
    return Stream(stream.start, position, ahead[-1].stop if ahead else start, window, grown), ahead


def _requests(span: Span, length: int, share: int, shortest: int) -> list[Span]:
    """Cut `span` into requests, shorter ones towards the end of the file."""
    requests = []
    at = span.start
    while at < span.stop:
        size = min(share, max((length - at) // TAPER, shortest))
        if at + size > span.stop != length:  # enough is in flight
            break
        requests.append(Span(at, min(at + size, span.stop)))
        at += size
    return requests


def _jumped(reading: Reading, read: Span, length: int) -> tuple[Reading, list[Span]]:
    """Begin a stream; the lengths of previous streams predict how much is read after a jump."""
    lengths = reading.lengths
    if reading.streams and reading.streams[0].start:
        last = reading.streams[0]
        lengths = (last.position - last.start, *lengths[:1])
    usual = min(lengths) if len(lengths) > 1 else 0
    stop = read.stop
    if 0 < usual <= LARGEST_LEARNT and max(lengths) <= 2 * usual:
        stop = max(read.stop, min(read.start + usual, length))
    begun = Stream(read.start, read.stop, stop)
    ahead = blocks.cut(Span(read.stop, stop), MIN_REQUEST)
    return Reading((begun, *reading.streams[: MAX_STREAMS - 1]), lengths), ahead
