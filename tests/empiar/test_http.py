"""The archive over HTTP: a reply matches its request exactly, or is an error of ours."""

import gzip
import os
import socket
import threading
import time
from collections.abc import Generator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import cast
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fakes import SOON, at_once, noise
from support.scripted import MODIFIED, ROOT, Client, Reply, Request, ScriptedServer, Website, always

from empiarfs.cancellation import CancelToken
from empiarfs.engine.latency import LatencyEstimator
from empiarfs.errors import ArchiveError, Forbidden, IsADirectory, NotFound, Stale, Throttled, Unavailable
from empiarfs.model import File, Span

PATH = "10028/data/a.mrc"
CONTENT = noise(1000)
FILE = File(PATH, 1000, MODIFIED)
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"  # 1 700 000 000


@pytest.fixture
def website() -> Website:
    """A good site with a short file and a long one."""
    return Website({PATH.encode(): CONTENT, b"10028/large": bytes(300_000)})


def received(client: Client, error: type[ArchiveError]) -> tuple[bytes, ArchiveError]:
    """Fetch 100 to 300, which raises `error`; return the bytes before it, and the error."""
    got: list[bytes] = []

    def fetch() -> None:
        got.extend(client.origin.fetch(FILE, Span(100, 300)))

    with pytest.raises(error) as caught:
        fetch()
    return b"".join(got), caught.value


def fetched(client: Client, start: int = 100, stop: int = 300, file: File = FILE) -> bytes:
    """Fetch a span; return its bytes."""
    return b"".join(client.origin.fetch(file, Span(start, stop)))


def part(**changes: object) -> Reply:
    """Return the right reply to a fetch of 100 to 300 with some changes; a header of None is omitted."""
    headers: dict[str, object] = {
        "Content-Range": "bytes 100-299/1000",
        "Content-Length": "200",
        "Last-Modified": DATE,
    }
    status = str(changes.pop("status", "206 Partial Content"))
    body = cast("bytes", changes.pop("body", CONTENT[100:300]))
    then = str(changes.pop("then", "keep"))
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    return Reply(status, {name: str(value) for name, value in headers.items() if value is not None}, body, then)


def test_measuring_gives_length_and_date(client: Client) -> None:
    """`measure` returns the size and date of one HEAD."""
    assert client.origin.measure(PATH) == FILE


def test_fetching_gives_the_bytes_of_the_span(client: Client, server: ScriptedServer) -> None:
    """`fetch` sends one GET with exactly its range."""
    assert fetched(client) == CONTENT[100:300]
    assert [(one.method, one.headers["range"]) for one in server.requests] == [("GET", "bytes=100-299")]


def test_the_whole_file_is_a_span_like_any_other(client: Client) -> None:
    """The whole file, its first and its last byte can be fetched."""
    assert fetched(client, 0, 1000) == CONTENT
    assert fetched(client, 0, 1) == CONTENT[:1]
    assert fetched(client, 999, 1000) == CONTENT[999:]


def test_the_right_reply_in_this_test_is_right(client: Client, server: ScriptedServer) -> None:
    """The reply that the tests below change is accepted without changes."""
    server.answer = always(part())
    assert fetched(client) == CONTENT[100:300]


@pytest.mark.parametrize(
    "changes",
    [
        {"Last_Modified": None},
        {"Content_Encoding": "identity"},
        {"ETag": '"other"'},
        {"Content_Length": None, "then": "close"},
        {"Content_Range": " bytes 100-299/1000 "},
    ],
)
def test_what_does_not_matter_is_taken(client: Client, server: ScriptedServer, changes: dict[str, object]) -> None:
    """A reply without a date, with any ETag, or with a close in place of a length is accepted."""
    server.answer = always(part(**changes))
    assert fetched(client) == CONTENT[100:300]


