"""A read returns the file's bytes, whatever is cached, evicted, joined, failing or requested at the same time."""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fakes import (
    SOON,
    Break,
    BrokenStore,
    FakeOrigin,
    FixedLatency,
    Made,
    MemoryStore,
    at_once,
    in_threads,
    noise,
)
from support.parts import Reading

from empiarfs.cancellation import CancelToken, cancel_scope
from empiarfs.engine.cache import Cache
from empiarfs.engine.fetcher import MOST_SPLIT
from empiarfs.engine.hedge import Hedged
from empiarfs.engine.latency import LatencyEstimator
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.engine.single_flight import Flight, SingleFlight
from empiarfs.errors import ArchiveError, Cancelled, Closed, Forbidden, NotFound, Stale, Unavailable
from empiarfs.model import Block, File, Span
from empiarfs.ports import NEVER, BlockStore, Origin

PATH = "10028/data/a.mrc"
BLOCK = 10


class TellingFlights(SingleFlight[Block, bytes]):
    """Flights that signal every block that a thread has claimed or waits for."""

    def __init__(self, rig: "Rig") -> None:
        super().__init__(lambda: rig.latency.hedge_delay(), in_threads)  # noqa: PLW0108 - it changes
        self.claimed = threading.Semaphore(0)

    def claim(self, keys: Iterable[Block]) -> tuple[dict[Block, Flight[bytes]], dict[Block, Flight[bytes]]]:
        """Claim, and signal."""
        mine, theirs = super().claim(keys)
        for _ in [*mine, *theirs]:
            self.claimed.release()
        return mine, theirs


class Rig:
    """A reader with all its parts in reach.

    Args:
        content: the bytes of the one file.
        ahead: the origin for prefetch; None for a fake.
        longest_run: in bytes.
    """

    def __init__(
        self,
        content: bytes,
        *,
        ahead: Origin | None = None,
        store: BlockStore | None = None,
        memory: int = 10_000,
        block_bytes: int = BLOCK,
        longest_run: int = 50,
    ) -> None:
        self.origin = FakeOrigin({PATH: content})
        self.ahead = FakeOrigin({PATH: content})
        self.cache = Cache(memory, store or BrokenStore(), 4)
        self.latency: LatencyEstimator = FixedLatency()
        limiter = ConnectionLimiter(10, 2)
        self.hedged = Hedged(self.origin, limiter, limiter.demand, in_threads)
        self.hedged_ahead = Hedged(ahead or self.ahead, limiter, lambda _: nullcontext(), in_threads)
        reading = Reading(
            self.hedged, self.hedged_ahead, self.cache, block_bytes=block_bytes, longest_run=longest_run
        )
        self.reader, self.fetcher = reading.reader, reading.fetcher
        self.flights = TellingFlights(self)
        self.reader._in_flight = self.fetcher._in_flight = self.flights
        self.file = self.origin.file(PATH)
        self.content = content
        self.watch: Callable[[], bool] | None = None  # the condition of the reader's cancel scope

    def use(self, latency: LatencyEstimator) -> None:
        """Use `latency` for the server."""
        self.latency = self.fetcher._latency = latency

    def read(self, start: int, stop: int) -> bytes:
        """Read one span."""
        with cancel_scope(self.watch):
            return self.reader.read(self.file, Span(start, stop))

    def under_way(self) -> int:
        """Return the number of open claims, once the requests that no reader waits for have ended."""
        end = time.monotonic() + SOON
        while self.flights.count and time.monotonic() < end:
            time.sleep(0.001)
        return self.flights.count

    def wait_claimed(self, blocks: int) -> None:
        """Wait until that many blocks in all have been claimed, by this or another thread."""
        for _ in range(blocks):
            assert self.flights.claimed.acquire(timeout=SOON), "no thread claims"

    def close(self) -> None:
        """Stop the writer of the cache."""
        self.cache.close(SOON)


