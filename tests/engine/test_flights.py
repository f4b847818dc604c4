"""Who fetches and who waits: one claim a block, and nobody is left waiting."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest
from fakes import SOON, Barrier, at_once

from empiarfs.engine.flights import Flight, Flights, Together, again
from empiarfs.errors import ArchiveError, Changed, NotFound, Unavailable, Unwanted
from empiarfs.model import Block, File

FILE = File("10028/data/a.mrc", 1000, None)
A, B, C = (Block(FILE, number) for number in range(3))


def waiting(*flights: Flight) -> list["Future[bytes | None]"]:
    """Give what each flight will give to a thread of its own that waits for it."""
    pool = ThreadPoolExecutor(len(flights))
    futures = [pool.submit(flight.wait) for flight in flights]
    pool.shutdown(wait=False)
    return futures


def test_a_block_is_claimed_by_the_first_alone() -> None:
    """What one has claimed, the next is told to wait for; the rest is his, in the order he asked."""
    flights = Flights()
    assert flights.claim([B]) == ([B], {})
    mine, theirs = flights.claim([C, B, A])
    assert mine == [C, A]
    assert set(theirs) == {B}


def test_of_many_threads_one_gets_the_claim() -> None:
    """Threads that claim the same block at the same moment get it once between them."""

    def claimed(flights: Flights) -> list[Block]:
        return flights.claim([A])[0]

    for _ in range(20):
        flights = Flights()
        claims = at_once([partial(claimed, flights)] * 16)
        assert sorted(map(str, claims)) == sorted([str([A])] + ["[]"] * 15)


def test_landing_wakes_all_who_wait() -> None:
    """Everyone who waits gets the bytes from the flight itself."""
    flights = Flights()
    flights.claim([A])
    waiters = waiting(*(flights.claim([A])[1][A] for _ in range(5)))
    flights.land(A, b"bytes")
    assert [waiter.result(SOON) for waiter in waiters] == [b"bytes"] * 5


def test_a_flight_is_over_for_those_who_come_too_late_to_wait() -> None:
    """Waiting for a flight that has landed gives its bytes at once."""
    flights = Flights()
    flights.claim([A])
    flight = flights.claim([A])[1][A]
    flights.land(A, b"")
    assert flight.wait() == b""


def test_landing_one_block_leaves_the_others_under_way() -> None:
    """Blocks of one claim land one by one."""
    flights = Flights()
    flights.claim([A, B])
    flights.land(A, b"a")
    assert flights.claim([A, B]) == ([A], {B: flights._under_way[B]})


def test_a_failure_reaches_every_waiter_as_an_exception_of_his_own() -> None:
    """Waiters raise the same kind, path, reason and cause, in objects of their own: tracebacks do not mix."""
    flights = Flights()
    flights.claim([A])
    waiters = waiting(*(flights.claim([A])[1][A] for _ in range(3)))
    cause = ValueError("why")
    error = Changed(FILE.path, "was replaced")
    error.__cause__ = cause
    flights.fail([A], error)
    raised = [waiter.exception(SOON) for waiter in waiters]
    assert [type(one) for one in raised] == [Changed] * 3
    assert [str(one) for one in raised] == [str(error)] * 3
    assert all(one is not None and one.__cause__ is cause for one in raised)
    assert len({id(one) for one in [*raised, error]}) == 4


def test_a_given_up_flight_gives_nothing_and_may_be_claimed_anew() -> None:
    """Failing without an error sends the waiters back to claim the block themselves."""
    flights = Flights()
    flights.claim([A, B])
    (waiter,) = waiting(flights.claim([A])[1][A])
    flights.fail([A, B], None)
    assert waiter.result(SOON) is None
    assert flights.claim([A, B]) == ([A, B], {})


def test_a_failed_flight_may_be_claimed_anew() -> None:
    """An error is for those who waited; who comes later tries again."""
    flights = Flights()
    flights.claim([A])
    flights.fail([A], Unavailable(FILE.path))
    assert flights.claim([A]) == ([A], {})


def test_blocks_of_another_version_are_other_blocks() -> None:
    """A file with another date is another file, also in the air."""
    flights = Flights()
    flights.claim([A])
    newer = Block(File(FILE.path, FILE.size, 5), 0)
    assert flights.claim([newer]) == ([newer], {})


def test_flights_tell_how_many_are_under_way() -> None:
    """The text of Flights is a gauge."""
    flights = Flights()
    flights.claim([A, B])
    assert repr(flights) == "<Flights under_way=2>"


def test_a_silent_flight_is_late_for_one_of_those_who_wait() -> None:
    """One is told, so that he asks for the block himself; the others go on waiting for it."""
    flights = Flights()
    flights.claim([A])
    flight = flights.claim([A])[1][A]
    flights.asked([A])
    assert [flight.is_late(0.0) for _ in range(3)] == [True, False, False]


def test_a_flight_is_late_only_when_its_own_request_has_been_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time counts from when the request was sent, not from when someone began to wait."""
    times = iter([100.0, 100.001, 100.005, 100.011])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    flight = Flight()
    flights = Flights()
    flights._under_way[A] = flight
    flights.asked([A])
    assert flight.is_late(0.01)
    assert list(times) == []


