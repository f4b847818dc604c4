"""A request is sent a second time where the first is silent, once, within the limits; the first answer counts."""

import random
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import pytest
from support.fakes import SOON, Barrier, Break, FakeOrigin, at_once, in_threads, noise
from support.parts import AtOnce

from empiarfs.cancellation import CancelToken
from empiarfs.engine import hedge
from empiarfs.engine.hedge import Hedgeable, Hedged
from empiarfs.engine.latency import LatencyEstimator
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.errors import ArchiveError, Forbidden, NotFound, Stale, Unavailable
from empiarfs.model import File, Span

PATH = "10028/data/a.mrc"
CONTENT = noise(100)
EMPTY = "<ConnectionLimiter demand=0 prefetch=0 "
HEDGED = (
    "A request that a caller waits for is hedged (sent again on a second connection) when no byte has come "
    "for unusually long: at most eight at the beginning, and one in twenty from then on."
)


class Rig:
    """A hedged origin with all its parts in reach."""

    def __init__(self, most: int = 4) -> None:
        self.origin = FakeOrigin({PATH: CONTENT})
        self.limiter = ConnectionLimiter(most, 1)
        self.hedged = Hedged(self.origin, self.limiter, self.limiter.demand, in_threads)
        self.file = self.origin.file(PATH)

    def fetched(self, token: CancelToken | None = None) -> bytes:
        """Fetch the whole file."""
        return b"".join(self.hedged.fetch(self.file, Span(0, 100), token=token))

    def measured(self, token: CancelToken | None = None) -> File:
        """Measure it."""
        return self.hedged.measure(PATH, token=token)

    def is_still(self) -> None:
        """Wait until all places at the limiter are free: the loser of a race gives its own back last."""
        end = time.monotonic() + SOON
        while not repr(self.limiter).startswith(EMPTY):
            assert time.monotonic() < end, repr(self.limiter)
            time.sleep(0.001)


class Late:
    """A request under way in a thread, silent at `barrier`; the test decides when it is late."""

    def __init__(self, rig: Rig, barrier: Barrier, ask: Callable[[CancelToken], object]) -> None:
        self.request = Hedgeable()
        self._pool = ThreadPoolExecutor(1)
        self.answer: Future[object] = self._pool.submit(ask, self.request)
        barrier.wait_reached()
        self._rig = rig

    def hedge(self) -> None:
        """Let a waiter find it late."""
        self.request.hedge_if_silent(0.0)

    def result(self) -> object:
        """Return the answer."""
        try:
            return self.answer.result(SOON)
        finally:
            self._pool.shutdown()


def test_what_is_answered_in_time_is_sent_once() -> None:
    """Measuring and fetching cost one request each, and a waiter that comes after the answer sends none."""
    rig, request = Rig(), Hedgeable()
    assert rig.measured(request) == rig.file
    request.hedge_if_silent(0.0)
    assert rig.fetched(request) == CONTENT
    request.hedge_if_silent(0.0)
    assert len(rig.origin.diary) == 2
    assert rig.hedged.hedged_requests == 0


@pytest.mark.promise(HEDGED)
@pytest.mark.parametrize("ask", [Rig.measured, Rig.fetched])
def test_the_hedge_answers_while_the_first_request_hangs(ask: Callable[[Rig, CancelToken], object]) -> None:
    """The first request is broken off, its connection with it, and both places are free."""
    rig = Rig()
    first = rig.origin.held(times=1)
    late = Late(rig, first, lambda token: ask(rig, token))
    late.hedge()
    assert late.result() == (rig.file if ask is Rig.measured else CONTENT)
    first.wait_gone()
    assert len(rig.origin.diary) == 2
    assert rig.hedged.hedged_requests == 1
    rig.is_still()
    assert rig.origin._inside == 0


def test_the_first_request_answers_while_the_hedge_hangs() -> None:
    """The hedge is broken off then, and its answer is discarded."""
    rig = Rig()
    both = rig.origin.held()
    late = Late(rig, both, rig.fetched)
    first_go = both._standing[0]
    late.hedge()
    both.wait_reached()
    first_go.set()
    assert late.result() == CONTENT
    rig.is_still()
    assert rig.origin._inside == 0
    both.lift()


