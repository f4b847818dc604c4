"""One thread fetches and the others wait: one claim a key, and no thread waits for ever."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest
from support.fakes import SOON, Barrier, at_once, single_flight

from empiarfs.cancellation import cancel_scope
from empiarfs.engine.hedge import Hedgeable
from empiarfs.engine.single_flight import Flight, SingleFlight, copy_error
from empiarfs.errors import ArchiveError, Cancelled, Closed, NotFound, Stale, Unavailable

A, B, C = "a", "b", "c"


def claimed(in_flight: "SingleFlight[str, bytes]", *keys: str) -> list[str]:
    """Return those of `keys` that could be claimed."""
    return list(in_flight.claim(keys)[0])


def waiting(*flights: "Flight[bytes]") -> list["Future[bytes | None]"]:
    """Return what each flight returns to a thread of its own that waits for it."""
    pool = ThreadPoolExecutor(len(flights))
    futures = [pool.submit(flight.wait) for flight in flights]
    pool.shutdown(wait=False)
    return futures


def test_a_key_is_claimed_by_one_caller() -> None:
    """A key that one caller has claimed is another's to wait for; the rest is claimed in the given order."""
    in_flight = single_flight()
    assert claimed(in_flight, B) == [B]
    mine, theirs = in_flight.claim([C, B, A])
    assert list(mine) == [C, A]
    assert list(theirs) == [B]


def test_of_many_threads_one_gets_the_claim() -> None:
    """Of threads that claim the same key at the same moment one gets it."""
    for _ in range(20):
        in_flight = single_flight()
        claims = at_once([partial(claimed, in_flight, A)] * 16)
        assert sorted(map(str, claims)) == sorted(["['a']"] + ["[]"] * 15)


def test_completing_wakes_all_waiters() -> None:
    """Every waiter gets the value from the flight itself."""
    in_flight = single_flight()
    in_flight.claim([A])
    waiters = waiting(*(in_flight.claim([A])[1][A] for _ in range(5)))
    in_flight.complete(A, b"bytes")
    assert [waiter.result(SOON) for waiter in waiters] == [b"bytes"] * 5


def test_waiting_for_a_complete_flight_returns_at_once() -> None:
    """Waiting for a flight that is complete returns its value at once."""
    in_flight = single_flight()
    in_flight.claim([A])
    flight = in_flight.claim([A])[1][A]
    in_flight.complete(A, b"")
    assert flight.wait() == b""


def test_completing_one_leaves_the_others_in_flight() -> None:
    """The keys of one claim are completed one by one."""
    in_flight = single_flight()
    in_flight.claim([A, B])
    in_flight.complete(A, b"a")
    mine, theirs = in_flight.claim([A, B])
    assert (list(mine), list(theirs)) == ([A], [B])


def test_a_failure_reaches_every_waiter_as_an_exception_of_its_own() -> None:
    """Waiters raise the same kind, path, reason and cause, in separate objects."""
    in_flight = single_flight()
    in_flight.claim([A])
    waiters = waiting(*(in_flight.claim([A])[1][A] for _ in range(3)))
    cause = ValueError("why")
    error = Stale("10028/a", "was replaced")
    error.__cause__ = cause
    in_flight.fail([A], error)
    raised = [waiter.exception(SOON) for waiter in waiters]
    assert [type(one) for one in raised] == [Stale] * 3
    assert [str(one) for one in raised] == [str(error)] * 3
    assert all(one is not None and one.__cause__ is cause for one in raised)
    assert len({id(one) for one in [*raised, error]}) == 4


def test_a_released_claim_may_be_claimed_again() -> None:
    """Failing without an error lets the waiters claim the key."""
    in_flight = single_flight()
    in_flight.claim([A, B])
    (waiter,) = waiting(in_flight.claim([A])[1][A])
    in_flight.fail([A, B], None)
    assert waiter.result(SOON) is None
    assert claimed(in_flight, A, B) == [A, B]


def test_a_failed_flight_may_be_claimed() -> None:
    """An error is raised in the waiters only, and a later caller claims the key."""
    in_flight = single_flight()
    in_flight.claim([A])
    in_flight.fail([A], Unavailable("10028/a"))
    assert claimed(in_flight, A) == [A]


