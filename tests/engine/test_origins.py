"""Concurrent requests are limited, demand reads go first, and requests are retried while patience lasts."""

import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import (
    SOON,
    Break,
    FakeClock,
    FakeListing,
    FakeOrigin,
    FakeStopping,
    at_once,
    directory,
    in_threads,
    noise,
)

from empiarfs.cancellation import CancelToken
from empiarfs.engine import limiter as limiter_module
from empiarfs.engine.hedge import Hedged
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.engine.origins import PROGRESS, LimitedListing, Retrying, RetryPolicy
from empiarfs.errors import (
    ArchiveError,
    Cancelled,
    CertificateError,
    Closed,
    Forbidden,
    IsADirectory,
    NotFound,
    Stale,
    Throttled,
    Unavailable,
)
from empiarfs.model import File, Node, Span
from empiarfs.ports import NEVER

PATH = "10028/data/a.mrc"
Enter = Callable[[], AbstractContextManager[None]]


class Killed(BaseException):
    """An exception that ends a thread from outside, as KeyboardInterrupt does."""


def wait_until_queued(limiter: ConnectionLimiter, count: int) -> None:
    """Return when `count` requests wait for a connection of `limiter`."""
    deadline = time.monotonic() + SOON
    while len(limiter._waiting) + len(limiter._waiting_ahead) < count:
        assert time.monotonic() < deadline, "no thread waits"
        time.sleep(0.001)


class Visitor:
    """A thread that acquires a connection, and holds it until it is released."""

    def __init__(self, enter: Enter) -> None:
        self._leave = threading.Event()
        self.inside = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._visit: Future[None] = self._pool.submit(self._stay, enter)

    def _stay(self, enter: Enter) -> None:
        with enter():
            self.inside.set()
            assert self._leave.wait(SOON)

    def is_let_in(self) -> None:
        """Wait until the thread holds a connection."""
        assert self.inside.wait(SOON), "it was not let in"

    def leaves(self) -> None:
        """Release the connection, and wait until the thread has ended."""
        self._leave.set()
        self._visit.result(SOON)
        self._pool.shutdown()


@pytest.mark.parametrize("most", [1, 2, 3, 10])
def test_connections_never_exceed_the_limit(most: int) -> None:
    """Demand requests and prefetch together never use more connections than the limit."""
    limiter = ConnectionLimiter(most, 2)
    inside: list[int] = []
    lock = threading.Lock()
    seen = []

    def visit(enter: Enter) -> None:
        for _ in range(50):
            with enter():
                with lock:
                    inside.append(1)
                    seen.append(len(inside))
                with lock:
                    inside.pop()

    results = at_once([partial(visit, enter) for enter in (limiter.demand, limiter.prefetch) * 6])
    assert results == [None] * 12
    assert max(seen) <= most
    assert limiter.peak <= most
    assert repr(limiter).startswith("<ConnectionLimiter demand=0 prefetch=0 ")


def test_demand_requests_may_use_all_connections() -> None:
    """Ten demand requests are admitted at once, and the eleventh waits for one of them."""
    limiter = ConnectionLimiter(10, 2)
    with ExitStack() as readers:
        for _ in range(9):
            readers.enter_context(limiter.demand())
        tenth = Visitor(limiter.demand)
        tenth.is_let_in()
        eleventh = Visitor(limiter.demand)
        wait_until_queued(limiter, 1)
        assert not eleventh.inside.is_set()
        tenth.leaves()
        eleventh.is_let_in()
        eleventh.leaves()
    assert limiter.peak == 10


@pytest.mark.promise("Two are reserved for demand reads and never used by prefetch.")
def test_two_connections_are_never_used_by_prefetch() -> None:
    """Of ten connections prefetch gets eight, and a demand request that comes then is admitted at once."""
    limiter = ConnectionLimiter(10, 2)
    with ExitStack() as prefetches:
        for _ in range(8):
            prefetches.enter_context(limiter.prefetch())
        ninth = Visitor(limiter.prefetch)
        wait_until_queued(limiter, 1)
        with limiter.demand(), limiter.demand():
            assert not ninth.inside.is_set()
    ninth.is_let_in()
    ninth.leaves()