def test_a_request_that_was_sent_just_now_is_not_late() -> None:
    """The time counts from when it was sent, not from when a thread began to wait."""
    rig = Rig()
    first = rig.origin.held(times=1)
    late = Late(rig, first, rig.fetched)
    late.request.hedge_if_silent(SOON)
    assert rig.hedged.hedged_requests == 0
    late.request._sent_at -= SOON
    late.request.hedge_if_silent(SOON)
    assert late.result() == CONTENT
    assert rig.hedged.hedged_requests == 1


def test_however_many_wait_there_is_one_hedge() -> None:
    """Threads that find a request late at the same moment send it once more between them."""
    rig = Rig(most=100)
    first = rig.origin.held(times=1)
    late = Late(rig, first, rig.fetched)
    at_once([late.hedge] * 16)
    assert late.result() == CONTENT
    assert rig.hedged.hedged_requests == 1
    assert len(rig.origin.fetches) == 2


def test_the_hedge_answers_where_the_first_request_fails_late() -> None:
    """One of two is enough."""
    rig = Rig()
    both = rig.origin.held()
    rig.origin.break_next(Break(error=Unavailable(PATH, "away")))
    late = Late(rig, both, rig.fetched)
    late.hedge()
    both.wait_reached()
    both.lift()
    assert late.result() == CONTENT


def test_a_hedge_that_is_unavailable_leaves_the_first_request_alone() -> None:
    """What one server of several cannot answer, another may."""
    rig = Rig()
    first = rig.origin.held(times=1)
    late = Late(rig, first, rig.fetched)
    rig.origin.break_next(Break(error=Unavailable(PATH, "away")))
    late.hedge()
    rig_is_back = time.monotonic() + SOON
    while len(rig.origin.fetches) < 2 or rig.origin._inside > 1:
        assert time.monotonic() < rig_is_back
    first.lift()
    assert late.result() == CONTENT


def test_a_clear_answer_of_the_hedge_counts() -> None:
    """That a file is not there is an answer, whichever request brings it."""
    rig = Rig()
    first = rig.origin.held(times=1)
    late = Late(rig, first, rig.measured)
    rig.origin.refusals[PATH] = NotFound(PATH, "gone")
    late.hedge()
    with pytest.raises(NotFound, match="gone"):
        late.result()
    first.wait_gone()
    rig.is_still()


def test_without_a_free_place_there_is_no_hedge() -> None:
    """With one connection there is one request, however silent."""
    rig = Rig(most=1)
    barrier = rig.origin.held()
    late = Late(rig, barrier, rig.fetched)
    late.hedge()
    barrier.lift()
    assert late.result() == CONTENT
    assert len(rig.origin.fetches) == 1


@pytest.mark.promise(HEDGED)
def test_twenty_requests_earn_a_hedge() -> None:
    """Eight may be hedged to begin with; after them one in twenty."""
    rig = Rig(most=1000)

    def hedged() -> bool:
        before = rig.hedged.hedged_requests
        barrier = rig.origin.held(times=1)
        late = Late(rig, barrier, rig.measured)
        late.hedge()
        is_hedged = rig.hedged.hedged_requests > before
        if not is_hedged:
            barrier.lift()
        assert late.result() == rig.file
        rig.origin.barrier = None
        return is_hedged

    assert [hedged() for _ in range(9)] == [True] * 8 + [False]
    for _ in range(20):
        rig.measured()
    assert hedged()
    assert not hedged()


def test_no_server_is_asked_twice_for_more_than_one_in_twenty() -> None:
    """Where every single request is late, hedges are 8 and then 5 % of all requests; never more."""
    rig = Rig(most=1000)
    for number in range(1, 301):
        assert rig.measured(AtOnce()) == rig.file
        assert rig.hedged.hedged_requests <= hedge.MAX_CREDIT + hedge.HEDGE_SHARE * number
    assert rig.hedged.hedged_requests > hedge.MAX_CREDIT, "credit is earned"
    rig.is_still()
    assert len(rig.origin.diary) <= 300 + rig.hedged.hedged_requests


