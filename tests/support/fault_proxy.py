"""A server before Apache that does to a request, to a connection or to the whole line what a test says."""

import http.client
import os
import re
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

PIECE = 256 * 1024
LONGEST_HOLD = 100.0  # seconds; a test that fails leaves no thread behind for longer
LOOK_SECONDS = 0.05  # how often one who keeps silent looks whether anybody still listens
_KEPT = {"content-length", "content-range", "content-type", "last-modified", "location", "etag", "accept-ranges"}


@dataclass(frozen=True)
class Reply:
    """A reply: its headers, by names in lower case, and none besides."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def head(self) -> bytes:
        """What stands before the body."""
        phrase = http.client.responses.get(self.status, "Unheard Of")
        lines = [f"HTTP/1.1 {self.status} {phrase}", *(f"{name}: {text}" for name, text in self.headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def with_headers(self, **headers: str) -> "Reply":
        """Return it with these headers in the place of its own; `_` stands for `-`, an empty one goes."""
        merged = self.headers | {name.replace("_", "-"): text for name, text in headers.items()}
        return replace(self, headers={name: text for name, text in merged.items() if text})


class Exchange:
    """One request, and the ways to answer it.

    Attributes:
        method: as `"GET"`.
        path: below the numbered entries, unescaped; a directory's ends in a slash.
        range: the header's value; empty where there is none.
        over: set when the fault is over.
        upstream: the port of Apache.
    """

    def __init__(self, handler: "_Handler", path: str, over: threading.Event) -> None:
        self.method = handler.command
        self.path = path
        self.range = handler.headers["Range"] or ""
        self.over = over
        self.upstream = handler.server.fault_proxy.upstream.rpartition(":")[2]
        self._handler = handler

    def asked(self, part: str | None = None) -> Reply:
        """Request the wanted range, or `part`, from Apache; return its reply with its body."""
        with self._handler.asked(self.range if part is None else part) as response:
            headers = _kept(response)
            body = response.read()
        return Reply(response.status, headers, body)

    def pass_on(self) -> None:
        """Answer as Apache does."""
        with self._handler.asked(self.range) as response:
            headers = _kept(response)
            if "content-length" not in headers and self.method == "GET":  # Apache sends long listings in chunks
                headers["connection"] = "close"
                self._handler.close_connection = True
            self.write(Reply(response.status, headers).head)
            while piece := response.read(PIECE):
                self.write(piece)

    def send(self, reply: Reply, most: int | None = None) -> None:
        """Answer with `reply`, of its body no more than `most` bytes."""
        self.write(reply.head + (b"" if self.method == "HEAD" else reply.body[:most]))

    def answer(self, status: int, **headers: str) -> None:
        """Answer with `status` and no body."""
        self.send(Reply(status, {"content-length": "0"}).with_headers(**headers))

    def send_late(self, reply: Reply) -> None:
        """Answer with `reply` once the next request over this connection has been answered."""
        self._handler.late = reply.head

    def write(self, data: bytes) -> None:
        """Send `data`, whatever it is."""
        self._handler.wfile.write(data)

    def keep_silent(self, until: threading.Event | None = None, seconds: float = LONGEST_HOLD) -> bool:
        """Send nothing until the event, the end of the fault, or `seconds`; return whether the client is there."""
        waited = until or self.over
        for _ in range(int(seconds / LOOK_SECONDS)):
            if waited.wait(LOOK_SECONDS):
                return True
            if self._is_left():
                self.hang_up()
                return False
        return True

    def _is_left(self) -> bool:
        line = self._handler.connection
        if isinstance(line, ssl.SSLSocket):  # cannot be looked into
            return False
        ready, _, _ = select.select([line], [], [], 0)
        try:
            return bool(ready) and not line.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def hang_up(self) -> None:
        """Close the connection in order."""
        self._handler.close_connection = True

    def reset(self) -> None:
        """Break the connection at once; what was not taken yet is lost."""
        self._handler.close_connection = True
        line = self._handler.connection
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(line.detach())  # the server would end it in order


Act = Callable[[Exchange], None]


@dataclass
class Rule:
    """What happens to the requests that it matches.

    Attributes:
        method: only these; all where it is empty.
        path: a pattern that must match the whole path below the numbered entries.
        act: what is done to each.
        times: how often it still works; None for ever.
        met: how many requests it has matched.
        over: set at its end.
    """

    method: str
    path: str
    act: Act
    times: int | None = None
    met: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def matches(self, method: str, path: str) -> bool:
        """Return whether it is about this request, and count it."""
        if self.method not in {"", method} or not re.fullmatch(self.path, path):
            return False
        with self._lock:
            if self.times == self.met:
                return False
            self.met += 1
        return True


class Hold:
    """An act: to send nothing until `release`.

    Attributes:
        waiting: how many requests wait now.
        ranges: of the requests whose replies were cut in two, the Range headers.
    """

    def __init__(self, after: int | None = None) -> None:
        self.waiting = 0
        self.ranges: list[str] = []
        self._after = after
        self._open = threading.Event()

    def release(self) -> None:
        """Let what waits go on, and hold no more."""
        self._open.set()

    def __call__(self, exchange: Exchange) -> None:
        if self._after is None:
            if self._wait(exchange):
                exchange.pass_on()
            return
        reply = exchange.asked()
        exchange.send(reply, self._after)
        if self._after < len(reply.body):
            self.ranges.append(exchange.range)
            if self._wait(exchange):
                exchange.write(reply.body[self._after :])

    def _wait(self, exchange: Exchange) -> bool:
        self.waiting += 1
        try:
            return exchange.keep_silent(self._open)
        finally:
            self.waiting -= 1


class FaultProxy:
    """The server; what no rule is about goes to Apache and back as it is.

    Args:
        target: the URL of Apache's numbered entries.
        certificate: what it shows; without one it speaks plain HTTP.
    """

    def __init__(self, target: str, certificate: ssl.SSLContext | None = None) -> None:
        split = urlsplit(target)
        self.upstream = split.netloc
        self.base = split.path
        self.certificate = certificate
        self.seen: list[tuple[str, str]] = []  # method and path, in the order of arrival
        self.flowing = threading.Event()
        self.flowing.set()
        self._rules: list[Rule] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.fault_proxy = self
        self._listen()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The URL of the numbered entries, through this server."""
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}{self.base}"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._server.lines)

    @contextmanager
    def rule(self, path: str, act: Act, *, method: str = "", times: int | None = None) -> Iterator[Rule]:
        """Do `act` to what matches, whatever older rules say, for as long as the block lasts."""
        rule = Rule(method, path, act, times)
        self._rules.insert(0, rule)
        try:
            yield rule
        finally:
            self._rules.remove(rule)
            rule.over.set()

    @contextmanager
    def hold(self, path: str, *, method: str = "", after: int | None = None) -> Iterator[Hold]:
        """Keep silent on what matches: before the reply, or after so many bytes of its body."""
        hold = Hold(after)
        with self.rule(path, hold, method=method):
            try:
                yield hold
            finally:
                hold.release()

    def answer(
        self, path: str, status: int, *, method: str = "", times: int | None = None
    ) -> AbstractContextManager[Rule]:
        """Answer what matches with `status`."""
        return self.rule(path, lambda exchange: exchange.answer(status), method=method, times=times)

    def edit(
        self, path: str, change: Callable[[bytes], bytes], *, times: int | None = None
    ) -> AbstractContextManager[Rule]:
        """Change the bodies of what matches."""

        def act(exchange: Exchange) -> None:
            reply = exchange.asked()
            body = change(reply.body)
            exchange.send(replace(reply, body=body).with_headers(content_length=str(len(body))))

        return self.rule(path, act, method="GET", times=times)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Close every connection, and refuse new ones."""
        self._stop_listening()
        self._server.socket.close()
        self._server.socket = socket.socket()
        self._server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._server.socket.bind(("127.0.0.1", self.port))  # the port stays ours, and nobody listens there
        self.hang_up()
        try:
            yield
        finally:
            self._listen()

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Be gone, as without a network: nothing that is sent gets an answer, not even the wish to connect."""
        self.flowing.clear()
        self._stop_listening()
        self._server.socket.listen(0)
        with socket.socket() as first, socket.socket() as second:
            for line in (first, second):  # one waits to be let in, then the kernel answers nobody
                line.setblocking(False)
                with suppress(BlockingIOError):
                    line.connect(("127.0.0.1", self.port))
            try:
                yield
            finally:
                self.flowing.set()
                self._listen()

    @contextmanager
    def showing(self, certificate: ssl.SSLContext) -> Iterator[None]:
        """Close every connection, and show another certificate."""
        right, self.certificate = self.certificate, certificate
        self.hang_up()
        try:
            yield
        finally:
            self.certificate = right
            self.hang_up()

    def hang_up(self) -> None:
        """Close every connection."""
        for line in list(self._server.lines):
            with suppress(OSError):
                socket.socket.shutdown(line, socket.SHUT_RDWR)

    def count(self, method: str, path: str) -> int:
        """Return how many requests came."""
        return sum(one == method and re.fullmatch(path, where) is not None for one, where in self.seen)

    def close(self) -> None:
        """Stop listening, and close every connection."""
        for rule in self._rules:
            rule.over.set()
        self.flowing.set()
        self._stop_listening()
        self._server.server_close()
        self.hang_up()

    def ruled(self, method: str, path: str) -> Rule | None:
        """Return the rule for this request."""
        return next((rule for rule in self._rules if rule.matches(method, path)), None)

    def _listen(self) -> None:
        self._server.socket.listen(self._server.request_queue_size)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="faulty")
        self._thread.start()

    def _stop_listening(self) -> None:
        self._server.shutdown()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    fault_proxy: FaultProxy

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.lines: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        line, address = super().get_request()
        if self.fault_proxy.certificate is not None:  # hands are shaken by the thread of the connection
            line = self.fault_proxy.certificate.wrap_socket(line, server_side=True, do_handshake_on_connect=False)
        self.lines.add(line)
        return line, address

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.lines.discard(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that go away in the middle are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._upstream: http.client.HTTPConnection | None = None
        self.late = b""

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
        if self._upstream is not None:
            self._upstream.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's signature
        """Say nothing."""

    def do_GET(self) -> None:
        """Hand it on, or do as a rule says."""
        fault_proxy = self.server.fault_proxy
        path = unquote_to_bytes(self.path.removeprefix(fault_proxy.base).removeprefix("/")).decode(
            "utf-8", "surrogateescape"
        )
        fault_proxy.seen.append((self.command, path))
        if not fault_proxy.flowing.is_set():
            exchange = Exchange(self, path, fault_proxy.flowing)
            if not exchange.keep_silent():
                return
        late, self.late = self.late, b""
        rule = fault_proxy.ruled(self.command, path)
        if rule is None:
            Exchange(self, path, threading.Event()).pass_on()
        else:
            rule.act(Exchange(self, path, rule.over))
        self.wfile.write(late)

    do_HEAD = do_GET  # noqa: N815 - the library's names

    def asked(self, part: str) -> http.client.HTTPResponse:
        """Send the same request to Apache, for a part where it is not empty; return the response."""
        self._upstream = self._upstream or http.client.HTTPConnection(
            self.server.fault_proxy.upstream, timeout=LONGEST_HOLD
        )
        self._upstream.request(self.command, self.path, headers={"Range": part} if part else {})
        return self._upstream.getresponse()


def _kept(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): text for name, text in response.getheaders() if name.lower() in _KEPT}