def test_prefetch_gets_one_connection_of_few() -> None:
    """With one or two connections prefetch gets one if no demand request is queued."""
    for most in (1, 2):
        with ConnectionLimiter(most, 2).prefetch():
            pass


def test_a_demand_request_goes_before_any_prefetch() -> None:
    """Prefetch that has waited longer is admitted after a demand request."""
    limiter = ConnectionLimiter(3, 2)
    held = [Visitor(limiter.demand) for _ in range(3)]
    for visitor in held:
        visitor.is_let_in()
    prefetch = Visitor(limiter.prefetch)
    wait_until_queued(limiter, 1)
    reader = Visitor(limiter.demand)
    wait_until_queued(limiter, 2)
    held[0].leaves()
    reader.is_let_in()
    assert not prefetch.inside.is_set()
    held[1].leaves()
    prefetch.is_let_in()
    for visitor in (held[2], reader, prefetch):
        visitor.leaves()


def test_no_connection_stays_free_while_prefetch_waits() -> None:
    """Two connections released together go to the demand request and to prefetch, whichever wakes first."""
    for _ in range(10):
        limiter = ConnectionLimiter(3, 2)
        held = [limiter.demand() for _ in range(3)]
        for one in held:
            one.__enter__()
        prefetch = Visitor(limiter.prefetch)
        wait_until_queued(limiter, 1)
        reader = Visitor(limiter.demand)
        wait_until_queued(limiter, 2)
        held[0].__exit__(None, None, None)
        held[1].__exit__(None, None, None)
        reader.is_let_in()
        assert prefetch.inside.wait(2.0), "a connection is free, and prefetch is not notified"
        reader.leaves()
        prefetch.leaves()
        held[2].__exit__(None, None, None)


@pytest.mark.parametrize("error", [ValueError, Killed])
def test_a_failed_request_releases_its_connection(error: type[BaseException]) -> None:
    """An error in the block releases the connection."""
    limiter = ConnectionLimiter(1, 0)
    for enter in (limiter.demand, limiter.prefetch) * 2:
        with pytest.raises(error), enter():
            raise error


def test_an_interrupted_request_leaves_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demand request interrupted in the queue does not block prefetch."""
    limiter = ConnectionLimiter(1, 0)

    def be_killed(*_: object) -> bool:
        raise Killed

    with limiter.demand(), monkeypatch.context() as patch:
        patch.setattr(limiter_module, "wait", be_killed)
        with pytest.raises(Killed), limiter.demand():
            pass
    prefetch = Visitor(limiter.prefetch)
    assert prefetch.inside.wait(2.0), "prefetch waits for an interrupted request"
    prefetch.leaves()


class Patiently:
    """A retry policy of `seconds` with all its parts accessible; no pause takes time."""

    def __init__(
        self, seconds: float = 300.0, *, chance: float = 0.5, stop_at: int | None = None, interactive: bool = False
    ) -> None:
        self.clock = FakeClock()
        self.begun = self.clock.now
        self.stopping = FakeStopping(self.clock, stop_at)
        self.retry_policy = RetryPolicy(seconds, self.clock, lambda: chance, self.stopping, interactive=interactive)

    @property
    def passed(self) -> float:
        """Return the seconds gone by."""
        return self.clock.now - self.begun


@pytest.mark.promise(
    "If a server says how long to wait (`Retry-After`), no request is sent until then; a caller whose "
    "patience ends sooner sends one last request."
)
@pytest.mark.parametrize(("asked_for", "waited"), [(0.0, 0.0), (10.0, 10.0), (3600.0, 300.0)])
def test_a_requested_pause_applies_to_all_requests(asked_for: float, waited: float) -> None:
    """A first request also waits for the pause, at most for its patience, and is then sent."""
    with_patience = Patiently()
    with_patience.retry_policy._cool_down = lambda: max(0.0, asked_for - with_patience.passed)
    assert with_patience.retry_policy.call(PATH, lambda _: with_patience.passed) == waited


def test_a_retry_waits_for_the_requested_pause() -> None:
    """The next attempt waits for Retry-After, but not longer than patience lasts."""
    for asked_for, waited in ((30.0, 30.0), (3600.0, 300.0)):
        with_patience = Patiently()
        with_patience.retry_policy.call(PATH, Answers(Throttled(PATH, "busy", asked_for), "yes"))
        assert with_patience.stopping.pauses == [waited]


def test_without_patience_a_request_is_sent_in_a_pause() -> None:
    """With a patience of 0 the request is sent at once, whatever the server requests."""
    with_patience = Patiently(0.0)
    with_patience.retry_policy._cool_down = lambda: 60.0
    assert with_patience.retry_policy.call(PATH, Answers("yes")) == "yes"
    assert with_patience.passed == 0.0


class Answers:
    """A function that returns or raises one answer after another, the last one repeatedly."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.calls = 0

    def __call__(self, _: float) -> object:
        """Return or raise the next answer."""
        answer = self.answers[min(self.calls, len(self.answers) - 1)]
        self.calls += 1
        if isinstance(answer, BaseException):
            raise answer
        return answer


