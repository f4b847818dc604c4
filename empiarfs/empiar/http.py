"""The archive over HTTP; the only module that knows requests.

A reply is used only if it is exactly what was asked for: status, range, total and length are all checked
(RFC 9110, sections 14 and 15). Everything else is an error of ours.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from importlib.metadata import version
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit

import requests
import requests.utils
import urllib3

from empiarfs.errors import Changed, IsADirectory, NotFound, Refused, Unavailable
from empiarfs.model import File, Span

PIECE = 128 * 1024  # bytes handed on at once; divides every block
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 12.0  # EBI: a 12 s limit and a new try were 2.5 times faster than 60 s
MOST_REDIRECTS = 5

_GONE = {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
_REFUSED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS}
_REDIRECTS = {301, 302, 303, 307, 308}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
# what the libraries below raise for a line that was lost, silent, or never there
_LOST = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class HttpClient:
    """Asks one server for what lies below one URL.

    Sessions are lent to one thread at a time, the one used last first, so that there are never more connections
    than threads that ask; the gate in `engine.origins` bounds those.

    Args:
        base_url: the URL of the root, without its last slash.
    """

    def __init__(self, base_url: str) -> None:
        self._base = urlsplit(base_url)
        self._base_url = base_url
        self._idle: list[requests.Session] = []
        self._lock = threading.Lock()
        self._proxies = dict(requests.utils.get_environ_proxies(base_url))
        self._verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        self.requests = 0

    def __repr__(self) -> str:
        return f"<HttpClient {self._base_url} requests={self.requests} idle={len(self._idle)}>"

    def url(self, path: str) -> str:
        """Give the URL of `path`; every byte that is not plain is escaped."""
        if not path:
            return self._base_url
        return f"{self._base_url}/{quote(path.encode('utf-8', 'surrogateescape'), safe='/')}"

    @contextmanager
    def asked(
        self, method: str, path: str, *, slash: bool = False, headers: dict[str, str] | None = None
    ) -> Iterator[requests.Response]:
        """Ask for `path`, and give the reply, its body unread and its status one of 2xx or 416.

        Redirects are followed on this server alone.

        Raises:
            NotFound, Refused, Unavailable; IsADirectory where the server sends to the same URL with a slash.
        """
        url = self.url(path) + ("/" if slash else "")
        with self._session() as session:
            for _ in range(MOST_REDIRECTS + 1):
                response = self._sent(session, method, url, path, headers)
                try:
                    if response.status_code not in _REDIRECTS:
                        _check_status(response, path)
                        yield response
                        return
                    url = self._redirected(url, response.headers.get("Location", ""), path)
                finally:
                    response.close()
            raise Unavailable(path, "the server redirects in a circle")

    def body(self, response: requests.Response, path: str) -> Iterator[bytes]:
        """Give the body of `response` in pieces, as many bytes as its Content-Length says."""
        expected = response.headers.get("Content-Length")
        received = 0
        try:
            while piece := response.raw.read(PIECE, decode_content=False):
                received += len(piece)
                yield piece
        except _LOST as error:
            raise Unavailable(path, _why(error)) from error
        if expected is not None and str(received) != expected.strip():
            raise Unavailable(path, f"the reply was cut: {received} of {expected} bytes")

    def close(self) -> None:
        """Close the connections that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    def _sent(
        self, session: requests.Session, method: str, url: str, path: str, headers: dict[str, str] | None
    ) -> requests.Response:
        self.requests += 1
        try:
            return session.request(
                method,
                url,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=(CONNECT_SECONDS, SILENCE_SECONDS),
            )
        except _LOST as error:
            raise Unavailable(path, _why(error)) from error

    def _redirected(self, url: str, location: str, path: str) -> str:
        target = urljoin(url, location)
        there = urlsplit(target)
        if there.scheme not in {"http", "https"} or there.hostname != self._base.hostname or not location:
            raise Unavailable(path, f"the server redirects to another place: {target[:200]!r}")
        here, beyond = unquote_to_bytes(urlsplit(url).path), unquote_to_bytes(there.path)
        if beyond == here + b"/":
            raise IsADirectory(path)
        return target

    @contextmanager
    def _session(self) -> Iterator[requests.Session]:
        with self._lock:
            session = self._idle.pop() if self._idle else None
        if session is None:
            session = self._new_session()
        sound = False
        try:
            yield session
            sound = True
        except (NotFound, Refused, Changed, IsADirectory):
            sound = True  # a clear answer on a sound line
            raise
        finally:
            if sound:
                with self._lock:
                    self._idle.append(session)
            else:
                session.close()  # whatever hung or broke shall not serve the next one

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False  # it would read the environment and ~/.netrc at every request
        session.proxies = self._proxies
        session.verify = self._verify
        session.headers.update(
            {
                "User-Agent": f"empiarfs/{version('empiarfs')} (read-only mount of EMPIAR)",
                "Accept-Encoding": "identity",
                "Accept": "*/*",
            }
        )
        adapter = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=1, max_retries=0)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session


