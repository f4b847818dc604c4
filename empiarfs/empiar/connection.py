"""One connection to a server, and the replies over it; the only module that uses requests."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.adapters
import requests.auth
import requests.utils
import urllib3

from empiarfs.empiar import validation
from empiarfs.empiar.transport_errors import Kind, TransportError, classify
from empiarfs.urls import without_credentials

PIECE = 128 * 1024  # the most bytes of a piece: a block, which then needs no copy
QUICK = 0.125  # seconds; after a piece that came faster the next one is read as a whole
CONNECT_SECONDS = 10.0
LONGEST_REASON = 80  # characters of a reason phrase
SHORT_REST = 10_000  # bytes; reading the text of a 404 is cheaper than a new connection
HTTP_1_1 = 11  # as http.client writes the version
MIN_RATE = 1024  # bytes a second; a lower rate for the read timeout counts as silence
TRICKLE = "the server sends too slowly"
# the exceptions of the libraries for a connection that broke, is silent, or could not be opened
_TROUBLE = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
_WITH_URL = (requests.RequestException, urllib3.exceptions.MaxRetryError)  # their messages contain the URL


class Reply:
    """The reply to one request: its head now, its body in pieces.

    Args:
        method: the method of the request.
        response: the response of the library.
        silence: the read timeout in seconds.
        connection: its connection, which another thread aborts at the deadline of a read: a trickle or endless
            chunk framing never exceeds the socket's timeout.
    """

    def __init__(self, method: str, response: requests.Response, silence: float, connection: "Connection") -> None:
        self._method = method
        self._response = response
        self._silence = silence
        self._connection = connection
        self._is_begun = False
        self.status = response.status_code
        reason = (response.reason or "")[:LONGEST_REASON]
        self.reason = reason if reason.isprintable() else ""
        self.headers: Mapping[str, str] = response.headers
        # more requests may follow (RFC 9112, 9.3)
        self.is_persistent = response.raw.version == HTTP_1_1 and not validation.closes(self)

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it arrives, without decoding; if it arrives fast, in whole pieces.

        Raises:
            TransportError: the connection broke, or the server was silent or too slow.
        """
        body, connection = self._response.raw, self._connection
        since = begun = time.monotonic()
        fresh, at, quick = 0, 0, False  # quick: whether the last piece arrived fast
        self._is_begun = True
        try:
            while True:
                rest = PIECE - at % PIECE
                connection.deadline = time.monotonic() + 2 * self._silence
                try:
                    piece = (body.read if quick else body.read1)(rest, decode_content=False)
                finally:
                    connection.deadline = float("inf")
                if not piece:
                    return
                now = time.monotonic()
                at += len(piece)
                fresh += len(piece)
                if now - since > self._silence:
                    if fresh < MIN_RATE * (now - since):
                        raise TransportError(Kind.SILENT, TRICKLE)
                    since, fresh = now, 0
                if at % PIECE:
                    yield piece
                    continue
                quick = now - begun < QUICK
                yield piece
                begun = time.monotonic()
        except _TROUBLE as error:
            raise transport_error(error) from error

    def close(self) -> None:
        """End the reply: read a short body, so that the connection can be reused, else close the connection."""
        length = self.headers.get("Content-Length", "")
        short = length.isascii() and length.isdigit() and len(length) < len(str(SHORT_REST))
        is_chunked = "Transfer-Encoding" in self.headers  # of any length, whatever Content-Length says
        is_unread = not self._is_begun  # a body that broke off is not read further
        # a reply to HEAD has no body, whatever Content-Length says
        if (short and is_unread and not is_chunked) or self._method == "HEAD":
            self._connection.deadline = time.monotonic() + 2 * self._silence
            try:
                self._response.raw.drain_conn()
            finally:
                self._connection.deadline = float("inf")
        self._response.close()