AWAY = Unavailable(PATH, "away")


def test_an_answer_at_once_takes_no_pause() -> None:
    """One request that is answered takes no pause."""
    with_patience = Patiently()
    assert with_patience.retry_policy.call(PATH, Answers("yes")) == "yes"
    assert with_patience.stopping.pauses == []


def test_unavailable_is_retried() -> None:
    """Unavailable is retried, after a pause each, until there is an answer."""
    with_patience, ask = Patiently(), Answers(AWAY, AWAY, "yes")
    assert with_patience.retry_policy.call(PATH, ask) == "yes"
    assert ask.calls == 3
    assert len(with_patience.stopping.pauses) == with_patience.retry_policy.retries == 2


@pytest.mark.parametrize(
    "error", [NotFound(PATH), Forbidden(PATH), Stale(PATH), IsADirectory(PATH), ValueError("ours"), Killed()]
)
def test_nothing_but_unavailable_is_retried(error: BaseException) -> None:
    """Every other answer is final."""
    with_patience, ask = Patiently(), Answers(error)
    with pytest.raises(type(error)):
        with_patience.retry_policy.call(PATH, ask)
    assert ask.calls == 1
    assert with_patience.stopping.pauses == []


@given(seconds=st.floats(0, 1000), chance=st.floats(0, 1))
def test_patience_ends_on_time(seconds: float, chance: float) -> None:
    """The last Unavailable is raised after exactly the patience, after one last attempt."""
    with_patience, ask = Patiently(seconds, chance=chance), Answers(AWAY)
    with pytest.raises(Unavailable, match="away"):
        with_patience.retry_policy.call(PATH, ask)
    assert with_patience.passed == pytest.approx(seconds, abs=1e-3)
    assert ask.calls == len(with_patience.stopping.pauses) + 1


def test_without_patience_there_is_one_attempt() -> None:
    """With a patience of 0 the first failure is raised."""
    with_patience, ask = Patiently(0.0), Answers(AWAY)
    with pytest.raises(Unavailable):
        with_patience.retry_policy.call(PATH, ask)
    assert ask.calls == 1


def test_pauses_grow_and_stay_bounded() -> None:
    """Pauses grow, but never beyond 30 seconds."""
    with_patience = Patiently(1000.0)
    with pytest.raises(Unavailable):
        with_patience.retry_policy.call(PATH, Answers(AWAY))
    pauses = with_patience.stopping.pauses[:-1]
    assert pauses == sorted(pauses)
    assert pauses[0] < 2
    assert 8 * pauses[0] < pauses[-1] <= 30


