"""The loopback server answers as EBI's Apache does, and serves every byte as it is on disk."""

import http.client
import logging
import logging.handlers
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import tracemalloc
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from empiarfs.sample import content, index_page
from empiarfs.sample.server import SampleServer

REPOSITORY = Path(__file__).parents[2]
ROOT = "/empiar/world_availability"
MICROGRAPH = "/99001/data/Micrographs/mic_001.mrc"
SIZE = 1024 + 4 * 1024**2  # of a micrograph: the MRC header and the pixels


class Client:
    """One connection, kept alive from request to request."""

    def __init__(self, server: SampleServer) -> None:
        self.port = urllib.parse.urlsplit(server.base_url).port
        self.line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        self.line.request(method, ROOT + path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        reply = self.line.getresponse()
        return reply.status, reply.headers, reply.read()


class Links(HTMLParser):
    """Collects the targets and the texts of a page's links."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.links: dict[str, str] = {}
        self._open = ""
        self.feed(page.decode("latin-1"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = dict(attrs).get("href") or "" if tag == "a" else self._open

    def handle_endtag(self, tag: str) -> None:
        self._open = "" if tag == "a" else self._open

    def handle_data(self, data: str) -> None:
        if self._open:
            self.links[self._open] = self.links.get(self._open, "") + data


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample archive."""
    return content.build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def server(archive: Path) -> Iterator[SampleServer]:
    """A server of it for all tests."""
    with SampleServer(archive) as server:
        yield server


@pytest.fixture
def client(server: SampleServer) -> Iterator[Client]:
    """A new connection for each test."""
    client = Client(server)
    yield client
    client.line.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[tuple[Path, Client]]:
    """A tree to change, and a client of its server."""
    archive = tmp_path / "world"
    archive.mkdir()
    with SampleServer(archive) as server:
        client = Client(server)
        yield archive, client
        client.line.close()


def url_of(path: bytes) -> str:
    """Percent-escape as clients do: everything but the plainest characters."""
    return urllib.parse.quote_from_bytes(path)


# files


def test_every_file(archive: Path, client: Client) -> None:
    """Every file, hidden or oddly named, is served unchanged over one connection."""
    root = os.fsencode(archive)
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 # bytes
            status, headers, body = client.ask(url_of(path.removeprefix(root)))
            assert (path, status, headers["Content-Length"]) == (path, 200, str(len(body)))
            assert body == Path(os.fsdecode(path)).read_bytes()


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1-1000", 1, 1001),
        ("bytes=4095-4097", 4095, 4098),
        ("bytes=1024-2098175", 1024, 2098176),
        (f"bytes={SIZE - 1}-{SIZE - 1}", SIZE - 1, SIZE),
        (f"bytes={SIZE - 5}-{SIZE + 100}", SIZE - 5, SIZE),
        ("bytes=0-", 0, SIZE),
        ("bytes=4000001-", 4000001, SIZE),
        ("bytes=-1", SIZE - 1, SIZE),
        ("bytes=-70000", SIZE - 70000, SIZE),
        ("bytes=-99999999", 0, SIZE),
        ("Bytes=7-8", 7, 9),
    ],
)
def test_ranges(archive: Path, client: Client, asked: str, start: int, stop: int) -> None:
    """A single range, closed, open or from the end, gives 206 and exactly its bytes."""
    status, headers, body = client.ask(MICROGRAPH, Range=asked)
    assert (status, headers["Content-Range"]) == (206, f"bytes {start}-{stop - 1}/{SIZE}")
    assert body == (archive / MICROGRAPH[1:]).read_bytes()[start:stop]


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE}", "bytes=99999999999-"])
def test_range_behind_the_end(client: Client, asked: str) -> None:
    """A range that begins at or after the end gives 416 and the true size."""
    status, headers, _ = client.ask(MICROGRAPH, Range=asked)
    assert (status, headers["Content-Range"]) == (416, f"bytes */{SIZE}")


