"""Addresses of servers as users write them, and what of them may be shown; pure."""

import re
from urllib.parse import unquote, urlsplit

BASE_URL = "https://ftp.ebi.ac.uk/empiar/world_availability"

_LOGIN = re.compile(r"(?:(?<=://)|(?<!\S))[^/?#\s]*@")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def without_credentials(url: str) -> str:
    """Return `url` without user name and password; it may stand in a sentence, and a proxy's without its scheme."""
    return _LOGIN.sub("", url)


def web_address(text: str) -> str:
    """Read the URL of a directory, without its last slash.

    Raises:
        ValueError: it is not http or https, or has no host, a query or a fragment.
    """
    if not _is_address(text, {"http", "https"}):
        raise ValueError(f"{_unfit(text)} is not a web address; write it like {BASE_URL}")
    return text.strip().rstrip("/")


def _is_address(text: str, schemes: set[str]) -> bool:
    try:
        url = urlsplit(text.strip())
        _ = url.port
        for part in (url.username, url.password):
            unquote(part or "").encode("latin-1")  # as HTTP's basic authentication writes it
        host = (url.hostname or "").encode("idna")  # no empty label, and none of more than 63 letters
    except ValueError:
        return False
    if _CONTROL.search(text.strip()) or not host.strip(b".") or b" " in host:  # urlsplit leaves line breaks out
        return False
    return url.scheme in schemes and not url.query and not url.fragment


def _unfit(text: str) -> str:
    """Return what may be shown of an address that is none: nobody can tell where a password in it ends."""
    return repr(f"...@{text.rpartition('@')[2]}" if "@" in text else text)


def ftp_address(text: str) -> str:
    """Read the URL of a directory on FTP, without its last slash; or nothing.

    Raises:
        ValueError: it is not ftp, or has no host.
    """
    if text.strip() and not _is_address(text, {"ftp"}):
        raise ValueError(
            f"{_unfit(text)} is not an FTP address; write it like ftp://ftp.ebi.ac.uk/empiar/world_availability"
        )
    return text.strip().rstrip("/")
