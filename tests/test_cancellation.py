"""Whoever waits is looked after: he waits no longer than those he works for."""

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
        """Look."""
        self.left -= 1
        return self.left >= 0


def test_what_comes_has_come() -> None:
    """Watched or not."""
    over = threading.Event()
    over.set()
    assert wait(over.wait)
    with cancel_scope(lambda: False):
        assert wait(over.wait, 5.0)


@pytest.mark.parametrize("watch", [None, lambda: True])
def test_what_does_not_come_is_waited_for_as_long_as_was_said(watch: Callable[[], bool] | None) -> None:
    """To the end of the time, watched or not."""
    begun = time.monotonic()
    with cancel_scope(watch):
        assert not wait(threading.Event().wait, 0.3)
    assert 0.29 < time.monotonic() - begun < SOON


def test_who_is_wanted_no_more_waits_no_more() -> None:
    """He is looked after several times a second."""
    begun = time.monotonic()
    with cancel_scope(Looks(2)), pytest.raises(Cancelled):
        wait(threading.Event().wait)
    assert time.monotonic() - begun < SOON


def test_what_is_asked_aside_goes_on_by_itself() -> None:
    """Its answer or error comes to who waits for it; where he has gone it is nobody's."""
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


def test_who_is_not_watched_asks_in_place() -> None:
    """And where no thread is to be had."""
    here = threading.get_ident()
    assert call_cancellable(threading.get_ident) == here
    with cancel_scope(lambda: True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        assert call_cancellable(threading.get_ident) == here


def no_thread(_: threading.Thread) -> None:
    """Start none."""
    raise RuntimeError("can't start new thread")