@pytest.mark.parametrize(
    "asked",
    ["bytes=5-2", "bytes=a-b", "bytes=0-1,3-4", "bytes= 0-1", "lines=0-1", "bytes=-", "bytes=-0", "0-1"],
)
def test_malformed_ranges(client: Client, asked: str) -> None:
    """A malformed range, or several ranges, give 200 and the whole file."""
    status, headers, body = client.ask("/99004/data/a%23b.txt", Range=asked)
    assert (status, headers["Content-Range"], body) == (200, None, b"a#b.txt\n")


def test_range_of_an_empty_file(client: Client) -> None:
    """Any range of an empty file gives 200 and no bytes, as with Apache."""
    status, headers, body = client.ask("/99004/data/empty.dat", Range="bytes=0-")
    assert (status, headers["Content-Length"], body) == (200, "0", b"")


@pytest.mark.parametrize("path", [MICROGRAPH, "/99004/data/", "/99001", "/nowhere"])
def test_head(client: Client, path: str) -> None:
    """HEAD gives the status and the headers of GET without a body."""
    by_get, by_head = client.ask(path), client.ask(path, "HEAD")
    dated = {"Date": None}
    assert (by_head[0], dict(by_head[1]) | dated) == (by_get[0], dict(by_get[1]) | dated)
    assert by_head[2] == b""


def test_file_headers(client: Client) -> None:
    """A file has its date, a quoted ETag, and Accept-Ranges."""
    _, headers, _ = client.ask("/99004/data/one_byte.dat", "HEAD")
    assert headers["Last-Modified"].startswith("Fri, 17 May 2024 12:0")
    assert headers["ETag"].startswith('"1-')
    assert headers["Accept-Ranges"] == "bytes"


def test_etag_follows_the_file(small: tuple[Path, Client]) -> None:
    """A file that changes gets another ETag, even if its length stays."""
    archive, client = small
    (archive / "a").write_bytes(b"1")
    before = client.ask("/a")[1]["ETag"]
    os.utime(archive / "a", (1, 1))
    assert client.ask("/a")[1]["ETag"] != before


def test_if_range(client: Client) -> None:
    """A range with If-Range gives 206 for the current ETag, and 200 for another."""
    tag = client.ask(MICROGRAPH, "HEAD")[1]["ETag"]
    statuses = [client.ask(MICROGRAPH, Range="bytes=0-3", If_Range=value)[0] for value in (tag, '"old"')]
    assert statuses == [206, 200]


def test_bodies_are_streamed(small: tuple[Path, Client]) -> None:
    """A large file is sent without being in memory whole."""
    archive, client = small
    with (archive / "large").open("wb") as file:
        file.truncate(64 * 2**20)
    tracemalloc.start()
    try:
        client.line.request("GET", f"{ROOT}/large")
        reply = client.line.getresponse()
        received = sum(len(piece) for piece in iter(lambda: reply.read(2**16), b""))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert received == 64 * 2**20
    assert peak < 4 * 2**20


# listings


def test_listings_lead_everywhere(archive: Path, client: Client) -> None:
    """The links from the root lead to every file and directory that is not hidden, and to no other."""
    found, waiting = set(), ["/"]
    while waiting:
        here = waiting.pop()
        for link in Links(client.ask(here)[2]).links:
            target = urllib.parse.urljoin(ROOT + here, link).removeprefix(ROOT)
            if link.startswith(("?", "/")):
                continue
            found.add(urllib.parse.unquote_to_bytes(target.strip("/")))
            waiting += [target] if target.endswith("/") else []
    root = os.fsencode(archive)
    on_disk = {os.fsencode(path).removeprefix(root + b"/") for path in archive.rglob("*")}
    assert found == on_disk - {b"99004/data/README.md", b"99004/data/.hidden"}


