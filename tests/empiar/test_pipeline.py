"""Sizes from pipelined HEADs: right ones of all files, or none of a batch whose replies are not beyond doubt."""

import logging
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from support import pipelined
from support.pipelined import DIRECTORY, Act, Pipelining, answering, head, path_of, with_fields

from empiarfs.empiar.pipeline import (
    DOUBTED_SECONDS,
    FEW_REQUESTS,
    LONGEST_HEAD,
    MOST_CONNECTIONS,
    MOST_FAILURES,
    SUSPENDED_SECONDS,
    parsed,
)
from empiarfs.engine.latency import MIN_HEDGE_DELAY
from empiarfs.errors import Throttled, Unavailable
from empiarfs.model import File, Stub

COUNT = 12
MIDDLE = 5
DISTINCT = [100 + number for number in range(COUNT)]  # the listing has them as they are
ALIKE = [2_000 + number for number in range(COUNT)]  # all of them are 2.0K in the listing


@pytest.fixture
def batch() -> Iterator[Pipelining]:
    """Files of sizes that the listing tells apart, at a server that has shown that it keeps connections."""
    with Pipelining(DISTINCT) as made:
        made.measure_one()
        made.server.heads.clear()
        yield made


@pytest.fixture
def alike() -> Iterator[Pipelining]:
    """The same with sizes that the listing does not tell apart."""
    with Pipelining(ALIKE) as made:
        made.measure_one()
        made.server.heads.clear()
        yield made


def measured(batch: Pipelining) -> tuple[list[File], bool]:
    """Return what a batch yields, and whether it ends with an error."""
    found: list[File] = []
    try:
        for part in batch.sizes.measure_batch(DIRECTORY, batch.stubs):
            found += part
    except Unavailable:
        return found, True
    return found, False


def test_a_batch_is_measured_over_one_connection(batch: Pipelining) -> None:
    """All files have the size and the date of their own reply; each is requested once, over one connection."""
    assert batch.measured() == batch.files()
    assert batch.requested() == [stub.path for stub in batch.stubs]
    assert batch.server.connections == 1
    assert len(batch.times) == 1


def test_all_requests_are_sent_before_the_first_reply(batch: Pipelining) -> None:
    """A batch takes one round trip: a server that answers the first request after the last one is no problem."""
    for stub in batch.stubs[:-1]:
        batch.shelf.plan[stub.path] = pipelined.never
    batch.shelf.plan[batch.stubs[-1].path] = lambda shelf, _: map(shelf.right, shelf.sizes)
    assert batch.measured() == batch.files()


def test_requests_are_those_of_single_ones() -> None:
    """A pipelined request has the header fields of a single one, the login among them."""
    with Pipelining(DISTINCT, login="reader:secret@") as made:
        made.measure_one()
        made.measured()
        single, *others = (dict(map(field, one.split(b"\r\n")[1:])) for one in made.server.heads)
    assert single["authorization"].startswith("Basic ")
    assert all(other == single for other in others)


def field(line: bytes) -> tuple[str, str]:
    """Return the name and the value of a header field."""
    name, _, value = line.decode().partition(": ")
    return name.lower(), value


def test_the_connection_is_used_again_after_a_batch(batch: Pipelining) -> None:
    """A batch that was answered leaves the connection to other requests."""
    batch.measured()
    batch.measure_one()
    assert batch.measured() == batch.files()
    assert batch.server.connections == 1


@pytest.mark.promise(
    "Requests are sent together only to a server that has kept a connection open by HTTP/1.1, and through no proxy."
)
def test_nothing_is_pipelined_before_the_server_has_kept_a_connection() -> None:
    """Batches are usable once one reply by HTTP/1.1 has left its connection open."""
    with Pipelining(DISTINCT) as made:
        assert not made.sizes.is_usable()
        made.shelf.plan[path_of(0)] = pipelined.announce_and_close
        made.measure_one()
        assert not made.sizes.is_usable()
        made.shelf.plan[path_of(0)] = answering(lambda size: head(size, version="HTTP/1.0"))
        made.measure_one()
        assert not made.sizes.is_usable()
        made.measure_one()
        assert made.sizes.is_usable()


