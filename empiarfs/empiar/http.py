"""The archive over HTTP: requests and strictly checked replies.

A reply is used only if it is exactly what was requested: status, range, total and length are all checked
(RFC 9110, sections 14 and 15). Everything else is an error.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from enum import IntEnum
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import SplitResult, quote, unquote_to_bytes, urljoin, urlsplit

from empiarfs.cancellation import CancelToken
from empiarfs.empiar import validation
from empiarfs.empiar.connection import Connection, Reply
from empiarfs.empiar.connection_pool import ConnectionPool
from empiarfs.empiar.transport_errors import Kind, TransportError
from empiarfs.errors import (
    CertificateError,
    Forbidden,
    IsADirectory,
    NotFound,
    Stale,
    Throttled,
    Unavailable,
    WrongRange,
)
from empiarfs.model import File, Span
from empiarfs.ports import NEVER, Timings
from empiarfs.urls import single_slashes, without_credentials

T = TypeVar("T")

log = logging.getLogger(__name__)

MOST_REDIRECTS = 5
FIRST_BURST = 64 * 1024  # bytes that may arrive with the head, and do not count for the rate

_PORTS = {"http": 80, "https": 443}
_REDIRECTS = {301, 302, 303, 307, 308}


class HttpClient:
    """Sends requests below one URL.

    Args:
        base_url: the URL of the root, without its final slash.
        pool: the connections.
        latency: the timeouts of the server; records the timing of every reply.
    """

    def __init__(self, base_url: str, pool: ConnectionPool, latency: Timings) -> None:
        self._base_url = base_url
        self._host = urlsplit(base_url).hostname
        self._places = _places(base_url)
        self._pool = pool
        self._latency = latency
        self.requests = self.stalls = 0
        self.is_persistent = False  # whether the server has kept a connection open, by HTTP/1.1

    def __repr__(self) -> str:
        return f"<HttpClient {self._base_url} requests={self.requests} {self._latency!r} {self._pool!r}>"

    def url(self, path: str) -> str:
        """Return the URL of `path`, percent-encoded."""
        if not path:
            return self._base_url
        return f"{self._base_url}/{quote(path.encode('utf-8', 'surrogateescape'), safe='/')}"

    @contextmanager
    def request(  # noqa: PLR0913 - each is a part of one request
        self,
        method: str,
        path: str,
        *,
        slash: bool = False,
        query: str = "",
        part: Span | None = None,
        no_cache: bool = False,
        deadline: float = NEVER,
        token: CancelToken | None = None,
    ) -> Iterator[Reply]:
        """Request `path`, or a part of it; yield the reply with status 200 or 206, its body unread.

        Redirects are followed on this server only.

        Args:
            method: GET or HEAD.
            path: the path to request.
            slash: whether it is a directory.
            query: the escaped query of the URL.
            part: the requested bytes; None for all.
            no_cache: whether caches on the way are to ask the server.
            deadline: when the reply must have begun, in seconds of `time.monotonic`.
            token: lets another thread cancel the request.

        Raises:
            NotFound, Forbidden, Stale (416), Unavailable; IsADirectory if the server redirects to the same URL
            with a slash.
        """
        headers = {} if part is None else {"Range": f"bytes={part.start}-{part.stop - 1}"}
        headers |= {"Cache-Control": "no-cache"} if no_cache else {}
        try:
            connection = self._pool.acquire()
        except TransportError as error:
            raise Unavailable(path, str(error)) from error
        is_reusable = False
        try:
            if token is not None and not token.on_cancel(connection.abort):
                raise Unavailable(path, "another request has answered")
            url = self.url(path) + "/" * slash + f"?{query}" * bool(query)
            for _ in range(MOST_REDIRECTS + 1):
                reply = self._send(connection, method, url, headers, path, deadline)
                if reply.status not in _REDIRECTS:
                    break
                with closing(reply):
                    url = self._redirected(url, reply.headers.get("Location", ""), path)
            else:
                raise Unavailable(path, "too many redirects")
            with closing(reply):
                validation.check_status(reply, path, is_part=part is not None)
                yield reply
            is_reusable = True
        except (NotFound, Forbidden, Stale, IsADirectory):
            is_reusable = True
            raise
        finally:
            if token is not None:
                token.on_cancel(None)
            self._pool.release(connection, is_reusable=is_reusable)

    def body(self, reply: Reply, path: str) -> Iterator[bytes]:
        """Yield the body of `reply` in pieces; raise Unavailable if it is not as long as Content-Length says."""
        expected = reply.headers.get("Content-Length")
        received = first = 0
        begun = ended = 0.0
        try:
            for piece in reply.pieces():
                received += len(piece)
                ended = time.monotonic()
                if not begun and received >= FIRST_BURST:
                    begun, first = ended, received
                yield piece
        except TransportError as error:
            self.stalls += error.kind is Kind.SILENT
            raise Unavailable(path, str(error)) from error
        if expected is not None and str(received) != expected.strip():
            raise Unavailable(path, f"the reply was cut: {received} of {expected} bytes")
        if begun:
            self._latency.record_rate(received - first, ended - begun)

    def _send(
        self, connection: Connection, method: str, url: str, headers: dict[str, str], path: str, deadline: float
    ) -> Reply:
        self.requests += 1
        log.debug("%s %s %s", method, url, headers.get("Range", ""))
        begun = time.monotonic()
        kind = f"{method} {'a part' if headers else 'all'}"
        # a request has the usual timeout at least, even if its deadline is earlier
        silence = min(self._latency.read_timeout(kind), max(self._latency.read_timeout(), deadline - begun))
        try:
            reply = connection.send(method, url, headers, silence)
        except TransportError as error:
            if error.kind is Kind.SILENT:
                self.stalls += 1
                self._latency.record_timeout(kind)
            wrong = {Kind.REFUSED: Throttled, Kind.UNTRUSTED: CertificateError}.get(error.kind, Unavailable)
            raise wrong(path, str(error)) from error
        self._latency.record(time.monotonic() - begun, kind)
        self.is_persistent = self.is_persistent or reply.is_persistent
        return reply

    def _redirected(self, url: str, location: str, path: str) -> str:
        try:
            target = without_credentials(urljoin(url, location))
            there = urlsplit(target)
            place = there.scheme, there.hostname, _port(there)
        except ValueError as error:
            raise Unavailable(path, "the server redirects to an invalid URL") from error
        elsewhere = Unavailable(path, f"the server redirects to another server: {target[:200]!r}")
        if there.scheme not in {"http", "https"} or there.hostname != self._host or not location:
            raise elsewhere
        here, beyond = (unquote_to_bytes(single_slashes(one.path)) for one in (urlsplit(url), there))
        if beyond == here + b"/":  # not followed: behind a balancer a server of HTTPS may redirect to HTTP
            raise IsADirectory(path)
        if there.scheme != urlsplit(self._base_url).scheme == "https":
            raise Unavailable(path, "the server redirects to an address that is not encrypted")
        if place not in self._places:
            raise elsewhere
        return target


def _places(base_url: str) -> set[tuple[str, str | None, int]]:
    """Return the servers that may answer for `base_url`: its own, and for plain HTTP that of HTTPS."""
    base = urlsplit(base_url)
    own = (base.scheme, base.hostname, _port(base))
    return {own, ("https", base.hostname, _PORTS["https"])} if own[::2] == ("http", _PORTS["http"]) else {own}


def _port(url: SplitResult) -> int:
    return url.port or _PORTS.get(url.scheme, 0)


def _file(reply: Reply, path: str, length: str) -> File:
    """Return the file of a reply with this Content-Length."""
    size = validation.length(length, path)
    return File(path, size, validation.modified(reply, size))


class Bypass(IntEnum):
    """How requests for parts get past a cache on the way that answers with the part it has."""

    NONE = 0
    NO_CACHE = 1
    QUERY = 2  # each part has a URL of its own; web servers ignore a query on a file


class HttpOrigin:
    """An origin over HTTP, by HEAD and ranged GET.

    Attributes:
        on_date: called with a file whose own date is that of a listing, and its exact date, when a reply tells it.
    """

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self.on_date: Callable[[File, int], None] = lambda _file, _date: None
        self._bypass = Bypass.NONE

    def measure(self, path: str, *, deadline: float = NEVER, token: CancelToken | None = None) -> File:
        """See `Origin.measure`."""
        with self._client.request("HEAD", path, deadline=deadline, token=token) as reply:
            validation.check_is_file(reply, path)
            length = reply.headers.get("Content-Length")
            said = None if length is None else _file(reply, path, length)
        if said is not None and said.size:
            return said
        # Apache sends no length for an empty file, and some servers send zero for any file
        try:
            return self._open(path, 1, deadline, token)[0]
        except Stale as error:  # 416: there is no first byte
            if said is None:
                raise Unavailable(path, "the server sends no length") from error
            return said

    def open(
        self, path: str, size: int, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> tuple[File, bytes]:
        """See `Origin.open`."""
        try:
            return self._open(path, size, deadline, token)
        except Stale:  # 416: the file may be empty
            return self.measure(path, deadline=deadline, token=token), b""

    def _open(self, path: str, size: int, deadline: float, token: CancelToken | None) -> tuple[File, bytes]:
        def check(reply: Reply) -> tuple[File, Span]:
            validation.check_is_file(reply, path)
            if reply.status != HTTPStatus.PARTIAL_CONTENT:  # the whole file, which may be large
                return _file(reply, path, reply.headers.get("Content-Length", "")), Span(0, 0)
            return validation.first_part(reply, path, size)

        with self._part(path, Span(0, size), check, deadline, token) as (reply, (file, span)):
            if not span.size:
                return file, b""
            data = b"".join(self._client.body(reply, path))
            if len(data) != span.size:
                raise Unavailable(path, f"short read: expected {span.size} bytes, got {len(data)}")
            return file, data

    def fetch(
        self, file: File, span: Span, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> Iterator[bytes]:
        """See `Origin.fetch`."""

        def check(reply: Reply) -> int | None:
            return validation.check_range(reply, file, span)

        with self._part(file.path, span, check, deadline, token) as (reply, date):
            if file.coarse_mtime and date is not None:
                self.on_date(file, date)
            received = 0
            for piece in self._client.body(reply, file.path):
                received += len(piece)
                if received > span.size:
                    raise Unavailable(file.path, "the server sends more than was requested")
                yield piece
            if received != span.size:
                raise Unavailable(file.path, f"the reply was cut: {received} of {span.size} bytes")

    @contextmanager
    def _part(
        self, path: str, span: Span, check: Callable[[Reply], T], deadline: float, token: CancelToken | None
    ) -> Iterator[tuple[Reply, T]]:
        """Request `span`; yield the reply and what `check` returns for it.

        After a wrong range it is requested past the caches on the way, and what has helped is kept up.
        """
        for bypass in (one for one in Bypass if one >= self._bypass):
            query = f"bytes={span.start}-{span.stop - 1}" if bypass is Bypass.QUERY else ""
            with self._client.request(
                "GET", path, part=span, query=query, no_cache=bypass > Bypass.NONE, deadline=deadline, token=token
            ) as reply:
                try:
                    checked = check(reply)
                except WrongRange as error:
                    if bypass is max(Bypass):
                        self._bypass = Bypass.NONE
                        raise
                    log.debug("%s; requesting it past the caches", error)
                    continue
                if bypass > self._bypass:
                    log.warning(
                        "%s: a cache on the way sends other parts of files than requested; passing it", path
                    )
                    self._bypass = bypass
                yield reply, checked
                return
