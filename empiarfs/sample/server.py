"""The loopback server of the built-in archive, which answers as EBI's Apache does; standard library only."""

import contextlib
import logging
import os
import re
import socket
import socketserver
import stat
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from empiarfs.model import Span
from empiarfs.sample import index_page

LOGGER = logging.getLogger("empiarfs.sample")
ROOT = b"/empiar/world_availability"

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})", re.ASCII | re.IGNORECASE)
_TYPES = {b".md": "text/markdown", b".tif": "image/tiff", b".txt": "text/plain", b".xml": "application/xml"}
_POLL_SECONDS = 0.1  # how long `stop` may wait for the accepting thread


class SampleServer:
    """Serves the numbered entries in `world` on a free port of 127.0.0.1.

    The port is bound at once, so that `base_url` is known and connections queue; `start` starts the first thread,
    so that a daemon may fork in between.

    Args:
        world: the directory of numbered entries, as `content.build` returns it.
    """

    def __init__(self, world: Path) -> None:
        self._server = _Server(world)
        self._thread: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        """The URL of the directory of entries, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_port}{ROOT.decode()}"

    def start(self) -> None:
        """Start answering, in daemon threads."""
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": _POLL_SECONDS},
            name="empiarfs-sample",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection; does nothing if it was never started, or is stopped."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()
        self._server.hang_up()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "stopped" if self._thread is None else "serving"
        return f"<SampleServer {self.base_url} {state} clients={self._server.clients}>"


def span_of(header: str, size: int) -> Span | None:
    """Parse a Range header for a file of `size` bytes, as Apache does.

    Returns:
        None to send the whole file: no range, several, or a malformed one, or an empty file. An empty span if
        the range is behind the end of the file.
    """
    match = _RANGE.fullmatch(header)
    if match is None or size == 0:
        return None
    first, last = match.groups()
    if not first:
        length = int(last or 0)
        return Span(max(0, size - length), size) if length else None
    start, stop = int(first), int(last) + 1 if last else size
    if last and stop <= start:
        return None
    return Span(min(start, size), min(stop, size))


def parts_of(target: str) -> list[bytes] | None:
    """Return the names below the directory of entries in the path of a request; None if it is elsewhere.

    As in Apache a double slash counts once. A `..`, an escaped slash or a NUL is always refused.
    """
    segments = [urllib.parse.unquote_to_bytes(part.encode("latin-1")) for part in target.split("/")]
    names = [name for name in segments if name not in {b"", b"."}]
    if any(name == b".." or b"/" in name or b"\0" in name for name in names):
        return None
    prefix = ROOT.split(b"/")[1:]
    return names[len(prefix) :] if names[: len(prefix)] == prefix else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, world: Path) -> None:
        self.world = os.path.realpath(os.fsencode(world))
        self._lock = threading.Lock()
        self._clients: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def clients(self) -> int:
        """The number of open connections."""
        return len(self._clients)

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host name, which may wait for DNS."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment] # str, int here

    def process_request(self, request: Any, client_address: Any) -> None:
        """Record the connection, and answer it in a thread of its own."""
        with self._lock:
            self._clients.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection and forget it."""
        with self._lock:
            self._clients.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Shut down every open connection; their threads then close them."""
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            with contextlib.suppress(OSError):  # it may be closed already
                client.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 # socketserver's signature
        """Log the error of a connection: a client that disconnects is normal, anything else is a bug."""
        error = sys.exception()
        level = logging.DEBUG if isinstance(error, ConnectionError) else logging.ERROR
        LOGGER.log(level, "the connection of %s broke", client_address, exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "Apache/2.4 (empiarfs sample)"
    sys_version = ""
    disable_nagle_algorithm = True  # else a body waits some 40 ms for the client to acknowledge its headers

    def _answer(self) -> None:
        target, _, query = self.path.partition("?")
        parts = parts_of(target)
        path = None if parts is None else self._real(parts)
        if parts is None or path is None:
            self._say(HTTPStatus.NOT_FOUND)
            return
        is_directory, has_slash = os.path.isdir(path), target.endswith("/")  # noqa: PTH112 # bytes
        try:
            if is_directory and has_slash:
                self._list(path, parts)
            elif is_directory:
                self._redirect(parts, query)
            elif has_slash or not os.path.isfile(path):  # noqa: PTH113 # bytes
                self._say(HTTPStatus.NOT_FOUND)
            else:
                with open(path, "rb") as file:  # noqa: PTH123 # bytes
                    self._send(file, path)
        except PermissionError:
            self._say(HTTPStatus.FORBIDDEN)

    do_GET = do_HEAD = _answer  # noqa: N815 # http.server looks for these names

    def _real(self, parts: list[bytes]) -> bytes | None:
        """Return the path on disk; None if it does not exist, or a symbolic link leads outside."""
        world = self.server.world
        try:
            path = os.path.realpath(b"/".join([world, *parts]), strict=True)
        except OSError:
            return None
        return path if path == world or path.startswith(world + b"/") else None

    def _list(self, path: bytes, parts: list[bytes]) -> None:
        body = index_page.page(b"/".join([ROOT, *parts]), self._rows(path, parts))
        self._say(HTTPStatus.OK, body, {"Content-Type": "text/html;charset=ISO-8859-1"})

    def _rows(self, path: bytes, parts: list[bytes]) -> Iterator[index_page.Row]:
        for name in os.listdir(path):  # noqa: PTH208 # bytes
            real = self._real([*parts, name])
            if real is None:
                continue
            status = os.stat(real)  # noqa: PTH116 # bytes
            if stat.S_ISDIR(status.st_mode):
                yield index_page.Row(name + b"/", None, status.st_mtime)
            elif stat.S_ISREG(status.st_mode):
                yield index_page.Row(name, status.st_size, status.st_mtime)

    def _redirect(self, parts: list[bytes], query: str) -> None:
        host = self.headers.get("Host") or f"127.0.0.1:{self.server.server_port}"
        location = f"http://{host}{index_page.escaped(b'/'.join([ROOT, *parts]))}/" + (query and f"?{query}")
        self._say(HTTPStatus.MOVED_PERMANENTLY, headers={"Location": location})

    def _send(self, file: BinaryIO, path: bytes) -> None:
        status = os.fstat(file.fileno())
        size = status.st_size
        headers = {
            "Last-Modified": formatdate(status.st_mtime, usegmt=True),
            "ETag": f'"{size:x}-{status.st_mtime_ns // 1000:x}"',
            "Accept-Ranges": "bytes",
        }
        condition = self.headers.get("If-Range")
        holds = condition is None or condition in {headers["ETag"], headers["Last-Modified"]}
        span = span_of(self.headers.get("Range", ""), size) if holds else None
        if span is not None and span.size == 0:
            headers = {"Content-Range": f"bytes */{size}"}
            self._say(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
            return
        code = HTTPStatus.OK
        if span is not None:
            code = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
        span = span or Span(0, size)
        kind = _TYPES.get(os.path.splitext(path)[1].lower())  # noqa: PTH122 # bytes
        if kind is not None:
            headers["Content-Type"] = kind  # as in Apache a file of unknown type has none
        self._head(code, headers, span.size)
        if self.command == "GET" and span.size:
            sent = self.connection.sendfile(file, offset=span.start, count=span.size)
            self.close_connection |= (
                sent < span.size
            )  # the file shrank: closing the connection is the only sign for the client

    def _say(self, code: HTTPStatus, body: bytes | None = None, headers: dict[str, str] | None = None) -> None:
        """Send a reply with a short `body`; without one, with a page that names the status."""
        if body is None:
            title = f"{code.value} {code.phrase}"
            body = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n".encode()
        self._head(code, {"Content-Type": "text/html; charset=iso-8859-1"} | (headers or {}), len(body))
        if self.command == "GET":
            self.wfile.write(body)

    def _head(self, code: HTTPStatus, headers: dict[str, str], length: int) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # the name is http.server's
        """Log a request at debug level; http.server would write it to stderr."""
        LOGGER.debug("%s %s", self.address_string(), format % args)
