"""A silent request is sent a second time, once, within the limits, and the first response wins."""

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
from empiarfs.errors import ArchiveError, Closed, Forbidden, NotFound, Stale, Unavailable
from empiarfs.model import File, Span

PATH = "10028/data/a.mrc"
CONTENT = noise(100)
EMPTY = "<ConnectionLimiter demand=0 prefetch=0 "
HEDGED = (
    "A request that a caller waits for is hedged (sent again on a second connection) when no byte has come "
    "for unusually long: at most eight at the beginning, and one in twenty from then on."
)


class Rig:
    """A hedged origin with all its parts accessible."""

    def __init__(self, most: int = 4) -> None:
        self.origin = FakeOrigin({PATH: CONTENT})
        self.limiter = ConnectionLimiter(most, 1)
        self.hedged = Hedged(self.origin, self.limiter, self.limiter.demand, in_threads)
        self.file = self.origin.file(PATH)

    def fetched(self, token: CancelToken | None = None) -> bytes:
        """Fetch the whole file."""
        return b"".join(self.hedged.fetch(self.file, Span(0, 100), token=token))

    def measured(self, token: CancelToken | None = None) -> File:
        """Measure the file."""
        return self.hedged.measure(PATH, token=token)

    def is_still(self) -> None:
        """Wait until all connections of the limiter are free: the loser of a race releases its own last."""
        end = time.monotonic() + SOON
        while not repr(self.limiter).startswith(EMPTY):
            assert time.monotonic() < end, repr(self.limiter)
            time.sleep(0.001)


class Late:
    """A request in flight in a thread, silent at `barrier`; the test decides when it is late."""

    def __init__(self, rig: Rig, barrier: Barrier, ask: Callable[[CancelToken], object]) -> None:
        self.request = Hedgeable()
        self._pool = ThreadPoolExecutor(1)
        self.answer: Future[object] = self._pool.submit(ask, self.request)
        barrier.wait_reached()
        self._rig = rig

    def hedge(self) -> None:
        """Let a waiter find the request late."""
        self.request.hedge_if_silent(0.0)

    def result(self) -> object:
        """Return the response."""
        try:
            return self.answer.result(SOON)
        finally:
            self._pool.shutdown()


def test_a_request_answered_in_time_is_sent_once() -> None:
    """Measuring and fetching take one request each, and a waiter that comes after the response sends none."""
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
    """The first request is cancelled with its connection, and both connections are released."""
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
    """The hedge is cancelled, and its response is discarded."""
    rig = Rig()
    both = rig.origin.held()
    late = Late(rig, both, rig.fetched)
    first_go = both._standing[0]
    late.hedge()
    both.wait_reached()
    first_go.set()
    assert late.result() == CONTENT
    for _ in range(2):  # the first request that was let go, and the hedge that was cancelled
        both.wait_gone()
    rig.is_still()
    assert rig.origin._inside == 0


def test_a_request_that_was_sent_just_now_is_not_late() -> None:
    """The delay counts from when the request was sent, not from when a thread began to wait."""
    rig = Rig()
    first = rig.origin.held(times=1)
    late = Late(rig, first, rig.fetched)
    late.request.hedge_if_silent(SOON)
    assert rig.hedged.hedged_requests == 0
    late.request._sent_at -= SOON
    late.request.hedge_if_silent(SOON)
    assert late.result() == CONTENT
    assert rig.hedged.hedged_requests == 1


def test_any_number_of_waiters_send_one_hedge() -> None:
    """Threads that find a request late at the same moment send one hedge together."""
    rig = Rig(most=100)
    first = rig.origin.held(times=1)
    late = Late(rig, first, rig.fetched)
    at_once([late.hedge] * 16)
    assert late.result() == CONTENT
    assert rig.hedged.hedged_requests == 1
    assert len(rig.origin.fetches) == 2


def test_the_hedge_answers_if_the_first_request_fails_late() -> None:
    """A late failure of the first request leaves the hedge to answer."""
    rig = Rig()
    both = rig.origin.held()
    rig.origin.break_next(Break(error=Unavailable(PATH, "away")))
    late = Late(rig, both, rig.fetched)
    late.hedge()
    both.wait_reached()
    both.lift()
    assert late.result() == CONTENT


def test_a_hedge_that_is_unavailable_leaves_the_first_request_alone() -> None:
    """An Unavailable of the hedge does not end the first request, which may reach another server."""
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
    """NotFound is an answer, whichever request receives it."""
    rig = Rig()
    first = rig.origin.held(times=1)
    late = Late(rig, first, rig.measured)
    rig.origin.refusals[PATH] = NotFound(PATH, "gone")
    late.hedge()
    with pytest.raises(NotFound, match="gone"):
        late.result()
    first.wait_gone()
    rig.is_still()


def test_without_a_free_connection_there_is_no_hedge() -> None:
    """With one connection there is one request, however long it is silent."""
    rig = Rig(most=1)
    barrier = rig.origin.held()
    late = Late(rig, barrier, rig.fetched)
    late.hedge()
    barrier.lift()
    assert late.result() == CONTENT
    assert len(rig.origin.fetches) == 1


@pytest.mark.promise(HEDGED)
def test_twenty_requests_earn_a_hedge() -> None:
    """Eight requests may be hedged at the beginning; after that one in twenty."""
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


