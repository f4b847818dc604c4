"""A second asking where the first is silent: the first answer counts, within the gate and within reason."""

import random
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import cast

import pytest
from support.fakes import SOON, Break, FakeOrigin, FixedLatency, at_once, noise

from empiarfs.cancellation import deadline
from empiarfs.engine import hedge
from empiarfs.engine.hedge import CancelToken, Hedged
from empiarfs.engine.latency import LatencyEstimator
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.errors import ArchiveError, Forbidden, NotFound, Stale, Unavailable
from empiarfs.model import File, Span

PATH = "10028/data/a.mrc"
CONTENT = noise(100)
EMPTY = "<ConnectionLimiter demand=0 prefetch=0 "


class Impatient(FixedLatency):
    """A pace at which whatever is silent at all is late."""

    def hedge_delay(self) -> float:
        """Return after how many seconds of silence a request is sent a second time."""
        return 0.0


class Hasty(Impatient):
    """A pace at which no silence is borne."""

    def read_timeout(self, kind: str = "") -> float:
        """Return how long a request may be silent."""
        return 0.0


class LearntPace(FixedLatency):
    """A pace that has learnt what it is before anything was learnt."""

    def hedge_delay(self) -> float:
        """Return after how many seconds of silence a request is sent a second time."""
        return LatencyEstimator.hedge_delay(self)


class Slow(FakeOrigin):
    """An origin that thinks for a moment before it measures."""

    pause = 0.0  # seconds

    def measure(self, path: str, token: CancelToken | None = None) -> File:
        """See `Origin.measure`."""
        time.sleep(self.pause)
        return super().measure(path, token)


class Rig:
    """A hedged origin with all its parts in reach."""

    def __init__(self, pace: FixedLatency, most: int = 4) -> None:
        self.origin = Slow({PATH: CONTENT})
        self.limiter = ConnectionLimiter(most, 1)
        self.hedged = Hedged(self.origin, self.limiter, pace)
        self.file = self.origin.file(PATH)

    def fetched(self) -> bytes:
        """Fetch the whole file."""
        return b"".join(self.hedged.fetch(self.file, Span(0, 100)))


def refused(_: threading.Thread) -> None:
    """Start no thread, as a machine does that has as many as it may."""
    raise RuntimeError("can't start new thread")


def test_what_is_answered_in_time_is_asked_once() -> None:
    """Measuring and fetching cost one request each."""
    rig = Rig(FixedLatency())
    assert rig.hedged.measure(PATH) == rig.file
    assert rig.fetched() == CONTENT
    assert len(rig.origin.diary) == 2
    assert rig.hedged.hedged_requests == 0


@pytest.mark.promise(
    "A request that a caller waits for is hedged (sent again on a second connection) when no byte has come "
    "for unusually long: at most eight at the beginning, and one in twenty from then on."
)
def test_a_fetch_that_is_silent_is_asked_for_again() -> None:
    """The second answers; the first is broken, and both places are given back."""
    rig = Rig(Impatient())
    first = rig.origin.held()
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(rig.fetched)
        first.wait_reached(2)
        first.lift()
        assert fetching.result(SOON) == CONTENT
    assert rig.origin.fetches == [Span(0, 100)] * 2
    assert rig.hedged.hedged_requests == 1
    assert repr(rig.limiter).startswith(EMPTY)


def test_the_answer_of_the_second_does_not_wait_for_the_first() -> None:
    """The first hangs for good: the second answers, the first is cut, and its place and its line are free."""
    rig = Rig(Impatient())
    first = rig.origin.held(times=1)
    assert rig.hedged.measure(PATH) == rig.file
    first.wait_gone()
    assert rig.origin.measured == [PATH] * 2
    first = rig.origin.held(times=1)
    assert rig.fetched() == CONTENT
    first.wait_gone()
    assert rig.origin.fetches == [Span(0, 100)] * 2
    assert repr(rig.limiter).startswith(EMPTY)


def test_the_second_answers_where_the_first_fails_late() -> None:
    """One of two is enough."""
    rig = Rig(Impatient())
    barrier = rig.origin.held()
    rig.origin.break_next(Break(error=Unavailable(PATH, "away")))
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(rig.fetched)
        barrier.wait_reached(2)
        barrier.lift()
        assert fetching.result(SOON) == CONTENT


