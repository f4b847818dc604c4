"""How long a program waits for a name, by a fake clock and without a kernel."""

import errno
import threading
from collections.abc import Callable

import pytest
from support.fakes import FakeClock

from empiarfs.cancellation import wait
from empiarfs.errors import Cancelled, Unavailable
from empiarfs.mount import names
from empiarfs.mount.names import AGAIN_SECONDS, SECONDS, NameWaits, WaitedInVain

THREAD, OTHER = 4711, 4712


class SlowServer:
    """A server that has or has not answered, the thread that waits for it, and the clock.

    Attributes:
        answered: whether the server has answered since the mount.
        thread: which one asks now.
        ending: the threads for which a signal waits.
    """

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.answered = False
        self.thread = THREAD
        self.ending: set[int] = set()
        self.waits = NameWaits(lambda: self.answered, lambda: self.thread, self.clock)

    def wait(self, seconds: float, then: Callable[[], object] = bool) -> float:
        """Wait for a name for which the server needs `seconds`; return how long it took when it came."""
        begun = self.clock.now
        come = threading.Event()

        def tick(most: float | None) -> bool:
            assert most is not None
            self.clock.go_on(most)
            if self.clock.now - begun >= seconds:
                come.set()
            then()
            return come.is_set()

        with self.waits.bounded("10028/data"):
            assert wait(tick)
        return self.clock.now - begun


@pytest.fixture
def slow_server(monkeypatch: pytest.MonkeyPatch) -> SlowServer:
    """A server that has never answered, and a thread without a pending signal."""
    made = SlowServer()
    monkeypatch.setattr(names, "is_ending", lambda thread: thread in made.ending)
    return made


def test_a_name_fails_after_a_while_from_a_server_that_never_answered(slow_server: SlowServer) -> None:
    """A lookup on a server that has never answered fails with EIO after 30 s, with a hint."""
    begun = slow_server.clock.now
    with pytest.raises(Unavailable, match=r"has not answered since the mount.*fail after 30 s.*doctor") as caught:
        slow_server.wait(1000)
    assert caught.value.errno == errno.EIO
    assert SECONDS <= slow_server.clock.now - begun < SECONDS + 1


@pytest.mark.parametrize("seconds", [0.0, 1.0, SECONDS - 1])
def test_a_name_that_comes_before_is_given(slow_server: SlowServer, seconds: float) -> None:
    """A lookup that takes less than the bound succeeds."""
    assert seconds <= slow_server.wait(seconds) < seconds + 1


def test_a_name_is_waited_for_once_the_server_has_answered(slow_server: SlowServer) -> None:
    """A lookup on a server that has answered has no bound but the patience."""
    slow_server.answered = True
    assert slow_server.wait(1000) >= 1000


def test_an_answer_meanwhile_lifts_the_bound(slow_server: SlowServer) -> None:
    """An answer during a lookup removes its bound."""

    def answer() -> None:
        slow_server.answered = slow_server.answered or slow_server.clock.now - begun > SECONDS / 2

    begun = slow_server.clock.now
    assert slow_server.wait(1000, answer) >= 1000


@pytest.mark.parametrize("way", ["in vain", "interrupted"])
def test_a_thread_does_not_wait_twice_in_a_row(slow_server: SlowServer, way: str) -> None:
    """A lookup right after one that failed or was interrupted fails at once; after a while it waits again."""
    slow_server.ending = {THREAD} if way == "interrupted" else set()
    with pytest.raises(Cancelled if slow_server.ending else Unavailable):
        slow_server.wait(1000)
    slow_server.ending.clear()
    for _ in range(2):
        begun = slow_server.clock.now
        with pytest.raises(WaitedInVain) as caught:
            slow_server.wait(1000)
        assert caught.value.errno == errno.EIO
        assert slow_server.clock.now - begun < 0.1
        slow_server.clock.go_on(0.4 * AGAIN_SECONDS)
    slow_server.clock.go_on(
        0.2 * AGAIN_SECONDS
    )  # what failed at once was no wait, and delays the next one no further
    assert slow_server.wait(10) >= 10


def test_a_name_that_is_known_is_given_to_a_thread_that_has_waited_in_vain(slow_server: SlowServer) -> None:
    """A lookup that needs no wait succeeds in a thread that has given up."""
    with pytest.raises(Unavailable):
        slow_server.wait(1000)
    assert slow_server.wait(0) < 0.1


def test_another_thread_waits_for_as_long_as_ever(slow_server: SlowServer) -> None:
    """A lookup of another thread waits in full after one thread has given up."""
    with pytest.raises(Unavailable):
        slow_server.wait(1000)
    slow_server.thread = OTHER
    assert slow_server.wait(10) >= 10


def test_threads_that_are_not_known_are_not_taken_for_one(slow_server: SlowServer) -> None:
    """Threads of other PID namespaces, which all have id 0, do not share a bound."""
    slow_server.thread = 0
    for _ in range(2):
        begun = slow_server.clock.now
        with pytest.raises(Unavailable):
            slow_server.wait(1000)
        assert slow_server.clock.now - begun >= SECONDS


def test_a_thread_that_was_interrupted_waits_again_where_the_server_has_answered(slow_server: SlowServer) -> None:
    """An interrupted thread waits again at once when the server has answered."""
    slow_server.answered = True
    slow_server.ending = {THREAD}
    with pytest.raises(Cancelled):
        slow_server.wait(1000)
    slow_server.ending.clear()
    assert slow_server.wait(1000) >= 1000