def test_nothing_is_pipelined_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a proxy is between, files are measured one by one."""
    with Pipelining(DISTINCT) as made:
        port = made.server.port
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "")
    with Pipelining(DISTINCT) as made:
        made.client.http.is_persistent = True
        assert not made.sizes.is_usable()


def test_requests_are_pipelined_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is encrypted carries batches as any other."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    with Pipelining(DISTINCT, tls=context) as made:
        made.measure_one()
        made.shelf.plan[path_of(MIDDLE)] = pipelined.close_before
        assert made.measured() == made.files()
        assert made.sizes.is_usable()
        assert made.server.connections <= 3


def test_replies_that_trickle_are_given_up(batch: Pipelining) -> None:
    """A batch ends after a few times the silence, however often a byte comes; the rest is requested elsewhere."""

    def trickle(_shelf: pipelined.Shelf, _path: str) -> pipelined.Pieces:
        for _ in range(LONGEST_HEAD):
            batch.clock.go_on(pipelined.SILENCE)
            yield b"x"

    batch.shelf.plan[path_of(MIDDLE)] = trickle
    assert batch.measured() == batch.files()
    assert batch.client.http.stalls == 1


@pytest.mark.parametrize(
    ("count", "pause"),
    [(COUNT, 0.07), *(pytest.param(50, pause, marks=pytest.mark.slow) for pause in (0.02, 0.07))],
)
def test_a_server_that_takes_long_for_each_reply_is_asked_once(count: int, pause: float) -> None:
    """A server that answers one request after another, none of them late, gets no request twice."""
    with Pipelining(range(100, 100 + count), silence=MIN_HEDGE_DELAY, clock=time.monotonic) as made:
        made.measure_one()
        made.shelf.pause = pause  # no reply takes as long as the first one may
        assert made.measured() == made.files()
        assert (made.server.connections, len(made.server.heads) - 1) == (1, count)


def test_a_batch_has_few_connections(batch: Pipelining) -> None:
    """What a server that ends each connection after some replies leaves unanswered is left to single requests."""
    for number in range(2, COUNT, 2):
        batch.shelf.plan[path_of(number)] = pipelined.close_before
    found, is_given_up = measured(batch)
    assert is_given_up
    assert found == batch.files()[: len(found)]
    assert batch.server.connections <= 2 * MOST_CONNECTIONS  # one may be made in the place of each


def test_a_reply_that_is_repeated_is_no_new_size(batch: Pipelining) -> None:
    """A server that answers one new request over each connection is not sent batches for a while."""
    for number in range(1, COUNT):
        batch.shelf.plan[path_of(number)] = pipelined.close_before
    assert 2 * MOST_CONNECTIONS >= MOST_FAILURES
    for _ in range(2):
        assert batch.sizes.is_usable()
        measured(batch)
        batch.stubs = batch.stubs[MOST_CONNECTIONS:]
    assert not batch.sizes.is_usable()


CONTRADICTING: dict[str, Act] = {
    "swapped with the next": pipelined.later,
    "of another size": answering(lambda size: head(size + 1)),
    "of another date": with_fields(Last_Modified="Tue, 14 Nov 2023 22:18:20 GMT"),
}
MALFORMED: dict[str, Act] = {
    "with a body": pipelined.with_a_body,
    "in chunks": pipelined.in_chunks,
    "of HTTP/1.0": answering(lambda size: head(size, version="HTTP/1.0")),
    "of another protocol": answering(lambda _: b"220 mail.example ESMTP\r\n\r\n"),
    "with a folded field": with_fields(X_Folded="a\r\n b"),
    "of an endless head": answering(lambda size: head(size, X_Long="x" * 1_000_000)),
    "that is only preliminary": answering(lambda size: head(size, status="100 Continue") + head(size)),
}


@pytest.mark.promise(
    "Sizes whose requests were sent together over one connection are accepted only if each of them agrees with the "
    "listing, in size and date; else all of them are dropped, and files are measured one by one for an hour: the "
    "listing may be outdated. After replies that are malformed, too many, or contradict each other, they are for "
    "good."
)
@pytest.mark.parametrize("act", CONTRADICTING.values(), ids=CONTRADICTING)
def test_a_batch_that_contradicts_the_listing_is_thrown_away(
    batch: Pipelining, act: Act, caplog: pytest.LogCaptureFixture
) -> None:
    """No size of it is used, the server is sent no batch for an hour, and the log does not blame it."""
    batch.shelf.plan[path_of(MIDDLE)] = act
    with pytest.raises(Unavailable):
        batch.measured()
    batch.clock.go_on(DOUBTED_SECONDS - 1)
    assert not batch.sizes.is_usable()
    batch.clock.go_on(1)
    assert batch.sizes.is_usable()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("act", MALFORMED.values(), ids=MALFORMED)
def test_a_batch_with_one_malformed_reply_is_thrown_away(batch: Pipelining, act: Act) -> None:
    """No size of it is used, and the server is never again sent a batch."""
    batch.shelf.plan[path_of(MIDDLE)] = act
    with pytest.raises(Unavailable):
        batch.measured()
    assert not batch.sizes.is_usable()
    batch.clock.go_on(1e6)
    assert not batch.sizes.is_usable()


def test_a_batch_with_a_reply_that_is_sent_twice_is_thrown_away(batch: Pipelining) -> None:
    """No size of it is used; whether the last reply comes in time to show that there are too many is chance."""
    batch.shelf.plan[path_of(MIDDLE)] = pipelined.twice
    with pytest.raises(Unavailable):
        batch.measured()
    assert not batch.sizes.is_usable()


def test_nothing_of_a_mixed_up_batch_is_used(batch: Pipelining) -> None:
    """The files before the wrong reply are not yielded either, and its connection is not used again."""
    batch.shelf.plan[path_of(COUNT - 1)] = answering(lambda size: head(size + 1))
    parts = batch.sizes.measure_batch(DIRECTORY, batch.stubs)
    with pytest.raises(Unavailable):
        next(parts)
    batch.measure_one()
    assert batch.requested()[COUNT:] == [path_of(0)]


@pytest.mark.parametrize("act", [pipelined.never, pipelined.twice, pipelined.later], ids=lambda act: act.__name__)
def test_a_server_that_mixes_up_the_last_replies_is_noticed(batch: Pipelining, act: Act) -> None:
    """A reply that is missing, doubled or late at the end of a batch gives no wrong size."""
    batch.shelf.plan[path_of(COUNT - 2)] = act
    found, _ = measured(batch)
    assert set(found) <= set(batch.files())


@pytest.mark.parametrize("place", range(COUNT))
def test_a_missing_reply_gives_no_wrong_size(alike: Pipelining, place: int) -> None:
    """Even if all sizes are listed alike, a reply that is missing is noticed before any size is used."""
    alike.shelf.plan[path_of(place)] = pipelined.never
    found, _ = measured(alike)
    assert set(found) <= set(alike.files())


def test_a_reply_too_many_is_noticed(alike: Pipelining) -> None:
    """A batch with more replies than requests is thrown away, even if all sizes are listed alike."""
    alike.shelf.plan[path_of(COUNT - 1)] = pipelined.twice
    assert measured(alike) == ([], True)
    assert not alike.sizes.is_usable()


LEFT_OUT: dict[str, Act] = {
    "missing": with_fields("404 Not Found"),
    "forbidden": with_fields("403 Forbidden"),
    "moved": with_fields("301 Moved Permanently", Location="/elsewhere"),
    "an error": with_fields("500 Internal Server Error"),
    "without a length": with_fields(Content_Length=""),
    "with two lengths": answering(lambda size: head(size).replace(b"\r\n\r\n", b"\r\nContent-Length: 7\r\n\r\n")),
    "in chunks, without a body": with_fields(Content_Length="", Transfer_Encoding="chunked"),
    "of zero bytes": with_fields(Content_Length="0"),
    "compressed": with_fields(Content_Encoding="gzip"),
    "an error page": with_fields(Content_Type="text/html", Last_Modified=""),
}


@pytest.mark.parametrize("act", LEFT_OUT.values(), ids=LEFT_OUT)
def test_a_reply_without_a_size_leaves_its_file_out(batch: Pipelining, act: Act) -> None:
    """It is left to a request of its own; all others are measured, and the server is trusted as before."""
    batch.shelf.plan[path_of(MIDDLE)] = act
    assert batch.measured() == [file for file in batch.files() if file.path != path_of(MIDDLE)]
    assert batch.sizes.is_usable()
    assert len(batch.requested()) == COUNT


def test_a_file_without_a_listed_size_is_not_requested(batch: Pipelining) -> None:
    """A size that cannot be compared with the listing is not requested in a batch."""
    batch.stubs[MIDDLE] = Stub(path_of(MIDDLE))
    assert batch.measured() == [file for file in batch.files() if file.path != path_of(MIDDLE)]
    assert path_of(MIDDLE) not in batch.requested()


def test_a_file_without_a_listed_date_is_measured(batch: Pipelining) -> None:
    """The date is compared where both the listing and the reply have one."""
    batch.stubs = [Stub(stub.path, stub.listed_size) for stub in batch.stubs]
    assert batch.measured() == batch.files()


ENDED: dict[str, Act] = {
    "announced": pipelined.announce_and_close,
    "unannounced": pipelined.close_after,
    "in place of a reply": pipelined.close_before,
    "in the middle of a reply": pipelined.half_and_close,
    "by silence": pipelined.stall,
}


@pytest.mark.parametrize("place", [0, 1, MIDDLE, COUNT - 1])
@pytest.mark.parametrize("act", ENDED.values(), ids=ENDED)
@pytest.mark.parametrize("sizes", [DISTINCT, ALIKE], ids=["distinct", "alike"])
def test_what_a_connection_leaves_unanswered_is_requested_over_another(
    sizes: list[int], act: Act, place: int
) -> None:
    """All files are measured, and nothing is requested again but what was not answered and the last answer."""
    with Pipelining(sizes) as made:
        made.measure_one()
        made.server.heads.clear()
        made.shelf.plan[path_of(place)] = act
        assert made.measured() == made.files()
        second = made.requested()[made.requested().index(path_of(COUNT - 1)) + 1 :] if place < COUNT - 1 else []
        assert path_of(0) not in second or place <= 1
        assert made.sizes.is_usable()
        assert made.client.http.stalls == (act is pipelined.stall)


def test_the_last_answer_before_a_break_is_requested_again(batch: Pipelining) -> None:
    """After a break the rest is requested behind the last file that was answered."""
    batch.shelf.plan[path_of(MIDDLE)] = pipelined.close_before
    batch.measured()
    again = [stub.path for stub in batch.stubs[MIDDLE - 1 :]]
    assert batch.requested()[-len(again) :] == again


def test_a_break_that_the_server_announces_is_not_doubted(batch: Pipelining) -> None:
    """A server that announces the end of a connection has answered what it has received: nothing is repeated."""
    batch.shelf.plan[path_of(MIDDLE)] = pipelined.announce_and_close
    batch.measured()
    again = [stub.path for stub in batch.stubs[MIDDLE + 1 :]]
    assert batch.requested()[-len(again) - 1 :] == [path_of(MIDDLE), *again]


def test_answers_that_are_not_confirmed_are_thrown_away(alike: Pipelining) -> None:
    """If the last answer before a break is another one when it is requested again, no answer is used."""
    alike.shelf.plan[path_of(MIDDLE)] = pipelined.never  # the replies from here on are those of the next file
    alike.shelf.plan[path_of(MIDDLE + 2)] = pipelined.close_before
    parts = alike.sizes.measure_batch(DIRECTORY, alike.stubs)
    assert next(parts) == []
    with pytest.raises(Unavailable):
        next(parts)
    assert not alike.sizes.is_usable()


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_a_server_that_throttles_is_left_alone(
    batch: Pipelining, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause that it requests is raised, nothing is used, nothing more is requested, and nothing connected."""
    replacements: list[object] = []
    monkeypatch.setattr(batch.client.pool, "_submit", replacements.append)
    batch.shelf.plan[path_of(MIDDLE)] = with_fields(status, Retry_After="7")
    with pytest.raises(Throttled) as caught:
        batch.measured()
    assert caught.value.pause == 7
    assert len(batch.requested()) <= COUNT
    assert batch.sizes.is_usable()
    assert (batch.client.pool.open, replacements) == (0, [])