def test_flights_are_counted() -> None:
    """The repr of a SingleFlight shows the number of flights."""
    in_flight = single_flight()
    in_flight.claim([A, B])
    assert repr(in_flight) == "<SingleFlight in_flight=2>"


class CountingRequest(Hedgeable):
    """A request that counts how often a waiter found it late."""

    def __init__(self) -> None:
        super().__init__()
        self.found_late = threading.Semaphore(0)

    def hedge_if_silent(self, seconds: float) -> None:
        """Count the call."""
        assert seconds == 0.01
        self.found_late.release()


def test_a_waiter_hedges_the_requests_of_its_flight() -> None:
    """A waiter hedges after each hedge delay while it waits, and not afterwards."""
    in_flight = single_flight(lambda: 0.01)
    flight = in_flight.claim([A])[0][A]
    requests = CountingRequest(), CountingRequest()
    flight.requests = requests
    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(flight.wait)
        for request in requests * 3:
            assert request.found_late.acquire(timeout=SOON)
        in_flight.complete(A, b"a")
        assert waiter.result(SOON) == b"a"


def test_a_request_that_was_silent_before_is_hedged_at_once() -> None:
    """A waiter does not wait once more for a request that has been silent for long when it comes."""
    in_flight = single_flight()
    flight = in_flight.claim([A])[0][A]
    hedged = threading.Event()
    request = Hedgeable()
    request.sent(hedged.set)
    request._sent_at -= 2 * SOON
    flight.requests = (request,)
    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(flight.wait)
        assert hedged.wait(SOON / 2)
        in_flight.complete(A, b"a")
        assert waiter.result(SOON) == b"a"


def test_a_cancelled_waiter_leaves_the_flight_to_the_others() -> None:
    """It raises Cancelled, and the owner completes the flight for the others."""
    in_flight = single_flight()
    flight = in_flight.claim([A])[0][A]
    (other,) = waiting(flight)
    with cancel_scope(lambda: False), pytest.raises(Cancelled):
        flight.wait()
    in_flight.complete(A, b"a")
    assert other.result(SOON) == b"a"


def test_only_the_first_result_of_a_flight_counts() -> None:
    """Completing a flight twice changes nothing the second time."""
    flight: Flight[bytes] = Flight(lambda: SOON)
    flight.finish(b"first", None)
    flight.finish(None, Unavailable("10028/a"))
    assert flight.wait() == b"first"


@pytest.mark.parametrize("kind", [NotFound, Stale, Unavailable])
def test_a_copy_is_the_same_error_in_another_object(kind: type[ArchiveError]) -> None:
    """`copy_error` keeps the kind, the path, the reason and the cause."""
    error = kind("10028/a", "a reason")
    error.__cause__ = OSError("below")
    copy = copy_error(error)
    assert isinstance(copy, ArchiveError)
    assert copy is not error
    assert (type(copy), copy.path, copy.reason) == (kind, "10028/a", "a reason")
    assert copy.__cause__ is error.__cause__