@pytest.fixture(params=[None, lambda: True], ids=["", "watched"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Return a reader of one file of 95 bytes, in blocks of 10, 5 a request, with and without a cancel scope."""
    rig = Rig(noise(95))
    rig.watch = request.param
    yield rig
    assert rig.under_way() == 0, "a claim was left behind"
    rig.close()


READS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 150)), min_size=1, max_size=12)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    reads=READS,
    size=st.integers(0, 300),
    block_bytes=st.integers(1, 40),
    longest=st.integers(1, 120),
    memory=st.integers(0, 600),
    forgetful=st.randoms(use_true_random=False),
    piece=st.integers(1, 64),
)
def test_whatever_is_read_the_bytes_are_the_files(
    reads: list[tuple[int, int]],
    size: int,
    block_bytes: int,
    longest: int,
    memory: int,
    forgetful: random.Random,
    piece: int,
) -> None:
    """Any reads, block sizes, runs, cache sizes and evictions of the store return the right bytes."""
    chance = forgetful.random
    content = noise(size, seed=7)
    store = MemoryStore(forgets=lambda _: chance() < 0.5)
    rig = Rig(content, store=store, memory=memory, block_bytes=block_bytes, longest_run=longest)
    rig.origin.piece = rig.ahead.piece = piece
    for start, length in reads:
        span = Span(min(start, size), min(start + length, size))
        if chance() < 0.3:
            rig.reader.prefetch(rig.file, span)
        assert rig.reader.read(rig.file, span) == content[span.start : span.stop]
        assert rig.under_way() == 0
    rig.close()
    for span in rig.origin.fetches + rig.ahead.fetches:
        assert 0 <= span.start < span.stop <= size
        assert span.size <= max(longest, block_bytes)
        assert span.start % block_bytes == 0


def test_an_empty_span_needs_no_request(rig: Rig) -> None:
    """An empty span returns no bytes without a request."""
    assert rig.read(5, 5) == b""
    assert rig.origin.fetches == []


def test_a_block_that_was_read_is_not_fetched_again(rig: Rig) -> None:
    """The second read is served from memory."""
    assert rig.read(3, 28) == rig.content[3:28]
    assert rig.read(3, 28) == rig.content[3:28]
    assert rig.origin.fetches == [Span(0, 30)]


def test_blocks_are_counted_by_their_source(rig: Rig) -> None:
    """Each requested block counts once for its source; a prefetched one counts when it is read."""
    rig.reader.prefetch(rig.file, Span(0, 30))
    assert (rig.reader.blocks_read, rig.reader.blocks_from_memory) == (0, 0)
    rig.read(0, 30)
    rig.read(25, 55)
    assert (rig.reader.blocks_read, rig.reader.blocks_from_memory) == (7, 4)
    assert rig.cache.misses == 6
    assert rig.fetcher.bytes_fetched == 60
    assert rig.cache.size >= 60


def test_blocks_in_flight_are_counted(rig: Rig) -> None:
    """A block counts as in flight from its claim to its completion."""
    barrier = rig.ahead.held()
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(rig.reader.prefetch, rig.file, Span(0, 30))
        barrier.wait_reached()
        assert rig.reader.in_flight == 3
        barrier.lift()
        fetching.result(SOON)
    assert rig.reader.in_flight == 0


def test_missing_neighbours_are_joined_into_one_request(rig: Rig) -> None:
    """Consecutive missing blocks are one ranged request."""
    rig.read(0, 50)
    assert rig.origin.fetches == [Span(0, 50)]


def test_no_request_is_longer_than_the_longest_run(rig: Rig) -> None:
    """More blocks than fit one run are several requests."""
    rig.read(0, 95)
    assert rig.origin.fetches == [Span(0, 50), Span(50, 95)]


def test_only_missing_blocks_are_fetched(rig: Rig) -> None:
    """A cached block in the middle splits the request in two."""
    rig.read(20, 25)
    rig.read(0, 50)
    assert rig.origin.fetches == [Span(20, 30), Span(0, 20), Span(30, 50)]


def test_nothing_behind_the_end_of_the_file_is_fetched(rig: Rig) -> None:
    """The last block ends where the file does."""
    assert rig.read(91, 95) == rig.content[91:95]
    assert rig.origin.fetches == [Span(90, 95)]


def test_a_block_of_the_store_is_not_fetched() -> None:
    """A block on disk needs no request."""
    store = MemoryStore()
    rig = Rig(noise(95), store=store)
    store.blocks[Block(rig.file, 1)] = rig.content[10:20]
    assert rig.read(0, 30) == rig.content[:30]
    assert rig.origin.fetches == [Span(0, 10), Span(20, 30)]
    rig.close()


def test_fetched_blocks_reach_the_store_whole_and_under_their_own_names() -> None:
    """Every block of a request is stored, each with its own bytes."""
    store = MemoryStore()
    rig = Rig(noise(95), store=store)
    rig.read(80, 95)
    rig.close()
    assert store.blocks == {
        Block(rig.file, 8): rig.content[80:90],
        Block(rig.file, 9): rig.content[90:95],
    }


def test_another_version_of_a_file_shares_no_block(rig: Rig) -> None:
    """Bytes of one version are never returned for another."""
    rig.read(0, 10)
    newer = noise(95, seed=1)
    rig.origin.files[PATH] = newer
    assert rig.reader.read(File(PATH, 95, 77), Span(0, 10)) == newer[:10]
    assert rig.read(0, 10) == rig.content[:10]


def test_sixty_four_threads_on_one_cold_block_make_one_request(rig: Rig) -> None:
    """Simultaneous readers of one block send one request, and all get the bytes."""
    barrier = rig.origin.held()
    with ThreadPoolExecutor(64) as pool:
        reads = [pool.submit(rig.read, 0, 10) for _ in range(64)]
        rig.wait_claimed(64)
        barrier.lift()
        assert {read.result(SOON) for read in reads} == {rig.content[:10]}
    assert rig.origin.fetches == [Span(0, 10)]


def test_readers_of_overlapping_spans_share_requests(rig: Rig) -> None:
    """A second reader fetches only what the first does not, and waits for the rest."""
    barrier = rig.origin.held()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(rig.read, 0, 30)
        barrier.wait_reached()
        second = pool.submit(rig.read, 20, 50)
        rig.wait_claimed(6)
        barrier.lift()
        assert first.result(SOON) == rig.content[:30]
        assert second.result(SOON) == rig.content[20:50]
    assert sorted(rig.origin.fetches, key=lambda span: span.start) == [Span(0, 30), Span(30, 50)]


def test_a_block_is_served_before_the_last_of_its_request_has_come(rig: Rig) -> None:
    """A reader of the first block of a long run gets it while the run is still in flight."""
    barrier = rig.origin.held(after=23)
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(rig.read, 0, 50)
        barrier.wait_reached()
        assert pool.submit(rig.read, 3, 17).result(SOON) == rig.content[3:17]
        assert not whole.done()
        barrier.lift()
        assert whole.result(SOON) == rig.content[:50]
    assert rig.origin.fetches == [Span(0, 50)]


def test_a_block_is_complete_with_its_last_byte(rig: Rig) -> None:
    """A block is complete with its last byte, before any byte of the next."""
    barrier = rig.origin.held(after=10)
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(rig.read, 0, 50)
        barrier.wait_reached()
        assert pool.submit(rig.read, 0, 10).result(SOON) == rig.content[:10]
        barrier.lift()
        whole.result(SOON)


def test_two_readers_with_crossing_claims_do_not_deadlock() -> None:
    """Readers that each claim a part of the other's span finish their own claims before they wait."""
    for _ in range(30):
        rig = Rig(noise(100), longest_run=10)
        spans = [(0, 100), (0, 55), (45, 100), (20, 80)] * 3
        tasks = [lambda a=a, b=b, rig=rig: rig.read(a, b) for a, b in spans]
        assert at_once(tasks) == [rig.content[a:b] for a, b in spans]
        assert rig.under_way() == 0
        assert sorted(span.start for span in rig.origin.fetches) == list(range(0, 100, 10))
        rig.close()


@pytest.mark.parametrize(
    "error",
    [
        NotFound(PATH, "gone"),
        Forbidden(PATH, "secret"),
        Stale(PATH, "new"),
        Unavailable(PATH, "away"),
        Closed(PATH, "closing"),
    ],
)
def test_an_error_of_the_origin_is_raised_unchanged(rig: Rig, error: ArchiveError) -> None:
    """The reader gets the kind and reason of an error, and nothing is left in flight."""
    rig.origin.break_next(Break(after=12, error=error))
    with pytest.raises(type(error), match=error.reason):
        rig.read(0, 30)


def test_blocks_before_an_error_are_cached(rig: Rig) -> None:
    """A run that fails in its second block has completed its first."""
    rig.origin.break_next(Break(after=15, error=Unavailable(PATH)))
    with pytest.raises(Unavailable):
        rig.read(0, 30)
    assert rig.read(0, 30) == rig.content[:30]
    assert rig.origin.fetches == [Span(0, 30), Span(10, 30)]


def test_a_failing_request_fails_only_the_waiters_of_its_blocks(rig: Rig) -> None:
    """A waiter of a completed block is served; a waiter of a failed one gets the error."""
    barrier = rig.origin.held(after=15)
    rig.origin.break_next(Break(after=15, error=Stale(PATH, "new")))
    with ThreadPoolExecutor(3) as pool:
        breaking = pool.submit(rig.read, 0, 30)
        barrier.wait_reached()
        landed = pool.submit(rig.read, 0, 10)
        assert landed.result(SOON) == rig.content[:10]
        rig.origin.barrier = None  # for the readers that come now
        assert pool.submit(rig.read, 60, 70).result(SOON) == rig.content[60:70]
        broken = pool.submit(rig.read, 20, 30)
        rig.wait_claimed(5)
        barrier.lift()
        errors = [breaking.exception(SOON), broken.exception(SOON)]
    assert [type(error) for error in errors] == [Stale, Stale]
    assert errors[0] is not errors[1]


def test_a_request_that_ends_short_is_an_error_and_never_bytes(rig: Rig) -> None:
    """An origin that ends early is detected."""
    rig.origin.break_next(Break(after=29))
    with pytest.raises(Unavailable):
        rig.read(0, 30)
    assert rig.read(0, 30) == rig.content[:30]


@pytest.mark.parametrize("extra", [b"x", b"x" * 10, b"x" * 35])
@pytest.mark.parametrize("span", [(0, 30), (80, 95)])
def test_a_request_that_sends_too_much_returns_no_wrong_bytes(
    rig: Rig, extra: bytes, span: tuple[int, int]
) -> None:
    """Bytes behind the span are in no block, and a reader keeps the bytes before them."""
    rig.origin.break_next(Break(extra=extra))
    assert rig.read(*span) == rig.content[slice(*span)]
    assert rig.read(*span) == rig.content[slice(*span)]
    assert rig.read(0, 95) == rig.content


def test_empty_pieces_are_harmless(rig: Rig) -> None:
    """An origin may yield empty pieces, also at the end."""

    class Pausing(FakeOrigin):
        def fetch(
            self, file: File, span: Span, *, deadline: float = NEVER, token: CancelToken | None = None
        ) -> Iterator[bytes]:
            for piece in super().fetch(file, span, deadline=deadline, token=token):
                yield from (b"", piece, b"")

    origin = Pausing({PATH: rig.content})
    reader = Reading(origin, origin, rig.cache, block_bytes=BLOCK, longest_run=50).reader
    assert reader.read(rig.file, Span(0, 95)) == rig.content


def test_an_unexpected_exception_is_an_error(rig: Rig) -> None:
    """An unexpected exception is raised unchanged, or as Unavailable from another thread, and does not loop."""
    rig.origin.break_next(*[Break(after=15, error=ZeroDivisionError("odd"))] * 2)
    with pytest.raises((ZeroDivisionError, Unavailable), match="odd"):
        rig.read(0, 30)
    with pytest.raises((ZeroDivisionError, Unavailable), match="odd"):
        rig.read(0, 30)
    assert rig.read(0, 30) == rig.content[:30]


def test_a_cancelled_reader_leaves_its_request_to_the_next(rig: Rig) -> None:
    """The request goes on, and another reader of the same bytes joins it."""
    barrier = rig.origin.held(after=5)
    rig.watch = lambda: False
    with pytest.raises(Cancelled):
        rig.read(0, 10)
    rig.watch = None
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(rig.read, 0, 10)
        barrier.lift()
        assert other.result(SOON) == rig.content[:10]
    assert rig.origin.fetches == [Span(0, 10)]


class Killed(BaseException):
    """An exception that ends a thread from outside, as KeyboardInterrupt does."""


@pytest.mark.parametrize("after", [0, 5, 10, 15])
def test_an_interrupted_request_leaves_no_claim(rig: Rig, after: int) -> None:
    """The waiting readers get an error, and the next one fetches the block."""
    rig.origin.break_next(Break(after=after, error=Killed()))
    with pytest.raises(Unavailable, match="Killed"):
        rig.read(0, 30)
    assert rig.under_way() == 0
    assert rig.read(0, 30) == rig.content[:30]


def test_a_store_that_raises_leaves_no_claim(caplog: pytest.LogCaptureFixture) -> None:
    """What a store raises is logged and becomes Unavailable, and the next reader does not hang."""

    class Raising(MemoryStore):
        def get(self, file: File, numbers: range) -> dict[int, bytes]:
            raise ZeroDivisionError

    rig = Rig(noise(95), store=Raising())
    for _ in range(2):
        with pytest.raises(Unavailable, match="ZeroDivisionError"):
            rig.read(0, 30)
    assert rig.under_way() == 0
    assert "ZeroDivisionError" in caplog.text
    rig.close()


def test_a_cancelled_reader_does_not_wait_for_a_store_that_hangs() -> None:
    """Its thread is free while the lookup hangs, and other readers go on."""
    hangs, goes_on = threading.Event(), threading.Event()

    class Hanging(MemoryStore):
        def get(self, file: File, numbers: range) -> dict[int, bytes]:
            if numbers.start == 0:
                hangs.set()
                assert goes_on.wait(SOON)
            return super().get(file, numbers)

    rig = Rig(noise(95), store=Hanging())
    rig.watch = lambda: not hangs.is_set()
    with pytest.raises(Cancelled):
        rig.read(0, 10)
    rig.watch = None
    assert rig.read(50, 60) == rig.content[50:60]
    goes_on.set()
    assert rig.read(0, 10) == rig.content[:10]
    rig.close()


def test_a_prefetched_block_is_read_without_a_request(rig: Rig) -> None:
    """Prefetched blocks come from the other origin, and are then read from memory."""
    rig.reader.prefetch(rig.file, Span(0, 40))
    assert rig.ahead.fetches == [Span(0, 40)]
    assert rig.read(0, 40) == rig.content[:40]
    assert rig.origin.fetches == []


def test_prefetch_tells_whether_the_disk_held_all() -> None:
    """Prefetch returns True if the store held all that was missing in memory, and something was."""
    store = MemoryStore()
    rig = Rig(bytes(range(100)), store=store)
    store.put(rig.file, {number: rig.content[number * BLOCK : (number + 1) * BLOCK] for number in range(2)})
    assert [rig.reader.prefetch(rig.file, Span(0, 2 * BLOCK)) for _ in range(2)] == [True, False]
    assert not rig.reader.prefetch(rig.file, Span(BLOCK, 3 * BLOCK))
    rig.close()


def test_prefetch_skips_cached_blocks_and_those_in_flight(rig: Rig) -> None:
    """Prefetch requests nothing twice, and waits for no other thread."""
    rig.read(0, 10)
    barrier = rig.origin.held()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(rig.read, 20, 30)
        barrier.wait_reached()
        rig.reader.prefetch(rig.file, Span(0, 40))
        assert rig.ahead.fetches == [Span(10, 20), Span(30, 40)]
        barrier.lift()
        reading.result(SOON)


def test_a_reader_waits_for_a_block_that_prefetch_fetches(rig: Rig) -> None:
    """A block in flight is not requested again."""
    barrier = rig.ahead.held(after=3)
    with ThreadPoolExecutor(2) as pool:
        prefetch = pool.submit(rig.reader.prefetch, rig.file, Span(0, 10))
        barrier.wait_reached()
        reading = pool.submit(rig.read, 0, 10)
        rig.wait_claimed(2)
        barrier.lift()
        assert reading.result(SOON) == rig.content[:10]
        prefetch.result(SOON)
    assert rig.origin.fetches == []


@pytest.mark.parametrize("error", [Unavailable(PATH), NotFound(PATH), Stale(PATH), Forbidden(PATH)])
def test_a_failing_prefetch_fails_no_reader(rig: Rig, error: ArchiveError) -> None:
    """The error is raised in the prefetch only, and a waiting reader sends its own request, with retries."""
    barrier = rig.ahead.held(after=3)
    rig.ahead.break_next(Break(after=3, error=error))
    with ThreadPoolExecutor(2) as pool:
        prefetch = pool.submit(rig.reader.prefetch, rig.file, Span(0, 30))
        barrier.wait_reached()
        reading = pool.submit(rig.read, 0, 30)
        rig.wait_claimed(6)
        barrier.lift()
        assert reading.result(SOON) == rig.content[:30]
        assert isinstance(prefetch.exception(SOON), type(error))


def test_an_interrupted_prefetch_leaves_no_claim(rig: Rig) -> None:
    """A prefetch that is ended from outside releases its claims."""
    rig.ahead.break_next(Break(after=13, error=Killed()))
    with pytest.raises(Killed):
        rig.reader.prefetch(rig.file, Span(0, 30))
    assert rig.under_way() == 0


def test_a_short_prefetch_returns_no_wrong_bytes(rig: Rig) -> None:
    """A prefetch that ends early costs the reader a request, and leaves no wrong bytes."""
    rig.ahead.break_next(Break(after=13))
    with pytest.raises(Unavailable):
        rig.reader.prefetch(rig.file, Span(0, 30))
    assert rig.read(0, 30) == rig.content[:30]


PLANS = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(0, 90),
        st.integers(1, 90),
        st.sampled_from(["none", "unavailable", "changed", "killed", "short", "extra"]),
        st.integers(0, 60),
    ),
    max_size=10,
)


