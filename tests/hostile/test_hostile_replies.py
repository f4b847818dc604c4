"""Endless or invalid HTTP replies: one clear error, soon, in little memory, and never wrong bytes."""

import gzip
import itertools
import time
from collections.abc import Callable, Iterable, Iterator

import pytest
from support.fakes import noise
from support.raw_server import Meetings, RawServer, Speak
from support.scripted import Client, Hasty

from empiarfs.errors import ArchiveError, NotFound, Unavailable
from empiarfs.model import File, Span

pytestmark = pytest.mark.slow  # waits on purpose, or repeats for long

SOON = 15.0  # seconds for what takes two at most
LITTLE = 64 * 1024  # KiB; the libraries below allow heads of 6 MB, and copy them
FLOOD = bytes(65536).replace(b"\0", b"x")
CONTENT = noise(1000)
FILE = File("10028/a", 1000, None)
PART = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 100-299/1000\r\n"
CHUNKED = PART + b"Transfer-Encoding: chunked\r\n\r\n"
LISTING = b"<title>Index of /</title><h1>Index of /</h1><table><tr><td><a href=a>a</a></table></body></html>"


def endless(*beginning: bytes, then: bytes = FLOOD) -> Speak:
    """Send `beginning`, and `then` over and over."""
    return lambda _: itertools.chain(beginning, itertools.repeat(then))


def dripping(*beginning: bytes, then: bytes) -> Speak:
    """Send `beginning`, and a byte of `then` each tenth of a second, over and over."""

    def drip() -> Iterator[bytes]:
        for byte in itertools.cycle(then):
            time.sleep(0.1)
            yield bytes([byte])

    return lambda _: itertools.chain(beginning, drip())


def said(*pieces: bytes | None) -> Speak:
    """Send the same to every client."""
    return lambda _: pieces


