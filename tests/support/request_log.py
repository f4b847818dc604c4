"""What a server was asked, counted: bytes, repeats, and whether all of it was needed."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from empiarfs.engine import blocks
from empiarfs.model import Span
from empiarfs.units import KIB
from support.apache import BASE, Apache, Request
from support.relay import Line, Relay

BLOCK = 128 * KIB  # as it comes
CALM_TRIES = 4
QUIET_SECONDS = 0.3  # in which nothing more is asked
LONGEST_QUIET = 20.0


@dataclass
class RequestLog:
    """An Apache behind a line that counts connections.

    Attributes:
        apache: what is asked.
        relay: the line.
    """

    apache: Apache
    relay: Relay

    @property
    def url(self) -> str:
        """The URL of the numbered entries, over the line."""
        return f"http://127.0.0.1:{self.relay.port}{BASE}"

    @property
    def connections(self) -> int:
        """The most that there were at once."""
        return self.relay.counts.highest

    def asked(self, path: str = "") -> list[Request]:
        """Return the requests since the last `forget`, once nothing more is asked ahead of the reader."""
        seen = -1
        end = time.monotonic() + LONGEST_QUIET
        while len(found := self.apache.requests()) > seen and time.monotonic() < end:
            seen = len(found)
            time.sleep(QUIET_SECONDS)
        return self.apache.requests(path=path)

    def forget(self) -> None:
        """Forget what was asked."""
        self.asked()
        self.apache.clear()


@contextmanager
def counted(apache: Apache, round_trip: float) -> Iterator[RequestLog]:
    """Put a line of this round trip, in seconds, before `apache`."""
    with closing(Relay(("127.0.0.1", apache.port), Line(round_trip=round_trip))) as relay:
        apache.clear()
        yield RequestLog(apache, relay)


def in_a_calm_moment(check: Callable[[], None]) -> None:
    """Check until it holds, a few times at most.

    Where the machine stands still for a quarter of a second a request counts as silent, and the mount asks twice,
    as it should. What asks twice without need does so each time.
    """
    for left in reversed(range(CALM_TRIES)):
        try:
            check()
        except AssertionError:
            if not left:
                raise
        else:
            return


def spans(requests: Sequence[Request], method: str) -> list[Span]:
    """Return what those of `requests` asked for that are of `method`, in the order of the file's bytes."""
    found = []
    for one in requests:
        if one.method != method:
            continue
        first, _, last = one.range.removeprefix("bytes=").partition("-")
        found.append(Span(int(first), int(last) + 1))
    return sorted(found, key=lambda span: span.start)


def bytes_of(found: Sequence[Span]) -> int:
    """Return how many bytes `found` are in all."""
    return sum(span.size for span in found)


def asked_twice(found: Sequence[Span]) -> list[tuple[Span, Span]]:
    """Return the neighbours among ordered `found` that share bytes."""
    return [(one, other) for one, other in itertools.pairwise(found) if other.start < one.stop]


def blocks_of(found: Sequence[Span]) -> set[int]:
    """Return the numbers of the blocks that `found` touch."""
    return {number for span in found for number in blocks.covering(span, BLOCK)}