@given(PLANS)
def test_after_any_faults_the_bytes_are_right(
    plan: list[tuple[bool, int, int, str, int]],
) -> None:
    """After any faults no claim is left, no wrong byte is cached, and the file reads whole."""
    rig = Rig(noise(95))
    breaks = {
        "none": (),
        "unavailable": (Unavailable(PATH),),
        "changed": (Stale(PATH),),
        "killed": (Killed(),),
    }
    for ahead, start, size, fault, after in plan:
        origin = rig.ahead if ahead else rig.origin
        origin.plan.clear()
        if fault in breaks:
            origin.break_next(*(Break(after=after, error=error) for error in breaks[fault]))
        else:
            origin.break_next(Break(after=after) if fault == "short" else Break(extra=b"xyz"))
        span = Span(start, min(start + size, 95))
        try:
            if ahead:
                rig.reader.prefetch(rig.file, span)
            else:
                assert rig.reader.read(rig.file, span) == rig.content[span.start : span.stop]
        except (Unavailable, Stale, Killed):
            pass
        assert rig.under_way() == 0
    rig.origin.plan.clear()
    assert rig.read(0, 95) == rig.content
    rig.close()


def test_many_threads_on_a_small_cache_get_their_bytes() -> None:
    """Threads at random positions of a file larger than memory read right, and leave nothing in flight."""
    content = noise(5_000)
    rig = Rig(content, memory=200, store=MemoryStore())

    def work(seed: int) -> bool:
        for turn in range(60):
            start = (seed * 7919 + turn * 104_729) % 4_900
            stop = start + 1 + (seed + turn * 31) % 100
            if rig.read(start, stop) != content[start:stop]:
                return False
            rig.reader.prefetch(rig.file, Span(stop, min(stop + 60, 5_000)))
        return True

    assert at_once([partial(work, seed) for seed in range(12)]) == [True] * 12
    assert rig.under_way() == 0
    rig.close()


