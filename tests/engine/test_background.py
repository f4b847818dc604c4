"""Work that nobody waits for; and a look that nobody waits for for long."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from support.fakes import SOON, in_threads

from empiarfs.engine.background import BackgroundWorkers, PolledValue
from empiarfs.errors import Unavailable


@contextmanager
def threads(count: int) -> Iterator[BackgroundWorkers]:
    """Yield so many, and end them."""
    background = BackgroundWorkers(in_threads, count)
    yield background
    background.close()


def test_no_more_tasks_run_at_once_than_were_set() -> None:
    """Of many tasks two run, the others wait; each runs once."""
    limit, inside, seen, done = threading.Semaphore(0), [0], [], threading.Semaphore(0)
    lock = threading.Lock()

    def task() -> None:
        with lock:
            inside[0] += 1
            seen.append(inside[0])
        limit.acquire(timeout=SOON)
        with lock:
            inside[0] -= 1
        done.release()

    with threads(2) as background:
        for _ in range(6):
            background(task)
        limit.release(6)
        for _ in range(6):
            assert done.acquire(timeout=SOON)
    assert len(seen) == 6
    assert max(seen) <= 2


def test_what_a_task_meets_does_not_end_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the archive's is left to the reader who will need it; a surprise is logged."""
    ran = threading.Event()

    def failing(error: Exception) -> Callable[[], None]:
        def task() -> None:
            raise error

        return task

    with threads(1) as background:
        background(failing(Unavailable("10028/a")))
        background(failing(ValueError("surprise")))
        background(ran.set)
        assert ran.wait(SOON)
    assert [record.levelname for record in caplog.records if record.levelname != "DEBUG"] == ["ERROR"]
    caplog.clear()


def test_tasks_that_wait_are_counted() -> None:
    """Those that no thread has taken yet; closing drops them, and takes no more."""
    held, begun = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        held.wait(SOON)

    background = BackgroundWorkers(in_threads, 1)
    background(hold)
    assert begun.wait(SOON)
    for _ in range(3):
        background(held.wait)
    assert background.waiting == 3
    background.close()
    assert background.waiting == 0
    background(held.wait)
    assert background.waiting == 0
    held.set()


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a look may take long."""
    monkeypatch.setattr("empiarfs.engine.background.LOOK_SECONDS", SOON)


@pytest.mark.usefixtures("_patient")
def test_a_look_gives_what_is_there_now() -> None:
    """Anew each time."""
    numbers = iter([7, 9])
    with threads(1) as background:
        seen = PolledValue(lambda: next(numbers), background)
        assert [seen(), seen()] == [7, 9]


@pytest.mark.usefixtures("_patient")
def test_a_look_that_cannot_tell_changes_nothing() -> None:
    """What was seen before stays."""
    numbers = iter([7, None])
    with threads(1) as background:
        seen = PolledValue(lambda: next(numbers), background)
        assert [seen(), seen()] == [7, 7]


def test_a_look_that_hangs_gives_what_was_seen_last() -> None:
    """And holds nobody up for long; when it goes on, what it sees is given."""
    held = threading.Event()

    def look() -> int:
        held.wait(SOON)
        return 8

    with threads(1) as background:
        seen = PolledValue(look, background)
        assert [seen(), seen()] == [0, 0]
        held.set()
        assert any(seen() == 8 for _ in range(100))
