"""A failure is logged once, suspends its use for a growing time, and is over after a calm time."""

import logging

import pytest
from support.fakes import FakeClock

from empiarfs import circuit_breaker
from empiarfs.circuit_breaker import CircuitBreaker

FULL = OSError(28, "No space left on device")


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that stands still."""
    return FakeClock()


@pytest.fixture
def known(clock: FakeClock) -> CircuitBreaker:
    """Return a circuit breaker without a failure."""
    return CircuitBreaker("the cache", clock)


def test_a_failure_is_logged_once(known: CircuitBreaker, caplog: pytest.LogCaptureFixture) -> None:
    """Repeated failures of any use are logged once."""
    for use in ("reading", "writing") * 5:
        known.failure(FULL, use)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("the cache cannot be used ([Errno 28] No space left on device); reads go on without it")


def test_only_the_failed_use_is_suspended(known: CircuitBreaker, clock: FakeClock) -> None:
    """A failed write does not suspend reading: a full disk can still be read."""
    assert not known.is_open("writing")
    known.failure(FULL, "writing")
    assert known.is_open("writing")
    assert not known.is_open("reading")
    clock.go_on(circuit_breaker.FIRST_REST)
    assert not known.is_open("writing")


def test_the_pause_grows_while_failures_last(known: CircuitBreaker, clock: FakeClock) -> None:
    """Each failure lengthens the pause up to a limit, and simultaneous ones count once."""
    rests = []
    for _ in range(12):
        known.failure(FULL, "writing")
        known.failure(FULL, "writing")
        before = clock.now
        while known.is_open("writing"):
            clock.go_on(1.0)
        rests.append(clock.now - before)
    assert rests[:3] == [5.0, 10.0, 20.0]
    assert rests[-1] == circuit_breaker.LONGEST_REST


def test_a_failure_after_a_calm_time_is_logged_again(
    known: CircuitBreaker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure after a minute without one is logged, with the first pause again."""
    caplog.set_level(logging.INFO)
    known.failure(FULL, "writing")
    clock.go_on(circuit_breaker.CALM_SECONDS - 1)
    known.success()
    known.failure(FULL, "writing")
    clock.go_on(circuit_breaker.CALM_SECONDS + 1)
    known.success()
    known.success()
    known.failure(FULL, "writing")
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO, logging.WARNING]
    clock.go_on(circuit_breaker.FIRST_REST)
    assert not known.is_open("writing")