def test_offsets_beyond_four_gigabytes_are_exact() -> None:
    """A span far into a large file has the right bytes."""
    content = Made(66 * 2**30)
    origin = FakeOrigin({PATH: content}, piece=1 << 16)
    cache = Cache(2**22, BrokenStore(), 4)
    reader = Reading(origin, origin, cache, block_bytes=2**18, longest_run=2**21).reader
    for start in (2**32 - 5, 2**32, 5 * 2**30 + 123, content.size - 100):
        span = Span(start, min(start + 300_000, content.size))
        assert reader.read(origin.file(PATH), span) == content.part(span.start, span.stop)
    cache.close(SOON)


def test_the_repr_shows_the_fetched_bytes(rig: Rig) -> None:
    """The repr of a reader shows the bytes that came from the server."""
    rig.read(0, 30)
    rig.read(0, 30)
    assert rig.fetcher.bytes_fetched == 30
    assert repr(rig.reader).startswith("<Reader bytes_fetched=30 <SingleFlight in_flight=0> <Cache size=")


class Impatient(FixedLatency):
    """A latency with which any silence is late."""

    def hedge_delay(self) -> float:
        """Return the seconds of silence after which a request is hedged."""
        return 0.0


class Splitting(FixedLatency):
    """A latency with which every read is split."""

    def worth_splitting(self, count: int) -> bool:
        """Return whether `count` bytes arrive sooner over two connections than over one."""
        return True


