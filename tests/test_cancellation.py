"""Waits that a caller can cancel."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import pytest
from support.fakes import SOON

from empiarfs.cancellation import CancelToken, cancel_scope, wait, wait_future
from empiarfs.errors import Cancelled


class Looks:
    """A condition that is true for a given number of checks."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        """Check once."""
        self.left -= 1
        return self.left >= 0


def test_wait_returns_true_for_an_event_that_is_set() -> None:
    """`wait` returns True for an event that is set, in a cancel scope too."""
    over = threading.Event()
    over.set()
    assert wait(over.wait)
    with cancel_scope(lambda: False):
        assert wait(over.wait, 5.0)


@pytest.mark.parametrize("watch", [None, lambda: True])
def test_a_wait_ends_at_its_timeout(watch: Callable[[], bool] | None) -> None:
    """`wait` returns False after its timeout, in a cancel scope too."""
    begun = time.monotonic()
    with cancel_scope(watch):
        assert not wait(threading.Event().wait, 0.3)
    assert 0.29 < time.monotonic() - begun < SOON


def test_a_cancelled_wait_ends_soon() -> None:
    """`wait` raises Cancelled soon after the condition of its scope turns false."""
    begun = time.monotonic()
    with cancel_scope(Looks(2)), pytest.raises(Cancelled):
        wait(threading.Event().wait)
    assert time.monotonic() - begun < SOON


def test_a_condition_that_raises_cancels_its_wait_alone(caplog: pytest.LogCaptureFixture) -> None:
    """A wait whose condition raises is cancelled, which is logged; the others are cancelled as before."""

    def fail() -> bool:
        raise ValueError

    for condition in (fail, lambda: False):
        over = threading.Event()
        with cancel_scope(condition), pytest.raises(Cancelled):
            wait(over.wait, SOON, over.set)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]


def test_a_future_is_waited_for_in_the_same_way() -> None:
    """Waiting for a future ends with its result, its timeout, or the condition of the scope."""
    future: Future[int] = Future()
    assert not wait_future(future, 0.05)
    with cancel_scope(Looks(1)), pytest.raises(Cancelled):
        wait_future(future)
    future.set_result(1)
    assert wait_future(future)


def test_cancelling_aborts_a_request_or_prevents_its_start() -> None:
    """A request in flight is aborted, a later one may not start, and one that is over is not touched."""
    token = CancelToken()
    broken: list[str] = []
    assert token.on_cancel(lambda: broken.append("first"))
    assert not token.is_cancelled
    token.cancel()
    assert token.is_cancelled
    assert not token.on_cancel(lambda: broken.append("second"))
    token.on_cancel(None)
    token.cancel()
    assert broken == ["first"]
