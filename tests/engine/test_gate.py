"""A gate whose server wants to be asked less gets narrower for a while."""

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import pytest
from fakes import SOON, FakeClock

from empiarfs.engine import gate as gates
from empiarfs.engine.gate import Gate
from empiarfs.engine.wanted import wanted_while
from empiarfs.errors import Overloaded, Unavailable, Unwanted


def overloaded(gate: Gate, pause: float = 0.0) -> None:
    """Let one request be refused."""
    with pytest.raises(Overloaded), gate.demand():
        raise Overloaded("10028/a", "503", pause)


def allowed(gate: Gate) -> int:
    """Give how many may be inside now."""
    return gate._free()


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the gate."""
    return FakeClock()


@pytest.fixture
def gate(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> Gate:
    """A gate of eight."""
    return Gate(8, 2, clock)


@pytest.mark.promise(
    "A server that asks to be left alone (429, 503, refused connections) is asked less for a while."
)
def test_an_overloaded_server_halves_the_connections(gate: Gate, clock: FakeClock) -> None:
    """And halves them again when that was not enough, but never to none."""
    assert allowed(gate) == 8
    seen = []
    for _ in range(5):
        overloaded(gate)
        seen.append(allowed(gate))
        clock.go_on(gates.GROW_SECONDS)
    assert seen[0] == 4
    assert seen[-1] == min(seen) >= 1


def test_the_log_says_how_many_for_how_long(gate: Gate, clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """Once for the server's trouble, and again only when that is over and comes back."""
    overloaded(gate)
    overloaded(gate)
    assert [record.getMessage() for record in caplog.records] == [
        "10028/a: 503; using at most 4 connections for 30 s, then one more every 5 s"
    ]
    caplog.clear()


def test_a_gate_tells_who_is_inside(gate: Gate) -> None:
    """Readers and prefetch together, how many may be, and who waits."""
    assert (gate.busy, gate.allowed, gate.waiting) == (0, 8, 0)
    with gate.demand(), gate.ahead():
        assert (gate.busy, gate.waiting) == (2, 0)
    overloaded(gate)
    assert (gate.busy, gate.allowed) == (0, 4)


def test_requests_that_were_refused_together_count_once(gate: Gate) -> None:
    """Eight refusals at one moment are one piece of news."""
    for _ in range(8):
        overloaded(gate)
    assert allowed(gate) == 4


def test_connections_come_back_one_by_one(gate: Gate, clock: FakeClock) -> None:
    """After a calm while, one every few seconds, up to what was set and no more."""
    overloaded(gate)
    clock.go_on(gates.CALM_SECONDS - 1)
    assert allowed(gate) == 4
    seen = []
    for _ in range(10):
        clock.go_on(gates.GROW_SECONDS)
        seen.append(allowed(gate))
    assert seen == sorted(seen)
    assert seen[-1] == 8
    assert all(later - sooner <= 1 for sooner, later in itertools.pairwise(seen))


def test_a_pause_that_the_server_asks_for_is_kept(gate: Gate, clock: FakeClock) -> None:
    """Retry-After longer than the calm while delays the growing."""
    overloaded(gate, pause=600.0)
    clock.go_on(599)
    assert allowed(gate) == 4


def test_nothing_is_asked_twice_while_the_server_wants_to_be_left_alone(gate: Gate, clock: FakeClock) -> None:
    """A second asking is a request like any other."""
    overloaded(gate, pause=8.0)
    assert not gate.one_more()
    clock.go_on(8.1)
    assert gate.one_more()


def test_who_was_at_the_gate_when_the_server_asked_to_be_left_alone_is_sent_away(
    gate: Gate, clock: FakeClock
) -> None:
    """He learns for how long; who comes afterwards has waited, or has no more patience, and goes in."""
    started, errors = threading.Event(), []

    def visit() -> None:
        with pytest.raises(Overloaded) as caught, gate.demand("10028/b"):
            started.set()
        errors.append(caught.value)

    visitor = threading.Thread(target=visit)
    with ExitStack() as inside:
        for _ in range(8):
            inside.enter_context(gate.demand())
        visitor.start()
        wait_until(lambda: len(gate._waiting) == 1)
        clock.go_on(1)
        gate._shrink(Overloaded("10028/a", "429", 60.0))
        clock.go_on(1)
    visitor.join(SOON)
    assert not started.is_set()
    assert [(error.path, error.pause) for error in errors] == [("10028/b", 59.0)]
    with gate.demand("10028/b"):
        pass


