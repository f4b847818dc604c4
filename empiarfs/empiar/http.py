"""Requests over HTTP, and the replies whose status and length are right; everything else is an error."""

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
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
)
from empiarfs.model import Span
from empiarfs.ports import NEVER, Timings
from empiarfs.urls import single_slashes, without_credentials

log = logging.getLogger(__name__)

MOST_REDIRECTS = 5
FIRST_BURST = 64 * 1024  # bytes that may arrive with the head, and do not count for the rate

UNQUOTED = "/%!$&'()*+,;=:@~"  # what a path of a URL may contain (RFC 3986, 3.3), and what is quoted already

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
        parts = urlsplit(base_url)
        self._base_url = parts._replace(path=quote(parts.path, safe=UNQUOTED)).geturl()
        self._host = parts.hostname
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