class Connection:
    """One connection to the server.

    Args:
        server: what all connections to the server have in common.
        release: called when the connection is closed.
    """

    def __init__(self, server: "ConnectionFactory", release: Callable[[], None]) -> None:
        self.was_aborted = False
        self._server = server
        self._release = release
        self._watched = _Watched(self._connected)
        self.last_used = time.monotonic()
        self.requests = 0  # since it was connected, which it is again after the server has closed it
        self.deadline = float("inf")  # of the current read; a trickle never exceeds the socket's timeout

    def send(self, method: str, url: str, headers: Mapping[str, str], silence: float) -> Reply:
        """Send a request, and wait for the head of the reply for at most `silence` seconds.

        Raises:
            TransportError: no reply came.
        """
        self.deadline = time.monotonic() + 2 * silence + CONNECT_SECONDS
        server = self._server
        try:
            # not by a session, which would look for cookies and redirects: it takes longer than all of this
            response = self._watched.send(
                requests.Request(method, url, headers={**server.headers, **headers}, auth=server.login).prepare(),
                stream=True,
                timeout=(min(CONNECT_SECONDS, 2 * silence), silence),
                verify=server.verify,
                proxies=server.proxies,
            )
        except _TROUBLE as error:
            raise transport_error(error) from error
        finally:
            self.deadline = float("inf")
        self.requests += 1
        if self.was_aborted:  # the libraries accept a truncated head
            response.close()
            raise TransportError(Kind.SILENT, TRICKLE)
        return Reply(method, response, silence, self)

    def connect(self, url: str) -> None:
        """Connect to the server of `url` without sending a request.

        Raises:
            TransportError: it cannot connect.
        """
        with self.raw(url):
            pass

    @contextmanager
    def raw(self, url: str) -> Iterator[tuple[socket.socket, bytes]]:
        """Connect to the server of `url` unless connected; yield the socket, and the header fields of a HEAD.

        The block has read all replies to what it has sent, or it raises an error.

        Raises:
            TransportError: it cannot connect, or the block raises OSError.
        """
        request = requests.Request("HEAD", url, headers=self._server.headers, auth=self._server.login).prepare()
        try:
            pool = self._watched.get_connection_with_tls_context(
                request, self._server.verify, proxies=self._server.proxies
            )
            connection = pool._get_conn(timeout=CONNECT_SECONDS)  # noqa: SLF001 - there is no public way
            connection.timeout = CONNECT_SECONDS
            try:
                if connection.sock is None:
                    connection.connect()
                yield connection.sock, _fields(request)
            finally:
                pool._put_conn(connection)  # noqa: SLF001 - see above
        except _TROUBLE as error:
            raise transport_error(error) from error

    def abort(self) -> None:
        """Break the connection, from another thread than the one that waits on it."""
        self.was_aborted = True
        self._watched.abort()

    def _connected(self) -> None:
        self.requests = 0

    def close(self) -> None:
        """Close the connection, and release its slot."""
        self._watched.close()
        self._watched.close_all()  # the adapter leaves a connection in use to the garbage collector
        self._release()


class _Login(requests.auth.AuthBase):
    """Sends the user name and password of `url` to its own server only, not after a redirect to another."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(without_credentials(url))[:2]
        self._login = requests.auth.HTTPBasicAuth(*requests.utils.get_auth_from_url(url))

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._login.username and urlsplit(request.url or "")[:2] == self._server:
            self._login(request)
        return request


class _Watched(requests.adapters.HTTPAdapter):
    """An adapter with one connection, which another thread can abort.

    Args:
        connected: called each time it was connected.
    """

    def __init__(self, connected: Callable[[], None]) -> None:
        self._connected = connected
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._connections: list[Any] = []
        self._is_aborted = False

    def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
        """Return the pool of the one connection, which is recorded when it is created."""
        pool: Any = super().get_connection_with_tls_context(*arguments, **options)
        if not isinstance(pool.ConnectionCls, _Noted):
            pool.ConnectionCls = _Noted(pool.ConnectionCls, self._record_connection)
        return pool

    def _record_connection(self, connection: Any) -> None:
        self._connections[:] = [connection]
        connect = connection.connect

        def connected() -> None:
            connect()
            self._connected()
            if self._is_aborted:
                raise ConnectionAbortedError("aborted while connecting")

        connection.connect = connected

    def close_all(self) -> None:
        """Close the connection, even if it is in use."""
        for connection in self._connections:
            connection.close()

    def abort(self) -> None:
        """Shut the socket down, so that a read from it fails; a connection in the making fails once connected."""
        self._is_aborted = True
        for connection in self._connections:
            sock = connection.sock  # the other thread may close it meanwhile
            if sock is not None:
                plain = getattr(sock, "socket", sock)  # for TLS within the TLS of a proxy
                with contextlib.suppress(OSError):
                    # the plain socket's: a TLS shutdown would drop the state that the reading thread uses
                    socket.socket.shutdown(plain, socket.SHUT_RDWR)


class _Noted:
    """Creates connections of `kind`, and passes each to `noted`."""

    def __init__(self, kind: Callable[..., Any], noted: Callable[[Any], None]) -> None:
        self._kind = kind
        self._noted = noted

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        connection = self._kind(*arguments, **options)
        self._noted(connection)
        return connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kind, name)


class ConnectionFactory:
    """Creates connections to one server.

    Attributes:
        is_direct: whether there is no proxy on the way.

    Args:
        url: a URL of the server, with the login; selects the proxy.
        ca_bundle: the file of the authorities to trust; None for that of the environment or the default.
    """

    def __init__(self, url: str, ca_bundle: str | None = None) -> None:
        self.proxies = dict(requests.utils.get_environ_proxies(url))
        self.is_direct = requests.utils.select_proxy(url, self.proxies) is None
        self.login = _Login(url)
        environment = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        self.verify = ca_bundle or environment or True
        self.headers = {
            "User-Agent": f"empiarfs/{version('empiarfs')} (read-only mount of EMPIAR)",
            "Accept-Encoding": "identity",
            "Accept": "*/*",
            "Connection": "keep-alive",
        }

    def create(self, release: Callable[[], None]) -> Connection:
        """Return a connection that is not connected yet, and calls `release` when it is closed."""
        return Connection(self, release)


def _fields(request: requests.PreparedRequest) -> bytes:
    """Return the header fields of `request`, as they follow a request line."""
    fields = {"Host": urlsplit(request.url or "").netloc, **request.headers}
    lines = [
        f"{name}: {value if isinstance(value, str) else value.decode('latin-1')}" for name, value in fields.items()
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def transport_error(error: BaseException) -> TransportError:
    """Return the transport error for `error`, an exception of the libraries."""
    return classify(error, wordless=_WITH_URL)