WRONG: dict[str, tuple[dict[str, object], type[ArchiveError]]] = {
    "200 with the whole file": (
        {"status": "200 OK", "Content_Range": None, "Content_Length": "1000", "body": CONTENT},
        Unavailable,
    ),
    "200 with the range": ({"status": "200 OK"}, Unavailable),
    "204": ({"status": "204 No Content", "Content_Length": None, "body": b""}, Unavailable),
    "a later start": ({"Content_Range": "bytes 101-299/1000"}, Unavailable),
    "an earlier start": ({"Content_Range": "bytes 0-299/1000"}, Unavailable),
    "a later stop": ({"Content_Range": "bytes 100-300/1000"}, Unavailable),
    "an earlier stop": ({"Content_Range": "bytes 100-298/1000"}, Unavailable),
    "no Content-Range": ({"Content_Range": None}, Unavailable),
    "a garbled Content-Range": ({"Content_Range": "bytes 100-299"}, Unavailable),
    "another unit": ({"Content_Range": "lines 100-299/1000"}, Unavailable),
    "several ranges": (
        {"Content_Range": None, "Content_Type": "multipart/byteranges; boundary=x"},
        Unavailable,
    ),
    "a huge Content-Range": ({"Content_Range": f"bytes 100-299/{'9' * 5000}"}, ArchiveError),
    "a huge start": ({"Content_Range": f"bytes {'9' * 5000}-299/1000"}, Unavailable),
    "a longer file": ({"Content_Range": "bytes 100-299/1001"}, Stale),
    "a shorter file": ({"Content_Range": "bytes 100-299/999"}, Stale),
    "a file that ends in the span": (
        {"Content_Range": "bytes 100-149/150", "Content_Length": "50", "body": CONTENT[100:150]},
        Stale,
    ),
    "another date": ({"Last_Modified": "Wed, 15 Nov 2023 22:13:20 GMT"}, Stale),
    "a date one second later": ({"Last_Modified": "Tue, 14 Nov 2023 22:13:21 GMT"}, Stale),
    "416": ({"status": "416 Range Not Satisfiable", "Content_Range": "bytes */50"}, Stale),
    "a short body": ({"body": CONTENT[100:299], "then": "close"}, Unavailable),
    "no body": ({"body": b"", "then": "close"}, Unavailable),
    "a short body that says so": ({"Content_Length": "199", "body": CONTENT[100:299]}, Unavailable),
    "a short body without a length": (
        {"Content_Length": None, "body": CONTENT[100:299], "then": "close"},
        Unavailable,
    ),
    "a long body that says so": ({"Content_Length": "201", "body": CONTENT[100:301]}, Unavailable),
    "a long body without a length": (
        {"Content_Length": None, "body": CONTENT[100:301], "then": "close"},
        Unavailable,
    ),
    "a reset in the middle": ({"body": CONTENT[100:150], "then": "reset"}, Unavailable),
    "gzip": ({"Content_Encoding": "gzip", "body": gzip.compress(CONTENT)[:200]}, Unavailable),
    "deflate": ({"Content_Encoding": "deflate"}, Unavailable),
    "404": ({"status": "404 Not Found"}, NotFound),
    "410": ({"status": "410 Gone"}, NotFound),
    "401": ({"status": "401 Unauthorized"}, Forbidden),
    "403": ({"status": "403 Forbidden"}, Forbidden),
    "451": ({"status": "451 Unavailable For Legal Reasons"}, Forbidden),
    "400": ({"status": "400 Bad Request"}, Unavailable),
    "407": ({"status": "407 Proxy Authentication Required"}, Unavailable),
    "429": ({"status": "429 Too Many Requests"}, Unavailable),
    "500": ({"status": "500 Internal Server Error"}, Unavailable),
    "502": ({"status": "502 Bad Gateway"}, Unavailable),
    "503": ({"status": "503 Service Unavailable"}, Unavailable),
    "504": ({"status": "504 Gateway Timeout"}, Unavailable),
    "304": ({"status": "304 Not Modified", "body": b""}, Unavailable),
    "300": ({"status": "300 Multiple Choices"}, Unavailable),
    "an unknown status": ({"status": "799 Whatever"}, Unavailable),
}


@pytest.mark.promise(
    "A reply is used only if it is the requested part (206, with exactly the requested Content-Range) of a "
    "file of the length and date that were measured."
)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_reply_that_does_not_match_the_request_is_refused(
    client: Client, server: ScriptedServer, wrong: str
) -> None:
    """A wrong reply raises the error of its kind, and only right bytes precede it."""
    changes, error = WRONG[wrong]
    server.answer = always(part(**changes))
    got, raised = received(client, error)
    assert CONTENT[100:300].startswith(got)
    assert raised.path == PATH
    assert "\n" not in str(raised)


@pytest.mark.parametrize("wrong", ["a short body", "a short body that says so", "a reset in the middle"])
def test_what_came_of_a_reply_that_was_cut_is_right(client: Client, server: ScriptedServer, wrong: str) -> None:
    """The bytes before the end of a truncated reply are right."""
    server.answer = always(part(**WRONG[wrong][0]))
    got, _ = received(client, Unavailable)
    assert CONTENT[100:300].startswith(got)


