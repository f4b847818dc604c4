"""Parses what users write for a path in the archive; pure."""

import re
from urllib.parse import unquote_to_bytes, urlsplit

from empiarfs.model import is_entry_number
from empiarfs.urls import single_slashes

_ACCESSION = re.compile(r"EMPIAR-(\d+)", re.ASCII | re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/?#]*@")
# today's page, the older ones, and the DOI of an entry
_PAGE = re.compile(
    r"(?:(?:www\.)?ebi\.ac\.uk/(?:pdbe/emdb/)?empiar/(?:entry/)?(?:EMPIAR-)?|(?:dx\.)?doi\.org/10\.6019/EMPIAR-)(\d+)/*",
    re.ASCII | re.IGNORECASE,
)


def entry_of(name: str) -> str | None:
    """Return the directory of the accession `name`: `"10028"` for `"EMPIAR-10028"`; None if it is no accession."""
    match = _ACCESSION.fullmatch(name)
    return match[1] if match else None


def is_local(text: str) -> bool:
    """Return whether `text` means a path of this machine: it is no address, and does not begin with an entry.

    A relative path that begins with a number is one of the archive; `./10028` is one of this machine.
    """
    if "://" in text:
        return False
    first = text.partition("/")[0]
    return not is_entry_number(entry_of(first) or first)


def archive_path(text: str, base_url: str) -> str:
    """Return the path in the archive that a user means by `text`.

    It may be `10028/data/a.mrc`, `EMPIAR-10028/data/a.mrc`, `empiar://10028/data/a.mrc` (all three literally,
    nothing is unescaped), a URL below `base_url` (percent-escapes are undone), or the web page or DOI of an entry.

    Args:
        text: what the user wrote.
        base_url: the directory that holds the numbered entries; a user name and password in it are ignored.

    Raises:
        ValueError: it is outside the archive; the message shows neither user name nor password.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() in {"http", "https"}:
        rest = _below(text, base_url)
    elif separator and scheme.lower() != "empiar":
        raise ValueError(f"{_without_user(text)} is not a URL in EMPIAR; write it like empiar://10028/data")
    elif not separator:
        rest = text
    parts = [part for part in rest.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise ValueError(f"{_without_user(text)} must not contain '..'; write the path out")
    if parts:
        parts[0] = entry_of(parts[0]) or parts[0]
    return "/".join(parts)


def entry_number(text: str, base_url: str) -> str:
    """Return the number of the entry that a user means by `text`, which may be written as for `archive_path`.

    Raises:
        ValueError: it is not an entry, but a path in one or something else.
    """
    path = archive_path(text, base_url)
    if not is_entry_number(path):
        raise ValueError(f"{_without_user(text)!r} is not an entry; write it like 10028 or EMPIAR-10028")
    return path


def _below(text: str, base_url: str) -> str:
    """Return the path of the URL `text` below `base_url`, or the number of the entry whose web page it is."""
    base_url = _without_user(base_url)
    try:
        base, url = urlsplit(base_url), urlsplit(_without_user(text))
    except ValueError as error:
        raise ValueError(f"{_without_user(text)} is not a valid URL: {error}") from error
    below, path = base.path.rstrip("/") + "/", single_slashes(url.path)
    if url.netloc == base.netloc and (path + "/").startswith(below):
        return unquote_to_bytes(path[len(below) :]).decode("utf-8", "surrogateescape")
    page = _PAGE.fullmatch(url.netloc + url.path)
    if page is None:
        raise ValueError(
            f"{_without_user(text)} is neither below {base_url} nor the web page of an entry; "
            "write it like 10028/data"
        )
    return page[1]


def _without_user(url: str) -> str:
    return _USER.sub("", url)
