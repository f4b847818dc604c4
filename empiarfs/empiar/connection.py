"""One connection to a server, and replies over it; the only module that knows requests."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.adapters
import requests.auth
import requests.utils
import urllib3

from empiarfs.empiar.transport_errors import Kind, TransportError, classify
from empiarfs.urls import without_credentials

PIECE = 128 * 1024  # the most bytes handed on at once: a block, which then needs no copying
QUICK = 0.125  # seconds for a piece, below which the next one is waited for as a whole
CONNECT_SECONDS = 10.0
LONGEST_REASON = 80  # characters of the words behind a status
SHORT_REST = 10_000  # bytes; reading the text of a 404 is cheaper than a new connection
MIN_RATE = 1024  # bytes a second; slower than this for as long as silence is borne counts as silence
TRICKLE = "the server only drips"
# what the libraries below raise for a line that was lost, silent, or never there
_TROUBLE = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
_WITH_URL = (requests.RequestException, urllib3.exceptions.MaxRetryError)  # whose words name what was asked for


class Reply:
    """The reply to one request: its head now, its body in pieces.

    Args:
        method: what was asked.
        response: what came.
        silence: seconds of silence that are borne.
        set_deadline: told by when something must have come, for another thread to watch.
    """

    def __init__(
        self, method: str, response: requests.Response, silence: float, set_deadline: Callable[[float], None]
    ) -> None:
        self._method = method
        self._response = response
        self._silence = silence
        self._set_deadline = set_deadline
        self._is_begun = False
        self.status = response.status_code
        reason = (response.reason or "")[:LONGEST_REASON]
        self.reason = reason if reason.isprintable() else ""
        self.headers: Mapping[str, str] = response.headers

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it arrives, nothing decoded; where it comes fast, a whole piece at a time.

        Raises:
            Lost: the line broke, fell silent, or became a drip.
        """
        body = self._response.raw
        since = begun = time.monotonic()
        fresh, at, quick = 0, 0, False  # quick: whether the last piece came fast
        self._is_begun = True
        try:
            while True:
                rest = PIECE - at % PIECE
                with self._awaited():
                    piece = (body.read if quick else body.read1)(rest, decode_content=False)
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
        """Be done. A short body is read, so that the line can be used again; else it is closed."""
        length = self.headers.get("Content-Length", "")
        short = length.isascii() and length.isdigit() and len(length) < len(str(SHORT_REST))
        is_chunked = "Transfer-Encoding" in self.headers  # of any length, whatever another header says
        is_unread = not self._is_begun  # what broke off in its middle is not waited for again
        # HEAD has no body, whatever its length says
        if (short and is_unread and not is_chunked) or self._method == "HEAD":
            with self._awaited():
                self._response.raw.drain_conn()
        self._response.close()

    @contextmanager
    def _awaited(self) -> Iterator[None]:
        """Be cut when it takes too long: a drip trips no timeout, nor does what surrounds chunks without end."""
        self._set_deadline(time.monotonic() + 2 * self._silence)
        try:
            yield
        finally:
            self._set_deadline(float("inf"))


class Connection:
    """One connection to the server."""

    def __init__(self, session: requests.Session, release: Callable[[], None]) -> None:
        self.was_aborted = False
        self._session = session
        self._release = release
        self._watched = _Watched()
        session.mount("http://", self._watched)
        session.mount("https://", self._watched)
        self.last_used = time.monotonic()
        self.deadline = float("inf")  # when what is waited for must be here; a drip never trips a timeout

    def send(self, method: str, url: str, headers: Mapping[str, str], silence: float) -> Reply:
        """Ask, and wait for the head of the reply for at most `silence` seconds.

        Raises:
            Lost: no reply came.
        """
        self.deadline = time.monotonic() + 2 * silence + CONNECT_SECONDS
        try:
            response = self._session.request(
                method,
                url,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=(min(CONNECT_SECONDS, 2 * silence), silence),
            )
        except _TROUBLE as error:
            raise transport_error(error) from error
        finally:
            self.deadline = float("inf")
        if self.was_aborted:  # to the libraries a head that ends too soon is a short one
            response.close()
            raise TransportError(Kind.SILENT, TRICKLE)
        return Reply(method, response, silence, self._set_deadline)

    def connect(self, url: str) -> None:
        """Connect to the server of `url` and ask for nothing yet.

        Raises:
            Lost: there is no connection to be had.
        """
        request = self._session.prepare_request(requests.Request("GET", url))
        try:
            pool = self._watched.get_connection_with_tls_context(
                request, self._session.verify, proxies=self._session.proxies
            )
            connection = pool._get_conn(timeout=CONNECT_SECONDS)  # noqa: SLF001 - there is no other door
            connection.timeout = CONNECT_SECONDS
            try:
                connection.connect()
            finally:
                pool._put_conn(connection)  # noqa: SLF001 - see above
        except _TROUBLE as error:
            raise transport_error(error) from error

    def _set_deadline(self, when: float) -> None:
        self.deadline = when

    def abort(self) -> None:
        """Break the connection under the thread that waits on it; for another thread to call."""
        self.was_aborted = True
        self._watched.abort()

    def close(self) -> None:
        """Close the connection, and give its slot back."""
        self._session.close()
        self._watched.close_all()  # the session leaves a connection in use to the garbage collector
        self._release()