def test_listing_of_a_directory(small: tuple[Path, Client]) -> None:
    """A listing is the table of EBI's server, byte for byte."""
    archive, client = small
    (archive / "10/data").mkdir(parents=True)
    (archive / "10/10.xml").write_bytes(b"x" * 17000)
    for name in ("10/10.xml", "10/data"):
        os.utime(archive / name, (1715947200, 1715947200))
    status, headers, body = client.ask("/10/")
    assert (status, headers["Content-Type"]) == (200, "text/html;charset=ISO-8859-1")
    assert body.decode("latin-1") == (
        '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">\n'
        "<html>\n"
        " <head><title>Index of /empiar/world_availability/10</title></head>\n"
        " <body>\n"
        "<h1>Index of /empiar/world_availability/10</h1>\n"
        "  <table>\n"
        '   <tr><th valign="top"><img src="/icons/blank.gif" alt="[ICO]"></th>'
        '<th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th>'
        '<th><a href="?C=S;O=A">Size</a></th><th><a href="?C=D;O=A">Description</a></th></tr>\n'
        '   <tr><th colspan="5"><hr></th></tr>\n'
        '<tr><td valign="top"><img src="/icons/back.gif" alt="[PARENTDIR]"></td>'
        '<td><a href="/empiar/world_availability/">Parent Directory</a></td><td>&nbsp;</td>'
        '<td align="right">  - </td><td>&nbsp;</td></tr>\n'
        '<tr><td valign="top"><img src="/icons/unknown.gif" alt="[   ]"></td>'
        '<td><a href="10.xml">10.xml</a></td><td align="right">2024-05-17 12:00  </td>'
        '<td align="right"> 17K</td><td>&nbsp;</td></tr>\n'
        '<tr><td valign="top"><img src="/icons/folder.gif" alt="[DIR]"></td>'
        '<td><a href="data/">data/</a></td><td align="right">2024-05-17 12:00  </td>'
        '<td align="right">  - </td><td>&nbsp;</td></tr>\n'
        '   <tr><th colspan="5"><hr></th></tr>\n'
        "</table>\n"
        "</body></html>\n"
    )


@pytest.mark.parametrize(
    ("link", "text"),
    [
        ("tilt_007_%5b-4.00%5d_EER.txt", "tilt_007_[-4.00]_EER.txt"),
        ("100%25%20done.txt", "100% done.txt"),
        ("percent%2541.txt", "percent%41.txt"),
        ("a%23b.txt", "a#b.txt"),
        ("a+b=c.txt", "a+b=c.txt"),
        ("a&b;c.txt", "a&b;c.txt"),
        ("fish&amp;chips.txt", "fish&amp;chips.txt"),
        ("what%3f.txt", "what?.txt"),
        ("it's%20%3c%22quoted%22%3e.txt", 'it\'s <"quoted">.txt'),
        ("./12:30%20focus.txt", "12:30 focus.txt"),
        ("-leading%20minus.txt", "-leading minus.txt"),
        ("caf%e9_latin1.txt", "caf\xe9_latin1.txt"),
        ("Gitter_%c2%b5-%c3%85ring.txt", "Gitter_µ-Åring.txt".encode().decode("latin-1")),
        ("empty%20directory/", "empty directory/"),
        ("fifty_" + "x" * 40 + ".txt", "fifty_" + "x" * 40 + ".txt"),
        ("fifty-one_" + "x" * 37 + ".txt", "fifty-one_" + "x" * 37 + "..>"),
        ("long_" + "n" * 246 + ".txt", "long_" + "n" * 42 + "..>"),
    ],
)
def test_names_in_listings(client: Client, link: str, text: str) -> None:
    """A name is escaped in its link, and its text is cut to 50 bytes as by Apache 2.4.71."""
    assert Links(client.ask("/99004/data/")[2]).links[link] == text


def test_listing_escapes_for_html(client: Client) -> None:
    """Quotes, angle brackets and ampersands are entities, in the link and in the text."""
    page = client.ask("/99004/data/")[2]
    assert b"<a href=\"it's%20%3c%22quoted%22%3e.txt\">it's &lt;&quot;quoted&quot;&gt;.txt</a>" in page
    assert b'<a href="fish&amp;amp;chips.txt">fish&amp;amp;chips.txt</a>' in page