def test_too_much_is_never_handed_on(client: Client, server: ScriptedServer) -> None:
    """No byte after the span is returned."""
    server.answer = always(part(Content_Length=None, body=CONTENT[100:999], then="close"))
    got, _ = received(client, Unavailable)
    assert len(got) <= 200


@pytest.mark.promise(
    "If the sizes of a directory came from one FTP list it is the listed date, in whole minutes and the "
    "server's time zone; the reply to every read is then checked against it as closely as that allows."
)
@pytest.mark.parametrize("apart", [0, -20, 3600, -3600, 3600 - 20, 8 * 3600, 20_700 - 20])
def test_a_date_of_a_listing_is_good_to_a_minute_and_a_time_zone(client: Client, apart: int) -> None:
    """A coarse date matches a date that differs by less than a minute and a time zone."""
    assert fetched(client, file=File(PATH, 1000, MODIFIED + apart, coarse_mtime=True)) == CONTENT[100:300]


@pytest.mark.promise(
    "If the sizes of a directory came from one FTP list it is the listed date, in whole minutes and the "
    "server's time zone; the reply to every read is then checked against it as closely as that allows."
)
@pytest.mark.parametrize("apart", [120, -120, 3600 + 120, 7 * 60, 86400, -86400 * 365])
def test_a_date_of_a_listing_that_is_further_off_is_another_version(client: Client, apart: int) -> None:
    """A coarse date does not match a date that no time zone explains."""
    with pytest.raises(Stale):
        fetched(client, file=File(PATH, 1000, MODIFIED + apart, coarse_mtime=True))


@pytest.mark.promise(
    "A server that throttles (429, 503, refused connections) gets fewer requests at once for a while."
)
@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("30", 30, 30),
        ("0", 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        (None, 0, 0),
        ("9" * 30, 60, 86_400),
        ("Tue, 14 Nov 2023 22:13:20 GMT", 0, 0),
        ("Tue, 14 Nov 2123 22:13:20 GMT", 60, 86_400),
    ],
)
@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_retry_after_is_read_as_seconds_or_as_a_date(
    client: Client, server: ScriptedServer, status: str, text: str | None, low: int, high: int
) -> None:
    """Retry-After in seconds or as a date becomes a bounded pause; a missing or invalid one is 0."""
    headers = {"Content-Length": "0"} | ({} if text is None else {"Retry-After": text})
    server.answer = always(Reply(status, headers))
    with pytest.raises(Throttled) as caught:
        client.origin.measure(PATH)
    assert low <= caught.value.pause <= high


@pytest.mark.parametrize(
    ("until", "pause"), [("Tue, 14 Nov 2023 22:14:20 GMT", 60), ("Tue, 14 Nov 2023 22:13:00 GMT", 0)]
)
def test_a_retry_after_date_is_compared_with_the_reply_s_date(
    client: Client, server: ScriptedServer, until: str, pause: float
) -> None:
    """The pause until a Retry-After date is counted from the reply's Date, not from the local clock."""
    headers = {"Content-Length": "0", "Date": "Tue, 14 Nov 2023 22:13:20 GMT", "Retry-After": until}
    server.answer = always(Reply("503 Service Unavailable", headers))
    with pytest.raises(Throttled) as caught:
        client.origin.measure(PATH)
    assert caught.value.pause == pause


def test_a_file_without_a_date_fits_any_date(client: Client) -> None:
    """A file without a date matches any date of its size."""
    assert fetched(client, file=File(PATH, 1000, None)) == CONTENT[100:300]


@pytest.mark.parametrize(
    "length",
    [None, "", "-1", "-1000", "+5", "1e3", "0x10", "1,5", "5, 6", "12 34", "zero", "٣", "1" * 5000],
)
def test_a_length_that_is_none_is_refused(client: Client, server: ScriptedServer, length: str | None) -> None:
    """A missing, negative, garbled or absurd length raises Unavailable."""
    headers = {} if length is None else {"Content-Length": length.encode().decode("latin-1")}
    server.answer = always(Reply("200 OK", {**headers, "Last-Modified": DATE}, then="close"))
    with pytest.raises(Unavailable):
        client.origin.measure(PATH)


@pytest.mark.parametrize("length", [0, 1, 2**31, 66 * 2**30, 2**50])
def test_a_length_is_exact(client: Client, server: ScriptedServer, length: int) -> None:
    """`measure` returns sizes from 0 to the largest exactly."""
    server.answer = always(Reply("200 OK", {"Content-Length": str(length)}))
    assert client.origin.measure(PATH) == File(PATH, length, None)


