"""Waits that a caller can cancel."""

import threading
import time
from collections.abc import Callable

import pytest
from support.fakes import SOON

from empiarfs.cancellation import call_cancellable, cancel_scope, is_cancellable, wait
from empiarfs.errors import Cancelled, NotFound


class Looks:
    """Is wanted for so many looks."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        """Look once."""
        self.left -= 1
        return self.left >= 0


def test_what_comes_has_come() -> None:
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


def test_a_cancellable_call_goes_on_in_its_own_thread() -> None:
    """A call in another thread goes on after its caller was cancelled; its result or error reaches the caller."""
    over, ended = threading.Event(), threading.Event()

    def ask() -> int:
        assert not is_cancellable()
        over.wait(SOON)
        ended.set()
        return 7

    def missing() -> int:
        raise NotFound("10028/a")

    with cancel_scope(lambda: False), pytest.raises(Cancelled):
        call_cancellable(ask)
    over.set()
    assert ended.wait(SOON)
    with cancel_scope(lambda: True):
        assert call_cancellable(ask) == 7
        with pytest.raises(NotFound):
            call_cancellable(missing)


def test_a_call_without_a_scope_runs_in_the_callers_thread() -> None:
    """A call runs in its caller's thread without a cancel scope, and where no thread can be started."""
    here = threading.get_ident()
    assert call_cancellable(threading.get_ident) == here
    with cancel_scope(lambda: True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        assert call_cancellable(threading.get_ident) == here


def no_thread(_: threading.Thread) -> None:
    """Start no thread."""
    raise RuntimeError("can't start new thread")