class _Session(requests.Session):
    """A session that leaves redirects alone; requests would read their bodies even where it does not follow."""

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002 - the library's signature
        """Return none."""
        return


class _Login(requests.auth.AuthBase):
    """The user name and password of `url`, for its own server alone, wherever that may send us."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(without_credentials(url))[:2]
        self._login = requests.auth.HTTPBasicAuth(*requests.utils.get_auth_from_url(url))

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._login.username and urlsplit(request.url or "")[:2] == self._server:
            self._login(request)
        return request


class _Watched(requests.adapters.HTTPAdapter):
    """An adapter with one connection, which another thread can cut."""

    def __init__(self) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._connections: list[Any] = []
        self._is_aborted = False

    def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
        """Return the pool of the one connection, which is noted when it is made."""
        pool: Any = super().get_connection_with_tls_context(*arguments, **options)
        if not isinstance(pool.ConnectionCls, _Noted):
            pool.ConnectionCls = _Noted(pool.ConnectionCls, self._record_connection)
        return pool

    def _record_connection(self, connection: Any) -> None:
        self._connections[:] = [connection]
        connect = connection.connect

        def connected() -> None:
            connect()
            if self._is_aborted:
                raise ConnectionAbortedError("given up while it was made")

        connection.connect = connected

    def close_all(self) -> None:
        """Close the connection, whoever still holds it."""
        for connection in self._connections:
            connection.close()

    def abort(self) -> None:
        """Shut the socket; who reads from it is told that the line is lost. One that is not made yet ends then."""
        self._is_aborted = True
        for connection in self._connections:
            sock = connection.sock  # the other thread may close it meanwhile
            if sock is not None:
                plain = getattr(sock, "socket", sock)  # of TLS within the TLS of a proxy
                with contextlib.suppress(OSError):
                    # of the plain socket: under TLS the reading thread would lose its state in the middle
                    socket.socket.shutdown(plain, socket.SHUT_RDWR)


class _Noted:
    """Makes connections of `kind`, and tells of each."""

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
    """Makes lines to one server.

    Args:
        url: an address there; decides which proxy is used, and who logs in.
        ca_bundle: the file of the authorities to trust; the environment's, or the machine's, where it is None.
    """

    def __init__(self, url: str, ca_bundle: str | None = None) -> None:
        self._proxies = dict(requests.utils.get_environ_proxies(url))
        self._login = _Login(url)
        self._verify = ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True

    def create(self, release: Callable[[], None]) -> Connection:
        """Return a line that is not connected yet, and calls `release` when it is closed."""
        session = _Session()
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))  # who reads need not be recognised
        session.trust_env = False  # it would read the environment and ~/.netrc at every request
        session.proxies = self._proxies
        session.verify = self._verify
        session.auth = self._login
        session.headers.update(
            {
                "User-Agent": f"empiarfs/{version('empiarfs')} (read-only mount of EMPIAR)",
                "Accept-Encoding": "identity",
                "Accept": "*/*",
            }
        )
        return Connection(session, release)


def transport_error(error: BaseException) -> TransportError:
    """Say in a few words what was wrong with the line."""
    return classify(error, wordless=_WITH_URL)