def test_measuring_refuses_a_compressed_form(client: Client, server: ScriptedServer) -> None:
    """`measure` of a compressed reply raises Unavailable."""
    server.answer = always(Reply("200 OK", {"Content-Length": "5", "Content-Encoding": "gzip"}))
    with pytest.raises(Unavailable):
        client.origin.measure(PATH)


DATES = [
    "",
    " ",
    "yesterday",
    "Thu",
    "Mon, 32 Foo 2020 25:61:61 GMT",
    "0",
    "Mon, 01 Jan 99999 00:00:00 GMT",
    "\xff",
]


@pytest.mark.parametrize("date", DATES)
def test_a_date_that_is_none_is_no_date(client: Client, server: ScriptedServer, date: str) -> None:
    """An invalid date becomes None."""
    server.answer = always(Reply("200 OK", {"Content-Length": "5", "Last-Modified": date}))
    assert client.origin.measure(PATH) == File(PATH, 5, None)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("404 Not Found", NotFound),
        ("410 Gone", NotFound),
        ("401 Unauthorized", Forbidden),
        ("403 Forbidden", Forbidden),
        ("451 Unavailable For Legal Reasons", Forbidden),
        ("400 Bad Request", Unavailable),
        ("405 Method Not Allowed", Unavailable),
        ("429 Too Many Requests", Unavailable),
        ("500 Internal Server Error", Unavailable),
        ("503 Service Unavailable", Unavailable),
    ],
)
def test_measure_and_scan_raise_the_same_errors(
    client: Client, server: ScriptedServer, status: str, error: type[ArchiveError]
) -> None:
    """`measure` and `scan` raise the same error for a status, and NotFound for 404 and 410 alone."""
    server.answer = always(Reply(status, {"Content-Length": "3"}, b"no\n"))
    with pytest.raises(error):
        client.origin.measure(PATH)
    with pytest.raises(error):
        client.listing.scan("10028")


LOCATIONS: dict[str, str] = {
    "absolute": "http://127.0.0.1:{port}" + ROOT + "/10028/data/",
    "a path": ROOT + "/10028/data/",
    "relative": "data/",
    "escaped otherwise": ROOT + "/%310028/d%61ta/",
}


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize(
    "status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent"]
)
def test_a_redirect_to_itself_with_a_slash_is_a_directory(
    client: Client, server: ScriptedServer, location: str, status: str
) -> None:
    """A redirect to the same path with a slash raises IsADirectory, in whatever form it is written."""
    target = LOCATIONS[location].format(port=server.port)
    server.answer = always(Reply(status, {"Location": target, "Content-Length": "0"}))
    with pytest.raises(IsADirectory):
        client.origin.measure("10028/data")
    with pytest.raises(IsADirectory):
        fetched(client, file=File("10028/data", 1000, None))
    assert len(server.requests) == 2


def test_a_directory_with_an_odd_name_is_one(server: ScriptedServer) -> None:
    """The redirect of a directory is recognised for names of any bytes."""
    name = b"10028/a b%20\xff"
    server.answer = Website({name + b"/file": b"1"})
    with Client(server.base_url) as client, pytest.raises(IsADirectory):
        client.origin.measure(os.fsdecode(name))


def test_a_redirect_on_the_same_server_is_followed(client: Client, server: ScriptedServer) -> None:
    """A redirect on the same server is followed, and the path stays the requested one."""
    site = Website({b"moved/a.mrc": CONTENT})

    def answer(request: Request) -> Reply:
        if request.target.endswith(PATH):
            return Reply("302 Found", {"Location": f"{ROOT}/moved/a.mrc", "Content-Length": "0"})
        return site(request)

    server.answer = answer
    assert client.origin.measure(PATH) == FILE
    assert fetched(client) == CONTENT[100:300]


def test_endless_redirects_are_an_error(client: Client, server: ScriptedServer) -> None:
    """Endless redirects raise Unavailable after a few requests."""
    server.answer = lambda request: Reply("302 Found", {"Location": request.target + "x", "Content-Length": "0"})
    with pytest.raises(Unavailable, match="too many redirects"):
        client.origin.measure(PATH)
    assert len(server.requests) <= 10