def test_chance_spreads_the_pauses_of_many_readers() -> None:
    """Two readers with different random numbers have different pauses."""
    firsts = []
    for chance in (0.0, 0.9):
        with_patience = Patiently(chance=chance)
        with_patience.retry_policy.call(PATH, Answers(AWAY, "yes"))
        firsts += with_patience.stopping.pauses
    assert firsts[0] * 1.5 < firsts[1]


def test_closing_ends_a_pause() -> None:
    """A pause during which the archive closes ends with Closed."""
    with_patience, ask = Patiently(stop_at=2), Answers(AWAY)
    with pytest.raises(Closed):
        with_patience.retry_policy.call(PATH, ask)
    assert ask.calls == 3


def test_a_closed_archive_sends_nothing() -> None:
    """After it is closed an archive sends no request."""
    with_patience, ask = Patiently(), Answers("yes")
    with_patience.stopping.set()
    with pytest.raises(Closed):
        with_patience.retry_policy.call(PATH, ask)
    assert ask.calls == 0


def test_the_second_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """About 3 % of requests hang: only a second failure is logged, once."""
    with_patience = Patiently()
    with_patience.retry_policy.call(PATH, Answers(AWAY, "yes"))
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []
    with_patience.retry_policy.call(PATH, Answers(AWAY, AWAY, AWAY, AWAY, "yes"))
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1
    assert re.fullmatch(rf"{AWAY}; retrying for up to \d+ s", warned[0])
    caplog.clear()


def test_the_end_of_patience_is_no_retry() -> None:
    """The requests after the first are counted as retries, and the end of patience is not."""
    with_patience, ask = Patiently(10.0), Answers(AWAY)
    with pytest.raises(Unavailable):
        with_patience.retry_policy.call(PATH, ask)
    assert with_patience.retry_policy.retries == ask.calls - 1


def test_continuing_a_broken_reply_is_a_retry(origin: FakeOrigin) -> None:
    """Each request after the first is counted, wherever the previous one ended."""
    with_patience = Patiently()
    origin.break_next(Break(after=4, error=AWAY), Break(error=AWAY), Break(after=2, error=AWAY))
    fetched = Retrying(origin, with_patience.retry_policy).fetch(origin.file(PATH), Span(0, 50))
    assert b"".join(fetched) == b"".join(origin.fetch(origin.file(PATH), Span(0, 50)))
    assert with_patience.retry_policy.retries == 3


STRANGE = CertificateError(PATH, "the server's certificate cannot be verified")


def test_a_bad_certificate_is_logged_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """A mount retries, as a captive portal may be in the way, and logs the first failure."""
    with_patience = Patiently()
    assert with_patience.retry_policy.call(PATH, Answers(STRANGE, "yes")) == "yes"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    caplog.clear()
    with pytest.raises(CertificateError):
        with_patience.retry_policy.call(PATH, Answers(STRANGE))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    caplog.clear()


@pytest.mark.promise(
    "A certificate that cannot be verified is treated like an unreachable server: logged at once, `EIO` after "
    "`--patience`; at a prompt at once."
)
def test_interactively_a_bad_certificate_fails_at_once() -> None:
    """An interactive request fails at once for a bad certificate; a lost connection is retried as usual."""
    with_patience, ask = Patiently(interactive=True), Answers(STRANGE)
    with pytest.raises(CertificateError):
        with_patience.retry_policy.call(PATH, ask)
    assert (ask.calls, with_patience.stopping.pauses) == (1, [])
    assert with_patience.retry_policy.call(PATH, Answers(AWAY, "yes")) == "yes"


