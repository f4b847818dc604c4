"""What to fetch before it is asked for; pure: reads in, spans out.

A file is read by several streams at once: RELION opens one movie once a frame, and the kernel hands neighbouring
reads out of order to several threads. A stream is a place where reading goes on. It earns its window: nothing is
fetched ahead of the first read after a jump, and the window doubles while the reader follows.
"""

from dataclasses import dataclass

from empiarfs.model import Span
from empiarfs.settings import KIB, MIB

FIRST_WINDOW = MIB
BACK = 512 * KIB  # how far behind the newest read of a stream a late one may lie
SKIP = 512 * KIB  # a gap that is cheaper to fetch than to ask anew
TRUST = 384 * KIB  # bytes read in line before anything is fetched ahead: an mmap fault reads around 3 x 128 KiB
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


Streams = tuple[Stream, ...]  # the one used last stands first


def advanced(streams: Streams, read: Span, length: int, most: int) -> tuple[Streams, Span]:
    """Take one read in; give the streams after it, and what to fetch ahead now (often nothing).

    Args:
        streams: the streams of this file.
        read: the bytes just asked for.
        length: the length of the file.
        most: the largest window.
    """
    nothing = Span(read.stop, read.stop)
    for stream in streams:
        if stream.position - BACK <= read.start <= max(stream.position, stream.ahead) + SKIP:
            others = tuple(other for other in streams if other is not stream)
            position = max(stream.position, read.stop)
            if position - stream.begun < TRUST or position == stream.position:
                moved = Stream(stream.begun, position, max(stream.ahead, position), stream.window)
                return (moved, *others), nothing
            window = stream.window or min(FIRST_WINDOW, most)
            start = max(stream.ahead, position)
            if start - position > window // 2:  # enough is under way
                return (Stream(stream.begun, position, start, window), *others), nothing
            stop = min(position + window, length)
            grown = Stream(stream.begun, position, max(stop, start), min(2 * window, most))
            return (grown, *others), Span(start, max(stop, start))
    begun = Stream(read.start, read.stop, read.stop)
    return (begun, *streams[: MOST_STREAMS - 1]), nothing
