"""Reads under any access pattern return the right bytes, fetch none twice, and prefetch within a bound.

The bound is written here a second time, from the docstrings of the policies, and holds for any pattern.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.fakes import (
    SOON,
    BrokenStore,
    FakeClock,
    FakeListing,
    FakeOrigin,
    Made,
    QueuedTasks,
    at_once,
    single_flight,
)
from support.parts import Reading

from empiarfs.archive import LARGEST_READ
from empiarfs.engine import blocks, readahead
from empiarfs.engine.cache import Cache
from empiarfs.engine.listings import Listings
from empiarfs.engine.stride import MIN_JUMPS, Stride
from empiarfs.engine.tree import Tree
from empiarfs.model import Span
from empiarfs.storage.index import SqliteIndex
from empiarfs.units import KIB, MIB

PATH = "10028/a.mrc"
BLOCK = 128 * KIB
PIECE = 128 * KIB  # the kernel's largest request
MOST = 16 * MIB  # the largest window
SHORTEST, LONGEST = 256 * KIB, MIB
MEMORY = 512 * MIB  # more than any of these files: nothing leaves the cache
LEAST_MEMORY = MOST * 8 // 5  # with which `wire` allows such a window

slow_ones_too = settings(suppress_health_check=[HealthCheck.too_slow], max_examples=25)


class Rig:
    """An archive of one file over origins that record requests; the test runs the background tasks."""

    def __init__(self, tree: Tree, size: int, memory: int = MEMORY) -> None:
        self.content = Made(size)
        self.demand = FakeOrigin({PATH: self.content}, piece=MIB)
        self.ahead = FakeOrigin({PATH: self.content}, piece=MIB)
        self.file = self.demand.file(PATH)
        self.cache = Cache(memory, BrokenStore(), 8)
        self.tasks = QueuedTasks()
        self._seen = (0, 0)
        reading = Reading(self.demand, self.ahead, self.cache, block_bytes=BLOCK, longest_run=16 * MIB)
        self.archive = reading.archive(
            tree,
            self.tasks,
            lambda: self.cache.close(SOON),
            most_ahead=MOST,
            request_size_bounds=lambda: (SHORTEST, LONGEST),
            clock=FakeClock(),
        )

    def read(self, span: Span) -> None:
        """Read, and check the bytes."""
        found = self.archive.read(self.file, span.start, span.size)
        assert found == self.content.part(span.start, span.stop)

    def reading(self) -> readahead.Reading:
        """Return the access pattern of the file as the archive tracks it."""
        return self.archive._prefetcher._readings.get(self.file) or readahead.Reading()

    def run(self, count: int, chance: random.Random) -> None:
        """Run that many of the queued tasks, in any order."""
        for _ in range(min(count, len(self.tasks))):
            self.tasks.pop(chance.randrange(len(self.tasks)))()

    def news(self) -> list[Span]:
        """Return the requests since the last call."""
        spans = self.demand.fetches[self._seen[0] :] + self.ahead.fetches[self._seen[1] :]
        self._seen = len(self.demand.fetches), len(self.ahead.fetches)
        return spans

    def fetched(self) -> list[Span]:
        """Run all tasks, and return all requests in the order of the file's bytes."""
        self.run(len(self.tasks), random.Random(0))
        self.archive.close()
        return sorted(self.demand.fetches + self.ahead.fetches, key=lambda span: span.start)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Return an empty tree."""
    index = SqliteIndex(tmp_path_factory.mktemp("policies") / "tree.sqlite")
    origin = FakeOrigin({})
    listings = Listings(
        FakeListing({}), index, listing_ttl=1e9, clock=FakeClock(), background=lambda _: None, scans=single_flight()
    )
    yield Tree(listings, origin, origin, None, single_flight=single_flight())
    index.close()


@dataclass
class Promise:
    """The bytes that may be fetched for the reads so far: those that were read, and prefetch within these bounds.

    * After a jump nothing but what is read, until the reader has gone on for `TRUST_AFTER_JUMP` (at the start of
      the file for `TRUST_AT_START`), together with what is left of a stream that has prefetched the place.
    * From then on half of what was read, up to `CAUTIOUS_AFTER_JUMP` (at the start `CAUTIOUS_AT_START`), a byte
      more for each byte up to `SURE`, and `GROWTH` more for each byte beyond, never more than `most`.
    * If the last two streams were about as long as each other, the shorter of their lengths after a jump.
    * After `MIN_JUMPS` equal jumps, half as many further pieces as were read, as long as the last two at most.

    Attributes:
        length: the length of the file.
        allowed: the bytes that may be fetched.
        begun: the bytes that each stream began with, by its start.
    """

    length: int
    allowed: list[Span] = field(default_factory=list)
    begun: dict[int, int] = field(default_factory=dict)

    def take(self, read: Span, before: readahead.Reading, after: readahead.Reading) -> None:
        """Record one read, and the access patterns before and after it."""
        stream = after.streams[0]
        stop = read.stop
        if stream.start == read.start and all(one.start != read.start for one in before.streams):
            left = [self._read(one) for one in before.streams if one.position < read.start <= one.ahead]
            self.begun[read.start] = max(left, default=0)
        else:
            stop = max(stop, stream.position + self._ahead_of(stream))
        if len(after.lengths) > 1 and max(after.lengths) <= 2 * min(after.lengths):
            stop = max(stop, stream.start + min(after.lengths))
        self.allowed.append(Span(read.start, min(stop, self.length)))
        self.allowed += self._pieces(after.stride)

    def _pieces(self, stride: Stride | None) -> list[Span]:
        """Return the pieces that may be prefetched."""
        if stride is None or stride.jumps < MIN_JUMPS:
            return []
        step = (stride.start - stride.first) / stride.jumps
        starts = [stride.start + round(step * number) for number in range(1, stride.pieces // 2 + 1)]
        spans = [Span(start - 1, start + 1 + max(stride.lengths)) for start in starts]
        return [Span(span.start, min(span.stop, self.length)) for span in spans if span.start < self.length]

    def _read(self, stream: readahead.Stream) -> int:
        return self.begun.get(stream.start, 0) + stream.position - stream.start

    def _ahead_of(self, stream: readahead.Stream) -> int:
        """Return how far beyond a stream may be prefetched."""
        taken = self._read(stream)
        if taken < (readahead.TRUST_AFTER_JUMP if stream.start else readahead.TRUST_AT_START):
            return 0
        cautious = readahead.CAUTIOUS_AFTER_JUMP if stream.start else readahead.CAUTIOUS_AT_START
        half = min(taken, cautious) // 2
        whole = max(0, min(taken, readahead.SURE) - cautious)
        return min(MOST, half + whole + readahead.GROWTH * max(0, taken - readahead.SURE))

    def blocks(self) -> set[int]:
        """Return the blocks that contain the allowed bytes."""
        return {number for span in self.allowed for number in blocks.covering(span, BLOCK)}


def numbers_of(spans: Sequence[Span]) -> list[int]:
    """Return the number of each block of each of `spans`, with repetitions."""
    return [number for span in spans for number in blocks.covering(span, BLOCK)]


def check_in_the_file(fetched: Sequence[Span], length: int) -> None:
    """Check that only whole blocks of the file were fetched, none of them twice."""
    for span in fetched:
        assert 0 <= span.start < span.stop <= length
        assert span.start % BLOCK == 0
        assert span.stop % BLOCK == 0 or span.stop == length
    assert all(one.stop <= other.start for one, other in itertools.pairwise(fetched))


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["on", "on", "on", "on", "jump", "skip", "back", "start"]),
        st.integers(0, 1000),  # of a thousand: how far
        st.sampled_from([1, 4 * KIB, 64 * KIB, PIECE, PIECE, 256 * KIB, MIB, 5 * MIB]),
        st.integers(0, 3),  # tasks run after it
    ),
    min_size=1,
    max_size=60,
)


def reads_of(moves: Sequence[tuple[str, int, int, int]], length: int) -> Iterator[tuple[Span, int]]:
    """Yield the reads of `moves`, and how many tasks run after each."""
    place = 0
    for move, far, size, tasks in moves:
        match move:
            case "jump":
                place = far * length // 1000
            case "skip":
                place += far * 2 * readahead.MAX_FORWARD_SEEK // 1000
            case "back":
                place -= far * 2 * readahead.MAX_BACKWARD_SEEK // 1000
            case "start":
                place = 0
        place = min(max(place, 0), length)
        yield Span(place, min(place + size, length)), tasks
        place = min(place + size, length)


@slow_ones_too
@given(moves=MOVES, length=st.integers(1, 64 * MIB), chance=st.randoms(use_true_random=False))
@example(moves=[("on", 0, PIECE, 3)] * 60, length=64 * MIB, chance=random.Random(1))
@example(
    moves=[
        ("jump", 100, PIECE, 0),
        ("on", 0, PIECE, 0),
        ("jump", 300, PIECE, 0),
        ("on", 0, 2 * PIECE, 0),
        ("jump", 500, 1, 3),
        ("jump", 700, 1, 3),
    ],
    length=64 * MIB,
    chance=random.Random(1),
)
@example(moves=[("jump", 100, MIB, 1)] + [("on", 0, MIB, 1)] * 20, length=64 * MIB, chance=random.Random(1))
def test_whatever_is_read_no_more_is_fetched_than_promised(
    tree: Tree, moves: list[tuple[str, int, int, int]], length: int, chance: random.Random
) -> None:
    """Any reads, with tasks in any order, return the file's bytes and fetch each block once, within the bound."""
    rig = Rig(tree, length)
    promise = Promise(length)
    for read, tasks in reads_of(moves, length):
        for part in blocks.cut(read, LARGEST_READ):  # a longer read is split into sequential ones
            before = rig.reading()
            rig.read(part)
            promise.take(part, before, rig.reading())
        rig.run(tasks, chance)
        assert set(numbers_of(rig.news())) <= promise.blocks()  # checked now: later reads allow more
    check_in_the_file(rig.fetched(), length)