class CountedFetch:
    """A call that waits until the test lets it go on, and counts itself."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls = 0
        self.error = error
        self.barrier = Barrier(0)

    def __call__(self, _: Hedgeable) -> int:
        self.calls += 1
        self.barrier.passed()
        if self.error is not None:
            raise self.error
        return self.calls


class Key:
    """A key that signals when it is looked up, which happens under the lock."""

    def __init__(self) -> None:
        self.looked = threading.Semaphore(0)

    def __hash__(self) -> int:
        self.looked.release()
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other


def joined(counted: CountedFetch, others: int) -> "list[Future[int]]":
    """Return the results of one caller, and of `others` that join while its call waits."""
    in_flight, key = single_flight(), Key()
    pool = ThreadPoolExecutor(others + 1)
    first = pool.submit(in_flight.call, key, counted)
    counted.barrier.wait_reached()
    while key.looked.acquire(blocking=False):
        pass
    rest = [pool.submit(in_flight.call, key, counted) for _ in range(others)]
    for _ in rest:
        assert key.looked.acquire(timeout=SOON)
    counted.barrier.lift()
    pool.shutdown(wait=False)
    return [first, *rest]


def test_many_callers_make_one_call() -> None:
    """A caller with a key in flight gets the result of that call."""
    counted = CountedFetch()
    assert [call.result(SOON) for call in joined(counted, 7)] == [1] * 8
    assert counted.calls == 1


def test_callers_of_other_keys_do_not_wait() -> None:
    """Another key is another call, made at once."""
    in_flight, counted = single_flight(), CountedFetch()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(in_flight.call, "key", counted)
        counted.barrier.wait_reached()
        assert in_flight.call("other", lambda _: 5) == 5
        counted.barrier.lift()
        assert call.result(SOON) == 1


def test_the_next_call_fetches_again() -> None:
    """Results are shared while they are waited for, and not stored."""
    in_flight = single_flight()
    assert in_flight.call("key", lambda _: 1) == 1
    assert in_flight.call("key", lambda _: 2) == 2


def test_an_error_is_shared_as_an_exception_of_each_callers_own() -> None:
    """Every waiter raises the same kind and reason, each in its own object."""
    counted = CountedFetch(NotFound("10028/x", "gone"))
    raised = [call.exception(SOON) for call in joined(counted, 3)]
    assert counted.calls == 1
    assert [(type(one), str(one)) for one in raised] == [(NotFound, "10028/x: gone")] * 4
    assert len({id(one) for one in raised}) == 4


def failing(_: Hedgeable) -> int:
    """Raise as a listing would."""
    raise NotFound("10028/x")


def test_after_an_error_the_next_call_fetches_again() -> None:
    """An error is not stored."""
    in_flight = single_flight()
    with pytest.raises(NotFound):
        in_flight.call("key", failing)
    assert in_flight.call("key", lambda _: 3) == 3


def test_an_unexpected_exception_is_raised_unchanged() -> None:
    """An unexpected exception is raised in the caller, and releases the key."""

    def surprised(_: Hedgeable) -> int:
        raise ZeroDivisionError

    in_flight = single_flight()
    with pytest.raises(ZeroDivisionError):
        in_flight.call("key", surprised)
    assert in_flight.call("key", lambda _: 4) == 4


def test_a_cancelled_caller_does_not_cancel_the_others() -> None:
    """The call goes on to its end in its own thread, and the others get its result."""
    in_flight, counted = single_flight(), CountedFetch()
    with ThreadPoolExecutor(1) as pool:
        with cancel_scope(lambda: False), pytest.raises(Cancelled):
            in_flight.call("key", counted)
        other = pool.submit(in_flight.call, "key", counted)
        counted.barrier.lift()
        assert other.result(SOON) in {1, 2}


def test_try_run_does_not_wait() -> None:
    """`try_run` returns None if the key is in flight, and else runs the call in its own thread."""
    in_flight = single_flight()
    in_flight.claim(["key"])
    assert in_flight.try_run("key", lambda _: 1) is None
    assert in_flight.try_run("other", lambda _: threading.get_ident()) == threading.get_ident()


def test_a_caller_joins_try_run_and_fetches_if_it_fails() -> None:
    """A caller gets the value of `try_run`; an error of that is not the caller's."""
    for error, answer in ((None, 1), (Unavailable("10028/x"), 7)):
        in_flight, counted = single_flight(), CountedFetch(error)
        with ThreadPoolExecutor(2) as pool:
            trying = pool.submit(in_flight.try_run, "key", counted)
            counted.barrier.wait_reached()
            call = pool.submit(in_flight.call, "key", lambda _: 7)
            counted.barrier.lift()
            assert call.result(SOON) == answer
            assert (type(trying.exception(SOON)) if error else trying.result(SOON)) == (type(error) if error else 1)


def test_a_call_that_no_thread_takes_leaves_no_claim() -> None:
    """The error is the caller's, and the next call is made."""

    def refuse(_: object) -> None:
        raise Closed("")

    in_flight = single_flight()
    submit, in_flight._submit = in_flight._submit, refuse
    with pytest.raises(Closed):
        in_flight.call("key", lambda _: 1)
    in_flight._submit = submit
    assert in_flight.call("key", lambda _: 1) == 1