@pytest.mark.parametrize(
    "location",
    [
        "http://localhost:{port}/x",
        "http://example.invalid/x",
        "//example.invalid/x",
        "https://evil.invalid:{port}/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://127.0.0.1:{port}/",
        "javascript:alert(1)",
        "",
        "http://[",
        "http://[::1",
        "http://127.0.0.1:notaport/",
        "http://127.0.0.1:99999999/",
    ],
)
def test_a_redirect_to_another_place_is_not_followed(client: Client, server: ScriptedServer, location: str) -> None:
    """A redirect to another host or scheme, or to an invalid address, raises Unavailable after one request."""
    server.answer = always(
        Reply("302 Found", {"Location": location.format(port=server.port), "Content-Length": "0"})
    )
    with pytest.raises(Unavailable) as caught:
        client.origin.measure(PATH)
    assert len(server.requests) == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["http:///", "\x00", "#", "?", "."])
def test_a_redirect_that_leads_nowhere_ends(client: Client, server: ScriptedServer, location: str) -> None:
    """A redirect to itself, or to nonsense, raises Unavailable after a few requests."""
    server.answer = always(Reply("302 Found", {"Location": location, "Content-Length": "0"}))
    with pytest.raises(Unavailable):
        client.origin.measure(PATH)
    assert len(server.requests) <= 10


