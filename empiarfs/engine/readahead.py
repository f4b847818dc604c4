"""What to fetch before it is asked for; pure: reads in, spans out.

A file is read by several streams at once: RELION opens one movie once a frame, and the kernel hands neighbouring
reads out of order to several threads. A stream is a place where reading goes on. It earns its window: after a jump
nothing is fetched ahead until the reader has gone on in line for longer than random readers do; then the window
grows while he follows. Where he jumps again and again and takes the same length each time, that length is fetched
at once.
"""

from dataclasses import dataclass

from empiarfs.engine import blocks
from empiarfs.model import Span
from empiarfs.units import KIB, MIB

MAX_BACKWARD_SEEK = 512 * KIB  # how far behind the newest read of a stream a late one may lie
MAX_FORWARD_SEEK = 512 * KIB  # a gap that is cheaper to fetch than to ask anew
TRUST_AT_START = 192 * KIB  # a reader who begins at 0 and asks twice reads the file; a header is shorter
TRUST_AFTER_JUMP = 2 * MIB  # most particles, slices and tiles that are read in random order are shorter
LARGEST_LEARNT = 4 * MIB
MAX_STREAMS = 16
REQUESTS_PER_WINDOW = 12  # requests of which a window is made: one for each line, and some that have landed or wait
MIN_REQUEST = 256 * KIB  # a shorter request costs more in waiting than it gains
TAPER = 8  # of what is left of a file, the part that one request brings: all lines are busy to the last
GROWTH = 4  # of a window, each time its reader has taken a quarter of it: a long line is full after three steps


@dataclass(frozen=True, slots=True)
class Stream:
    """One place where a file is read in line.

    Attributes:
        start: where it began.
        position: one past the newest byte that was read.
        ahead: one past the last byte that was asked for ahead of the reader; never below `position`.
        window: how far ahead to be; 0 until the stream is trusted.
        last_growth: where the reader was when the window last grew.
    """

    start: int
    position: int
    ahead: int
    window: int = 0
    last_growth: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """How one file is read.

    Attributes:
        streams: the one used last stands first.
        lengths: how far the last two streams that ended after a jump had gone.
    """

    streams: tuple[Stream, ...] = ()
    lengths: tuple[int, ...] = ()


def plan(
    reading: Reading, read: Span, length: int, *, most: int, shortest: int, longest: int
) -> tuple[Reading, list[Span]]:
    """Take one read in; give how the file is read after it, and what to fetch ahead now, a request each.

    Args:
        reading: how the file was read so far.
        read: the bytes just asked for.
        length: the length of the file.
        most: the largest window.
        shortest: the shortest request ahead of one who reads in line, where the file goes on for as long.
        longest: the longest one.
    """
    for stream in reading.streams:
        if (
            stream.position - MAX_BACKWARD_SEEK
            <= read.start
            <= max(stream.position, stream.ahead) + MAX_FORWARD_SEEK
        ):
            others = tuple(other for other in reading.streams if other is not stream)
            most //= 1 + sum(bool(other.window) for other in others)  # they share what memory can carry
            trust = _trust(stream, reading.lengths)
            moved, ahead = _followed(stream, read, length, most, range(shortest, longest), trust)
            return Reading((moved, *others), reading.lengths), ahead
    return _jumped(reading, read, length)


def _trust(stream: Stream, lengths: tuple[int, ...]) -> int:
    """Return how far a reader goes before he is taken for one who goes on; after a jump farther than of late."""
    if not stream.start:
        return TRUST_AT_START
    return max((TRUST_AFTER_JUMP, *(length for length in lengths if length <= LARGEST_LEARNT)))


def _followed(
    stream: Stream, read: Span, length: int, most: int, shares: range, trust: int
) -> tuple[Stream, list[Span]]:
    """Go on with a stream. Once it is trusted, keep its window full, share by share, and let it grow."""
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
        if at + size > span.stop != length:  # enough is under way
            break
        requests.append(Span(at, min(at + size, span.stop)))
        at += size
    return requests


def _jumped(reading: Reading, read: Span, length: int) -> tuple[Reading, list[Span]]:
    """Begin a stream; the one before has told how far this reader goes after a jump."""
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