def test_a_server_that_throttled_is_sent_as_many_requests_as_before(batch: Pipelining) -> None:
    """The place of a reply that throttles says nothing of how many requests a connection takes."""
    batch.shelf.plan[path_of(FEW_REQUESTS - 1)] = with_fields("503 Service Unavailable")
    with pytest.raises(Throttled):
        batch.measured()
    batch.server.heads.clear()
    assert len(next(iter(batch.sizes.measure_batch(DIRECTORY, batch.stubs)))) == COUNT


def test_a_server_that_refuses_connections_throttles() -> None:
    """A refused connection counts as throttling, as for a single request."""
    with Pipelining(DISTINCT) as made:
        made.measure_one()
        made.client.pool.close_idle(0.0)
        made.server.stop()
        with pytest.raises(Throttled):
            made.measured()


def test_a_batch_that_is_never_answered_is_given_up(batch: Pipelining) -> None:
    """A file whose request hangs each time ends the batch; those before it are measured."""
    stuck = path_of(MIDDLE)

    def hang(shelf: pipelined.Shelf, path: str) -> pipelined.Pieces:
        shelf.plan[path] = hang
        return pipelined.stall(shelf, path)

    batch.shelf.plan[stuck] = hang
    assert measured(batch) == (batch.files()[:MIDDLE], True)


