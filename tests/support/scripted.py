"""A server on loopback that answers exactly what a test writes, byte for byte, and keeps every request."""

import html
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from types import TracebackType
from typing import Self
from urllib.parse import quote, unquote_to_bytes

from empiarfs.empiar.connection_pool import ConnectionPool
from empiarfs.empiar.http import HttpClient
from empiarfs.empiar.http_origin import HttpOrigin
from empiarfs.empiar.listing import HtmlListing
from empiarfs.engine.latency import LatencyEstimator
from empiarfs.sample.index_page import listed_size
from empiarfs.urls import without_credentials
from support.fakes import in_threads
from support.lineserver import LONGEST_LIFE, LineServer, heads

MODIFIED = 1_700_000_000
ROOT = "/empiar/world_availability"


@dataclass(frozen=True)
class Request:
    """One request as it came.

    Attributes:
        target: as written in the request line.
        headers: by lower-case name.
        connection: the number of the connection it came over, from 0.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    connection: int


@dataclass
class Reply:
    """A reply.

    Attributes:
        status: number and phrase.
        headers: as given; nothing is added.
        body: sent behind them unless the request was HEAD.
        then: `"keep"` the connection, `"close"` it, or `"reset"` it.
    """

    status: str = "200 OK"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    then: str = "keep"


class ScriptedServer(LineServer):
    """Answers each request with what `answer` gives for it; `None` closes the connection without a byte.

    Args:
        answer: what is said.
        tls: the certificate that it shows; it talks in the clear where there is None.
    """

    def __init__(self, answer: Callable[[Request], Reply | None], tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self._scheme = "http"
        listening = socket.create_server(("127.0.0.1", 0))
        if tls is not None:
            self._scheme = "https"
            listening = tls.wrap_socket(listening, server_side=True, do_handshake_on_connect=False)
        super().__init__(listening)

    @property
    def base_url(self) -> str:
        """The URL of its root."""
        return f"{self._scheme}://127.0.0.1:{self.port}{ROOT}"

    def _talk(self, line: socket.socket, number: int) -> None:
        for head in heads(line):
            if not self._reply(line, head.decode("latin-1"), number):
                return

    def _reply(self, line: socket.socket, head: str, number: int) -> bool:
        first, *rest = head.split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
        request = Request(method, target, headers, number)
        self.requests.append(request)
        reply = self.answer(request)
        if reply is None:
            return False
        lines = [f"HTTP/1.1 {reply.status}", *(f"{name}: {value}" for name, value in reply.headers.items())]
        body = b"" if method == "HEAD" else reply.body
        line.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        if reply.then == "reset":
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return reply.then == "keep"


class Website:
    """What a good server with `files` answers: as Apache does, files by path below the root, bytes as names.

    Args:
        files: the content of each file, by the bytes of its path below the root.
        closed: directories that refuse to be listed.
    """

    def __init__(self, files: Mapping[bytes, bytes], *, closed: tuple[bytes, ...] = ()) -> None:
        self.files = dict(files)
        self.closed = closed
        self.modified = MODIFIED

    def __call__(self, request: Request) -> Reply:
        """Answer one request."""
        path = unquote_to_bytes(request.target.encode("latin-1")).removeprefix(ROOT.encode()).removeprefix(b"/")
        if path in self.files:
            return self._file(self.files[path], request)
        name = path.rstrip(b"/")
        if not (name == b"" or any(one.startswith(name + b"/") for one in self.files)) or path.endswith(b"//"):
            return self._page("404 Not Found", b"<html><body>Not Found</body></html>")
        if name and not path.endswith(b"/"):
            reply = self._page("301 Moved Permanently", b"<html><body>Moved</body></html>")
            reply.headers["Location"] = request.target + "/"
            return reply
        if name in self.closed:
            return self._page("403 Forbidden", b"<html><body>Forbidden</body></html>")
        return self._page("200 OK", self._listing(name))

    def _file(self, content: bytes, request: Request) -> Reply:
        headers = {"Accept-Ranges": "bytes", "Last-Modified": formatdate(self.modified, usegmt=True)}
        wanted = request.headers.get("range", "")
        if not wanted:
            return Reply("200 OK", {**headers, "Content-Length": str(len(content))}, content)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1, len(content))
        if start >= len(content):
            return Reply("416 Requested Range Not Satisfiable", {"Content-Length": "0"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        return Reply("206 Partial Content", {**headers, "Content-Length": str(stop - start)}, content[start:stop])

    def _listing(self, name: bytes) -> bytes:
        below = name + b"/" if name else b""
        children: dict[bytes, None] = {}
        for path in self.files:
            if path.startswith(below):
                child, slash, _ = path[len(below) :].partition(b"/")
                children[child + slash] = None
        rows = "".join(
            f'<tr><td><a href="{html.escape(_link(child))}">x</a></td>'
            f'<td align="right">2025-02-07 19:49  </td><td align="right">{self._rounded(below + child)}</td></tr>\n'
            for child in children
        )
        head = "<html><head><title>Index of /</title></head><body><h1>Index of /</h1><table>"
        return f"{head}{rows}</table></body></html>".encode()

    def _rounded(self, path: bytes) -> str:
        content = self.files.get(path)
        return "-" if content is None else listed_size(len(content)).strip()

    def _page(self, status: str, body: bytes) -> Reply:
        return Reply(status, {"Content-Type": "text/html", "Content-Length": str(len(body))}, body)


def _link(name: bytes) -> str:
    escaped = quote(name, safe="/$-_.+!*'(),:;=~&@")
    return "./" + escaped if ":" in escaped.partition("/")[0] else escaped


class Hasty(LatencyEstimator):
    """A latency estimate with a read timeout of half a second."""

    def __init__(self) -> None:
        super().__init__(1 << 21)

    def read_timeout(self, kind: str = "") -> float:
        """Return the seconds without a byte after which a request fails."""
        return 0.5


class Client:
    """An origin and a listing over one client of `base_url`, with their connections."""

    def __init__(self, base_url: str, latency: LatencyEstimator | None = None) -> None:
        self.slots = 0
        self.pool = ConnectionPool(base_url, self._slot, None, in_threads)
        self.http = HttpClient(without_credentials(base_url), self.pool, latency or LatencyEstimator(1 << 21))
        self.origin = HttpOrigin(self.http)
        self.listing = HtmlListing(self.http)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _slot(self, _patience: float) -> Callable[[], None]:
        self.slots += 1
        return self._freed

    def _freed(self) -> None:
        self.slots -= 1

    def close(self) -> None:
        """Close all connections."""
        self.pool.close()
        deadline = time.monotonic() + LONGEST_LIFE
        while any(thread.name == "line" for thread in threading.enumerate()) and time.monotonic() < deadline:
            time.sleep(0.001)


def always(reply: Reply | None) -> Callable[[Request], Reply | None]:
    """Answer everything alike."""
    return lambda _: reply
