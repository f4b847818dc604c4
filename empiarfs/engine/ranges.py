"""Reads of many ranges of a file: planned together, then fetched in parallel."""

import bisect
from collections.abc import Callable, Sequence
from functools import partial

from empiarfs.engine import blocks
from empiarfs.model import Span
from empiarfs.units import KIB, MIB

LARGEST_GAP = 128 * KIB  # a gap between two ranges that is cheaper to fetch than a second request
LONGEST_RUN = 4 * MIB  # of ranges that are fetched together; longer runs would leave connections idle


def read_ranges(
    spans: Sequence[Span],
    read: Callable[[Span], bytes],
    run_all: Callable[[Sequence[Callable[[], bytes]]], list[bytes]],
) -> list[bytes]:
    """Read each of `spans`; return their bytes in the same order.

    Args:
        spans: the spans, in any order; they may overlap.
        read: returns the bytes of one span.
        run_all: runs calls in parallel; returns what they return, in their order.
    """
    runs = blocks.coalesced(spans, LARGEST_GAP, LONGEST_RUN)
    read_runs = run_all([partial(read, run) for run in runs])
    starts = [run.start for run in runs]
    parts = []
    for span in spans:
        if span.size <= 0:
            parts.append(b"")
            continue
        at = bisect.bisect_right(starts, span.start) - 1  # the last run that begins at or before it holds it
        first = span.start - runs[at].start
        parts.append(read_runs[at][first : first + span.size])
    return parts