@pytest.mark.parametrize("kind", ["even", "jittery", "two servers", "long tail"])
@pytest.mark.parametrize("seed", range(5))
def test_what_counts_as_late_is_rare(kind: str, seed: int) -> None:
    """Of the replies of a healthy server, however they spread, one in twenty at most counts as late."""
    chance = random.Random(seed)
    kinds: dict[str, Callable[[], float]] = {
        "even": lambda: chance.uniform(0.28, 0.32),
        "jittery": lambda: chance.gauss(1.0, 0.3),
        "two servers": lambda: chance.choice((0.3, 0.3, 0.3, 0.9)) * chance.uniform(0.95, 1.05),
        "long tail": lambda: 0.3 * chance.lognormvariate(0, 0.5),
    }
    latency = LatencyEstimator(1 << 21)
    late = 0
    for _ in range(2000):
        reply = max(0.0, kinds[kind]())
        late += reply > latency.hedge_delay()
        latency.record(reply)
    assert late <= 0.05 * 2000


@pytest.mark.parametrize("error", [NotFound(PATH), Forbidden(PATH), Stale(PATH), Unavailable(PATH, "away")])
@pytest.mark.parametrize("kind", [Hedgeable, AtOnce])
def test_an_error_comes_through_as_it_is(error: ArchiveError, kind: type[Hedgeable]) -> None:
    """Whether it was sent once or twice; all places are given back."""
    rig = Rig()
    rig.origin.refusals[PATH] = error
    for ask in (rig.measured, rig.fetched):
        with pytest.raises(type(error), match=error.reason):
            ask(kind())
    rig.is_still()


def test_what_is_cancelled_is_broken_off_both_times() -> None:
    """Cancelling the request breaks the first one and the hedge."""
    rig = Rig()
    both = rig.origin.held()
    late = Late(rig, both, rig.fetched)
    late.hedge()
    both.wait_reached()
    late.request.cancel()
    with pytest.raises(Unavailable):
        late.result()
    rig.is_still()


def test_what_was_cancelled_before_it_began_does_not_begin() -> None:
    """It ends with an error at once."""
    rig, request = Rig(), Hedgeable()
    request.cancel()
    barrier = rig.origin.held()
    with pytest.raises(Unavailable):
        rig.fetched(request)
    barrier.lift()


def test_an_error_in_the_middle_comes_through() -> None:
    """What came before it was handed on; the place is given back."""
    rig = Rig()
    rig.origin.break_next(Break(after=50, error=Unavailable(PATH, "away")))
    got: list[bytes] = []
    with pytest.raises(Unavailable, match="away"):
        got.extend(rig.hedged.fetch(rig.file, Span(0, 100)))
    rig.is_still()


def test_a_fetch_holds_its_place_to_the_last_byte_and_no_longer() -> None:
    """Also when it is closed early."""
    rig = Rig()
    pieces = cast("Generator[bytes]", rig.hedged.fetch(rig.file, Span(0, 100)))
    next(pieces)
    assert repr(rig.limiter).startswith("<ConnectionLimiter demand=1 ")
    pieces.close()
    assert repr(rig.limiter).startswith(EMPTY)
    assert rig.origin._inside == 0
    assert rig.fetched() == CONTENT
    assert repr(rig.limiter).startswith(EMPTY)


def test_many_threads_stay_within_the_limit() -> None:
    """Hedges too take places, and never more than there are."""
    rig = Rig(most=3)
    got = at_once([lambda: [rig.fetched(AtOnce()) for _ in range(10)]] * 6)
    assert got == [[CONTENT] * 10] * 6
    assert rig.limiter.peak <= 3
    rig.is_still()


def test_the_deadline_reaches_the_server() -> None:
    """Each request is told when its answer must have begun."""
    rig = Rig()
    rig.hedged.measure(PATH, deadline=5.0)
    rig.hedged.open(PATH, 10, deadline=6.0)
    b"".join(rig.hedged.fetch(rig.file, Span(0, 10), deadline=7.0))
    assert rig.origin.deadlines == [5.0, 6.0, 7.0]
