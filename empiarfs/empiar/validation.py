"""Validates a reply over HTTP: its status, range, length, encoding and date (RFC 9110)."""

import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

from empiarfs.errors import Forbidden, NotFound, Stale, Throttled, Unavailable, WrongRange
from empiarfs.model import File, Span
from empiarfs.units import LARGEST

LONGEST_RETRY_AFTER = 3600.0
LONGEST_CONTENT_RANGE = 80  # characters in a message; a valid one has 66 at most
LONGEST_DATE = 64  # characters; that of RFC 9110 has 29

_GONE = {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
_FORBIDDEN = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS}
_THROTTLED = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_ETAG = re.compile(r'"([0-9a-f]{1,16})-([0-9a-f]{1,13})"', re.ASCII)  # 13 digits: until 2112
_LENGTH = re.compile(r"\d{1,19}", re.ASCII)


class Head(Protocol):
    """The status and the header fields of a reply."""

    @property
    def status(self) -> int:
        """The status code."""
        ...

    @property
    def reason(self) -> str:
        """The reason phrase."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields, by name."""
        ...


def is_throttled(reply: Head) -> bool:
    """Return whether the server refuses the request because there are too many."""
    return reply.status in _THROTTLED


def closes(reply: Head) -> bool:
    """Return whether the server closes the connection after the reply (RFC 9112, 9.6)."""
    return "close" in reply.headers.get("Connection", "").lower()


def check_status(reply: Head, path: str, *, is_part: bool) -> None:
    """Check that the reply has status 200, or 206 if a part was requested.

    Raises:
        NotFound, Forbidden, Stale (416), Throttled, Unavailable.
    """
    if reply.status == HTTPStatus.OK or (is_part and reply.status == HTTPStatus.PARTIAL_CONTENT):
        return
    if is_part and reply.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise Stale(path, "the file at the server is shorter than it was")
    if reply.status in _GONE:
        raise NotFound(path)
    if reply.status in _FORBIDDEN:
        is_public = "" if reply.status == HTTPStatus.UNAUTHORIZED else ": not (or not yet) public?"
        raise Forbidden(path, f"the server refuses it (HTTP {reply.status}){is_public}")
    says = f"the server answers HTTP {reply.status} {reply.reason}".rstrip()
    if is_throttled(reply):
        raise Throttled(path, says, retry_after(reply))
    raise Unavailable(path, says)


def length(text: str, path: str) -> int:
    """Parse a length in bytes.

    Raises:
        Unavailable: it is not a length.
    """
    number = text.strip(" \t")  # the only whitespace that HTTP allows
    if not _LENGTH.fullmatch(number) or int(number) > LARGEST:
        raise Unavailable(path, "the server sends no length")
    return int(number)


def _check_identity(reply: Head, path: str) -> None:
    if reply.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Unavailable(path, "the server sends a compressed form that was not requested")


def check_is_file(reply: Head, path: str) -> None:
    """Check that the reply is a file, and not a page that a proxy sends in its place.

    Raises:
        Unavailable: it is not a file.
    """
    _check_identity(reply, path)
    kind = reply.headers.get("Content-Type", "").lower()
    if kind.startswith("text/html") and "Last-Modified" not in reply.headers:
        raise Unavailable(path, "got an HTML page instead of the file (captive portal or proxy?)")


def check_range(reply: Head, file: File, span: Span) -> int | None:
    """Check that the reply is the requested span of the version that is read; return its date, if it has one.

    Raises:
        Stale: it is of another version.
        WrongRange: it is another part.
        Unavailable: it is something else.
    """
    _check_identity(reply, file.path)
    if reply.status != HTTPStatus.PARTIAL_CONTENT:
        raise Unavailable(file.path, f"expected a part of the file (HTTP 206), got HTTP {reply.status}")
    match = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", "").strip())
    if match is not None and match[3] not in {str(file.size), "*"}:  # first: a file that shrank has a shorter part
        raise Stale(file.path, f"the file at the server had {file.size} bytes and has {match[3]}")
    if match is None or match.groups() != (str(span.start), str(span.stop - 1), str(file.size)):
        raise WrongRange(file.path, _other_part(reply, span))
    date = modified(reply, file.size)
    if date is not None and not file.is_dated(date):
        raise Stale(file.path, "the file at the server was replaced")
    return date


def first_part(reply: Head, path: str, size: int) -> tuple[File, Span]:
    """Return the file whose first `size` bytes are requested, and the span that the reply holds.

    Raises:
        WrongRange: it is another part.
        Unavailable: the reply does not contain the size of the file.
    """
    _check_identity(reply, path)
    match = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", "").strip())
    if match is None or match[3] == "*":
        raise Unavailable(path, "the server sends no length")
    total = length(match[3], path)
    file = File(path, total, modified(reply, total))
    span = Span(0, min(size, file.size))
    if match.groups()[:2] != (str(span.start), str(span.stop - 1)):
        raise WrongRange(path, _other_part(reply, span))
    return file, span


def _other_part(reply: Head, span: Span) -> str:
    got = reply.headers.get("Content-Range", "none")[:LONGEST_CONTENT_RANGE]
    return f"expected bytes {span.start}-{span.stop - 1}, got {got!r}: a cache between here and the server?"


def modified(reply: Head, size: int) -> int | None:
    """Return the date of a file of `size` bytes, in seconds since 1970; None if the reply does not tell it.

    It is the Last-Modified, else that in an ETag of Apache, the size and the microseconds since 1970 in hexadecimal
    (`ap_make_etag` in server/util_etag.c).
    """
    date = seconds(reply.headers.get("Last-Modified", ""))
    etag = _ETAG.fullmatch(reply.headers.get("ETag", ""))
    if date is None and etag is not None and int(etag[1], 16) == size:
        return int(etag[2], 16) // 1_000_000
    return date


@lru_cache(maxsize=1024)  # all replies about one file have the same date
def seconds(text: str) -> int | None:
    """Parse an HTTP date; return seconds since 1970, None if it is not a date."""
    if len(text) > LONGEST_DATE:
        return None
    try:
        date = parsedate_to_datetime(text)
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())  # -0000 is UTC, not local
    except (ValueError, OverflowError):
        return None


def retry_after(reply: Head) -> float:
    """Return the seconds of Retry-After, which holds seconds or a date; 0 if there is none."""
    text = reply.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), LONGEST_RETRY_AFTER)
    until = seconds(text)
    if until is None:
        return 0.0
    theirs = seconds(reply.headers.get("Date", ""))  # the server's clock: the local one may be wrong
    return min(max(0.0, until - (time.time() if theirs is None else theirs)), LONGEST_RETRY_AFTER)