class HttpOrigin:
    """The bytes, by HEAD and by ranged GET."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    def measure(self, path: str) -> File:
        """See `Origin.measure`."""
        with self._client.asked("HEAD", path) as response:
            length = response.headers.get("Content-Length", "")
            _check_identity(response, path)
            if not (length.isascii() and length.isdigit()):
                raise Unavailable(path, f"the server tells no length (HTTP {response.status_code})")
            return File(path, int(length), _modified(response))

    def fetch(self, file: File, span: Span) -> Iterator[bytes]:
        """See `Origin.fetch`."""
        headers = {"Range": f"bytes={span.start}-{span.stop - 1}"}
        with self._client.asked("GET", file.path, headers=headers) as response:
            _check_range(response, file, span)
            received = 0
            for piece in self._client.body(response, file.path):
                received += len(piece)
                if received > span.size:
                    raise Unavailable(file.path, "the server sends more than was asked for")
                yield piece
            if received != span.size:
                raise Unavailable(file.path, f"the reply was cut: {received} of {span.size} bytes")


def _check_status(response: requests.Response, path: str) -> None:
    status = response.status_code
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise Changed(path, "the file at the server is shorter than it was")
    if status in _GONE:
        raise NotFound(path)
    if status in _REFUSED:
        raise Refused(path, f"the server refuses it (HTTP {status})")
    raise Unavailable(path, f"the server answers HTTP {status} {response.reason or ''}".rstrip())


def _check_identity(response: requests.Response, path: str) -> None:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Unavailable(path, "the server sends a compressed form that was not asked for")


def _check_range(response: requests.Response, file: File, span: Span) -> None:
    """See that the reply is the span that was asked for, of the version that is read."""
    _check_identity(response, file.path)
    if response.status_code != HTTPStatus.PARTIAL_CONTENT:
        raise Unavailable(file.path, f"a part was asked for, and HTTP {response.status_code} came")
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if match is None or (int(match[1]), int(match[2])) != (span.start, span.stop - 1):
        raise Unavailable(file.path, "the server sends another part than was asked for")
    if match[3] != str(file.size):
        raise Changed(file.path, f"the file at the server had {file.size} bytes and has {match[3]}")
    modified = _modified(response)
    if modified is not None and file.modified is not None and modified != file.modified:
        raise Changed(file.path, "the file at the server was replaced")


def _modified(response: requests.Response) -> int | None:
    try:
        return int(parsedate_to_datetime(response.headers.get("Last-Modified", "")).timestamp())
    except (ValueError, OverflowError):
        return None


def _why(error: BaseException) -> str:
    """Say in a few words what was wrong with the line; the libraries say it in many."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    text = " ".join(f"{type(cause).__name__} {cause}" for cause in causes)
    for sign, words in (
        ("ConnectTimeout", "the server does not answer"),
        ("Timeout", "the server went silent"),
        ("timed out", "the server went silent"),
        ("NameResolution", "the server's name cannot be found; is there a network?"),
        ("Connection refused", "the server refuses connections"),
        ("CERTIFICATE", "the server's certificate cannot be verified"),
        ("ProxyError", "the proxy does not answer"),
        ("reset", "the line was lost"),
        ("IncompleteRead", "the line was lost"),
    ):
        if sign in text:
            return words
    return f"no reply: {type(error).__name__}: {str(error)[:200]}"
