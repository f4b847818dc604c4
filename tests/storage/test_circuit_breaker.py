"""Trouble: told once, given a rest that grows, and over after a calm."""

import logging
import sqlite3

import pytest
from support.fakes import FakeClock

from empiarfs.storage import circuit_breaker
from empiarfs.storage.circuit_breaker import CircuitBreaker, is_wrong, may_be_whole

FULL = OSError(28, "No space left on device")


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands."""
    return FakeClock()


@pytest.fixture
def known(clock: FakeClock) -> CircuitBreaker:
    """No trouble yet."""
    return CircuitBreaker("the cache", clock)


def test_trouble_is_told_once(known: CircuitBreaker, caplog: pytest.LogCaptureFixture) -> None:
    """However often it is met, by whatever use."""
    for use in ("reading", "writing") * 5:
        known.failure(FULL, use)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("the cache cannot be used ([Errno 28] No space left on device); reads go on without it")


def test_the_use_that_failed_rests_and_no_other(known: CircuitBreaker, clock: FakeClock) -> None:
    """A full disk can still be read."""
    assert not known.is_open("writing")
    known.failure(FULL, "writing")
    assert known.is_open("writing")
    assert not known.is_open("reading")
    clock.go_on(circuit_breaker.FIRST_REST)
    assert not known.is_open("writing")


def test_the_rest_grows_while_the_trouble_lasts(known: CircuitBreaker, clock: FakeClock) -> None:
    """To a limit; those who fail together count once."""
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


def test_trouble_after_a_calm_is_news(
    known: CircuitBreaker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that was well for a minute, and fails again, is told of again, and rests as at first."""
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


def failed(code: int, kind: type[sqlite3.Error] = sqlite3.OperationalError) -> sqlite3.Error:
    """Return an error as SQLite raises it."""
    error = kind("it failed")
    error.sqlite_errorcode = code  # SQLite sets it
    return error


@pytest.mark.parametrize(
    ("error", "whole", "wrong"),
    [
        (failed(sqlite3.SQLITE_BUSY), True, False),
        (failed(sqlite3.SQLITE_BUSY_SNAPSHOT), True, False),
        (failed(sqlite3.SQLITE_LOCKED), True, False),
        (failed(sqlite3.SQLITE_FULL), True, False),
        (failed(sqlite3.SQLITE_READONLY), True, False),
        (failed(sqlite3.SQLITE_IOERR), True, False),
        (failed(sqlite3.SQLITE_CANTOPEN), True, False),
        (failed(sqlite3.SQLITE_ERROR), False, False),
        (failed(sqlite3.SQLITE_CORRUPT, sqlite3.DatabaseError), False, True),
        (failed(sqlite3.SQLITE_NOTADB, sqlite3.DatabaseError), False, True),
        (sqlite3.DatabaseError("of our own: another version"), False, False),
    ],
)
def test_what_an_error_says_of_the_database(error: sqlite3.Error, *, whole: bool, wrong: bool) -> None:
    """Locked, full or read-only is no reason to throw it away; nonsense in it is."""
    assert (may_be_whole(error), is_wrong(error)) == (whole, wrong)
