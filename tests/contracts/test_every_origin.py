"""The contract of every origin: in memory, over HTTP, and in each of the wrappers."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import partial
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fakes import FakeClock, FakeOrigin, FakeStopping, at_once, in_threads, noise
from support.parts import HedgedAtOnce
from support.scripted import MODIFIED, Client, ScriptedServer, Website

from empiarfs.engine.hedge import Hedged
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.engine.origins import Retrying, RetryPolicy
from empiarfs.errors import IsADirectory, NotFound, Stale
from empiarfs.model import File, Span
from empiarfs.ports import Origin

PATH = "10028/data/a b.mrc"
CONTENT = noise(700_000)
FILES = {PATH: CONTENT, "10028/empty": b"", "10028/data/\udcff": b"odd"}


def patience() -> RetryPolicy:
    """Return a retry policy whose pauses take no time."""
    clock = FakeClock()
    return RetryPolicy(60.0, clock, lambda: 0.5, FakeStopping(clock))


def in_memory() -> FakeOrigin:
    """Return the fake with the same files."""
    origin = FakeOrigin(FILES, modified=MODIFIED, piece=50_000)
    origin.directories = {"10028", "10028/data"}
    return origin


def hedged(origin: Origin) -> Hedged:
    """Return a hedged origin whose requests are never late."""
    limiter = ConnectionLimiter(3, 1)
    return Hedged(origin, limiter, limiter.demand, in_threads)


WRAPPERS: dict[str, Callable[[Origin], Origin]] = {
    "bare": lambda origin: origin,
    "hedged": hedged,
    "hedged at once": lambda origin: HedgedAtOnce(origin, ConnectionLimiter(3, 1)),
    "retrying": lambda origin: Retrying(origin, patience()),
    "all": lambda origin: Retrying(HedgedAtOnce(origin, ConnectionLimiter(3, 2)), patience()),
}


@pytest.fixture(params=[*(f"fake, {name}" for name in WRAPPERS), *(f"http, {name}" for name in WRAPPERS)])
def origin(request: pytest.FixtureRequest) -> Iterator[Origin]:
    """Return every origin, over the same files."""
    if request.param.startswith("fake"):
        yield WRAPPERS[request.param.removeprefix("fake, ")](in_memory())
        return
    with ExitStack() as stack:
        files = {path.encode("utf-8", "surrogateescape"): content for path, content in FILES.items()}
        server = stack.enter_context(ScriptedServer(Website(files)))
        client = stack.enter_context(Client(server.base_url))
        yield WRAPPERS[request.param.removeprefix("http, ")](client.origin)


def fetched(origin: Origin, file: File, span: Span) -> bytes:
    """Fetch a whole span."""
    return b"".join(origin.fetch(file, span))


@pytest.mark.parametrize("path", FILES)
def test_measuring_returns_the_exact_length_and_date(origin: Origin, path: str) -> None:
    """Any file, also an empty one or one with an odd name, is measured exactly."""
    assert origin.measure(path) == File(path, len(FILES[path]), MODIFIED)


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("size", [1, 10_000, 1_000_000])
def test_opening_returns_the_measured_file_and_its_first_bytes(origin: Origin, path: str, size: int) -> None:
    """The file is as measured, and the bytes are its first ones, none of an empty file."""
    assert origin.open(path, size) == (File(path, len(FILES[path]), MODIFIED), FILES[path][:size])


def test_a_missing_file_or_a_directory_does_not_open(origin: Origin) -> None:
    """Opening raises the errors that measuring raises."""
    with pytest.raises(NotFound):
        origin.open("10028/none", 10)
    with pytest.raises(IsADirectory):
        origin.open("10028/data", 10)


def test_a_file_is_the_same_each_time_it_is_measured(origin: Origin) -> None:
    """Two measurements of one version are equal."""
    assert origin.measure(PATH) == origin.measure(PATH)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(start=st.integers(0, len(CONTENT) - 1), size=st.integers(1, 300_000))
def test_fetching_returns_exactly_the_span(origin: Origin, start: int, size: int) -> None:
    """The bytes come in order, each once."""
    span = Span(start, min(start + size, len(CONTENT)))
    assert fetched(origin, File(PATH, len(CONTENT), MODIFIED), span) == CONTENT[span.start : span.stop]


def test_the_pieces_of_a_large_span_are_several(origin: Origin) -> None:
    """A reader gets the first bytes before the last have arrived."""
    pieces = list(origin.fetch(File(PATH, len(CONTENT), MODIFIED), Span(0, len(CONTENT))))
    assert len(pieces) > 1
    assert b"".join(pieces) == CONTENT


def test_a_fetch_may_be_closed_early(origin: Origin) -> None:
    """After many fetches that were closed early the next one works: no connection is lost."""
    file = File(PATH, len(CONTENT), MODIFIED)
    for _ in range(5):
        pieces = cast("Generator[bytes]", origin.fetch(file, Span(0, len(CONTENT))))
        assert CONTENT.startswith(next(pieces))
        pieces.close()
    assert fetched(origin, file, Span(0, 10)) == CONTENT[:10]


def test_a_missing_file_is_not_found(origin: Origin) -> None:
    """Measuring and fetching a missing file raise NotFound with its path."""
    with pytest.raises(NotFound) as caught:
        origin.measure("10028/none")
    assert caught.value.path == "10028/none"
    with pytest.raises(NotFound):
        fetched(origin, File("10028/none", 5, None), Span(0, 5))


def test_measuring_a_directory_raises_is_a_directory(origin: Origin) -> None:
    """Measuring a directory raises IsADirectory."""
    with pytest.raises(IsADirectory):
        origin.measure("10028/data")


def test_many_threads_fetch_at_once(origin: Origin) -> None:
    """Each of many threads gets its own bytes."""
    file = File(PATH, len(CONTENT), MODIFIED)
    spans = [Span(start, start + 30_000) for start in range(0, 240_000, 30_000)]
    got = at_once([partial(fetched, origin, file, span) for span in spans])
    assert got == [CONTENT[span.start : span.stop] for span in spans]


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 5])
def test_a_file_of_another_length_is_stale(origin: Origin, size: int, request: pytest.FixtureRequest) -> None:
    """An origin that sees another total length, as over HTTP, raises Stale."""
    if "fake" in request.node.callspec.params["origin"]:
        return
    with pytest.raises(Stale):
        fetched(origin, File(PATH, size, MODIFIED), Span(0, 10))
    with pytest.raises(Stale):
        fetched(origin, File(PATH, size, MODIFIED), Span(size - 10, size))