def test_where_no_thread_is_to_be_had_it_is_asked_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and answered; its place is given back."""
    rig = Rig(Impatient())
    monkeypatch.setattr(threading.Thread, "start", refused)
    assert rig.hedged.measure(PATH) == rig.file
    assert rig.fetched() == CONTENT
    assert rig.hedged.hedged_requests == 0
    assert repr(rig.limiter).startswith(EMPTY)


def test_where_no_second_thread_is_to_be_had_the_first_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late; the second place is given back at once."""
    rig = Rig(Impatient())
    started: list[threading.Thread] = []
    refusals = threading.Semaphore(0)
    start = threading.Thread.start

    def started_once(thread: threading.Thread) -> None:
        if thread.name == "request":
            if started:
                refusals.release()
                raise RuntimeError("can't start new thread")
            started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", started_once)
    barrier = rig.origin.held()
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(rig.fetched)
        barrier.wait_reached()
        assert refusals.acquire(timeout=SOON)
        barrier.lift()
        assert fetching.result(SOON) == CONTENT
    assert (len(rig.origin.fetches), rig.hedged.hedged_requests) == (1, 0)
    assert repr(rig.limiter).startswith(EMPTY)


def test_no_second_place_no_second_asking() -> None:
    """With one connection there is one request, however silent."""
    rig = Rig(Impatient(), most=1)
    barrier = rig.origin.held()
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(rig.fetched)
        barrier.wait_reached()
        barrier.lift()
        assert fetching.result(SOON) == CONTENT
    assert len(rig.origin.fetches) == 1


@pytest.mark.promise(
    "A request that a caller waits for is hedged (sent again on a second connection) when no byte has come "
    "for unusually long: at most eight at the beginning, and one in twenty from then on."
)
def test_asking_twice_is_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is slow throughout is not asked twice for everything: after a few it is only waited for."""
    monkeypatch.setattr(hedge, "MAX_CREDIT", 4.0)
    rig = Rig(Impatient(), most=1000)
    for _ in range(4):
        rig.origin.held(times=1)
        assert rig.hedged.measure(PATH) == rig.file
    assert rig.hedged.hedged_requests == 4
    barrier = rig.origin.held(times=1)
    with ThreadPoolExecutor(1) as pool:
        measuring = pool.submit(rig.hedged.measure, PATH)
        barrier.wait_reached()
        assert wait([measuring], timeout=0.2).done == set()
        barrier.lift()
        assert measuring.result(SOON) == rig.file
    assert rig.hedged.hedged_requests == 4


@pytest.mark.promise(
    "A request that a caller waits for is hedged (sent again on a second connection) when no byte has come "
    "for unusually long: at most eight at the beginning, and one in twenty from then on."
)
def test_twenty_requests_earn_a_second_asking() -> None:
    """Eight are there to begin with; after them one in twenty requests may be sent twice."""
    rig = Rig(Impatient(), most=1000)
    for _ in range(8):
        rig.origin.held(times=1)
        assert rig.hedged.measure(PATH) == rig.file
    barrier = rig.origin.held(times=1)
    with ThreadPoolExecutor(1) as pool:
        measuring = pool.submit(rig.hedged.measure, PATH)
        barrier.wait_reached()
        assert wait([measuring], timeout=0.2).done == set()
        barrier.lift()
        measuring.result(SOON)
    assert rig.hedged.hedged_requests == 8
    rig.hedged._latency = FixedLatency()  # on a busy machine one of these could be late
    for _ in range(20):
        rig.hedged.measure(PATH)
    rig.hedged._latency = Impatient()
    rig.origin.held(times=1)
    assert rig.hedged.measure(PATH) == rig.file
    assert rig.hedged.hedged_requests == 9


def test_no_server_is_asked_twice_for_more_than_one_in_twenty() -> None:
    """Where every single reply is late, second askings are 8 and then 5 % of all requests; never more."""
    rig = Rig(Impatient(), most=1000)
    rig.origin.pause = 0.002
    for number in range(1, 301):
        assert rig.hedged.measure(PATH) == rig.file
        assert rig.hedged.hedged_requests <= hedge.MAX_CREDIT + hedge.HEDGE_SHARE * number
    assert len(rig.origin.diary) <= 300 + rig.hedged.hedged_requests
    assert rig.hedged.hedged_requests > hedge.MAX_CREDIT, "credit is earned"


def test_a_healthy_server_is_asked_once() -> None:
    """With the pace as it is learnt, a server that answers at once is never asked twice."""
    rig = Rig(LearntPace())
    for _ in range(200):
        assert rig.fetched() == CONTENT
    assert rig.hedged.hedged_requests <= 0.05 * 200, "a machine that stands still may cost a few"


@pytest.mark.parametrize("kind", ["even", "jittery", "two servers", "long tail"])
@pytest.mark.parametrize("seed", range(5))
def test_what_counts_as_late_is_rare(kind: str, seed: int) -> None:
    """Of the replies of a healthy server, however they spread, at most one in twenty comes later than `second`."""
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
@pytest.mark.parametrize("pace", [FixedLatency, Impatient])
def test_an_error_comes_through_as_it_is(error: ArchiveError, pace: type[FixedLatency]) -> None:
    """Whether it was asked once or twice; all places are given back."""
    rig = Rig(pace())
    rig.origin.refusals[PATH] = error
    with pytest.raises(type(error), match=error.reason):
        rig.hedged.measure(PATH)
    with pytest.raises(type(error), match=error.reason):
        rig.fetched()
    assert repr(rig.limiter).startswith(EMPTY)


def test_silence_beyond_all_deadlines_tells_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log names the path."""
    monkeypatch.setattr(hedge, "LAST_SECONDS", 0.0)
    rig = Rig(Hasty(), most=1)
    barrier = rig.origin.held()
    for ask in (lambda: rig.hedged.measure(PATH), rig.fetched):
        with pytest.raises(Unavailable) as caught:
            ask()
        assert caught.value.path == PATH
    barrier.lift()