def test_a_silent_prefetch_with_waiters_is_hedged(rig: Rig) -> None:
    """Any number of waiting readers send one more request, and all get their bytes."""
    rig.use(Impatient())
    first = rig.ahead.held(times=1)
    with ThreadPoolExecutor(6) as pool:
        hanging = pool.submit(rig.reader.prefetch, rig.file, Span(0, 30))
        first.wait_reached()
        waiting = [pool.submit(rig.read, 0, 30) for _ in range(5)]
        assert [one.result(SOON) for one in waiting] == [rig.content[:30]] * 5
        hanging.result(SOON)
    assert rig.ahead.fetches == [Span(0, 30)] * 2
    assert rig.origin.fetches == []
    assert rig.hedged_ahead.hedged_requests == 1


def test_a_prefetch_that_no_reader_waits_for_is_not_hedged(rig: Rig) -> None:
    """A prefetch without waiters is not hedged, however long it is silent."""
    rig.use(Impatient())
    barrier = rig.ahead.held()
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(rig.reader.prefetch, rig.file, Span(0, 30))
        barrier.wait_reached()
        time.sleep(0.05)
        barrier.lift()
        hanging.result(SOON)
    assert rig.ahead.fetches == [Span(0, 30)]


def test_a_silent_request_of_several_readers_is_hedged_once(rig: Rig) -> None:
    """One hedge serves all readers."""
    rig.use(Impatient())
    rig.origin.held(times=1)
    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(rig.read, 0, 10) for _ in range(4)]
        assert [one.result(SOON) for one in reads] == [rig.content[:10]] * 4
    assert rig.origin.fetches == [Span(0, 10)] * 2
    assert rig.hedged.hedged_requests == 1


