"""Parses URLs that users write, and removes credentials for display; pure."""

import re
from urllib.parse import unquote, urlsplit

BASE_URL = "https://ftp.ebi.ac.uk/empiar/world_availability"

_LOGIN = re.compile(r"(?:(?<=://)|(?<!\S))[^/?#\s]*@")
_SLASHES = re.compile(r"/{2,}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def without_credentials(url: str) -> str:
    """Return a URL, or a text with URLs, without user names and passwords; a proxy's may lack the scheme."""
    return _LOGIN.sub("", url)


def web_address(text: str) -> str:
    """Parse the URL of a directory; return it with single slashes, none of them at the end.

    Raises:
        ValueError: it is not http or https, has no host, or has a query or a fragment.
    """
    if not _is_address(text, {"http", "https"}):
        raise ValueError(f"{_unfit(text)} is not a web address; write it like {BASE_URL}")
    return _without_doubled_slashes(text)


def _without_doubled_slashes(url: str) -> str:
    scheme, separator, rest = url.strip().partition("://")
    return f"{scheme}{separator}{single_slashes(rest).rstrip('/')}"


def single_slashes(path: str) -> str:
    """Return `path` with one slash in place of several: most servers take both for the same directory."""
    return _SLASHES.sub("/", path)


def _is_address(text: str, schemes: set[str]) -> bool:
    try:
        url = urlsplit(text.strip())
        _ = url.port
        for part in (url.username, url.password):
            unquote(part or "").encode("latin-1")  # as HTTP's basic authentication writes it
        host = (url.hostname or "").encode("idna")  # fails for an empty label, and for one above 63 letters
    except ValueError:
        return False
    if _CONTROL.search(text.strip()) or not host.strip(b".") or b" " in host:  # urlsplit drops line breaks
        return False
    return url.scheme in schemes and not url.query and not url.fragment


def _unfit(text: str) -> str:
    """Return an invalid URL for display, cut after the last `@`: it is unclear where a password in it ends."""
    return repr(f"...@{text.rpartition('@')[2]}" if "@" in text else text)


def ftp_address(text: str) -> str:
    """Parse the FTP URL of a directory, or an empty text; return it with single slashes, none of them at the end.

    Raises:
        ValueError: it is not ftp, has no host, or has a query or a fragment.
    """
    if text.strip() and not _is_address(text, {"ftp"}):
        raise ValueError(
            f"{_unfit(text)} is not an FTP address; write it like ftp://ftp.ebi.ac.uk/empiar/world_availability"
        )
    return _without_doubled_slashes(text)