def test_order(client: Client) -> None:
    """Rows are sorted by the bytes of their names, directories among files."""
    links = [link for link in Links(client.ask("/99004/data/")[2]).links if link[0] not in "?/"]
    names = [urllib.parse.unquote_to_bytes(link.removeprefix("./")) for link in links]
    assert names == sorted(names)
    assert names.index(b"empty directory/") < names.index(b"empty.dat") < names.index(b"many/")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "  0 "),
        (1, "  1 "),
        (650, "650 "),
        (972, "972 "),
        (973, "1.0K"),
        (1023, "1.0K"),
        (1024, "1.0K"),
        (2355, "2.3K"),
        (9192, "9.0K"),
        (10188, "9.9K"),
        (10189, " 10K"),
        (17408, " 17K"),
        (17919, " 17K"),
        (17920, " 18K"),
        (995839, "972K"),
        (995840, "973K"),
        (996352, "1.0M"),
        (30228000, " 29M"),
        (65481294, " 62M"),
        (67109888, " 64M"),
        (569560224, "543M"),
        (2**30, "1.0G"),
        (66 * 2**30, " 66G"),
        (3 * 2**40, "3.0T"),
    ],
)
def test_listed_sizes(size: int, text: str) -> None:
    """A size is rounded to four characters by the rule of apr_strfsize."""
    assert index_page.listed_size(size) == text


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        (b"README", True),
        (b"README.md", True),
        (b"HEADER.html", True),
        (b".hidden", True),
        (b"a~", True),
        (b"a#", True),
        (b"RCS", True),
        (b"a,v", True),
        (b"a#b", False),
        (b".a", False),
        (b"readme.md", False),
        (b"my_README", False),
        (b"RCS2", False),
    ],
)
def test_hidden_names(name: bytes, hidden: bool) -> None:
    """Names that Apache's IndexIgnore matches are left out of listings, and no others."""
    assert index_page.is_hidden(name) is hidden


# paths


@pytest.mark.parametrize("path", ["", "/99001", "/99001/data", "/99004/data/empty%20directory"])
def test_redirects(server: SampleServer, client: Client, path: str) -> None:
    """A directory without its slash gives 301 to the whole URL with it."""
    status, headers, _ = client.ask(path)
    assert (status, headers["Location"]) == (301, f"{server.base_url}{path}/")


@pytest.mark.parametrize("path", ["//99001//99001.xml", "/./99001/./99001.xml", "/%39%39001/99001.xml"])
def test_other_spellings(archive: Path, client: Client, path: str) -> None:
    """Doubled slashes, single dots and needless escapes give the same file."""
    assert client.ask(path)[2] == (archive / "99001/99001.xml").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/99001/99001.xml/",
        "/99001/../99001/99001.xml",
        "/99001/%2e%2e/99001/99001.xml",
        "/99001%2f99001.xml",
        "/99001/99001.xml%00",
        "/99001/99001.xml%00.txt",
        "/99004/data/what?.txt",
        "/" + "n" * 300,
        "/../world_availability/99001/99001.xml",
        "x/99001/99001.xml",
    ],
)
def test_not_found(client: Client, path: str) -> None:
    """A missing path, or one with dots, gives 404."""
    assert client.ask(path)[0] == 404


@pytest.mark.parametrize("way", ["../secret", "%2e%2e/secret", "..%2fsecret", "10/../../secret", "/etc/passwd"])
def test_nothing_outside(small: tuple[Path, Client], way: str) -> None:
    """No path leads out of the tree."""
    archive, client = small
    (archive / "10").mkdir()
    (archive.parent / "secret").write_text("secret")
    assert client.ask(f"/{way}")[0] == 404


def test_links_that_lead_out(small: tuple[Path, Client]) -> None:
    """A symbolic link out of the tree is neither listed nor followed."""
    archive, client = small
    (archive.parent / "secret").write_text("secret")
    (archive / "out").symlink_to(archive.parent / "secret")
    assert client.ask("/out")[0] == 404
    assert b"out" not in client.ask("/")[2]


def test_links_that_stay(small: tuple[Path, Client]) -> None:
    """A symbolic link within the tree is listed and read as its target."""
    archive, client = small
    (archive / "real").write_text("here")
    (archive / "link").symlink_to("real")
    assert client.ask("/link")[2] == b"here"
    assert "link" in Links(client.ask("/")[2]).links


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods(client: Client, method: str) -> None:
    """Methods other than GET and HEAD give 501."""
    assert client.ask("/99001/99001.xml", method)[0] == 501