def test_who_waits_in_rounds_is_woken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often he looks whether it is late, the flight knows him as one."""
    times = iter([100.0, 100.001, 100.005, 100.011])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    flights = Flights()
    flights.claim([A])
    (flight,) = flights.asked([A])
    assert flight.is_late(0.01)
    assert len(flight._waiters) == 1


def test_a_flight_that_has_begun_or_landed_is_not_late() -> None:
    """Bytes that come, if slowly, are not asked for twice; nor are those that are here."""
    flights = Flights()
    flights.claim([A, B])
    theirs = flights.claim([A, B])[1]
    begun, _ = flights.asked([A, B])
    begun.begun = True
    flights.land(B, b"")
    assert [theirs[block].is_late(0.0) for block in (A, B)] == [False, False]


def test_the_first_word_about_a_flight_counts() -> None:
    """Who was rescued meanwhile keeps his bytes, whatever becomes of the late request."""
    flights = Flights()
    flights.claim([A])
    flight = flights.claim([A])[1][A]
    flight.finish(b"rescued", None)
    flights.fail([A], Unavailable(FILE.path))
    assert flight.wait() == b"rescued"


@pytest.mark.parametrize("kind", [NotFound, Changed, Unavailable])
def test_again_is_the_same_news_in_another_object(kind: type[ArchiveError]) -> None:
    """`again` keeps the kind, the path, the reason and the cause."""
    error = kind("10028/a", "a reason")
    error.__cause__ = OSError("below")
    copy = again(error)
    assert copy is not error
    assert (type(copy), copy.path, copy.reason) == (kind, "10028/a", "a reason")
    assert copy.__cause__ is error.__cause__


class Asking:
    """A call that stands still until it is let go on, and counts itself."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls = 0
        self.error = error
        self.barrier = Barrier(0)

    def __call__(self) -> int:
        self.calls += 1
        self.barrier.passed()
        if self.error is not None:
            raise self.error
        return self.calls


class Key:
    """A key that tells when it is looked up, which happens under the lock."""

    def __init__(self) -> None:
        self.looked = threading.Semaphore(0)

    def __hash__(self) -> int:
        self.looked.release()
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other


def joined(ask: Asking, others: int) -> "list[Future[int]]":
    """Give the calls of one thread that asks and of `others` that come while it does; the asking goes on then."""
    together, key = Together(), Key()
    pool = ThreadPoolExecutor(others + 1)
    first = pool.submit(together.call, key, ask)
    ask.barrier.wait_reached()
    while key.looked.acquire(blocking=False):
        pass
    rest = [pool.submit(together.call, key, ask) for _ in range(others)]
    for _ in rest:
        assert key.looked.acquire(timeout=SOON)
    ask.barrier.lift()
    pool.shutdown(wait=False)
    return [first, *rest]


def test_many_callers_make_one_call() -> None:
    """Who wants what another is asking for gets that one's answer."""
    ask = Asking()
    assert [call.result(SOON) for call in joined(ask, 7)] == [1] * 8
    assert ask.calls == 1


def test_callers_of_other_keys_do_not_wait() -> None:
    """Another key is another call, made at once."""
    together, ask = Together(), Asking()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(together.call, "key", ask)
        ask.barrier.wait_reached()
        assert together.call("other", lambda: 5) == 5
        ask.barrier.lift()
        assert call.result(SOON) == 1


def test_the_next_call_asks_anew() -> None:
    """Answers are shared while they are awaited, and not kept."""
    together = Together()
    assert together.call("key", lambda: 1) == 1
    assert together.call("key", lambda: 2) == 2


def test_an_error_is_shared_as_an_exception_of_each_ones_own() -> None:
    """Everyone who waited raises the same kind and reason, each his own object."""
    ask = Asking(NotFound("10028/x", "gone"))
    raised = [call.exception(SOON) for call in joined(ask, 3)]
    assert ask.calls == 1
    assert [(type(one), str(one)) for one in raised] == [(NotFound, "10028/x: gone")] * 4
    assert len({id(one) for one in raised}) == 4


def failing() -> int:
    """Raise as a listing would."""
    raise NotFound("10028/x")


def test_after_an_error_the_next_call_asks_anew() -> None:
    """An error is not kept either."""
    together = Together()
    with pytest.raises(NotFound):
        together.call("key", failing)
    assert together.call("key", lambda: 3) == 3


class Killed(BaseException):
    """What ends a thread from outside, as KeyboardInterrupt does."""


def test_a_killed_caller_leaves_nothing_behind() -> None:
    """A BaseException in the call frees the key, whoever asks next asks himself."""
    together = Together()

    def killed() -> int:
        raise Killed

    with pytest.raises(Killed):
        together.call("key", killed)
    assert together.call("key", lambda: 4) == 4


def test_what_kills_one_caller_does_not_kill_those_who_waited() -> None:
    """A caller that is interrupted takes nobody with it: one who waited asks, and the others get his answer."""

    class KilledAtFirst(Asking):
        def __call__(self) -> int:
            answer = super().__call__()
            if answer == 1:
                raise Killed
            return answer

    first, *rest = joined(KilledAtFirst(), 3)
    assert isinstance(first.exception(SOON), Killed)
    assert all(call.result(SOON) >= 2 for call in rest)


def test_who_was_waited_for_no_more_takes_nobody_with_him() -> None:
    """A caller whose own program has gone gives up; one who waited for his answer asks, and the others get it."""

    class UnwantedAtFirst(Asking):
        def __call__(self) -> int:
            answer = super().__call__()
            if answer == 1:
                raise Unwanted("10028")
            return answer

    first, *rest = joined(UnwantedAtFirst(), 3)
    assert isinstance(first.exception(SOON), Unwanted)
    assert all(call.result(SOON) >= 2 for call in rest)
