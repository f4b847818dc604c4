"""Background tasks, and values that are polled without a long wait."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from support.fakes import SOON, in_threads

from empiarfs.engine.background import BackgroundWorkers, PolledValue
from empiarfs.errors import Unavailable


@contextmanager
def threads(count: int) -> Iterator[BackgroundWorkers]:
    """Yield a pool of that many threads, and end it."""
    background = BackgroundWorkers(in_threads, count)
    yield background
    background.close()


def test_tasks_at_once_are_limited() -> None:
    """Of many tasks two run at once, the others are queued, and each runs once."""
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


def test_a_failed_task_does_not_end_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """An ArchiveError of a task is left to the reader that will need it; any other exception is logged."""
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


def test_queued_tasks_are_counted() -> None:
    """Tasks that no thread has begun are counted; closing drops them, and later tasks are dropped."""
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


def test_dropped_tasks_do_not_run() -> None:
    """The tasks that are queued for one purpose are dropped; one that runs and all others run to their end."""
    held, begun, done = threading.Event(), threading.Event(), threading.Event()
    ran: list[str] = []

    def hold() -> None:
        begun.set()
        held.wait(SOON)
        ran.append("held")

    with threads(1) as background:
        background(hold, "a")
        assert begun.wait(SOON)
        background(lambda: ran.append("a"), "a")
        background(lambda: ran.append("b"), "b")
        background(done.set)
        background.drop("a")
        assert background.waiting == 2
        held.set()
        assert done.wait(SOON)
    assert ran == ["held", "b"]


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow a poll to take long on a busy machine."""
    monkeypatch.setattr("empiarfs.engine.background.LOOK_SECONDS", SOON)


@pytest.mark.usefixtures("_patient")
def test_a_polled_value_is_current() -> None:
    """Each call reads the value again."""
    numbers = iter([7, 9])
    with threads(1) as background:
        seen = PolledValue(lambda: next(numbers), background)
        assert [seen(), seen()] == [7, 9]


@pytest.mark.usefixtures("_patient")
def test_a_poll_without_a_value_changes_nothing() -> None:
    """A poll that returns None keeps the previous value."""
    numbers = iter([7, None])
    with threads(1) as background:
        seen = PolledValue(lambda: next(numbers), background)
        assert [seen(), seen()] == [7, 7]


def test_a_poll_that_hangs_returns_the_previous_value() -> None:
    """A hanging poll delays the caller only briefly; once it ends, its value is returned."""
    held = threading.Event()

    def look() -> int:
        held.wait(SOON)
        return 8

    with threads(1) as background:
        seen = PolledValue(look, background)
        assert [seen(), seen()] == [0, 0]
        held.set()
        assert any(seen() == 8 for _ in range(100))
