"""Who fetches and who waits: one claim a block, and nobody is left waiting."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest
from support.fakes import SOON, Barrier, at_once

from empiarfs.engine.single_flight import InFlightBlock, InFlightBlocks, SingleFlight, copy_error
from empiarfs.errors import ArchiveError, Cancelled, NotFound, Stale, Unavailable
from empiarfs.model import Block, File

FILE = File("10028/data/a.mrc", 1000, None)
A, B, C = (Block(FILE, number) for number in range(3))


def waiting(*flights: InFlightBlock) -> list["Future[bytes | None]"]:
    """Return what each flight will give to a thread of its own that waits for it."""
    pool = ThreadPoolExecutor(len(flights))
    futures = [pool.submit(flight.wait) for flight in flights]
    pool.shutdown(wait=False)
    return futures


def test_a_block_is_claimed_by_the_first_alone() -> None:
    """What one has claimed, the next is told to wait for; the rest is his, in the order he asked."""
    in_flight = InFlightBlocks()
    assert in_flight.claim([B]) == ([B], {})
    mine, theirs = in_flight.claim([C, B, A])
    assert mine == [C, A]
    assert set(theirs) == {B}


def test_of_many_threads_one_gets_the_claim() -> None:
    """Threads that claim the same block at the same moment get it once between them."""

    def claimed(in_flight: InFlightBlocks) -> list[Block]:
        return in_flight.claim([A])[0]

    for _ in range(20):
        in_flight = InFlightBlocks()
        claims = at_once([partial(claimed, in_flight)] * 16)
        assert sorted(map(str, claims)) == sorted([str([A])] + ["[]"] * 15)


def test_landing_wakes_all_who_wait() -> None:
    """Everyone who waits gets the bytes from the flight itself."""
    in_flight = InFlightBlocks()
    in_flight.claim([A])
    waiters = waiting(*(in_flight.claim([A])[1][A] for _ in range(5)))
    in_flight.complete(A, b"bytes")
    assert [waiter.result(SOON) for waiter in waiters] == [b"bytes"] * 5


def test_a_flight_is_over_for_those_who_come_too_late_to_wait() -> None:
    """Waiting for a flight that has landed gives its bytes at once."""
    in_flight = InFlightBlocks()
    in_flight.claim([A])
    flight = in_flight.claim([A])[1][A]
    in_flight.complete(A, b"")
    assert flight.wait() == b""


def test_landing_one_block_leaves_the_others_under_way() -> None:
    """Blocks of one claim land one by one."""
    in_flight = InFlightBlocks()
    in_flight.claim([A, B])
    in_flight.complete(A, b"a")
    assert in_flight.claim([A, B]) == ([A], {B: in_flight._in_flight[B]})


def test_a_failure_reaches_every_waiter_as_an_exception_of_his_own() -> None:
    """Waiters raise the same kind, path, reason and cause, in objects of their own: tracebacks do not mix."""
    in_flight = InFlightBlocks()
    in_flight.claim([A])
    waiters = waiting(*(in_flight.claim([A])[1][A] for _ in range(3)))
    cause = ValueError("why")
    error = Stale(FILE.path, "was replaced")
    error.__cause__ = cause
    in_flight.fail([A], error)
    raised = [waiter.exception(SOON) for waiter in waiters]
    assert [type(one) for one in raised] == [Stale] * 3
    assert [str(one) for one in raised] == [str(error)] * 3
    assert all(one is not None and one.__cause__ is cause for one in raised)
    assert len({id(one) for one in [*raised, error]}) == 4


def test_a_given_up_flight_gives_nothing_and_may_be_claimed_anew() -> None:
    """Failing without an error sends the waiters back to claim the block themselves."""
    in_flight = InFlightBlocks()
    in_flight.claim([A, B])
    (waiter,) = waiting(in_flight.claim([A])[1][A])
    in_flight.fail([A, B], None)
    assert waiter.result(SOON) is None
    assert in_flight.claim([A, B]) == ([A, B], {})


def test_a_failed_flight_may_be_claimed_anew() -> None:
    """An error is for those who waited; who comes later tries again."""
    in_flight = InFlightBlocks()
    in_flight.claim([A])
    in_flight.fail([A], Unavailable(FILE.path))
    assert in_flight.claim([A]) == ([A], {})


def test_blocks_of_another_version_are_other_blocks() -> None:
    """A file with another date is another file, also in the air."""
    in_flight = InFlightBlocks()
    in_flight.claim([A])
    newer = Block(File(FILE.path, FILE.size, 5), 0)
    assert in_flight.claim([newer]) == ([newer], {})


def test_flights_tell_how_many_are_under_way() -> None:
    """The text of Flights is a gauge."""
    in_flight = InFlightBlocks()
    in_flight.claim([A, B])
    assert repr(in_flight) == "<InFlightBlocks in_flight=2>"


def test_a_silent_flight_is_late_for_one_of_those_who_wait() -> None:
    """One is told, so that he asks for the block himself; the others go on waiting for it."""
    in_flight = InFlightBlocks()
    in_flight.claim([A])
    flight = in_flight.claim([A])[1][A]
    in_flight.mark_sent([A])
    assert [flight.is_late(0.0) for _ in range(3)] == [True, False, False]


def test_a_flight_is_late_only_when_its_own_request_has_been_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time counts from when the request was sent, not from when someone began to wait."""
    times = iter([100.0, 100.001, 100.005, 100.011])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    flight = InFlightBlock()
    in_flight = InFlightBlocks()
    in_flight._in_flight[A] = flight
    in_flight.mark_sent([A])
    assert flight.is_late(0.01)
    assert list(times) == []


