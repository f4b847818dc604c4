"""Validates a reply over HTTP: its status, range, length, encoding and date (RFC 9110)."""

import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Protocol

from empiarfs.errors import Forbidden, NotFound, Stale, Throttled, Unavailable
from empiarfs.model import File, Span
from empiarfs.units import LARGEST

LONGEST_RETRY_AFTER = 3600.0
LONGEST_DATE = 64  # characters; that of RFC 9110 has 29

_GONE = {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
_FORBIDDEN = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS}
_THROTTLED = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
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
        raise Forbidden(path, f"the server refuses it (HTTP {reply.status})")
    says = f"the server answers HTTP {reply.status} {reply.reason}".rstrip()
    if reply.status in _THROTTLED:
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


def check_range(reply: Head, file: File, span: Span) -> None:
    """Check that the reply is the requested span of the version that is read.

    Raises:
        Stale: it is of another version.
        Unavailable: it is something else.
    """
    _check_identity(reply, file.path)
    if reply.status != HTTPStatus.PARTIAL_CONTENT:
        raise Unavailable(file.path, f"expected a part of the file (HTTP 206), got HTTP {reply.status}")
    match = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", "").strip())
    if match is not None and match[3] not in {str(file.size), "*"}:  # first: a file that shrank has a shorter part
        raise Stale(file.path, f"the file at the server had {file.size} bytes and has {match[3]}")
    if match is None or match.groups() != (str(span.start), str(span.stop - 1), str(file.size)):
        raise Unavailable(file.path, "the server sends another part than was requested")
    date = modified(reply)
    if date is not None and not file.is_dated(date):
        raise Stale(file.path, "the file at the server was replaced")


def first_part(reply: Head, path: str, size: int) -> tuple[File, Span]:
    """Return the file whose first `size` bytes are requested, and the span that the reply holds.

    Raises:
        Unavailable: it is another part, or the reply does not contain the size of the file.
    """
    _check_identity(reply, path)
    match = _CONTENT_RANGE.fullmatch(reply.headers.get("Content-Range", "").strip())
    if match is None or match[3] == "*":
        raise Unavailable(path, "the server sends no length")
    file = File(path, length(match[3], path), modified(reply))
    span = Span(0, min(size, file.size))
    if match.groups()[:2] != (str(span.start), str(span.stop - 1)):
        raise Unavailable(path, "the server sends another part than was requested")
    return file, span


def modified(reply: Head) -> int | None:
    """Return the Last-Modified in seconds since 1970; None if it is missing or invalid."""
    return seconds(reply.headers.get("Last-Modified", ""))


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