def test_failures_of_one_file_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Failures of one file are logged once while it is retried; those of another file, or later ones, again."""
    with_patience = Patiently(60.0)
    retry_policy = with_patience.retry_policy

    def lines() -> int:
        count = len(caplog.records)
        caplog.clear()
        return count

    def in_vain(path: str) -> None:
        with pytest.raises(Unavailable):
            retry_policy.call(path, Answers(Unavailable(path, "away")))

    in_vain(PATH)
    assert lines() == 1
    retry_policy._logged[PATH] = with_patience.clock.now + 30
    in_vain(PATH)
    assert lines() == 0
    in_vain("10028/other")
    assert lines() == 1
    retry_policy.call(PATH, Answers("yes"))
    in_vain(PATH)
    assert lines() == 1


@pytest.fixture
def origin() -> FakeOrigin:
    """An origin of one file of 100 bytes."""
    return FakeOrigin({PATH: noise(100)})


def fetched(origin: Retrying | FakeOrigin, file: File, start: int, stop: int) -> bytes:
    """Fetch a whole span."""
    return b"".join(origin.fetch(file, Span(start, stop)))


def test_a_broken_fetch_continues_where_it_stopped(origin: FakeOrigin) -> None:
    """Bytes that have come are not fetched again, and none is missing or doubled."""
    with_patience = Patiently()
    origin.break_next(Break(after=33, error=AWAY), Break(after=20, error=AWAY), Break(after=0, error=AWAY))
    retrying = Retrying(origin, with_patience.retry_policy)
    assert fetched(retrying, origin.file(PATH), 10, 90) == noise(100)[10:90]
    assert origin.fetches == [Span(10, 90), Span(43, 90), Span(63, 90), Span(63, 90)]


@given(st.lists(st.integers(0, 60), max_size=6), st.integers(1, 50))
def test_wherever_a_fetch_breaks_the_bytes_are_right(breaks: list[int], piece: int) -> None:
    """With any breaks and any pieces each byte of the span comes once."""
    origin = FakeOrigin({PATH: noise(100)}, piece=piece)
    origin.break_next(*(Break(after=after, error=AWAY) for after in breaks))
    assert fetched(Retrying(origin, Patiently().retry_policy), origin.file(PATH), 5, 95) == noise(100)[5:95]


@pytest.mark.parametrize("error", [Forbidden(PATH), Stale(PATH), Killed()])
@pytest.mark.parametrize("after", [0, 40])
def test_a_refused_fetch_is_not_retried(origin: FakeOrigin, error: BaseException, after: int) -> None:
    """Only Unavailable is retried, also in the middle of a fetch."""
    origin.break_next(Break(after=after, error=error))
    with pytest.raises(type(error)):
        fetched(Retrying(origin, Patiently().retry_policy), origin.file(PATH), 0, 100)
    assert len(origin.fetches) == 1


def test_a_measured_file_is_not_found_after_two_answers(origin: FakeOrigin) -> None:
    """A fetch that is NotFound is sent once more at once, as another server may have the file."""
    retrying = Retrying(origin, Patiently(0.0).retry_policy)
    origin.break_next(Break(error=NotFound(PATH)))
    assert fetched(retrying, origin.file(PATH), 0, 100) == noise(100)
    origin.break_next(*[Break(error=NotFound(PATH))] * 2)
    with pytest.raises(NotFound):
        fetched(retrying, origin.file(PATH), 0, 100)
    assert len(origin.fetches) == 4


def test_a_fetch_without_progress_ends_with_patience(origin: FakeOrigin) -> None:
    """A server that is away in the middle of a fetch is retried as long as at its start."""
    origin.break_next(Break(after=33, error=AWAY), *[Break(error=AWAY)] * 500)
    with_patience = Patiently(60.0)
    with pytest.raises(Unavailable):
        fetched(Retrying(origin, with_patience.retry_policy), origin.file(PATH), 0, 100)
    assert with_patience.passed == pytest.approx(60.0)


def test_a_trickling_fetch_ends_with_patience(origin: FakeOrigin) -> None:
    """A byte and a break, repeatedly, is no progress: the pauses grow, and patience ends."""
    origin.break_next(*[Break(after=1, error=AWAY)] * 90)
    with_patience = Patiently(60.0)
    with pytest.raises(Unavailable):
        fetched(Retrying(origin, with_patience.retry_policy), origin.file(PATH), 0, 100)
    assert with_patience.passed == pytest.approx(60.0)
    assert len(with_patience.stopping.pauses) < 15


def test_a_break_after_progress_is_continued_at_once() -> None:
    """Replies with progress may break any number of times, without a pause and without an end of patience."""
    content = noise(20 * PROGRESS)
    origin = FakeOrigin({PATH: content}, piece=PROGRESS)
    origin.break_next(*[Break(after=PROGRESS, error=AWAY)] * 19)
    with_patience = Patiently(0.0)
    retrying = Retrying(origin, with_patience.retry_policy)
    assert fetched(retrying, origin.file(PATH), 0, len(content)) == content
    assert with_patience.stopping.pauses == []


def test_patience_counts_from_the_last_progress() -> None:
    """Breaks before the last progress do not shorten patience."""
    content = noise(2 * PROGRESS)
    origin = FakeOrigin({PATH: content}, piece=PROGRESS)
    drips = [Break(after=1, error=AWAY)] * 7
    origin.break_next(*drips, Break(after=PROGRESS, error=AWAY), *drips)
    with_patience = Patiently(15.0)
    retrying = Retrying(origin, with_patience.retry_policy)
    assert fetched(retrying, origin.file(PATH), 0, len(content)) == content
    assert with_patience.passed > 15.0


def test_a_backoff_ends_when_the_archive_closes(origin: FakeOrigin) -> None:
    """A backoff ends with Closed when the archive closes."""
    origin.break_next(*[Break(after=1, error=AWAY)] * 90)
    with pytest.raises(Closed):
        fetched(Retrying(origin, Patiently(60.0, stop_at=3).retry_policy), origin.file(PATH), 0, 100)


def test_an_empty_span_sends_nothing(origin: FakeOrigin) -> None:
    """An empty span needs no request."""
    assert fetched(Retrying(origin, Patiently().retry_policy), origin.file(PATH), 7, 7) == b""
    assert origin.diary == []


def test_an_error_of_the_call_is_retried() -> None:
    """An origin may raise when it is called, and not only at a piece."""
    content = noise(100)
    origin = FakeOrigin({PATH: content})
    fetch, errors = origin.fetch, [AWAY]

    def shy(*arguments: Any, **options: Any) -> Iterator[bytes]:
        if errors:
            raise errors.pop()
        return fetch(*arguments, **options)

    origin.fetch = shy  # type: ignore[method-assign] # it raises at the call
    assert fetched(Retrying(origin, Patiently().retry_policy), origin.file(PATH), 0, 100) == content
    assert not errors


def test_a_fetch_that_ends_early_is_continued(origin: FakeOrigin) -> None:
    """A reply that ends early without an error is continued, however short it is."""
    origin.break_next(Break(after=12), Break(after=0))
    assert fetched(Retrying(origin, Patiently().retry_policy), origin.file(PATH), 0, 50) == noise(100)[:50]


def test_pieces_are_yielded_as_they_arrive(origin: FakeOrigin) -> None:
    """The first piece is yielded before the rest has been sent."""
    pieces = cast(
        "Generator[bytes]", Retrying(origin, Patiently().retry_policy).fetch(origin.file(PATH), Span(0, 100))
    )
    assert next(pieces) == noise(100)[:7]
    assert origin._inside == 1
    pieces.close()
    assert origin._inside == 0


def test_measuring_is_retried_too(origin: FakeOrigin) -> None:
    """Measuring is retried with the same patience."""

    class Shy(FakeOrigin):
        def measure(self, path: str, *, deadline: float = NEVER, token: CancelToken | None = None) -> File:
            found = super().measure(path, deadline=deadline, token=token)
            if len(self.measured) < 3:
                raise AWAY
            return found

    shy = Shy({PATH: noise(100)})
    assert Retrying(shy, Patiently().retry_policy).measure(PATH) == shy.file(PATH)
    assert len(shy.measured) == 3


class ShyListing(FakeListing):
    """A listing that is unavailable at first."""

    def scan(self, directory: str) -> Sequence[Node]:
        """See `Listing.scan`."""
        entries = super().scan(directory)
        if len(self.diary) < 4:
            raise Unavailable(directory, "away")
        return entries


def test_no_connection_is_held_during_a_pause() -> None:
    """A pause releases the connection for others, in fetching, measuring and listing alike."""

    def note(limiter: ConnectionLimiter, texts: list[str]) -> None:
        texts.append(repr(limiter))

    origin = FakeOrigin({PATH: noise(100)})
    for _ in range(3):
        limiter, with_patience = ConnectionLimiter(1, 0), Patiently()
        texts: list[str] = []
        with_patience.stopping.while_pausing = partial(note, limiter, texts)
        origin.break_next(Break(after=0, error=AWAY), Break(after=9, error=AWAY), Break(after=0, error=AWAY))
        retrying = Retrying(Hedged(origin, limiter, limiter.demand, in_threads), with_patience.retry_policy)
        fetched(retrying, origin.file(PATH), 0, 100)
        listing = ShyListing({"": [directory("10028")]})
        assert LimitedListing(listing, limiter.demand, with_patience.retry_policy).scan("") == [directory("10028")]
        assert len(texts) == 6
        assert all(text.startswith("<ConnectionLimiter demand=0 ") for text in texts)


def test_a_listing_holds_a_connection() -> None:
    """A scan holds one of the connections of the limiter."""
    limiter = ConnectionLimiter(1, 0)
    texts = []

    class Looking(FakeListing):
        def scan(self, directory: str) -> Sequence[Node]:
            texts.append(repr(limiter))
            return super().scan(directory)

    LimitedListing(Looking({"": []}), limiter.demand, Patiently().retry_policy).scan("")
    assert texts[0].startswith("<ConnectionLimiter demand=1 ")
    assert repr(limiter).startswith("<ConnectionLimiter demand=0 ")


@pytest.mark.parametrize("error", [NotFound("10028"), Forbidden("10028")])
def test_a_refused_listing_is_not_retried(error: ArchiveError) -> None:
    """An answer other than Unavailable is final."""
    listing = FakeListing({})
    listing.refusals["10028"] = error
    with pytest.raises(type(error)):
        LimitedListing(listing, ConnectionLimiter(1, 0).demand, Patiently().retry_policy).scan("10028")
    assert len(listing.diary) == 1


def test_retries_hedges_and_limits_work_together() -> None:
    """Many threads read through Retrying(Hedged(...)) with faults correctly, within the limit."""
    origin = FakeOrigin({PATH: noise(100)})
    origin.break_next(*(Break(after=number % 50, error=AWAY) for number in range(40)))
    limiter = ConnectionLimiter(3, 2)
    retrying = Retrying(Hedged(origin, limiter, limiter.demand, in_threads), Patiently().retry_policy)
    file = origin.file(PATH)

    def task() -> Iterator[bytes]:
        return iter([fetched(retrying, file, 0, 100) for _ in range(5)])

    for result in at_once([task] * 8):
        assert not isinstance(result, BaseException)
        assert list(result) == [noise(100)] * 5
    assert origin.highest <= 3


def test_each_attempt_has_the_deadline_of_patience(origin: FakeOrigin) -> None:
    """The deadline of every request is the end of patience, or the caller's own if that is earlier."""
    with_patience = Patiently(100.0)
    retrying = Retrying(origin, with_patience.retry_policy)
    end = with_patience.clock.now + 100.0
    origin.break_next(Break(error=AWAY))
    b"".join(retrying.fetch(origin.file(PATH), Span(0, 10)))
    assert origin.deadlines == [end, end]
    retrying.measure(PATH, deadline=5.0)
    assert origin.deadlines[2] == 5.0


def test_a_cancelled_request_is_not_retried(origin: FakeOrigin) -> None:
    """A request that another thread cancelled ends as Cancelled, and is not sent again."""
    token = CancelToken()
    token.cancel()
    barrier = origin.held()
    with pytest.raises(Cancelled):
        Retrying(origin, Patiently().retry_policy).measure(PATH, token=token)
    barrier.lift()
    assert len(origin.measured) == 1