FLOODS: dict[str, tuple[Speak, str]] = {
    "a status line without end": (endless(b"HTTP/1.1 200 "), "Unavailable"),
    "a header line without end": (endless(b"HTTP/1.1 200 OK\r\nServer: "), "Unavailable"),
    "headers without end": (endless(b"HTTP/1.1 200 OK\r\n", then=b"X: y\r\n" * 9000), "Unavailable"),
    "a hundred headers of 64 KiB": (
        said(PART, *(b"X%d: " % n + FLOOD[:65000] + b"\r\n" for n in range(98)), b"\r\n", None),
        "Unavailable",
    ),
    "a folded header without end": (endless(b"HTTP/1.1 200 OK\r\nX: y\r\n", then=b" y\r\n" * 9000), "Unavailable"),
    "100 Continue for ever": (endless(then=b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "Unavailable"),
    "102 Processing for ever": (endless(then=b"HTTP/1.1 102 Processing\r\n\r\n" * 1000), "Unavailable"),
    "early hints": (said(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"), "Unavailable"),
    "a status that drips": (dripping(then=b"HTTP/1.1 200 OK"), "Unavailable"),
    "headers that drip": (dripping(b"HTTP/1.1 200 OK\r\n", then=b"X: y\r\n"), "Unavailable"),
    "a body without head": (endless(b"<html>"), "Unavailable"),
    "nothing but newlines": (endless(then=b"\r\n" * 30_000), "Unavailable"),
    "a 404 that says it is short and is not": (
        endless(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                then=b"10000\r\n" + FLOOD + b"\r\n"),
        "NotFound",
    ),
    "a 404 without end": (endless(b"HTTP/1.1 404 Not Found\r\n\r\n"), "NotFound"),
    "a 404 that drips": (dripping(b"HTTP/1.1 404 No\r\nContent-Length: 9999\r\n\r\n", then=b"no"), "NotFound"),
    "a redirect without end": (endless(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n"), "Unavailable"),
    "a place without end": (endless(b"HTTP/1.1 302 Found\r\nLocation: /"), "Unavailable"),
    "words of 60 KB behind the status": (
        said(b"HTTP/1.1 500 " + FLOOD[:60_000] + b"\r\nContent-Length: 0\r\n\r\n"), "Unavailable"),
}  # fmt: skip


@pytest.mark.promise(
    "Every reply is bounded: headers, bodies, chunks, trailers and FTP lists that are endless or too slow are "
    "given up in bounded time and memory."
)
@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("ask", ["fetch", "scan"])
def test_a_head_without_end_or_sense_is_one_error(met: Meetings, flood: str, ask: str) -> None:
    """An endless, slow or invalid head is one error, soon and in little memory."""
    speak, outcome = FLOODS[flood]
    found = met(speak, ask)
    assert found.outcome == outcome
    assert found.seconds < SOON
    assert found.kib < LITTLE


BODIES: dict[str, tuple[Speak, str]] = {
    "more than was asked for": (endless(PART + b"\r\n"), "Unavailable"),
    "more than it says": (endless(PART + b"Content-Length: 200\r\n\r\n" + CONTENT[100:300]), "200"),
    "chunks without end": (endless(CHUNKED, then=b"10000\r\n" + FLOOD + b"\r\n"), "Unavailable"),
    "a length of a chunk without end": (endless(CHUNKED, then=b"0" * 65536), "Unavailable"),
    "a length of a chunk that drips": (dripping(CHUNKED, then=b"0"), "Unavailable"),
    "an extension of a chunk without end": (endless(CHUNKED + b"c8;x=", then=FLOOD), "Unavailable"),
    "an extension of a chunk that drips": (dripping(CHUNKED + b"c8;", then=b"x"), "Unavailable"),
    "a chunk of less than nothing": (said(CHUNKED + b"-c8\r\n", None), "Unavailable"),
    "a chunk of less than nothing, and a flood": (endless(CHUNKED + b"-c8\r\n"), "Unavailable"),
    "a chunk larger than all memory": (said(CHUNKED + b"f" * 5000 + b"\r\n" + CONTENT, None), "Unavailable"),
    "empty chunks without end": (endless(CHUNKED + b"1\r\nx\r\n", then=b"\r\n" * 30_000), "Unavailable"),
    "trailers without end": (
        endless(CHUNKED + b"c8\r\n" + CONTENT[100:300] + b"\r\n0\r\n", then=b"X: y\r\n" * 9000), "200"),
    "trailers that drip": (
        dripping(CHUNKED + b"c8\r\n" + CONTENT[100:300] + b"\r\n0\r\n", then=b"X: y\r\n"), "200"),
    "one byte, and a drip": (dripping(PART + b"Content-Length: 200\r\n\r\n", then=b"x"), "Unavailable"),
}  # fmt: skip


@pytest.mark.promise(
    "Every reply is bounded: headers, bodies, chunks, trailers and FTP lists that are endless or too slow are "
    "given up in bounded time and memory."
)
@pytest.mark.parametrize("body", BODIES)
def test_a_body_without_end_or_sense_is_one_error_or_right(met: Meetings, body: str) -> None:
    """An endless or slow body is one error or the right bytes, soon and in little memory."""
    speak, outcome = BODIES[body]
    found = met(speak, "fetch")
    assert found.outcome == outcome
    assert found.seconds < SOON
    assert found.kib < LITTLE


ZEROS = gzip.compress(bytes(200 << 20), 9)  # 200 kB


@pytest.mark.promise("A compressed reply to a request that did not allow compression is not unpacked.")
@pytest.mark.parametrize("ask", ["measure", "fetch", "scan"])
@pytest.mark.parametrize("kind", ["gzip", "x-gzip", "deflate", "br", "gzip, gzip"])
def test_a_compressed_reply_is_not_unpacked(met: Meetings, ask: str, kind: str) -> None:
    """A compressed reply of 200 MB in 200 kB is refused without unpacking it."""
    head = PART + f"Content-Encoding: {kind}\r\nContent-Length: {len(ZEROS)}\r\n\r\n".encode()
    found = met(lambda asked: (head, b"" if asked.startswith(b"HEAD") else ZEROS), ask)
    assert found.outcome == "Unavailable"
    assert found.seconds < SOON
    assert found.kib < LITTLE


def fetched(client: Client) -> bytes:
    """Fetch 100 to 300."""
    return b"".join(client.origin.fetch(FILE, Span(100, 300)))


def answered(ask: Callable[[Client], object], *pieces: bytes | None) -> object:
    """Return the result of `ask` where every reply is `pieces`."""
    with RawServer(said(*pieces)) as server, Client(server.url, Hasty()) as client:
        return ask(client)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Range: bytes 100-299/1000\r\nContent-Range: bytes 100-299/1000",
        b"Content-Range: bytes 100-299/1000\r\nContent-Range: bytes 0-199/1000",
        b"Content-Range: bytes +100-299/1000",
        b"Content-Range: bytes 100-299/+1000",
        b"Content-Range: bytes 100-299/1000;x",
        b"Content-Range: bytes 100-299/1000\r\n x",
        b"Content-Range: bytes 0100-299/1000",
        b"Content-Range: bytes 1\xb200-299/1000",
        b"Content-Range: bytes \xd9\xa1\xd9\xa0\xd9\xa0-299/1000",
        b"Content-Range: bytes 100-299/1_000",
        b"Content-Range: bytes  100-299/1000",
        b"Content-Range: bytes 100 - 299 / 1000",
        b"Content-Range: bytes -9223372036854775808-299/1000",
        b"Content-Range: bytes 100-299/1000, bytes 0-1/1000",
        b"Content-Range: bytes=100-299/1000",
        b"content-range : bytes 100-299/1000",
    ],
)
def test_a_range_in_another_form_is_refused(headers: bytes) -> None:
    """A Content-Range that is repeated, signed, in other digits or followed by text is refused."""
    head = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 200\r\n" + headers + b"\r\n\r\n"
    with pytest.raises(ArchiveError):
        answered(fetched, head + CONTENT[100:300], None)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 200\r\nContent-Length: 199",
        b"Content-Length: 199\r\nContent-Length: 200",
        b"Content-Length: 200, 199",
        b"Content-Length: +200",
        b"Content-Length: 2_00",
        b"Content-Length: 0200",
        b"Content-Length: 200;x",
        b"Content-Length: \xb2\xb0\xb0",
        b"Content-Length: -1",
    ],
)
def test_an_invalid_or_repeated_length_is_refused(headers: bytes) -> None:
    """An invalid or repeated length is refused, unless a part has the right length anyway."""
    with pytest.raises(Unavailable):
        answered(
            lambda client: client.origin.measure(FILE.path),
            b"HTTP/1.1 200 OK\r\n" + headers.replace(b"0200", b"0x200") + b"\r\n\r\n",
            None,
        )
    for content in (CONTENT[100:299], CONTENT[100:301]):
        with pytest.raises(Unavailable):
            answered(fetched, PART + headers + b"\r\n\r\n" + content, None)


@pytest.mark.parametrize("forged", [b"HTTP/1.1 206 OK\r\nContent-Range: bytes 100-299/1000\r\n\r\n", b"xyz" * 99])
def test_what_follows_a_reply_is_not_the_next_one(forged: bytes) -> None:
    """Bytes after the end of a reply are not taken for the next reply."""
    first = PART + b"Content-Length: 200\r\n\r\n" + CONTENT[100:300]
    with RawServer(said(first + forged + CONTENT[:200])) as server, Client(server.url, Hasty()) as client:
        for _ in range(5):
            assert fetched(client) == CONTENT[100:300]


@pytest.mark.parametrize("method", ["measure", "fetch"])
def test_a_reply_of_http_09_is_refused(method: str) -> None:
    """A reply of HTTP/0.9, which has no head, is refused."""
    ask: Callable[[Client], object] = fetched if method == "fetch" else lambda one: one.origin.measure(FILE.path)
    with pytest.raises(Unavailable):
        answered(ask, CONTENT[100:300], None)


@pytest.mark.promise(
    "Names, dates and messages of a server reach a terminal or a log without control characters, one line each."
)
@pytest.mark.parametrize(
    "reason", [b"\x1b[2J\x1b]0;pwned\x07", b"No\x9b2J", b"a\x85b", b"x" * 60_000, "\u202egnp".encode()]
)
def test_the_words_of_a_server_do_not_reach_the_terminal(reason: bytes) -> None:
    """What stands behind a status is shown if it is short and printable."""
    head = b"HTTP/1.1 500 " + reason + b"\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(Unavailable) as caught:
        answered(fetched, head, None)
    assert caught.value.reason.isprintable()
    assert len(caught.value.reason) < 200


@pytest.mark.promise(
    "A redirect is followed on the same server alone, never from HTTPS to HTTP, and never with credentials."
)
@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{other}/x",
        "http://127.0.0.1/x",
        "https://127.0.0.1:{port}/x",
        "http://127.0.0.1:{port}@example.invalid/x",
        "http://127.0.0.1:{port}\\@example.invalid/x",
        "//127.0.0.1:{other}/x",
        "http://127.0.0.1.:{port}/x",
        "http://0x7f.1:{port}/x",
        "data:text/plain,x",
        "x" * 60_000 + "://",
    ],
)
def test_a_redirect_that_is_not_of_this_server_is_not_followed(location: str) -> None:
    """A redirect to another port, scheme or spelling of the host is not followed."""
    with RawServer(said(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")) as other:

        def speak(_: bytes) -> Iterable[bytes]:
            place = location.format(port=server.port, other=other.port)
            return (f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode(),)

        with RawServer(speak) as server, Client(server.url, Hasty()) as client, pytest.raises(Unavailable):
            client.origin.measure(FILE.path)
        assert other.connections == 0
        assert len(server.heads) == 1


@pytest.mark.parametrize(
    "place", ["http://example.invalid/10028/a/", "//127.0.0.2/10028/a/", "ftp://127.0.0.1/10028/a/"]
)
def test_a_slash_on_another_server_makes_no_directory(place: str) -> None:
    """A redirect to another server with a slash does not make a directory."""
    head = f"HTTP/1.1 301 Moved\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()
    with pytest.raises(Unavailable):
        answered(lambda client: client.origin.measure(FILE.path), head, None)


def test_a_directory_is_one_also_where_its_redirect_names_another_scheme() -> None:
    """A redirect with a slash to another scheme of the same host raises IsADirectoryError."""
    head = b"HTTP/1.1 301 Moved\r\nLocation: https://127.0.0.1/10028/a/\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(IsADirectoryError):
        answered(lambda client: client.origin.measure(FILE.path), head, None)


@pytest.mark.parametrize("date", [b"Wed, 01 Jan 1000 00:00:00 GMT", b"Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_date_far_away_is_a_date(date: bytes) -> None:
    """A date of any year is accepted."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nLast-Modified: " + date + b"\r\n\r\n"
    file = answered(lambda client: client.origin.measure(FILE.path), head, None)
    assert isinstance(file, File)
    assert file.modified in {-30_610_224_000, 253_402_300_799}


def test_a_date_of_no_zone_is_universal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A date with the zone -0000 is UTC, whatever the local zone is."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nLast-Modified: Tue, 14 Nov 2023 22:13:20 -0000\r\n\r\n"
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        file = answered(lambda client: client.origin.measure(FILE.path), head, None)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert file == File(FILE.path, 5, 1_700_000_000)


def test_a_clear_answer_stays_clear_behind_odd_headers() -> None:
    """404 with invalid other headers raises NotFound."""
    head = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nRetry-After: \xff\r\nLast-Modified: \xb2\r\n\r\n"
    with pytest.raises(NotFound):
        answered(lambda client: client.origin.measure(FILE.path), head, None)
