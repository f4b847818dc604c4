"""What to fetch before it is asked for; pure: reads in, spans out.

A file is read by several streams at once: RELION opens one movie once a frame, and the kernel hands neighbouring
reads out of order to several threads. A stream is a place where reading goes on. It earns its window: after a jump
nothing is fetched ahead until the reader has gone on in line for longer than random readers do; then the window
doubles while he follows. Where he jumps again and again and takes the same length each time, that length is fetched
at once.
"""

from dataclasses import dataclass

from empiarfs.model import Span
from empiarfs.settings import KIB, MIB

FIRST_WINDOW = MIB
BACK = 512 * KIB  # how far behind the newest read of a stream a late one may lie
SKIP = 512 * KIB  # a gap that is cheaper to fetch than to ask anew
TRUST_AT_START = 192 * KIB  # a reader who begins at 0 and asks twice reads the file; a header is shorter
TRUST_AFTER_JUMP = 2 * MIB  # particles, slices and tiles that are read in random order are shorter
LARGEST_LEARNT = 4 * MIB
MOST_STREAMS = 16


@dataclass(frozen=True, slots=True)
class Stream:
    """One place where a file is read in line.

    Attributes:
        begun: where it began.
        position: one past the newest byte that was read.
        ahead: one past the last byte that was asked for ahead of the reader; never below `position`.
        window: how far ahead the next asking goes; 0 until the stream is trusted.
    """

    begun: int
    position: int
    ahead: int
    window: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """How one file is read.

    Attributes:
        streams: the one used last stands first.
        lengths: how far the last two streams that ended after a jump had gone.
    """

    streams: tuple[Stream, ...] = ()
    lengths: tuple[int, ...] = ()


def advanced(reading: Reading, read: Span, length: int, most: int) -> tuple[Reading, Span]:
    """Take one read in; give how the file is read after it, and what to fetch ahead now (often nothing).

    Args:
        reading: how the file was read so far.
        read: the bytes just asked for.
        length: the length of the file.
        most: the largest window.
    """
    for stream in reading.streams:
        if stream.position - BACK <= read.start <= max(stream.position, stream.ahead) + SKIP:
            others = tuple(other for other in reading.streams if other is not stream)
            moved, ahead = _followed(stream, read, length, most)
            return Reading((moved, *others), reading.lengths), ahead
    return _jumped(reading, read, length)


def _followed(stream: Stream, read: Span, length: int, most: int) -> tuple[Stream, Span]:
    """Go on with a stream; fetch ahead once it is trusted and half of what was fetched is used."""
    position = max(stream.position, read.stop)
    start = max(stream.ahead, position)
    waits = Stream(stream.begun, position, start, stream.window), Span(start, start)
    trust = TRUST_AFTER_JUMP if stream.begun else TRUST_AT_START
    if position - stream.begun < trust or position == stream.position:
        return waits
    window = stream.window or min(FIRST_WINDOW, most)
    stop = min(position + window, length)
    if start - position > window // 2 or stop <= start:  # enough is under way, or all of it
        return waits
    return Stream(stream.begun, position, stop, min(2 * window, most)), Span(start, stop)


def _jumped(reading: Reading, read: Span, length: int) -> tuple[Reading, Span]:
    """Begin a stream; the one before has told how far this reader goes after a jump."""
    lengths = reading.lengths
    if reading.streams and reading.streams[0].begun:
        last = reading.streams[0]
        lengths = (last.position - last.begun, *lengths[:1])
    usual = min(lengths) if len(lengths) > 1 else 0
    stop = read.stop
    if 0 < usual <= LARGEST_LEARNT and max(lengths) <= 2 * usual:
        stop = max(read.stop, min(read.start + usual, length))
    begun = Stream(read.start, read.stop, stop)
    return Reading((begun, *reading.streams[: MOST_STREAMS - 1]), lengths), Span(read.stop, stop)
