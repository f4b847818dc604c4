"""The limiter allows fewer connections for a while after the server throttles."""

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import pytest
from support.fakes import SOON, FakeClock

from empiarfs.cancellation import cancel_scope
from empiarfs.engine import limiter as gates
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.errors import Cancelled, Throttled, Unavailable


def overloaded(limiter: ConnectionLimiter, pause: float = 0.0) -> None:
    """Let one request be throttled."""
    with pytest.raises(Throttled), limiter.demand():
        raise Throttled("10028/a", "503", pause)


def allowed(limiter: ConnectionLimiter) -> int:
    """Return how many connections may be in use now."""
    return limiter._free()


@pytest.fixture
def clock() -> FakeClock:
    """Return the clock of the limiter."""
    return FakeClock()


@pytest.fixture
def limiter(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> ConnectionLimiter:
    """Return a limiter of eight connections."""
    return ConnectionLimiter(8, 2, clock)


@pytest.mark.promise(
    "A server that throttles (429, 503, refused connections) gets fewer requests at once for a while."
)
def test_an_overloaded_server_halves_the_connections(limiter: ConnectionLimiter, clock: FakeClock) -> None:
    """Throttling halves the limit, again if it goes on, but never to zero."""
    assert allowed(limiter) == 8
    seen = []
    for _ in range(5):
        overloaded(limiter)
        seen.append(allowed(limiter))
        clock.go_on(gates.GROW_SECONDS)
    assert seen[0] == 4
    assert seen[-1] == min(seen) >= 1


def test_the_log_says_how_many_for_how_long(
    limiter: ConnectionLimiter, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Throttling is logged once, and again only after the limit has recovered."""
    overloaded(limiter)
    overloaded(limiter)
    assert [record.getMessage() for record in caplog.records] == [
        "10028/a: 503; using at most 4 connections for 30 s, then one more every 5 s"
    ]
    caplog.clear()


def test_a_limiter_reports_its_connections(limiter: ConnectionLimiter) -> None:
    """The limiter reports connections in use, the limit and the queue length."""
    assert (limiter.busy, limiter.allowed, limiter.waiting) == (0, 8, 0)
    with limiter.demand(), limiter.prefetch():
        assert (limiter.busy, limiter.waiting) == (2, 0)
    overloaded(limiter)
    assert (limiter.busy, limiter.allowed) == (0, 4)


def test_requests_throttled_together_count_once(limiter: ConnectionLimiter) -> None:
    """Eight simultaneous refusals halve the limit once."""
    for _ in range(8):
        overloaded(limiter)
    assert allowed(limiter) == 4


def test_connections_come_back_one_by_one(limiter: ConnectionLimiter, clock: FakeClock) -> None:
    """After a calm time the limit grows by one every few seconds, up to the setting."""
    overloaded(limiter)
    clock.go_on(gates.CALM_SECONDS - 1)
    assert allowed(limiter) == 4
    seen = []
    for _ in range(10):
        clock.go_on(gates.GROW_SECONDS)
        seen.append(allowed(limiter))
    assert seen == sorted(seen)
    assert seen[-1] == 8
    assert all(later - sooner <= 1 for sooner, later in itertools.pairwise(seen))


def test_a_requested_pause_is_observed(limiter: ConnectionLimiter, clock: FakeClock) -> None:
    """A Retry-After longer than the calm time delays the growth of the limit."""
    overloaded(limiter, pause=600.0)
    clock.go_on(599)
    assert allowed(limiter) == 4


def test_there_are_no_hedges_during_a_requested_pause(limiter: ConnectionLimiter, clock: FakeClock) -> None:
    """A hedge is a request, and is not sent during a pause."""
    overloaded(limiter, pause=8.0)
    assert not limiter.try_acquire()
    clock.go_on(8.1)
    assert limiter.try_acquire()


def test_queued_requests_fail_when_the_server_requests_a_pause(
    limiter: ConnectionLimiter, clock: FakeClock
) -> None:
    """A queued request raises Throttled with the pause; a later one is admitted."""
    started, errors = threading.Event(), []

    def visit() -> None:
        with pytest.raises(Throttled) as caught, limiter.demand("10028/b"):
            started.set()
        errors.append(caught.value)

    visitor = threading.Thread(target=visit)
    with ExitStack() as inside:
        for _ in range(8):
            inside.enter_context(limiter.demand())
        visitor.start()
        wait_until(lambda: len(limiter._waiting) == 1)
        clock.go_on(1)
        limiter._shrink(Throttled("10028/a", "429", 60.0))
        clock.go_on(1)
    visitor.join(SOON)
    assert not started.is_set()
    assert [(error.path, error.pause) for error in errors] == [("10028/b", 59.0)]
    with limiter.demand("10028/b"):
        pass


def test_an_answer_ends_a_requested_pause(limiter: ConnectionLimiter, clock: FakeClock) -> None:
    """An answer to a request sent during the pause ends it for all; one to an older request does not."""
    older = limiter.demand()
    older.__enter__()
    clock.go_on(1)
    overloaded(limiter, pause=600.0)
    clock.go_on(1)
    older.__exit__(None, None, None)
    assert limiter.pause() == 599.0
    with limiter.demand():
        pass
    assert limiter.pause() == 0.0
    clock.go_on(gates.CALM_SECONDS + 4 * gates.GROW_SECONDS)
    allowed(limiter)
    clock.go_on(gates.GROW_SECONDS)
    assert allowed(limiter) > 4


def test_a_requested_pause_is_logged_once(limiter: ConnectionLimiter, caplog: pytest.LogCaptureFixture) -> None:
    """One log line names the path, the reason and the pause; simultaneous requests add none."""
    for _ in range(3):
        overloaded(limiter, pause=60.0)
    assert [record.getMessage() for record in caplog.records] == ["10028/a: 503; it requests a pause of 60 s"]


def test_other_errors_do_not_reduce_the_limit(limiter: ConnectionLimiter) -> None:
    """A lost connection does not count as throttling."""
    with pytest.raises(Unavailable), limiter.demand():
        raise Unavailable("10028/a")
    assert allowed(limiter) == 8


def test_on_throttle_is_called(clock: FakeClock) -> None:
    """`on_throttle` is called when the server throttles, to close idle connections."""
    calls: list[int] = []
    limiter = ConnectionLimiter(8, 2, clock, on_throttle=lambda: calls.append(1))
    overloaded(limiter)
    assert calls == [1]


def test_a_second_connection_is_acquired_only_if_free(limiter: ConnectionLimiter) -> None:
    """`try_acquire` never waits, and never exceeds the limit."""
    for _ in range(8):
        assert limiter.try_acquire()
    assert not limiter.try_acquire()
    limiter.release()
    assert limiter.try_acquire()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until another thread has made `condition` true."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it does not become so"
        time.sleep(0.001)


def test_demand_requests_are_served_in_order() -> None:
    """Demand requests are served first come, first served, however many are queued."""
    limiter = ConnectionLimiter(1, 0)
    order: list[int] = []

    def visit(number: int) -> None:
        with limiter.demand():
            order.append(number)

    def is_in_line(number: int) -> bool:
        return len(limiter._waiting) == number

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(12)]
    with limiter.demand():
        for number, visitor in enumerate(visitors):
            visitor.start()
            wait_until(partial(is_in_line, number + 1))
    for visitor in visitors:
        visitor.join(SOON)
    assert order == list(range(12))


@pytest.mark.parametrize("pause", [0.0, 5.0, 600.0])
def test_there_is_no_prefetch_during_a_pause(limiter: ConnectionLimiter, clock: FakeClock, pause: float) -> None:
    """After throttling there is no prefetch for the requested pause, or for a second; demand requests go on."""
    overloaded(limiter, pause)
    quiet = max(pause, gates.QUIET_SECONDS)
    inside = threading.Event()

    def fetch_ahead() -> None:
        with limiter.prefetch():
            inside.set()

    visitor = threading.Thread(target=fetch_ahead)
    visitor.start()
    clock.go_on(quiet - 0.5)
    with pytest.raises(Unavailable), limiter.demand():
        raise Unavailable("10028/b")
    assert not inside.wait(0.05)
    clock.go_on(0.5)
    with limiter.demand():
        pass
    assert inside.wait(SOON)
    visitor.join(SOON)


@pytest.mark.parametrize("most", [1, 8])
def test_prefetch_resumes_without_a_demand_request(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the pause prefetch resumes without a notification, even with a limit of one."""
    monkeypatch.setattr(gates, "QUIET_SECONDS", 0.1)
    limiter = ConnectionLimiter(most, 0)
    overloaded(limiter)
    inside = threading.Event()

    def fetch_ahead() -> None:
        with limiter.prefetch():
            inside.set()

    threading.Thread(target=fetch_ahead, daemon=True).start()
    assert inside.wait(SOON)


def test_prefetch_that_was_queued_before_a_throttle_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefetch that waited without a timeout when the server throttled is admitted after the pause."""
    monkeypatch.setattr(gates, "QUIET_SECONDS", 0.1)
    limiter = ConnectionLimiter(1, 0)
    timeouts: list[float | None] = []

    def recorded(poll: Callable[[float | None], bool], seconds: float | None, _wake: object) -> bool:
        timeouts.append(seconds)
        return poll(seconds)

    monkeypatch.setattr(gates, "wait", recorded)
    inside = threading.Event()

    def fetch_ahead() -> None:
        with limiter.prefetch():
            inside.set()

    visitor = threading.Thread(target=fetch_ahead, daemon=True)
    with limiter.demand():
        visitor.start()
        wait_until(lambda: timeouts == [None])
        limiter._shrink(Throttled("10028/a", "503"))
    assert inside.wait(SOON)


def test_a_cancelled_request_leaves_the_queue(limiter: ConnectionLimiter) -> None:
    """A cancelled request holds no connection and does not block the queue."""
    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(limiter.demand())
        with cancel_scope(lambda: False), pytest.raises(Cancelled), limiter.demand("10028/a"):
            pytest.fail("the request is admitted")
        assert (limiter.busy, limiter.waiting) == (8, 0)
    with limiter.demand("10028/a"):
        assert limiter.busy == 1


def test_prefetch_does_not_overtake_a_demand_request(limiter: ConnectionLimiter) -> None:
    """A free connection goes to the demand request, whichever thread wakes first."""
    assert limiter._may_prefetch()
    limiter._waiting.append(threading.Event())
    assert not limiter._may_prefetch()


def test_a_request_that_is_cancelled_as_it_is_admitted_returns_its_connection(
    limiter: ConnectionLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request whose caller stops waiting at the moment of its admission holds no connection."""
    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(limiter.demand())

        def admitted_too_late(*_: object) -> bool:
            held.close()
            raise Cancelled("")

        monkeypatch.setattr(gates, "wait", admitted_too_late)
        with pytest.raises(Cancelled), limiter.demand("10028/a"):
            pytest.fail("the request is admitted")
    assert (limiter.busy, limiter.waiting) == (0, 0)