def test_a_request_that_has_begun_is_not_hedged(rig: Rig) -> None:
    """A slow response is not silent."""
    rig.use(Impatient())
    barrier = rig.origin.held(after=3)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(rig.read, 0, 10)
        barrier.wait_reached()
        waiting = pool.submit(rig.read, 0, 10)
        rig.wait_claimed(2)
        barrier.lift()
        assert [slow.result(SOON), waiting.result(SOON)] == [rig.content[:10]] * 2
    assert rig.origin.fetches == [Span(0, 10)]


@pytest.mark.parametrize(
    ("start", "stop", "parts"),
    [
        (0, 40, [Span(0, 10), Span(10, 20), Span(20, 30), Span(30, 40)]),
        (20, 40, [Span(20, 30), Span(30, 40)]),
        (71, 95, [Span(70, 80), Span(80, 90), Span(90, 95)]),
        (10, 20, [Span(10, 15), Span(15, 20)]),
        (92, 93, [Span(90, 93), Span(93, 95)]),
    ],
)
def test_a_read_is_split_block_by_block_and_one_block_in_halves(
    rig: Rig, start: int, stop: int, parts: list[Span]
) -> None:
    """All parts are in flight at the same time, and the bytes are right."""
    rig.use(Splitting())
    barrier = rig.origin.held()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(rig.read, start, stop)
        barrier.wait_reached(len(parts))
        barrier.lift()
        assert reading.result(SOON) == rig.content[start:stop]
    assert sorted(rig.origin.fetches, key=lambda span: span.start) == parts


