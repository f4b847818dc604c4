"""Prefetch is earned by sequential reads, bounded, and never repeated or outside the file."""

import itertools
import random
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empiarfs.engine import readahead
from empiarfs.model import Span
from empiarfs.units import KIB, MIB

PAGE = 4 * KIB
PIECE = 128 * KIB  # the kernel's largest request
MOST = 64 * MIB
SHORTEST = 256 * KIB
LONGEST = 2 * MIB
LENGTH = 4096 * MIB


def fed(
    reads: Iterable[Span],
    *,
    length: int = LENGTH,
    most: int = MOST,
    longest: int = LONGEST,
    reading: readahead.Reading = readahead.Reading(),  # noqa: B008 - a value
) -> tuple[list[list[Span]], readahead.Reading]:
    """Return the prefetch after each of `reads`, which may be empty, and the access pattern at the end."""
    ahead = []
    for read in reads:
        reading, spans = readahead.plan(reading, read, length, readahead.Limits(most, SHORTEST, longest))
        ahead.append(spans)
    return ahead, reading


def flat(ahead: Iterable[list[Span]]) -> list[Span]:
    """Return all spans of `ahead`."""
    return [span for spans in ahead for span in spans]


def pieces(start: int, stop: int, size: int = PIECE) -> list[Span]:
    """Return sequential reads from `start` to `stop`."""
    return [Span(at, min(at + size, stop)) for at in range(start, stop, size)]


def total(spans: Iterable[Span]) -> int:
    """Return the number of bytes of `spans`."""
    return sum(span.size for span in spans)


def overlap(spans: Iterable[Span]) -> list[tuple[Span, Span]]:
    """Return the pairs of `spans` that share a byte."""
    ordered = sorted((span for span in spans if span.size), key=lambda span: span.start)
    return [(a, b) for a, b in itertools.pairwise(ordered) if b.start < a.stop]


def test_sequential_reads_are_prefetched() -> None:
    """After the first reads all following bytes are prefetched before they are read."""
    reads = pieces(0, 64 * MIB)
    ahead, _ = fed(reads)
    fetched = 0
    for read, spans in zip(reads, ahead, strict=True):
        assert read.start < 2 * MIB or read.stop <= fetched
        fetched = max([fetched, *(span.stop for span in spans)])