def test_who_waits_in_rounds_is_woken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often he looks whether it is late, the flight knows him as one."""
    times = iter([100.0, 100.001, 100.005, 100.011])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    in_flight = InFlightBlocks()
    in_flight.claim([A])
    (flight,) = in_flight.mark_sent([A])
    assert flight.is_late(0.01)
    assert len(flight._waiters) == 1


def test_a_flight_that_has_begun_or_landed_is_not_late() -> None:
    """Bytes that come, if slowly, are not asked for twice; nor are those that are here."""
    in_flight = InFlightBlocks()
    in_flight.claim([A, B])
    theirs = in_flight.claim([A, B])[1]
    begun, _ = in_flight.mark_sent([A, B])
    begun.has_started = True
    in_flight.complete(B, b"")
    assert [theirs[block].is_late(0.0) for block in (A, B)] == [False, False]


def test_the_first_word_about_a_flight_counts() -> None:
    """Who was rescued meanwhile keeps his bytes, whatever becomes of the late request."""
    in_flight = InFlightBlocks()
    in_flight.claim([A])
    flight = in_flight.claim([A])[1][A]
    flight.finish(b"rescued", None)
    in_flight.fail([A], Unavailable(FILE.path))
    assert flight.wait() == b"rescued"


@pytest.mark.parametrize("kind", [NotFound, Stale, Unavailable])
def test_again_is_the_same_news_in_another_object(kind: type[ArchiveError]) -> None:
    """`again` keeps the kind, the path, the reason and the cause."""
    error = kind("10028/a", "a reason")
    error.__cause__ = OSError("below")
    copy = copy_error(error)
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
    """Return the calls of one thread that asks and of `others` that come while it does; the asking goes on then."""
    single_flight, key = SingleFlight(), Key()
    pool = ThreadPoolExecutor(others + 1)
    first = pool.submit(single_flight.call, key, ask)
    ask.barrier.wait_reached()
    while key.looked.acquire(blocking=False):
        pass
    rest = [pool.submit(single_flight.call, key, ask) for _ in range(others)]
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
    single_flight, ask = SingleFlight(), Asking()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(single_flight.call, "key", ask)
        ask.barrier.wait_reached()
        assert single_flight.call("other", lambda: 5) == 5
        ask.barrier.lift()
        assert call.result(SOON) == 1


def test_the_next_call_asks_anew() -> None:
    """Answers are shared while they are awaited, and not kept."""
    single_flight = SingleFlight()
    assert single_flight.call("key", lambda: 1) == 1
    assert single_flight.call("key", lambda: 2) == 2


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
    single_flight = SingleFlight()
    with pytest.raises(NotFound):
        single_flight.call("key", failing)
    assert single_flight.call("key", lambda: 3) == 3


class Killed(BaseException):
    """What ends a thread from outside, as KeyboardInterrupt does."""


def test_a_killed_caller_leaves_nothing_behind() -> None:
    """A BaseException in the call frees the key, whoever asks next asks himself."""
    single_flight = SingleFlight()

    def killed() -> int:
        raise Killed

    with pytest.raises(Killed):
        single_flight.call("key", killed)
    assert single_flight.call("key", lambda: 4) == 4


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
                raise Cancelled("10028")
            return answer

    first, *rest = joined(UnwantedAtFirst(), 3)
    assert isinstance(first.exception(SOON), Cancelled)
    assert all(call.result(SOON) >= 2 for call in rest)