def test_a_server_that_answers_only_the_first_request_is_not_sent_batches_for_a_while(batch: Pipelining) -> None:
    """After some batches in a row of which at most one request was answered, single ones are sent for a minute."""
    for stub in batch.stubs:
        batch.shelf.plan[stub.path] = pipelined.announce_and_close
    for number in range(MOST_FAILURES):
        assert batch.sizes.is_usable()
        parts = batch.sizes.measure_batch(DIRECTORY, batch.stubs[number:])
        next(parts)
    assert not batch.sizes.is_usable()
    batch.clock.go_on(SUSPENDED_SECONDS)
    assert batch.sizes.is_usable()


def test_a_server_that_says_nothing_of_sizes_is_not_sent_batches_for_a_while(batch: Pipelining) -> None:
    """Batches of replies without a size, as from a server that redirects each request, are of no use either."""
    for _ in range(MOST_FAILURES):
        assert batch.sizes.is_usable()
        for stub in batch.stubs:
            batch.shelf.plan[stub.path] = with_fields("301 Moved Permanently", Location="/elsewhere")
        assert batch.measured() == []
    assert not batch.sizes.is_usable()


def test_a_server_that_ends_each_connection_after_some_requests_gets_no_more(batch: Pipelining) -> None:
    """Once a server has ended a connection after its Nth request, at most N are sent over one."""
    batch.shelf.plan[path_of(FEW_REQUESTS)] = pipelined.announce_and_close
    assert batch.measured() == batch.files()
    limit = FEW_REQUESTS + 2  # one was sent by itself before
    over_the_second = COUNT - FEW_REQUESTS - 1
    batch.server.heads.clear()
    parts = batch.sizes.measure_batch(DIRECTORY, batch.stubs)
    assert next(parts) == batch.files()[: limit - over_the_second]
    assert len(batch.requested()) == limit - over_the_second