def test_the_window_grows_with_sequential_reads() -> None:
    """The distance between the reader and the prefetched bytes grows, and more than doubles."""
    reads = pieces(0, 128 * MIB)
    ahead, _ = fed(reads)
    distances = [spans[-1].stop - read.stop for read, spans in zip(reads, ahead, strict=True) if spans]
    assert max(distances[: len(distances) // 2]) <= max(distances)
    assert max(distances) > 8 * distances[0]


@pytest.mark.parametrize("most", [MIB // 2, MIB, 3 * MIB, 64 * MIB])
def test_the_window_is_bounded(most: int) -> None:
    """Prefetch never goes further than `most` bytes ahead of the reader."""
    reads = pieces(0, 256 * MIB)
    ahead, _ = fed(reads, most=most)
    assert 0 < max(spans[-1].stop - read.stop for read, spans in zip(reads, ahead, strict=True) if spans) <= most


def test_a_first_read_prefetches_nothing() -> None:
    """One read is no stream: a header is read without the movie behind it."""
    assert flat(fed([Span(0, PIECE)])[0]) == []
    assert flat(fed([Span(5 * MIB, 5 * MIB + 1024)])[0]) == []


@given(st.integers(0, 2**32))
def test_random_reads_prefetch_nothing(seed: int) -> None:
    """Distant random reads of a large file fetch exactly what is read."""
    places = random.Random(seed)
    starts = places.sample(range(LENGTH // (8 * MIB)), 40)
    ahead, _ = fed(Span(start * 8 * MIB, start * 8 * MIB + 256 * KIB) for start in starts)
    assert flat(ahead) == []


def test_a_jump_prefetches_nothing() -> None:
    """A sequential reader that jumps has to earn its window again."""
    _, reading = fed(pieces(0, 32 * MIB))
    ahead, _ = fed([Span(3000 * MIB, 3000 * MIB + PIECE)], reading=reading)
    assert flat(ahead) == []


def swapped(reads: list[Span], chance: random.Random) -> list[Span]:
    """Return `reads` with some neighbours in reverse order, as the kernel passes them to several threads."""
    reads = list(reads)
    for index in range(0, len(reads) - 1, 2):
        if chance.random() < 0.5:
            reads[index], reads[index + 1] = reads[index + 1], reads[index]
    return reads


@given(st.integers(0, 2**32))
def test_reads_slightly_out_of_order_are_one_stream(seed: int) -> None:
    """Reordered reads of the kernel are prefetched like sequential ones."""
    ahead, reading = fed(swapped(pieces(0, 32 * MIB), random.Random(seed)))
    assert len(reading.streams) == 1
    assert not overlap(flat(ahead))
    assert max(span.stop for span in flat(ahead)) >= 32 * MIB


@given(st.integers(0, 2**32))
def test_reads_slightly_out_of_order_earn_as_much(seed: int) -> None:
    """Reordered reads of the kernel skip nothing: their window grows like that of reads in order."""
    reads = pieces(0, 12 * MIB)
    in_order = fed(reads)[1].streams[0]
    reordered = fed(reads[:2] + swapped(reads[2:], random.Random(seed)))[1].streams[0]
    assert (reordered.credit, reordered.holes) == (in_order.credit, 0)


@pytest.mark.parametrize("burst", [8, 16, 32])
def test_reads_that_many_threads_reorder_are_prefetched(burst: int) -> None:
    """Where the kernel reads several MiB ahead in parallel, nearly all reads still find what was prefetched."""
    chance, reads = random.Random(3), pieces(0, 400 * MIB)
    reordered = []
    for first in range(0, len(reads), burst):
        late = [(number + 8 * chance.random(), read) for number, read in enumerate(reads[first : first + burst])]
        reordered += [read for _, read in sorted(late, key=lambda one: one[0])]
    ahead, _ = fed(reordered, most=160 * MIB, longest=16 * MIB)
    prefetched: set[int] = set()
    found = 0
    for read, spans in zip(reordered, ahead, strict=True):
        found += pages([read]) <= prefetched
        prefetched |= pages(spans)
    assert found >= 0.99 * len(reads)


def test_two_interleaved_streams_are_both_prefetched() -> None:
    """Two threads at two positions of one file get a window each, and share the size of one."""
    one, two = pieces(512 * MIB, 544 * MIB), pieces(1024 * MIB, 1056 * MIB)
    both = [read for pair in zip(one, two, strict=True) for read in pair]
    ahead, _ = fed(both)
    low = [span for span in flat(ahead) if span.start < 1024 * MIB]
    high = [span for span in flat(ahead) if span.start >= 1024 * MIB]
    assert [span.stop - span.start for span in low] == [span.stop - span.start for span in high]
    assert 31 * MIB < total(low) <= 32 * MIB + MOST // 2  # half a window each
    assert not overlap(flat(ahead))


def test_eight_streams_of_one_file_are_all_prefetched() -> None:
    """Each of eight threads that read their own frames of one movie gets a window."""
    lines = [pieces(number * 256 * MIB, number * 256 * MIB + 16 * MIB) for number in range(8)]
    ahead, _ = fed(read for turn in zip(*lines, strict=True) for read in turn)
    for number in range(8):
        mine = [span for span in flat(ahead) if span.start // (256 * MIB) == number]
        assert total(mine) > 8 * MIB


def test_a_constant_length_after_jumps_is_learnt() -> None:
    """A reader of slices of one length in random order gets each whole with its first read, and no more."""
    slices = [(number * 397 % 100) * 32 * MIB for number in range(12)]
    reading = readahead.Reading()
    for number, begin in enumerate(slices):
        ahead, reading = fed(pieces(begin, begin + MIB), reading=reading)
        if number >= 4:
            assert flat(ahead) == ahead[0]
            assert (ahead[0][0].start, ahead[0][-1].stop) == (begin + PIECE, begin + MIB)
            assert total(ahead[0]) == MIB - PIECE


def test_a_demand_request_reaches_no_further_than_what_is_planned() -> None:
    """A demand request may fetch a part of a learnt length, all of an earned window, and nothing else."""
    reading = readahead.Reading()
    for number, begin in enumerate([5, 90, 30, 70]):
        _, reading = fed([Span(begin * 32 * MIB, begin * 32 * MIB + PIECE)], reading=reading)
        assert 0 <= reading.streams[0].beyond <= (MIB - PIECE) / 2
        assert bool(reading.streams[0].beyond) == (number >= 2)
        _, reading = fed(pieces(begin * 32 * MIB + PIECE, begin * 32 * MIB + MIB), reading=reading)
        assert reading.streams[0].beyond == 0
    _, reading = fed(pieces(0, 16 * MIB))
    assert reading.streams[0].beyond == reading.streams[0].window > 0


def test_lengths_that_differ_are_not_learnt() -> None:
    """Reads of different lengths after jumps fetch only what is read."""
    reading = readahead.Reading()
    for number, size in enumerate([4 * PIECE, 12 * PIECE] * 6):
        begin = (number + 1) ** 2 * 8 * MIB
        spans, reading = fed(pieces(begin, begin + size), reading=reading)
        assert flat(spans) == []


def test_the_number_of_streams_is_bounded() -> None:
    """A reader that jumps without end leaves a bounded number of streams."""
    _, reading = fed(Span(at, at + PIECE) for at in range(0, LENGTH, 8 * MIB))
    assert len(reading.streams) <= 64


READS = st.lists(
    st.tuples(st.integers(0, 64), st.integers(-1024, 1024), st.integers(1, 1024)), min_size=1, max_size=60
)


@given(reads=READS, length=st.integers(1, 70 * MIB), most=st.integers(4 * MIB, 32 * MIB))
def test_nothing_outside_the_file_or_beyond_the_window_is_fetched(
    reads: list[tuple[int, int, int]], length: int, most: int
) -> None:
    """Every prefetched span lies in the file, behind the read, and within the largest window."""
    reading = readahead.Reading()
    for place, shift, size in reads:
        start = min(max(0, place * MIB + shift * KIB), length - 1)
        read = Span(start, min(start + size * KIB, length))
        reading, ahead = readahead.plan(reading, read, length, readahead.Limits(most, SHORTEST, LONGEST))
        for span in ahead:
            assert read.stop <= span.start < span.stop <= length
            assert span.stop <= max(stream.position for stream in reading.streams) + most
            assert span.size <= LONGEST


STEPS = st.lists(st.tuples(st.integers(-2, 2), st.integers(1, 4)), min_size=1, max_size=200)


@given(steps=STEPS, length=st.integers(1, 40 * MIB), most=st.integers(64 * KIB, 8 * MIB))
def test_nothing_is_fetched_twice_in_one_stream(steps: list[tuple[int, int]], length: int, most: int) -> None:
    """For a reader that moves in small steps, back and forth, no byte is prefetched twice."""
    newest, reads = 0, []
    for shift, count in steps:
        start = max(0, newest + shift * 64 * KIB)
        if start >= length:
            break
        reads.append(Span(start, min(start + count * 64 * KIB, length)))
        newest = max(newest, reads[-1].stop)
    ahead, reading = fed(reads, length=length, most=most)
    assert not overlap(flat(ahead))
    assert len(reading.streams) <= 1


def test_bytes_that_were_read_are_not_prefetched() -> None:
    """Spans begin behind the furthest byte read, not at the position of a late read."""
    _, reading = fed(pieces(0, 4 * MIB))
    newest = max(stream.ahead for stream in reading.streams)
    late = [Span(4 * MIB - 2 * PIECE, 4 * MIB - PIECE)] * 5
    ahead, _ = fed(late, reading=reading)
    assert all(span.start >= newest for span in flat(ahead))


def test_the_end_of_the_file_ends_prefetch() -> None:
    """Reading the last bytes, also repeatedly, prefetches nothing."""
    length = 5 * MIB + 17
    ahead, reading = fed(pieces(0, length), length=length)
    assert max(span.stop for span in flat(ahead)) == length
    assert total(flat(ahead)) <= length
    assert flat(fed([Span(length - 17, length)] * 9, length=length, reading=reading)[0]) == []


def test_the_same_reads_return_the_same_spans() -> None:
    """The planner is pure: its result depends on its arguments only."""
    reads = swapped(pieces(0, 8 * MIB), random.Random(3))
    assert fed(reads) == fed(reads)


def test_reading_one_position_repeatedly_prefetches_nothing() -> None:
    """A header that is read a hundred times is no stream."""
    assert flat(fed([Span(0, PIECE)] * 100)[0]) == []


def test_small_sequential_reads_are_prefetched_too() -> None:
    """Sequential reads of 4 KiB earn a window like large ones."""
    ahead, _ = fed(pieces(0, 4 * MIB, 4 * KIB))
    assert total(flat(ahead)) > 4 * MIB


@pytest.mark.parametrize("longest", [512 * KIB, 2 * MIB])
def test_no_prefetch_request_exceeds_its_limit(longest: int) -> None:
    """A large window is split into several requests for several connections."""
    ahead, _ = fed(pieces(0, 64 * MIB), longest=longest)
    assert max(span.size for span in flat(ahead)) <= longest
    assert total(flat(ahead)) > 64 * MIB


@pytest.mark.parametrize("size", [2 * MIB, 3 * MIB, 4 * MIB])
def test_slices_in_random_order_cost_little_more_than_themselves(size: int) -> None:
    """Even with long requests only the first slices fetch up to twice their length, then it is learnt."""
    chance = random.Random(5)
    slices = [at * 64 * MIB for at in chance.sample(range(1, 60), 40)]
    reads = [piece for at in slices for piece in pieces(at, at + size)]
    reading, ahead = readahead.Reading(), []
    for read in reads:
        reading, spans = readahead.plan(reading, read, LENGTH, readahead.Limits(MOST, 2 * MIB, 16 * MIB))
        ahead += spans
    outside = total(span for span in ahead if not any(at <= span.start < at + size for at in slices))
    assert outside <= 4 * size


def fetched_in_vain(reads: Sequence[Span]) -> int:
    """Return how many bytes are prefetched for `reads` that they do not read, in whole pages of the kernel."""
    ahead = flat(fed(reads, most=160 * MIB, longest=16 * MIB)[0])
    return PAGE * len(pages(ahead) - pages(reads))


def pages(spans: Iterable[Span]) -> set[int]:
    """Return the numbers of the pages of `spans`."""
    return {number for span in spans for number in range(span.start // PAGE, -(-span.stop // PAGE))}


def particles(numbers: Iterable[int]) -> list[Span]:
    """Return the kernel's reads of particles of 64 KiB of a stack, of whole pages."""
    return [Span(number * 64 * KIB, number * 64 * KIB + 68 * KIB) for number in numbers]


def in_pages(starts: Iterable[int], size: int) -> list[Span]:
    """Return reads of `size` bytes at `starts` as the kernel sends them."""
    return [read for start in starts for read in pieces(start // PAGE * PAGE, start // PAGE * PAGE + size)]


CHANCE = random.Random(7)
SKIPPING = {
    "every 50th particle": in_pages(range(1024, 20_000 * 64 * KIB, 50 * 64 * KIB), 256 * KIB),
    "every 4th particle": particles(range(0, 20_000, 4)),
    "rising reads of 1 MB": in_pages(sorted(CHANCE.sample(range(1 << 30), 100)), 1_180_000),
    "128 KiB every 4 MB": in_pages(range(0, 1_250_000_000, 4_000_000), 368 * KIB),
    "a slice of a tomogram": [Span(0, 128 * KIB), *in_pages(range(282_624, 200 << 20, MIB), 128 * KIB)],
    "a member of a tar": [
        *(Span(at, at + 8 * KIB) for at in range(0, 24 * MIB, 4 * MIB)),
        *pieces(200 * MIB, 204 * MIB),
    ],
    "the first MiB": pieces(0, 5 * MIB // 4),
    "the first and the last 7 MiB": [*pieces(0, 7 * MIB + 256 * KIB), *pieces(LENGTH - 7 * MIB, LENGTH)],
}


@pytest.mark.parametrize("reads", SKIPPING.values(), ids=SKIPPING)
def test_a_reader_that_skips_gets_half_as_much_more(reads: list[Span]) -> None:
    """Of programs that read parts of a file, at most half of what the kernel requested is prefetched in vain."""
    assert fetched_in_vain(reads) <= total(reads) / 2


@pytest.mark.promise(
    "Gaps of up to 1 MiB are fetched, too, for a program that reads more than a sixth of the bytes in order: "
    "that takes less time than a request for each part."
)
@pytest.mark.parametrize("share", [4, 2])
def test_gaps_that_are_cheaper_to_fetch_are_fetched(share: int) -> None:
    """Of a file read in part and in order most is prefetched, if a round trip takes longer than the gaps do."""
    reads = particles(sorted(random.Random(3).sample(range(20_000), 20_000 // share)))
    reading, reached, waits = readahead.Reading(), 0, 0
    for read in reads:
        waits += read.stop > reached
        reading, spans = readahead.plan(
            reading, read, 20_000 * 64 * KIB, readahead.Limits(MOST, SHORTEST, 16 * MIB)
        )
        reached = max([reached, *(span.stop for span in spans)])
    assert waits < len(reads) / 3


@given(
    steps=st.lists(st.tuples(st.integers(0, 32), st.integers(1, 16), st.integers(1, 30)), min_size=1, max_size=30)
)
def test_what_is_prefetched_in_vain_is_bounded_by_what_was_read(steps: list[tuple[int, int, int]]) -> None:
    """However a reader skips, no more is prefetched in vain than it reads, until it is trusted."""
    reads: list[Span] = []
    place = 64 * MIB
    for gap, size, repeated in steps:
        for _ in range(repeated):
            place += gap and gap * 64 * KIB + 2 * SHORTEST
            read = Span(place, place + size * 16 * KIB)
            if total(reads) + read.size <= readahead.SURE:
                reads.append(read)
            place = read.stop
    assert fetched_in_vain(reads) <= total(reads)


@given(
    steps=st.lists(st.tuples(st.integers(0, 32), st.integers(1, 16), st.integers(1, 30)), min_size=1, max_size=30)
)
def test_gaps_are_fetched_only_for_a_reader_of_a_sixth(steps: list[tuple[int, int, int]]) -> None:
    """However a reader skips, what is prefetched in vain is at most six times what it reads."""
    reads: list[Span] = []
    place = 64 * MIB
    for gap, size, repeated in steps:
        for _ in range(repeated):
            read = Span(place + gap * 64 * KIB, place + gap * 64 * KIB + size * 16 * KIB)
            reads.append(read)
            place = read.stop
    assert fetched_in_vain(reads) <= readahead.FREE_GAP_COST * total(reads)


def test_a_jump_within_what_was_prefetched_grows_no_window() -> None:
    """A sequential reader that begins to jump within its window is prefetched no further than it has earned."""
    _, reading = fed(pieces(0, 16 * MIB))
    newest = max(stream.ahead for stream in reading.streams)
    jumps = [Span(at, at + 4 * KIB) for at in itertools.accumulate([17 * MIB, *(MIB, 2 * MIB) * 30])]
    ahead, _ = fed(jumps, reading=reading)
    assert max((span.stop for span in flat(ahead)), default=0) <= max(newest, 16 * MIB + MOST // 2)


def test_a_reader_that_jumps_into_another_window_goes_on_with_it() -> None:
    """A second reader within what a first one has prefetched is prefetched behind that, and the first up to it."""
    _, reading = fed(pieces(0, 16 * MIB))
    newest = reading.streams[0].ahead
    jump = 22 * MIB
    ahead, reading = fed(pieces(jump, newest), reading=reading)
    assert min(span.start for span in flat(ahead)) == newest
    ahead, _ = fed(pieces(16 * MIB, jump), reading=reading)
    assert flat(ahead) == []


def test_what_is_on_disk_grows_no_window_to_what_is_not() -> None:
    """A reader of what is on disk is prefetched far ahead there, but no more than a few MiB beyond it."""
    on_disk, reading = 128 * MIB, readahead.Reading()
    distance = 0
    for read in pieces(0, on_disk):
        spans, reading = fed([read], reading=reading)
        for span in flat(spans):
            assert span.stop <= on_disk + 2 * readahead.SURE
            distance = max(distance, span.stop - read.stop)
            if span.stop <= on_disk:
                reading = readahead.found_on_disk(reading, span)
    assert MOST // 2 < distance <= MOST
    beyond, _ = fed(pieces(on_disk, 192 * MIB), reading=reading)
    assert max(span.stop for span in flat(beyond)) >= 192 * MIB + MOST // 2


def test_what_was_dropped_is_prefetched_again() -> None:
    """After its prefetch was dropped, a reader that goes on is prefetched as before: in order, and by stride."""
    _, reading = fed(pieces(0, 16 * MIB))
    ahead, _ = fed([Span(16 * MIB, 16 * MIB + PIECE)], reading=readahead.dropped(reading))
    assert min(span.start for span in flat(ahead)) == 16 * MIB + PIECE
    starts = [number * 8 * MIB for number in range(21)]
    _, reading = fed(Span(start, start + PIECE) for start in starts[:20])
    ahead, _ = fed([Span(starts[20], starts[20] + PIECE)], reading=readahead.dropped(reading))
    assert flat(ahead)[0] == Span(21 * 8 * MIB, 21 * 8 * MIB + PIECE)


def test_files_that_share_the_connections_get_long_requests() -> None:
    """One of eight files that are read at once gets fewer and longer requests than a file that is read alone."""
    counts = {}
    for files in (1, 8):
        reading, counts[files] = readahead.Reading(), 0
        for read in pieces(0, 64 * MIB):
            limits = readahead.Limits(files * 64 * MIB, SHORTEST, 16 * MIB, files)
            reading, spans = readahead.plan(reading, read, LENGTH, limits)
            counts[files] += len(spans)
    assert 0 < counts[8] < counts[1] / 2
