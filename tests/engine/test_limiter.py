"""A gate whose server wants to be asked less gets narrower for a while."""

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
    """Let one request be refused."""
    with pytest.raises(Throttled), limiter.demand():
        raise Throttled("10028/a", "503", pause)


def allowed(limiter: ConnectionLimiter) -> int:
    """Return how many may be inside now."""
    return limiter._free()


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the gate."""
    return FakeClock()


@pytest.fixture
def limiter(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> ConnectionLimiter:
    """A gate of eight."""
    return ConnectionLimiter(8, 2, clock)


@pytest.mark.promise(
    "A server that throttles (429, 503, refused connections) gets fewer requests at once for a while."
)
def test_an_overloaded_server_halves_the_connections(limiter: ConnectionLimiter, clock: FakeClock) -> None:
    """And halves them again when that was not enough, but never to none."""
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
    """Once for the server's trouble, and again only when that is over and comes back."""
    overloaded(limiter)
    overloaded(limiter)
    assert [record.getMessage() for record in caplog.records] == [
        "10028/a: 503; using at most 4 connections for 30 s, then one more every 5 s"
    ]
    caplog.clear()


def test_a_gate_tells_who_is_inside(limiter: ConnectionLimiter) -> None:
    """Readers and prefetch together, how many may be, and who waits."""
    assert (limiter.busy, limiter.allowed, limiter.waiting) == (0, 8, 0)
    with limiter.demand(), limiter.prefetch():
        assert (limiter.busy, limiter.waiting) == (2, 0)
    overloaded(limiter)
    assert (limiter.busy, limiter.allowed) == (0, 4)


def test_requests_that_were_refused_together_count_once(limiter: ConnectionLimiter) -> None:
    """Eight refusals at one moment are one piece of news."""
    for _ in range(8):
        overloaded(limiter)
    assert allowed(limiter) == 4


def test_connections_come_back_one_by_one(limiter: ConnectionLimiter, clock: FakeClock) -> None:
    """After a calm while, one every few seconds, up to what was set and no more."""
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


def test_a_pause_that_the_server_asks_for_is_kept(limiter: ConnectionLimiter, clock: FakeClock) -> None:
    """Retry-After longer than the calm while delays the growing."""
    overloaded(limiter, pause=600.0)
    clock.go_on(599)
    assert allowed(limiter) == 4


def test_nothing_is_asked_twice_while_the_server_wants_to_be_left_alone(
    limiter: ConnectionLimiter, clock: FakeClock
) -> None:
    """A second asking is a request like any other."""
    overloaded(limiter, pause=8.0)
    assert not limiter.try_acquire()
    clock.go_on(8.1)
    assert limiter.try_acquire()


def test_who_was_at_the_gate_when_the_server_asked_to_be_left_alone_is_sent_away(
    limiter: ConnectionLimiter, clock: FakeClock
) -> None:
    """He learns for how long; who comes afterwards has waited, or has no more patience, and goes in."""
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


def test_a_server_that_answers_before_its_pause_is_over_is_well(
    limiter: ConnectionLimiter, clock: FakeClock
) -> None:
    """An answer to what was asked since the pause ends it for all; one to an older request does not."""
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


def test_a_pause_is_news_with_its_length(limiter: ConnectionLimiter, caplog: pytest.LogCaptureFixture) -> None:
    """One line says what, where, and for how long; the other requests of that moment say nothing more."""
    for _ in range(3):
        overloaded(limiter, pause=60.0)
    assert [record.getMessage() for record in caplog.records] == ["10028/a: 503; it requests a pause of 60 s"]


def test_other_errors_do_not_narrow_the_gate(limiter: ConnectionLimiter) -> None:
    """A lost line is no sign of too many."""
    with pytest.raises(Unavailable), limiter.demand():
        raise Unavailable("10028/a")
    assert allowed(limiter) == 8


def test_who_must_know_is_told(clock: FakeClock) -> None:
    """Idle connections are closed when the server wants fewer."""
    told: list[int] = []
    limiter = ConnectionLimiter(8, 2, clock, on_throttle=lambda: told.append(1))
    overloaded(limiter)
    assert told == [1]


def test_a_second_connection_is_given_only_if_one_is_free(limiter: ConnectionLimiter) -> None:
    """`one_more` never waits, and never goes over the limit."""
    for _ in range(8):
        assert limiter.try_acquire()
    assert not limiter.try_acquire()
    limiter.release()
    assert limiter.try_acquire()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until another thread has made it so."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it does not become so"
        time.sleep(0.001)


def test_readers_go_in_as_they_came() -> None:
    """First come, first served: nobody is overtaken, however many wait."""
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
def test_nothing_is_fetched_ahead_while_the_server_wants_to_be_left_alone(
    limiter: ConnectionLimiter, clock: FakeClock, pause: float
) -> None:
    """For the pause it asks for, and for a second where it names none; readers may go on."""
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
def test_after_a_quiet_while_prefetch_goes_on_by_itself(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No reader need come to wake it, also where there is one connection, which is never halved."""
    monkeypatch.setattr(gates, "QUIET_SECONDS", 0.1)
    limiter = ConnectionLimiter(most, 0)
    overloaded(limiter)
    inside = threading.Event()

    def fetch_ahead() -> None:
        with limiter.prefetch():
            inside.set()

    threading.Thread(target=fetch_ahead, daemon=True).start()
    assert inside.wait(SOON)


def test_whom_nobody_waits_for_leaves_the_line(limiter: ConnectionLimiter) -> None:
    """He holds no place, and is in nobody's way."""
    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(limiter.demand())
        with cancel_scope(lambda: False), pytest.raises(Cancelled), limiter.demand("10028/a"):
            pytest.fail("he is in")
        assert (limiter.busy, limiter.waiting) == (8, 0)
    with limiter.demand("10028/a"):
        assert limiter.busy == 1


def test_nothing_goes_ahead_while_someone_waits(limiter: ConnectionLimiter) -> None:
    """Whoever of the two looks first when a place is free."""
    assert limiter._may_prefetch()
    limiter._waiting.append(object())
    assert not limiter._may_prefetch()