def test_a_long_run_is_one_stream(rig: Rig) -> None:
    """More than `MOST_SPLIT` blocks are one request."""
    rig.use(Splitting())
    assert MOST_SPLIT == 4
    assert rig.read(0, 50) == rig.content[:50]
    assert rig.origin.fetches == [Span(0, 50)]


def test_prefetch_is_never_split(rig: Rig) -> None:
    """Prefetch is not split, as no reader waits for it."""
    rig.use(Splitting())
    rig.reader.prefetch(rig.file, Span(0, 40))
    assert rig.ahead.fetches == [Span(0, 40)]


@pytest.mark.parametrize("error", [Unavailable(PATH), Stale(PATH)])
def test_a_split_read_with_a_failed_half_is_an_error(rig: Rig, error: ArchiveError) -> None:
    """If either half fails nothing stays in flight, and the next read is whole."""
    rig.use(Splitting())
    rig.origin.break_next(Break(after=5, error=error), Break(after=5, error=error))
    with pytest.raises(type(error)):
        rig.read(0, 40)
    assert rig.read(0, 40) == rig.content[:40]


def test_a_failed_half_of_a_split_read_cancels_the_other(rig: Rig) -> None:
    """The other half is cancelled, and releases its connection."""
    rig.use(Splitting())
    barrier = rig.origin.held(after=2)
    rig.origin.break_next(Break(after=1, error=Stale(PATH, "was replaced")), Break(after=4))
    with pytest.raises(Stale):
        rig.read(0, 10)
    barrier.wait_gone()
    assert rig.under_way() == 0