def test_requests_and_stalls_are_counted(batch: Pipelining) -> None:
    """The statistics count each request of a batch, and a batch that was silent as one stall."""
    before = batch.client.http.requests
    batch.measured()
    assert batch.client.http.requests == before + COUNT


def test_duplicate_fields_are_joined() -> None:
    """Fields of one name are one field with commas, whatever their case."""
    found = parsed('HTTP/1.1 200\r\nVARY: a\r\nvary:b \r\netag: "x"')
    assert (found.status, found.reason, found.headers) == (200, "", {"Vary": "a, b", "Etag": '"x"'})


ACTS = [None] * 20 + [
    *CONTRADICTING.values(),
    *MALFORMED.values(),
    *LEFT_OUT.values(),
    *ENDED.values(),
    pipelined.never,
    pipelined.twice,
]


@settings(max_examples=60, deadline=None)
@given(plan=st.lists(st.sampled_from(ACTS), min_size=COUNT, max_size=COUNT))
def test_no_server_gives_a_wrong_size(plan: list[Act | None]) -> None:
    """Whatever the replies of a batch are, each size that is used is that of its file."""
    with Pipelining(DISTINCT) as made:
        made.measure_one()
        made.shelf.plan = {path_of(number): act for number, act in enumerate(plan) if act is not None}
        found, _ = measured(made)
        assert [file for file in made.files() if file in found] == found
