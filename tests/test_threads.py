"""A pool of daemon threads starts as few threads as its calls need, and ends idle ones."""

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import pytest
from support.fakes import SOON

from empiarfs.errors import Closed
from empiarfs.threads import ThreadPool


@contextmanager
def held(pool: ThreadPool, count: int) -> Iterator[None]:
    """Keep `count` threads of `pool` busy."""
    release, begun = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        begun.release()
        release.wait(SOON)

    for _ in range(count):
        pool.submit(hold)
    for _ in range(count):
        assert begun.acquire(timeout=SOON)
    try:
        yield
    finally:
        release.set()


def test_a_call_runs_in_a_named_daemon_thread() -> None:
    """A call runs in a daemon thread that has the name of the pool and a number."""
    pool = ThreadPool("disk")
    thread = pool.submit(threading.current_thread).result(SOON)
    assert (thread.name, thread.daemon) == ("disk 0", True)
    assert pool.close(SOON)


def test_an_error_is_raised_by_the_future() -> None:
    """What a call raises is raised by its future, and the thread takes the next call."""
    pool = ThreadPool("disk", 1)
    failed = pool.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failed.result(SOON)
    assert pool.submit(lambda: 7).result(SOON) == 7
    assert pool.threads == 1
    assert pool.close(SOON)


def test_an_error_is_in_no_reference_cycle() -> None:
    """The future of a failed call is freed with its last reference, as the call may hold large objects."""
    pool = ThreadPool("disk", 1)
    failed = pool.submit(lambda: 1 // 0)
    assert isinstance(failed.exception(SOON), ZeroDivisionError)
    pool.submit(lambda: None).result(SOON)  # the thread is done with the first
    gone = weakref.ref(failed)
    gc.disable()
    try:
        del failed
        assert gone() is None
    finally:
        gc.enable()
    assert pool.close(SOON)


def test_an_idle_thread_takes_the_next_call() -> None:
    """A thread is started only if none is idle."""
    pool = ThreadPool("disk")
    idents = set()
    for _ in range(20):
        idents.add(pool.submit(threading.get_ident).result(SOON))
        while not pool._idle:
            time.sleep(0.001)
    assert len(idents) == 1
    assert pool.close(SOON)


def test_calls_at_once_have_a_thread_each() -> None:
    """Without a limit no call waits for another."""
    pool = ThreadPool("disk")
    with held(pool, 10):
        assert (pool.threads, pool.waiting) == (10, 0)
        assert pool.submit(lambda: 7).result(SOON) == 7
    assert pool.close(SOON)


def test_the_number_of_threads_is_limited() -> None:
    """With all threads busy a call waits for the first that is free."""
    pool = ThreadPool("disk", 3)
    with held(pool, 3):
        late = [pool.submit(lambda: 7) for _ in range(5)]
        assert (pool.threads, pool.waiting) == (3, 5)
    assert [one.result(SOON) for one in late] == [7] * 5
    assert pool.threads == 3
    assert pool.close(SOON)


def test_a_waiting_call_can_be_cancelled() -> None:
    """A call that no thread has begun is dropped when its future is cancelled."""
    pool = ThreadPool("disk", 1)
    ran: list[int] = []
    with held(pool, 1):
        unwanted = pool.submit(lambda: ran.append(1))
        assert unwanted.cancel()
        last = pool.submit(lambda: ran.append(2))
    last.result(SOON)
    assert ran == [2]
    assert pool.close(SOON)


def test_a_call_does_not_see_the_context_of_its_caller() -> None:
    """A cancel scope or deadline of the caller does not apply in the pool."""
    here = ContextVar("here", default="nothing")
    pool = ThreadPool("disk")
    here.set("the caller's")
    assert pool.submit(here.get).result(SOON) == "nothing"
    assert pool.close(SOON)


def test_an_idle_thread_ends() -> None:
    """After its idle time a thread calls `on_exit` and ends; the next call starts another."""
    ended = threading.Event()
    threads: list[str] = []

    def on_exit() -> None:
        threads.append(threading.current_thread().name)
        ended.set()

    pool = ThreadPool("disk", on_exit=on_exit, idle_seconds=0.01)
    pool.submit(lambda: None).result(SOON)
    assert ended.wait(SOON)
    assert (threads, pool.threads) == (["disk 0"], 0)
    assert pool.submit(lambda: threading.current_thread().name).result(SOON) == "disk 1"
    assert pool.close(SOON)


def test_closing_ends_all_threads_after_the_queued_calls() -> None:
    """Queued calls run, each thread calls `on_exit`, and further calls are refused."""
    ended: list[str] = []
    pool = ThreadPool("disk", 2, on_exit=lambda: ended.append(threading.current_thread().name))
    with held(pool, 2):
        late = pool.submit(lambda: 7)
        assert not pool.close()
    assert pool.close(SOON)
    assert late.result(0) == 7
    assert sorted(ended) == ["disk 0", "disk 1"]
    with pytest.raises(Closed):
        pool.submit(lambda: 7)


def test_a_failing_exit_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What `on_exit` raises is logged with its traceback, and the thread ends."""
    pool = ThreadPool("disk", on_exit=lambda: 1 // 0)
    pool.submit(lambda: None).result(SOON)
    assert pool.close(SOON)
    assert "ZeroDivisionError" in caplog.text


def test_without_threads_the_caller_runs_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system starts no thread and the pool has none, the call and `on_exit` run in the caller."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    ended: list[int] = []
    pool = ThreadPool("disk", on_exit=lambda: ended.append(threading.get_ident()))
    assert pool.submit(threading.get_ident).result(0) == threading.get_ident()
    assert ended == [threading.get_ident()]
    here = ContextVar("here", default="nothing")
    here.set("the caller's")
    assert pool.submit(here.get).result(0) == "nothing"
    assert (pool.threads, pool.waiting) == (0, 0)


def test_without_more_threads_a_call_waits_for_an_existing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system starts no further thread, a call waits for one of a limited pool."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = ThreadPool("disk", 2)
    mine = pool.submit(threading.get_ident).result(SOON)
    with held(pool, 1):
        monkeypatch.setattr(threading.Thread, "start", refuse)
        late = pool.submit(threading.get_ident)
        assert not late.done()
    assert late.result(SOON) == mine
    assert pool.close(SOON)


def test_without_more_threads_an_unbounded_pool_runs_a_call_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unlimited pool runs the call in the caller, as its threads may themselves wait for the call."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pool = ThreadPool("requests")
    with held(pool, 1):
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert pool.submit(threading.get_ident).result(0) == threading.get_ident()
    assert pool.close(SOON)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_of_a_fork_has_threads_of_its_own() -> None:
    """In a child the pool is empty and usable, whatever its threads and its lock were doing."""
    pool = ThreadPool("disk", 1)
    with held(pool, 1), pool._changed:
        pool.submit(lambda: None)
        child = os.fork()
        if not child:
            signal.alarm(20)
            try:
                os._exit(pool.submit(lambda: 7).result(SOON))
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert pool.close(SOON)