@pytest.mark.promise(
    "A server that throttles (429, 503, refused connections) gets fewer requests at once for a while."
)
def test_a_refused_connection_is_unavailable() -> None:
    """A refused connection raises Throttled, which is an Unavailable."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        port = listening.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}{ROOT}") as client:
        for ask in (lambda: client.origin.measure(PATH), lambda: fetched(client), lambda: client.listing.scan("")):
            with pytest.raises(Throttled, match="refuses connections"):
                ask()


def test_a_name_that_resolves_to_nothing_is_unavailable() -> None:
    """A host name that cannot be resolved raises Unavailable."""
    with Client("http://no-such-host.invalid/x") as client, pytest.raises(Unavailable):
        client.origin.measure(PATH)


def test_a_silent_server_is_given_up(client: Client, server: ScriptedServer) -> None:
    """A server that sends nothing within the read timeout raises Unavailable and is counted."""
    over = threading.Event()

    def silent(_: Request) -> None:
        over.wait(20)

    server.answer = silent
    with pytest.raises(Unavailable, match="silent"):
        client.origin.measure(PATH)
    over.set()
    assert (client.http.requests, client.http.stalls) == (1, 1)


def test_only_timeouts_are_counted_as_timeouts(client: Client, server: ScriptedServer) -> None:
    """A request that is lost, refused or truncated is not counted as a timeout."""
    server.answer = always(None)
    with pytest.raises(Unavailable):
        client.origin.measure(PATH)
    server.answer = always(part(body=CONTENT[100:200], then="close"))
    received(client, Unavailable)
    assert (client.http.requests, client.http.stalls) == (2, 0)


def test_a_body_that_stops_is_counted_as_a_timeout(client: Client, server: ScriptedServer) -> None:
    """A body that stops is counted as a timeout."""
    server.answer = always(part(body=CONTENT[100:200]))
    received(client, Unavailable)
    assert client.http.stalls == 1


def test_open_connections_are_counted(client: Client) -> None:
    """Open connections are counted, in use or idle."""
    assert client.pool.open == 0
    fetched(client)
    assert client.pool.open == 1
    client.pool.close_idle(0.0)
    assert client.pool.open == 0


@pytest.mark.parametrize(
    "raw",
    [b"", b"\r\n\r\n", b"hello\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n", b"\x16\x03\x01"],
)
def test_what_is_no_http_is_unavailable(raw: bytes) -> None:
    """A reply that is not HTTP raises Unavailable."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def speak() -> None:
            for _ in range(2):
                line, _ = listening.accept()
                with line:
                    line.recv(65536)
                    line.sendall(raw)

        def ask() -> None:
            with Client(f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
                with pytest.raises(Unavailable):
                    client.origin.measure(PATH)
                with pytest.raises(Unavailable):
                    fetched(client)

        results = at_once([speak, ask])
        assert results == [None, None]


NAMES = (
    st.binary(min_size=1, max_size=40)
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: name not in {b".", b".."})
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(names=st.lists(NAMES, min_size=1, max_size=3))
def test_every_name_reaches_the_server_as_its_own_bytes(
    client: Client, server: ScriptedServer, names: list[bytes]
) -> None:
    """The decoded target of a request is the path in its own bytes, and the target is ASCII."""
    path = b"/".join([b"10028", *names])
    server.requests.clear()
    server.answer = always(Reply("200 OK", {"Content-Length": "5"}))
    client.origin.measure(os.fsdecode(path))
    (request,) = server.requests
    assert unquote_to_bytes(request.target) == ROOT.encode() + b"/" + path
    assert request.target.isascii()
    assert not set(request.target) & set(' #?"<>\\^`{|}\x7f[]')


@pytest.mark.parametrize("name", [b".hidden", b"...", b"a..b", b"%2e%2e", b"%2F", b"a%00b", b"~user", b"-rf"])
def test_names_that_look_like_something_else_are_names(server: ScriptedServer, name: bytes) -> None:
    """A name with dots, percent signs or dashes is requested as that name."""
    server.answer = Website({b"10028/" + name: b"12345"})
    with Client(server.base_url) as client:
        assert client.origin.measure(f"10028/{os.fsdecode(name)}").size == 5


def test_sequential_requests_use_one_connection(client: Client, server: ScriptedServer) -> None:
    """Twenty successful requests of every kind use one connection."""
    for _ in range(5):
        client.origin.measure(PATH)
        fetched(client)
        client.listing.scan("10028")
        client.origin.measure("10028/large")
    assert len(server.requests) == 20
    assert server.connections == 1


def test_clear_answers_keep_the_connection(client: Client, server: ScriptedServer) -> None:
    """After 404, 403, 416 and the redirect of a directory the connection is used again."""
    site = Website({PATH.encode(): CONTENT}, closed=(b"10028/data",))
    server.answer = site
    for _ in range(5):
        for path in ("10028/none", "10028/data"):
            with pytest.raises((NotFound, IsADirectory)):
                client.origin.measure(path)
        with pytest.raises(Forbidden):
            client.listing.scan("10028/data")
        with pytest.raises(NotFound):
            client.listing.scan("10029")
        with pytest.raises(Stale):
            fetched(client, 5000, 5100, File(PATH, 6000, MODIFIED))
        with pytest.raises(Stale):
            fetched(client, 0, 10, File(PATH, 6000, MODIFIED))
    assert len(server.requests) == 30
    assert server.connections == 1


@pytest.mark.parametrize("wrong", ["200 with the whole file", "a reset in the middle", "503", "a short body"])
def test_a_connection_with_a_wrong_reply_is_not_reused(client: Client, server: ScriptedServer, wrong: str) -> None:
    """The connection of a wrong reply is not used again."""
    changes, _ = WRONG[wrong]
    server.answer = always(part(**changes))
    with pytest.raises(Unavailable):
        fetched(client)
    server.answer = Website({PATH.encode(): CONTENT})
    assert fetched(client) == CONTENT[100:300]
    assert [one.connection for one in server.requests] == [0, 1]


def test_an_aborted_connection_is_replaced_in_advance(client: Client, server: ScriptedServer) -> None:
    """A connection that was aborted is replaced before the next request."""
    token, asked, over, site = CancelToken(), threading.Event(), threading.Event(), server.answer

    def silent(_: Request) -> None:
        asked.set()
        over.wait(SOON)

    def ask() -> None:
        with pytest.raises(Unavailable):
            client.origin.measure(PATH, token=token)

    server.answer = silent
    asking = threading.Thread(target=ask)
    asking.start()
    assert asked.wait(SOON)
    token.cancel()
    asking.join(SOON)
    over.set()
    deadline = time.monotonic() + SOON
    while server.connections < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    server.answer = site
    while "idle=1" not in repr(client.pool) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert fetched(client) == CONTENT[100:300]
    assert server.connections == 2


def test_the_requests_of_a_connection_are_counted_from_its_start(client: Client, server: ScriptedServer) -> None:
    """A connection that was connected again after the server has closed it has carried one request."""
    site = Website({PATH.encode(): CONTENT})

    def answer_and_close(request: Request) -> Reply:
        reply = site(request)
        reply.headers["Connection"] = reply.then = "close"
        return reply

    server.answer = answer_and_close
    for _ in range(3):
        client.origin.measure(PATH)
    with client.pool.held() as connection:
        assert (connection.requests, server.connections) == (1, 3)
    server.answer = site
    for _ in range(3):
        client.origin.measure(PATH)
    assert (connection.requests, server.connections) == (3, 4)


def test_a_fetch_that_is_closed_early_closes_its_connection(client: Client, server: ScriptedServer) -> None:
    """A fetch that is closed early closes its connection, and the next request uses another."""
    large = File("10028/large", 300_000, MODIFIED)
    pieces = cast("Generator[bytes]", client.origin.fetch(large, Span(0, 300_000)))
    next(pieces)
    pieces.close()
    assert client.origin.measure(PATH) == FILE
    assert server.connections == 2


def test_an_idle_connection_that_the_server_closed_is_replaced(client: Client, server: ScriptedServer) -> None:
    """An idle connection that the server has closed is replaced, at the latest by the second request."""
    site = Website({PATH.encode(): CONTENT})

    def answer(request: Request) -> Reply:
        reply = site(request)
        reply.then = "close"
        return reply

    server.answer = answer
    answers = []
    for _ in range(6):
        try:
            answers.append(client.origin.measure(PATH))
        except Unavailable:
            continue
    assert answers
    assert set(answers) == {FILE}


def test_threads_use_one_connection_each_and_reuse_them(client: Client, server: ScriptedServer) -> None:
    """Threads at once use at most one connection each, and all get the right bytes."""
    results = at_once([lambda: [fetched(client) for _ in range(5)]] * 6)
    assert results == [[CONTENT[100:300]] * 5] * 6
    assert server.connections <= 6


def test_closing_releases_every_connection(server: ScriptedServer) -> None:
    """After `close` no connection is open and no slot is held."""
    with Client(server.base_url) as client:
        at_once([lambda: client.origin.measure(PATH)] * 4)
        assert client.slots >= 1
        client.close()
        assert client.slots == 0
        assert "open=0 idle=0" in repr(client.pool)


def test_every_request_has_its_user_agent_and_accepts_no_compression(
    client: Client, server: ScriptedServer
) -> None:
    """The User-Agent names the project and its version, and Accept-Encoding is identity."""
    client.origin.measure(PATH)
    fetched(client)
    client.listing.scan("10028")
    for request in server.requests:
        assert request.headers["user-agent"].startswith(f"empiarfs/{version('empiarfs')} ")
        assert request.headers["accept-encoding"] == "identity"


def test_credentials_are_never_sent(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither ~/.netrc nor a redirect adds credentials to a request."""
    (tmp_path / ".netrc").write_text(
        "machine 127.0.0.1 login me password secret\ndefault login me password secret\n"
    )
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    site = Website({PATH.encode(): CONTENT, b"10028/b": CONTENT})

    def answer(request: Request) -> Reply:
        if request.target.endswith("a.mrc"):
            return Reply("302 Found", {"Location": f"{ROOT}/10028/b", "Content-Length": "0"})
        return site(request)

    server.answer = answer
    with Client(server.base_url) as client:
        client.origin.measure(PATH)
        fetched(client)
        client.listing.scan("10028")
    assert len(server.requests) == 5
    for request in server.requests:
        assert not {"authorization", "cookie", "proxy-authorization"} & set(request.headers)


def test_cookies_are_not_sent(client: Client, server: ScriptedServer) -> None:
    """A cookie of a reply is not sent."""
    site = Website({PATH.encode(): CONTENT})

    def answer(request: Request) -> Reply:
        reply = site(request)
        reply.headers["Set-Cookie"] = "tracked=1; Path=/"
        return reply

    server.answer = answer
    client.origin.measure(PATH)
    client.origin.measure(PATH)
    assert all("cookie" not in request.headers for request in server.requests)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_used(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request to a host behind a proxy goes to the proxy with the whole URL."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ScriptedServer(always(Reply("200 OK", {"Content-Length": "5"}))) as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        with Client("http://archive.invalid/base") as client:
            assert client.origin.measure(PATH).size == 5
        assert [one.target for one in proxy.requests] == [f"http://archive.invalid/base/{PATH}"]


def test_a_host_in_no_proxy_is_connected_directly(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host in `no_proxy` is connected directly."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Client(server.base_url) as client:
        assert client.origin.measure(PATH) == FILE


def test_the_root_is_the_base_url(client: Client, server: ScriptedServer) -> None:
    """An empty path is the base URL."""
    client.listing.scan("")
    assert [urlsplit(one.target).path for one in server.requests] == [f"{ROOT}/"]


def test_the_client_counts_its_requests(client: Client) -> None:
    """The client counts its requests."""
    client.origin.measure(PATH)
    fetched(client)
    assert client.http.requests == 2
    assert "requests=2" in repr(client.http)


def test_a_page_in_place_of_a_file_is_no_file(client: Client, server: ScriptedServer) -> None:
    """HTML without a date in place of a file raises Unavailable; HTML with a date is a file."""
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Length": "500"}
    server.answer = always(Reply("200 OK", headers))
    with pytest.raises(Unavailable):
        client.origin.measure(PATH)
    server.answer = always(Reply("200 OK", {**headers, "Last-Modified": DATE}))
    assert client.origin.measure(PATH) == File(PATH, 500, MODIFIED)


def test_a_file_of_no_length_that_has_no_first_byte_is_not_measured(client: Client, server: ScriptedServer) -> None:
    """416 for the first byte of a file without a length raises Unavailable."""
    server.answer = lambda one: (
        Reply("200 OK", {"Last-Modified": DATE})
        if one.method == "HEAD"
        else Reply("416 Requested Range Not Satisfiable", {"Content-Length": "0"})
    )
    with pytest.raises(Unavailable):
        client.origin.measure(PATH)
    assert [one.method for one in server.requests] == ["HEAD", "GET"]


def test_opening_sends_one_request_for_size_date_and_bytes(client: Client, server: ScriptedServer) -> None:
    """The Content-Range and Last-Modified of the first bytes say all that HEAD says."""
    assert client.origin.open(PATH, 300) == (FILE, CONTENT[:300])
    assert [(one.method, one.headers["range"]) for one in server.requests] == [("GET", "bytes=0-299")]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (part(Content_Range="bytes 5-204/1000"), Unavailable),
        (part(Content_Range="bytes 0-198/1000"), Unavailable),
        (part(Content_Range="bytes 0-199/*"), Unavailable),
        (part(Content_Range=None), Unavailable),
        (part(Content_Range="bytes 0-199/1000", body=CONTENT[:150], then="close"), Unavailable),
        (part(Content_Range="bytes 0-199/1000", Content_Length=None, then="close", body=b""), Unavailable),
        (part(Content_Range="bytes 0-199/1000", Content_Encoding="gzip"), Unavailable),
        (Reply("404 Not Found", {"Content-Length": "0"}), NotFound),
        (Reply("503 Busy", {"Content-Length": "0"}), Throttled),
    ],
)
def test_a_reply_that_is_not_the_first_bytes_opens_nothing(
    client: Client, server: ScriptedServer, reply: Reply, error: type[ArchiveError]
) -> None:
    """Another part, no total, a body that was cut, or an error is an error, and never a size or bytes."""
    server.answer = always(reply)
    with pytest.raises(error):
        client.origin.open(PATH, 200)


def test_a_server_without_ranges_still_tells_the_size(client: Client, server: ScriptedServer) -> None:
    """A reply with all of the file opens it without bytes: it may be large, and is not read."""
    server.answer = always(Reply("200 OK", {"Content-Length": "1000", "Last-Modified": DATE}, CONTENT))
    assert client.origin.open(PATH, 200) == (FILE, b"")


def test_an_empty_file_opens(client: Client, server: ScriptedServer) -> None:
    """416 for its first bytes has it measured by HEAD."""
    server.answer = lambda one: (
        Reply("200 OK", {"Content-Length": "0", "Last-Modified": DATE})
        if one.method == "HEAD"
        else Reply("416 Requested Range Not Satisfiable", {"Content-Length": "0"})
    )
    assert client.origin.open(PATH, 200) == (File(PATH, 0, MODIFIED), b"")


def test_a_silent_server_is_given_up_at_the_deadline(server: ScriptedServer) -> None:
    """Where the usual timeout is shorter than the one for slow requests, a deadline brings that back."""

    class Backed(LatencyEstimator):
        """What is usual of a server that has been slow for its last requests."""

        def read_timeout(self, kind: str = "") -> float:
            """Return how long a request may be silent."""
            return SOON if kind else 0.2

    over = threading.Event()
    server.answer = lambda _: (over.wait(SOON), None)[1]
    begun = time.monotonic()
    with Client(server.base_url, Backed(1 << 21)) as client, pytest.raises(Unavailable):
        client.origin.measure(PATH, deadline=begun + 0.5)
    assert 0.4 < time.monotonic() - begun < SOON / 2
    over.set()


def test_a_query_stands_behind_the_path(client: Client, server: ScriptedServer) -> None:
    """It is sent as it was written, and its question mark is not escaped."""
    server.answer = always(Reply("200 OK", {"Content-Length": "0"}))
    with client.http.request("GET", PATH, query="rows=2&q=a%20b"):
        pass
    assert server.requests[0].target == f"{ROOT}/{PATH}?rows=2&q=a%20b"