def test_one_request_takes_no_longer_than_patience_does() -> None:
    """However long the lines would wait for a server that is slow."""
    rig = Rig(Hasty(), most=1)
    barrier = rig.origin.held()
    begun = time.monotonic()
    with deadline(0.3), pytest.raises(Unavailable, match="does not answer"):
        rig.fetched()
    assert 0.2 < time.monotonic() - begun < SOON
    barrier.lift()
    assert rig.fetched() == CONTENT


def test_an_error_in_the_middle_comes_through() -> None:
    """What came before it was handed on; the place is given back."""
    rig = Rig(FixedLatency())
    rig.origin.break_next(Break(after=50, error=Unavailable(PATH, "away")))
    pieces = rig.hedged.fetch(rig.file, Span(0, 100))
    got: list[bytes] = []
    with pytest.raises(Unavailable, match="away"):
        got.extend(pieces)
    assert repr(rig.limiter).startswith(EMPTY)


def test_a_fetch_holds_its_place_to_the_last_byte_and_no_longer() -> None:
    """Also when it is closed early."""
    rig = Rig(FixedLatency())
    pieces = cast("Generator[bytes]", rig.hedged.fetch(rig.file, Span(0, 100)))
    next(pieces)
    assert repr(rig.limiter).startswith("<ConnectionLimiter demand=1 ")
    pieces.close()
    assert repr(rig.limiter).startswith(EMPTY)
    assert rig.origin._inside == 0
    assert rig.fetched() == CONTENT
    assert repr(rig.limiter).startswith(EMPTY)


def test_many_threads_stay_within_the_gate() -> None:
    """Second askings too take places, and never more than there are."""
    rig = Rig(Impatient(), most=3)
    got = at_once([lambda: [rig.fetched() for _ in range(10)]] * 6)
    assert got == [[CONTENT] * 10] * 6
    assert rig.limiter.peak <= 3
    assert repr(rig.limiter).startswith(EMPTY)


def test_a_cut_breaks_what_it_means_now_and_lets_nothing_begin() -> None:
    """What is under way is broken; what would begin afterwards is told not to; what is over is left alone."""
    token = CancelToken()
    broken: list[str] = []
    assert token.on_cancel(lambda: broken.append("first"))
    token.cancel()
    assert not token.on_cancel(lambda: broken.append("second"))
    token.on_cancel(None)
    token.cancel()
    assert broken == ["first"]


def test_what_was_cut_may_not_begin() -> None:
    """`means` tells so, whether it was cut before or between; before that it may."""
    token = CancelToken()
    acts: list[int] = []
    assert token.on_cancel(lambda: acts.append(1))
    assert token.on_cancel(None)
    token.cancel()
    assert acts == []
    assert not token.on_cancel(lambda: acts.append(2))
    assert acts == []