def test_no_more_than_one_in_twenty_requests_is_hedged() -> None:
    """If every request is late, there are 8 hedges and then 5 % of all requests, never more."""
    rig = Rig(most=1000)
    for number in range(1, 301):
        assert rig.measured(AtOnce()) == rig.file
        assert rig.hedged.hedged_requests <= hedge.MAX_CREDIT + hedge.HEDGE_SHARE * number
    assert rig.hedged.hedged_requests > hedge.MAX_CREDIT, "credit is earned"
    rig.is_still()
    assert len(rig.origin.diary) <= 300 + rig.hedged.hedged_requests


@pytest.mark.parametrize("kind", ["even", "jittery", "two servers", "long tail"])
@pytest.mark.parametrize("seed", range(5))
def test_few_replies_of_a_healthy_server_are_late(kind: str, seed: int) -> None:
    """At most one in twenty replies of a healthy server is late, whatever their distribution."""
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
def test_an_error_is_raised_unchanged(error: ArchiveError, kind: type[Hedgeable]) -> None:
    """An error is raised unchanged with or without a hedge, and all connections are released."""
    rig = Rig()
    rig.origin.refusals[PATH] = error
    for ask in (rig.measured, rig.fetched):
        with pytest.raises(type(error), match=error.reason):
            ask(kind())
    rig.is_still()


def test_cancelling_ends_both_requests() -> None:
    """Cancelling ends the first request and its hedge."""
    rig = Rig()
    both = rig.origin.held()
    late = Late(rig, both, rig.fetched)
    late.hedge()
    both.wait_reached()
    late.request.cancel()
    with pytest.raises(Unavailable):
        late.result()
    rig.is_still()


def test_a_request_cancelled_before_it_begins_is_not_sent() -> None:
    """A request that was cancelled before it began ends with an error at once."""
    rig, request = Rig(), Hedgeable()
    request.cancel()
    barrier = rig.origin.held()
    with pytest.raises(Unavailable):
        rig.fetched(request)
    barrier.lift()


def test_an_error_in_the_middle_of_a_fetch_is_raised() -> None:
    """The pieces before an error are yielded, and the connection is released."""
    rig = Rig()
    rig.origin.break_next(Break(after=50, error=Unavailable(PATH, "away")))
    got: list[bytes] = []
    with pytest.raises(Unavailable, match="away"):
        got.extend(rig.hedged.fetch(rig.file, Span(0, 100)))
    rig.is_still()


def test_a_fetch_holds_its_connection_to_the_last_byte() -> None:
    """A fetch holds its connection until its last byte, or until it is closed early."""
    rig = Rig()
    pieces = cast("Generator[bytes]", rig.hedged.fetch(rig.file, Span(0, 100)))
    next(pieces)
    assert repr(rig.limiter).startswith("<ConnectionLimiter demand=1 ")
    pieces.close()
    assert repr(rig.limiter).startswith(EMPTY)
    assert rig.origin._inside == 0
    assert rig.fetched() == CONTENT
    assert repr(rig.limiter).startswith(EMPTY)


def test_a_hedge_that_meets_a_surprise_leaves_the_first_request_alone() -> None:
    """Its place is given back, and a first request that fails afterwards does not wait for it."""
    rig = Rig()
    both = rig.origin.held()
    rig.origin.break_next(Break(error=Unavailable(PATH, "away")), Break(error=ZeroDivisionError()))
    late = Late(rig, both, rig.fetched)
    late.hedge()
    both.wait_reached()
    both.lift()
    with pytest.raises(Unavailable, match="away"):
        late.result()
    rig.is_still()


def test_a_hedge_that_found_no_free_place_is_sent_when_there_is_one() -> None:
    """A thread that waits on tries again, as long as the request is silent."""
    rig = Rig(most=2)
    first = rig.origin.held(times=1)
    with rig.limiter.demand():
        late = Late(rig, first, rig.fetched)
        late.hedge()
        assert rig.hedged.hedged_requests == 0
    late.hedge()
    assert late.result() == CONTENT
    assert rig.hedged.hedged_requests == 1


def test_a_hedge_that_cannot_be_sent_gives_its_place_back() -> None:
    """Where no thread takes it the error is the waiter's, and the first request goes on."""

    def refuse(_: Callable[[], object]) -> None:
        raise Closed(PATH)

    rig = Rig()
    rig.hedged._submit = refuse
    barrier = rig.origin.held()
    late = Late(rig, barrier, rig.fetched)
    with pytest.raises(Closed):
        late.hedge()
    barrier.lift()
    assert late.result() == CONTENT
    rig.is_still()


def test_many_threads_stay_within_the_limit() -> None:
    """Requests and hedges together never exceed the connections of the limiter."""
    rig = Rig(most=3)
    got = at_once([lambda: [rig.fetched(AtOnce()) for _ in range(10)]] * 6)
    assert got == [[CONTENT] * 10] * 6
    assert rig.limiter.peak <= 3
    rig.is_still()


def test_the_deadline_reaches_the_origin() -> None:
    """Each request has the deadline of its caller."""
    rig = Rig()
    rig.hedged.measure(PATH, deadline=5.0)
    rig.hedged.open(PATH, 10, deadline=6.0)
    b"".join(rig.hedged.fetch(rig.file, Span(0, 10), deadline=7.0))
    assert rig.origin.deadlines == [5.0, 6.0, 7.0]
