"""The origin over HTTP: measures files by HEAD, and fetches them by ranged GETs.

A reply is used only if it is exactly what was requested: status, range, total and length are all checked
(RFC 9110, sections 14 and 15).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from http import HTTPStatus
from typing import TypeVar

from empiarfs.cancellation import CancelToken
from empiarfs.empiar import validation
from empiarfs.empiar.connection import Reply
from empiarfs.empiar.http import HttpClient
from empiarfs.errors import Forbidden, IsADirectory, NotFound, Stale, Unavailable, WrongRange
from empiarfs.model import File, Span
from empiarfs.ports import NEVER

T = TypeVar("T")

log = logging.getLogger(__name__)


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
        reason = "the server refuses a URL with a query"
        for bypass in (one for one in Bypass if one >= self._bypass):
            query = f"bytes={span.start}-{span.stop - 1}" if bypass is Bypass.QUERY else ""
            is_checked = False
            try:
                with self._client.request(
                    "GET",
                    path,
                    part=span,
                    query=query,
                    no_cache=bypass > Bypass.NONE,
                    deadline=deadline,
                    token=token,
                ) as reply:
                    checked = check(reply)
                    is_checked = True
                    if bypass > self._bypass:
                        log.warning(
                            "%s: a cache on the way sends other parts of files than requested; passing it", path
                        )
                        self._bypass = bypass
                    yield reply, checked
            except WrongRange as error:
                log.debug("%s; requesting it past the caches", error)
                reason = error.reason
            except (NotFound, Forbidden, Stale, IsADirectory):
                if is_checked or bypass is not Bypass.QUERY:
                    raise
            else:
                return
        self._bypass = Bypass.NONE
        raise WrongRange(path, reason)
