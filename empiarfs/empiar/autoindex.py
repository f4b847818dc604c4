"""Parses the index pages of a web server; the only module that uses lxml.

Compared with its target parser, on 100,000 rows (27 MB), in CPU and memory: its pull parser takes 1.2 and 1.8
times as much, selectolax 0.7 and 12 (it holds the whole page), the standard library's parser 5.6 and 1.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from posixpath import normpath
from types import SimpleNamespace
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from lxml import etree

from empiarfs.empiar.autoindex_fields import columns, seconds
from empiarfs.model import Directory, Node, Stub, join

KIB: Final = 1 << 10
MOST_ROWS: Final = 1_000_000  # ten times the largest directory designed for
MOST_BYTES: Final = 512 * KIB * KIB  # one and a half times what that many rows take
MOST_NESTED: Final = 1_000  # an index nests 8 deep; lxml's time for a stray end tag grows with the depth
LONGEST_SILENCE_BYTES: Final = KIB * KIB  # without a tag; unfinished text is held in memory
LONGEST_HREF: Final = 16 * KIB  # a host, and a path of 4 KiB with every byte escaped
LONGEST_NAME_BYTES: Final = 255  # Linux's NAME_MAX
LONGEST_TEXT: Final = 4 * KIB  # of a heading or a cell; longer text is a description
ELEMENTS_A_ROW: Final = 16  # Apache writes 8; each takes time, even without a row
MOST_ELEMENTS_BESIDE: Final = 250_000  # in the text above and below; they take about a second
MOST_CELLS: Final = 4  # the rest of the link's own, date, size, and one for all others
STRIDE_BYTES: Final = 64 * KIB  # between two checks of the limits
TAIL_BYTES: Final = KIB  # in which the end of a complete page is searched

_CONTAINERS: Final = frozenset({"table", "pre", "ul"})
_MARK: Final = "empiarfs-end"  # not the name of an HTML element
_PAGE_END: Final = re.compile(rb"</(?:body|html)\s*>", re.IGNORECASE)
_PLAIN: Final = re.compile(r"[\w$+!*'(),;=~&@-][\w$+!*'(),;=~&@.-]{0,254}/?", re.ASCII)
_REFERENCE: Final = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*):)?(?://(?P<host>[^/]*))?(?P<path>.*)",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)
_DEFAULT_PORT: Final = re.compile(r":(?:80|443)?\Z")


class NotAListing(ValueError):
    """The page is not an index page, or is truncated."""


class Truncated(NotAListing):
    """The page begins as an index page, and is truncated."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an index page.

    Attributes:
        name: the child's name, from the href; bytes that are not UTF-8 are surrogate escapes.
        is_directory: whether the href ends in a slash, the only sign of a directory.
        listed_size: as written (`"543M"`, `"650"`); empty if there is none.
        listed_date: as written; empty if there is none.
    """

    name: str
    is_directory: bool
    listed_size: str
    listed_date: str


def rows(pieces: Iterable[bytes], url: str) -> list[Row]:
    """Parse an index page; return the children it shows, in its order, possibly with duplicates.

    The page may be a table, preformatted text or a list of Apache's mod_autoindex, or a page of nginx or lighttpd.
    A link to anything but a direct child of `url` is ignored.

    Args:
        pieces: the page, in pieces of any length.
        url: the URL of the page, which is that of the directory with a final slash.

    Raises:
        Truncated: the page is cut.
        NotAListing: the page is not an index page, or exceeds a limit.
    """
    page = _Page(_Place(url))
    # Latin-1, whatever charset the reply or the page claims: it preserves the bytes of an href
    parser = etree.HTMLParser(target=page, encoding="iso-8859-1", huge_tree=False, no_network=True)
    parts = _checked(pieces, page, len(url))
    try:
        # read as a file, not fed: a parser that is fed keeps the whole page
        etree.parse(SimpleNamespace(read=lambda _most: next(parts, b"")), parser=parser)
    except etree.LxmlError as problem:
        raise NotAListing(f"not HTML: {problem}") from problem
    if not page.is_index:
        raise NotAListing("not an index page: neither its title nor its heading begins with 'Index of'")
    if not page.is_whole:
        raise Truncated(f"the index page was cut after {len(page.rows)} rows")
    return page.rows


def nodes(rows: Iterable[Row], directory: str) -> list[Node]:
    """Return the nodes of `rows` in the directory `directory`, each name once.

    The first row of a name counts, unless a later one says that it is a directory.
    """
    chosen: dict[str, Row] = {}
    for row in rows:
        if row.is_directory > chosen.setdefault(row.name, row).is_directory:
            chosen[row.name] = row
    return [
        Directory(path=join(directory, row.name), modified=seconds(row.listed_date))
        if row.is_directory
        else Stub(join(directory, row.name), listed_size=row.listed_size, listed_date=row.listed_date)
        for row in chosen.values()
    ]


class _Place:
    """The URL of a page, against which its links are resolved."""

    def __init__(self, url: str) -> None:
        split = urlsplit(url)
        self._host = _host(split.netloc)
        self._path = split.path.rpartition("/")[0] + "/"
        self._parts = _parts(self._path)

    def child(self, href: str) -> tuple[str, bool] | None:
        """Return the name of the child that `href` links to and whether it is a directory; None for other links."""
        if _PLAIN.fullmatch(href):  # nearly all: nothing to decode, resolve or check
            return (href[:-1], True) if href[-1] == "/" else (href, False)
        # not urljoin, which strips the end of `a%20b;`
        reference = _REFERENCE.fullmatch(href.strip(" \t\r\n\f"))
        # U+FFFD was a NUL in the page: a U+FFFD of a name is escaped, or three characters of Latin-1
        if not reference or {*href} & {"?", "#", "\ufffd"}:
            return None
        scheme, host, path = reference.groups()
        is_elsewhere = _host(host) != self._host if host is not None else scheme is not None
        if is_elsewhere or (scheme or "http").lower() not in {"http", "https"}:
            return None
        if host is None and not path.startswith("/"):
            path = self._path + path
        *home, name = _parts(path) or [b""]
        is_deeper = home != self._parts or b"/" in name
        if is_deeper or name in {b"", b".", b".."} or b"\0" in name or len(name) > LONGEST_NAME_BYTES:
            return None
        return name.decode("utf-8", errors="surrogateescape"), path.endswith(("/", "/."))


def _host(netloc: str) -> str:
    return _DEFAULT_PORT.sub("", netloc.lower())


def _parts(path: str) -> list[bytes]:
    """Return the parts of an absolute path, with dots resolved and then each unescaped once."""
    path = normpath(path)
    # only a character that the page writes as an HTML entity is beyond Latin-1
    raw = path.encode("latin-1" if max(path) < "\u0100" else "utf-8")
    return [unquote_to_bytes(part) for part in raw.split(b"/") if part]


def _checked(pieces: Iterable[bytes], page: "_Page", path_bytes: int) -> Iterator[bytes]:
    """Yield the page in parts, then a mark; raise NotAListing once `page` exceeds the limits of an index."""
    size = heard = silence = 0
    tail = b""
    for piece in pieces:
        for at in range(0, len(piece), STRIDE_BYTES):
            part = piece[at : at + STRIDE_BYTES]
            yield part
            size += len(part)
            silence = silence + len(part) if page.opened == heard else 0
            heard = page.opened
            tail = (tail + part)[-TAIL_BYTES:]
            count = len(page.rows)  # each row becomes a path, which repeats that of the directory
            if max(size, count * path_bytes) > MOST_BYTES or count > MOST_ROWS:
                raise NotAListing(f"too large for an index page: {size} bytes, {count} rows")
            if page.opened > MOST_ELEMENTS_BESIDE + ELEMENTS_A_ROW * count:
                raise NotAListing(f"not an index page: {page.opened} elements in {count} rows")
            if page.nested > MOST_NESTED or max(silence, 0 if page.is_index else size) > LONGEST_SILENCE_BYTES:
                raise NotAListing(f"not an index page, by its first {size} bytes")
    # an open tag or comment swallows the mark, so truncation there is detected as well
    yield f"<{_MARK}>".encode() if _PAGE_END.search(tail) else b""


class _Page:
    """The state of parsing a page; lxml calls `start`, `end` and `data` as it reads."""

    def __init__(self, place: _Place) -> None:
        self.rows: list[Row] = []
        self.is_index = False
        self.is_whole = False
        self.opened = 0  # elements in total
        self.nested = 0  # open elements
        self._containers_open = 0
        self._containers_closed = 0
        self._place = place
        self._heading: str | None = None  # None outside a heading
        self._child: tuple[str, bool] | None = None  # of the link whose row is being parsed
        self._cells: list[str] | None = None  # the texts behind that link, once it has ended

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self.opened += 1
        self.nested += 1
        if tag == "td":
            if self._cells is not None and len(self._cells) < MOST_CELLS:
                self._cells.append("")
        elif tag == "a":
            self._finish_row()
            href = attributes.get("href", "")
            if len(href) > LONGEST_HREF:
                raise NotAListing(f"not an index page: a link of {len(href)} characters")
            if self._containers_open:  # else the link is in the text above or below
                self._child = self._place.child(href)
        elif tag in _CONTAINERS:
            self._containers_open += 1
        elif tag in {"title", "h1"}:
            self._heading = ""
        elif tag == _MARK:
            self.is_whole = self._containers_closed > 0 and self._containers_open == 0

    def end(self, tag: str) -> None:
        self.nested -= 1
        if tag == "a":
            self._cells = [""]
        elif tag in _CONTAINERS:
            self._finish_row()
            self._containers_open -= 1
            self._containers_closed += 1
        elif tag in {"title", "h1"}:
            self.is_index = self.is_index or (self._heading or "").strip().lower().startswith("index of")
            self._heading = None

    def data(self, text: str) -> None:
        if self._heading is not None:
            if len(self._heading) < LONGEST_TEXT:
                self._heading += text
        elif self._cells is not None and len(self._cells[-1]) < LONGEST_TEXT:
            self._cells[-1] += text

    def close(self) -> None:
        """Return None: lxml requires this method, and returns its result."""

    def _finish_row(self) -> None:
        if self._child is None or self._cells is None:
            return
        name, is_directory = self._child
        size, date = columns(self._cells)
        self._child = self._cells = None
        # with IconsAreLinks Apache links the icon as well: the same name, without size and date
        if self.rows and self.rows[-1].name == name and self.rows[-1] == Row(name, is_directory, "", ""):
            del self.rows[-1]
        self.rows.append(Row(name, is_directory, sys.intern(size), sys.intern(date)))  # most values repeat
