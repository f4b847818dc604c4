"""How long a program waits for a name, by a clock of the test's and without a kernel."""

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


class World:
    """A server that has or has not answered, threads that ask, and the clock.

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
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A server that has never answered, and a thread that is not to end."""
    made = World()
    monkeypatch.setattr(names, "is_ending", lambda thread: thread in made.ending)
    return made


def test_a_name_fails_after_a_while_from_a_server_that_never_answered(world: World) -> None:
    """With EIO after 30 s, and a hint that says why and what to do."""
    begun = world.clock.now
    with pytest.raises(Unavailable, match=r"has not answered since the mount.*fail after 30 s.*doctor") as caught:
        world.wait(1000)
    assert caught.value.errno == errno.EIO
    assert SECONDS <= world.clock.now - begun < SECONDS + 1


@pytest.mark.parametrize("seconds", [0.0, 1.0, SECONDS - 1])
def test_a_name_that_comes_before_is_given(world: World, seconds: float) -> None:
    """Whoever waits for less than the bound notices nothing of it."""
    assert seconds <= world.wait(seconds) < seconds + 1


def test_a_name_is_waited_for_once_the_server_has_answered(world: World) -> None:
    """However long that takes; patience alone bounds it."""
    world.answered = True
    assert world.wait(1000) >= 1000


def test_an_answer_meanwhile_lifts_the_bound(world: World) -> None:
    """Of a wait that has begun before it too."""

    def answer() -> None:
        world.answered = world.answered or world.clock.now - begun > SECONDS / 2

    begun = world.clock.now
    assert world.wait(1000, answer) >= 1000


@pytest.mark.parametrize("way", ["in vain", "interrupted"])
def test_a_thread_does_not_wait_twice_in_a_row(world: World, way: str) -> None:
    """What it asks right after fails at once, as a shell tries a name again another way; later it waits again."""
    world.ending = {THREAD} if way == "interrupted" else set()
    with pytest.raises(Cancelled if world.ending else Unavailable):
        world.wait(1000)
    world.ending.clear()
    for _ in range(2):
        begun = world.clock.now
        with pytest.raises(WaitedInVain) as caught:
            world.wait(1000)
        assert caught.value.errno == errno.EIO
        assert world.clock.now - begun < 0.1
        world.clock.go_on(0.4 * AGAIN_SECONDS)
    world.clock.go_on(0.2 * AGAIN_SECONDS)  # what failed at once was no wait, and delays the next one no further
    assert world.wait(10) >= 10


def test_a_name_that_is_known_is_given_to_a_thread_that_has_waited_in_vain(world: World) -> None:
    """Only waiting is refused, nothing that needs none."""
    with pytest.raises(Unavailable):
        world.wait(1000)
    assert world.wait(0) < 0.1


def test_another_thread_waits_for_as_long_as_ever(world: World) -> None:
    """That one has waited in vain, or was interrupted, is nothing to the others."""
    with pytest.raises(Unavailable):
        world.wait(1000)
    world.thread = OTHER
    assert world.wait(10) >= 10


def test_threads_that_are_not_known_are_not_taken_for_one(world: World) -> None:
    """The kernel has no id for those of another namespace of processes: they all are 0."""
    world.thread = 0
    for _ in range(2):
        begun = world.clock.now
        with pytest.raises(Unavailable):
            world.wait(1000)
        assert world.clock.now - begun >= SECONDS


def test_a_thread_that_was_interrupted_waits_again_where_the_server_has_answered(world: World) -> None:
    """The server is there: what is asked anew is worth waiting for."""
    world.answered = True
    world.ending = {THREAD}
    with pytest.raises(Cancelled):
        world.wait(1000)
    world.ending.clear()
    assert world.wait(1000) >= 1000