def test_a_server_that_answers_before_its_pause_is_over_is_well(gate: Gate, clock: FakeClock) -> None:
    """An answer to what was asked since the pause ends it for all; one to an older request does not."""
    older = gate.demand()
    older.__enter__()
    clock.go_on(1)
    overloaded(gate, pause=600.0)
    clock.go_on(1)
    older.__exit__(None, None, None)
    assert gate.pause() == 599.0
    with gate.demand():
        pass
    assert gate.pause() == 0.0
    clock.go_on(gates.CALM_SECONDS + 4 * gates.GROW_SECONDS)
    allowed(gate)
    clock.go_on(gates.GROW_SECONDS)
    assert allowed(gate) > 4


def test_a_pause_is_news_with_its_length(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """One line says what, where, and for how long; the other requests of that moment say nothing more."""
    for _ in range(3):
        overloaded(gate, pause=60.0)
    assert [record.getMessage() for record in caplog.records] == ["10028/a: 503; it asks to be left alone for 60 s"]


def test_other_errors_do_not_narrow_the_gate(gate: Gate) -> None:
    """A lost line is no sign of too many."""
    with pytest.raises(Unavailable), gate.demand():
        raise Unavailable("10028/a")
    assert allowed(gate) == 8


def test_who_must_know_is_told(clock: FakeClock) -> None:
    """Idle connections are closed when the server wants fewer."""
    told: list[int] = []
    gate = Gate(8, 2, clock, shrunk=lambda: told.append(1))
    overloaded(gate)
    assert told == [1]


def test_a_second_connection_is_given_only_if_one_is_free(gate: Gate) -> None:
    """`one_more` never waits, and never goes over the limit."""
    for _ in range(8):
        assert gate.one_more()
    assert not gate.one_more()
    gate.one_less()
    assert gate.one_more()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until another thread has made it so."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it does not become so"
        time.sleep(0.001)


def test_readers_go_in_as_they_came() -> None:
    """First come, first served: nobody is overtaken, however many wait."""
    gate = Gate(1, 0)
    order: list[int] = []

    def visit(number: int) -> None:
        with gate.demand():
            order.append(number)

    def is_in_line(number: int) -> bool:
        return len(gate._waiting) == number

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(12)]
    with gate.demand():
        for number, visitor in enumerate(visitors):
            visitor.start()
            wait_until(partial(is_in_line, number + 1))
    for visitor in visitors:
        visitor.join(SOON)
    assert order == list(range(12))


@pytest.mark.parametrize("pause", [0.0, 5.0, 600.0])
def test_nothing_is_fetched_ahead_while_the_server_wants_to_be_left_alone(
    gate: Gate, clock: FakeClock, pause: float
) -> None:
    """For the pause it asks for, and for a second where it names none; readers may go on."""
    overloaded(gate, pause)
    quiet = max(pause, gates.QUIET_SECONDS)
    inside = threading.Event()

    def fetch_ahead() -> None:
        with gate.ahead():
            inside.set()

    visitor = threading.Thread(target=fetch_ahead)
    visitor.start()
    clock.go_on(quiet - 0.5)
    with pytest.raises(Unavailable), gate.demand():
        raise Unavailable("10028/b")
    assert not inside.wait(0.05)
    clock.go_on(0.5)
    with gate.demand():
        pass
    assert inside.wait(SOON)
    visitor.join(SOON)


@pytest.mark.parametrize("most", [1, 8])
def test_after_a_quiet_while_prefetch_goes_on_by_itself(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No reader need come to wake it, also where there is one connection, which is never halved."""
    monkeypatch.setattr(gates, "QUIET_SECONDS", 0.1)
    gate = Gate(most, 0)
    overloaded(gate)
    inside = threading.Event()

    def fetch_ahead() -> None:
        with gate.ahead():
            inside.set()

    threading.Thread(target=fetch_ahead, daemon=True).start()
    assert inside.wait(SOON)


def test_whom_nobody_waits_for_leaves_the_line(gate: Gate) -> None:
    """He holds no place, and is in nobody's way."""
    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(gate.demand())
        with wanted_while(lambda: False), pytest.raises(Unwanted), gate.demand("10028/a"):
            pytest.fail("he is in")
        assert (gate.busy, gate.waiting) == (8, 0)
    with gate.demand("10028/a"):
        assert gate.busy == 1


def test_nothing_goes_ahead_while_someone_waits(gate: Gate) -> None:
    """Whoever of the two looks first when a place is free."""
    assert gate._may_go_ahead()
    gate._waiting.append(object())
    assert not gate._may_go_ahead()