@slow_ones_too
@given(
    length=st.integers(1, 64 * MIB),
    size=st.sampled_from([4 * KIB, 100_000, PIECE, MIB, 8 * MIB]),
    late=st.integers(0, 4),
    chance=st.randoms(use_true_random=False),
)
def test_a_sequential_file_is_fetched_once(
    tree: Tree, length: int, size: int, late: int, chance: random.Random
) -> None:
    """In reads of any size, with prefetch in any order, each block is fetched once and stays until it is read."""
    rig = Rig(tree, length, LEAST_MEMORY)
    for part in blocks.cut(Span(0, length), max(size, length // 500)):
        rig.read(part)
        rig.run(chance.randint(0, 4) if late else len(rig.tasks), chance)
    fetched = rig.fetched()
    check_in_the_file(fetched, length)
    assert sum(span.size for span in fetched) == length


@slow_ones_too
@given(
    places=st.lists(
        st.tuples(st.integers(0, 255), st.integers(0, 1023)), min_size=1, max_size=40, unique_by=lambda p: p[0]
    ),
    size=st.integers(1, 16),
    chance=st.randoms(use_true_random=False),
)
def test_a_random_read_costs_its_blocks_and_one_more(
    tree: Tree, places: list[tuple[int, int]], size: int, chance: random.Random
) -> None:
    """Distant reads of one length, split and reordered as by the kernel, fetch at most one more block each."""
    far = 8 * MIB
    rig = Rig(tree, 256 * far)
    needed = 0
    for number, page in places:
        start = number * far + page * 4 * KIB
        read = Span(start, start + size * 64 * KIB)
        parts = blocks.cut(read, PIECE)
        for at in range(0, len(parts) - 1, 2):
            if chance.random() < 0.3:
                parts[at], parts[at + 1] = parts[at + 1], parts[at]
        for part in parts:
            rig.read(part)
            rig.run(chance.randint(0, 2), chance)
        needed += len(blocks.covering(read, BLOCK))
    fetched = rig.fetched()
    check_in_the_file(fetched, rig.file.size)
    assert len(numbers_of(fetched)) <= needed + len(places)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_many_threads_fetch_nothing_twice(tree: Tree, seed: int) -> None:
    """Threads that read one file at several positions, and run prefetch, fetch each block once."""
    rig = Rig(tree, 24 * MIB)
    chance = random.Random(seed)

    def in_line(start: int) -> None:
        for part in blocks.cut(Span(start, start + 4 * MIB), PIECE):
            rig.read(part)
            with suppress(IndexError):  # no task is queued, or another thread took it
                rig.tasks.pop(0)()

    starts = [chance.randrange(0, 20 * 16) * 64 * KIB for _ in range(6)]
    assert at_once([partial(in_line, start) for start in starts]) == [None] * 6
    check_in_the_file(rig.fetched(), rig.file.size)


def test_a_storm_on_one_cold_block_is_one_request(tree: Tree) -> None:
    """64 threads that read one block at once send one request, after a jump and at the start."""
    for start in (0, 50 * MIB):
        rig = Rig(tree, 64 * MIB)
        assert at_once([partial(rig.read, Span(start, start + 1000))] * 64) == [None] * 64
        assert rig.fetched() == [Span(start, start + BLOCK)]