def test_unreadable_directories(small: tuple[Path, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that the server may not read gives 403."""
    _, client = small

    def refuse(path: bytes) -> list[bytes]:
        raise PermissionError(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert client.ask("/")[0] == 403


# connections and lifetime


def test_one_connection_for_many_requests(client: Client) -> None:
    """A connection stays open through success, error, redirect and refused range."""
    client.ask("/")
    line = client.line.sock
    for path, asked in [
        ("/nowhere", ""),
        ("/99001", ""),
        (MICROGRAPH, f"bytes={SIZE}-"),
        (MICROGRAPH, "bytes=0-0"),
    ]:
        client.ask(path, Range=asked)
    assert client.line.sock is line


def test_idle_connections_do_not_block(server: SampleServer, client: Client) -> None:
    """A client that is connected and silent delays no other."""
    client.line.connect()
    other = Client(server)
    assert other.ask("/")[0] == 200
    other.line.close()


def test_a_client_that_leaves_is_quiet(
    server: SampleServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A client that disconnects within a body is logged at DEBUG alone."""
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    watcher = logging.handlers.QueueHandler(records)
    watcher.addFilter(lambda record: record.exc_info is not None)
    logger = logging.getLogger("empiarfs.sample")
    logger.addHandler(watcher)
    caplog.set_level(logging.DEBUG, logger.name)
    port = urllib.parse.urlsplit(server.base_url).port
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset
        line.sendall(f"GET {ROOT}{MICROGRAPH} HTTP/1.1\r\n\r\n".encode())
        line.recv(1)
    broken = records.get(timeout=20)
    logger.removeHandler(watcher)
    assert broken.levelno == logging.DEBUG
    assert capfd.readouterr().err == ""


def test_a_fault_of_ours_is_loud(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception within the server ends the connection and is logged with its traceback."""
    monkeypatch.setattr(index_page, "page", None)
    with pytest.raises(http.client.RemoteDisconnected):
        client.ask("/")
    assert [record.levelname for record in caplog.records if record.levelno > logging.DEBUG] == ["ERROR"]


def test_requests_are_logged_quietly(
    client: Client, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A request is logged at DEBUG, and nothing is written to stderr."""
    with caplog.at_level(logging.DEBUG, "empiarfs.sample"):
        client.ask("/nowhere")
    assert "/nowhere" in caplog.text
    assert capfd.readouterr().err == ""


def test_loopback_only(server: SampleServer) -> None:
    """The server listens on 127.0.0.1 alone."""
    assert server.base_url.startswith("http://127.0.0.1:")
    assert server._server.socket.getsockname()[0] == "127.0.0.1"


def test_no_thread_before_start(tmp_path: Path) -> None:
    """Creating a server binds its port and starts no thread, so that a daemon may fork."""
    before = threading.active_count()
    server = SampleServer(tmp_path)
    assert threading.active_count() == before
    server.stop()


def test_serves_after_a_fork(archive: Path) -> None:
    """A server created before a fork and started in the child answers at its address."""
    code = (
        "import os, pathlib, signal, sys, urllib.request\n"
        "from empiarfs.sample.server import SampleServer\n"
        "server = SampleServer(pathlib.Path(sys.argv[1]))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    server.start()\n"
        "    signal.pause()\n"
        "try:\n"
        "    print(urllib.request.urlopen(server.base_url + '/99001/99001.xml', timeout=20).status)\n"
        "finally:\n"
        "    os.kill(child, signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, str(archive)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("200\n", "")


def test_stop_hangs_up(tmp_path: Path) -> None:
    """After `stop` open connections end and new ones are refused."""
    server = SampleServer(tmp_path)
    server.start()
    client = Client(server)
    client.ask("/")
    server.stop()
    assert client.line.sock.recv(1) == b""
    client.line.close()
    with pytest.raises(ConnectionRefusedError):
        Client(server).line.connect()


def test_stop_twice(tmp_path: Path) -> None:
    """Stopping again does nothing."""
    with SampleServer(tmp_path) as server:
        server.stop()
    assert "stopped" in repr(server)


def test_the_import_is_light() -> None:
    """Importing the server loads neither numpy nor the module that builds the files."""
    code = "import sys, empiarfs.sample.server; print({'numpy', 'empiarfs.sample.content'} & sys.modules.keys())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