@pytest.mark.parametrize(("wrong", "stop"), [(Break(after=5), 40), (Break(after=3), 10), (Break(extra=b"x"), 10)])
def test_a_short_part_of_a_split_read_is_an_error(rig: Rig, wrong: Break, stop: int) -> None:
    """An origin that ends a part early is detected: the following part would be misplaced."""
    rig.use(Splitting())
    rig.origin.break_next(wrong)
    with pytest.raises(Unavailable):
        rig.read(0, stop)
    assert rig.read(0, 40) == rig.content[:40]


def test_split_reads_of_many_threads_are_right() -> None:
    """With any distribution of halves over threads every byte is the file's."""
    content = noise(5_000)
    rig = Rig(content, memory=200, store=MemoryStore())
    rig.use(Splitting())

    def work(seed: int) -> bool:
        for turn in range(15):
            start = (seed * 7919 + turn * 104_729) % 4_900
            if rig.read(start, start + 90) != content[start : start + 90]:
                return False
        return True

    assert at_once([partial(work, seed) for seed in range(8)]) == [True] * 8
    assert rig.under_way() == 0
    rig.close()


def test_a_read_block_is_evicted_before_an_older_unread_one() -> None:
    """Prefetched blocks stay until they are read, even if a later request came first."""
    rig = Rig(noise(400), memory=134)  # a quarter is for the store: ten blocks are held
    rig.reader.prefetch(rig.file, Span(50, 90))
    rig.reader.prefetch(rig.file, Span(0, 50))
    for start in range(0, 50, 10):
        rig.read(start, start + 10)
    rig.reader.prefetch(rig.file, Span(90, 140))
    for start in range(50, 140, 10):
        assert rig.read(start, start + 10) == rig.content[start : start + 10]
    assert rig.origin.fetches == []
    rig.close()


def test_sequential_reads_do_not_evict_prefetched_blocks() -> None:
    """Fully read blocks are evicted first, and unread ones stay."""
    rig = Rig(noise(400), memory=134)  # a quarter is for the store: ten blocks are held
    rig.reader.prefetch(rig.file, Span(0, 100))
    for start in range(0, 50, 10):
        rig.read(start, start + 10)
    rig.reader.prefetch(rig.file, Span(100, 150))
    for start in range(50, 150, 10):
        assert rig.read(start, start + 10) == rig.content[start : start + 10]
    assert rig.origin.fetches == []
    rig.close()


def test_a_request_that_no_thread_takes_leaves_no_claim(rig: Rig) -> None:
    """The error is the reader's, and the next read is whole."""
    submit = rig.fetcher._submit

    def refuse(_: object) -> Any:
        raise Closed(PATH)

    rig.fetcher._submit = refuse
    with pytest.raises(Closed):
        rig.read(0, 95)
    rig.fetcher._submit = submit
    assert rig.read(0, 95) == rig.content
