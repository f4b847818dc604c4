"""Listings of a hostile server: no name leaves the tree or reaches the terminal raw, and no page takes long."""

import itertools
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.raw_server import RawServer
from support.scripted import Client

from empiarfs.cli import files, options
from empiarfs.empiar import autoindex
from empiarfs.empiar.autoindex import NotAListing, rows
from empiarfs.errors import NotFound
from empiarfs.model import File, Stub, join

HERE = "https://ftp.ebi.ac.uk/empiar/world_availability/10028/data/"
HEAD = b"<title>Index of /</title><h1>Index of /</h1><table>"
FOOT = b"</table></body></html>"
SLOW = 20.0  # seconds of the processor, for what takes two at most


def row(href: bytes, date: bytes = b"2025-02-07 19:49") -> bytes:
    """Return one row of a table."""
    return b'<tr><td><a href="%s">x</a></td><td>%s</td><td>1.0K</td></tr>\n' % (href, date)


def names(*hrefs: bytes) -> list[str]:
    """Return the names of a table with these hrefs."""
    return [found.name for found in rows([HEAD, *map(row, hrefs), FOOT], HERE)]


WORDS = """
./ ../ / // . .. %2e %2E%2e %2f %2F %5c \\ %00 %0a %0d%0a %1b[2J \x1b ; ? # : @ [ ] % %% %25 %252e%252f \x80 \xff
a data file: javascript: data: http: https: ftp: //ftp.ebi.ac.uk //evil.invalid ftp.ebi.ac.uk :443 :8080 me:pw@
/empiar/world_availability/10028/data/ &#x2f; &#47; &#46;&#46; &sol; &period; &bsol; &NewLine; &Tab; &colon;
&#0; &#x202e; &#xd800; &#x110000; &nbsp; &amp;
"""
PARTS = st.sampled_from([*WORDS.split(), " ", "\t", "\n"])


@pytest.mark.promise(
    "A name is a child of the directory that was listed: links that lead upwards (`..`, `%2e%2e`), to another "
    "host, port or scheme, or that hold a slash or a NUL once they are decoded, are ignored."
)
@given(hrefs=st.lists(st.lists(PARTS, min_size=1, max_size=6).map("".join), max_size=5))
@example(hrefs=["..", "%2e%2e", "%2e%2e%2f", "..%2f..", "..\\..", "a%00", "&#46;&#46;", "&period;&period;/"])
@example(hrefs=["https://ftp.ebi.ac.uk:443@evil.invalid/empiar/world_availability/10028/data/a"])
@example(hrefs=["https://ftp.ebi.ac.uk\\@evil.invalid/empiar/world_availability/10028/data/a"])
def test_no_name_leaves_its_directory(hrefs: list[str]) -> None:
    """The name of any link is valid for a file, and its URL lies in the directory."""
    client = Client("https://ftp.ebi.ac.uk/empiar/world_availability").http
    for name in names(*(href.encode("utf-8", "surrogateescape") for href in hrefs)):
        raw = name.encode("utf-8", "surrogateescape")
        assert raw not in {b"", b".", b".."}
        assert not {*raw} & {*b"/\0"}
        assert len(raw) <= 255
        url = client.url(join("10028/data", name))
        assert url.startswith(HERE)
        assert unquote_to_bytes(urlsplit(url).path) == urlsplit(HERE).path.encode() + raw
        assert "\\" not in url
        assert not {*urlsplit(url).path.split("/")} & {".", ".."}


@given(st.text(max_size=60))
@example("\x1b[2J\x1b]0;owned\x07\r\n\u202egpj.exe")
@example("0:00 \x9b2J")
def test_what_ls_shows_is_one_printable_line(text: str) -> None:
    """The names and dates that `ls` shows are one printable line."""
    stub = Stub(text, "1.0K", text)
    for shown in (files._shown(text, stub), files._date(stub), files._size(stub, human=True)):
        assert len(shown.splitlines() or [""]) == 1
        assert not any(ord(one) < 32 or 127 <= ord(one) < 160 for one in shown)


def test_a_date_is_short() -> None:
    """A text longer than a date is not stored as a date."""
    (found,) = rows([HEAD, row(b"a", b"12:30 " + b"x" * 4000), FOOT], HERE)
    assert (found.listed_date, found.listed_size) == ("", "1.0K")


def test_rows_that_say_the_same_share_it() -> None:
    """Rows with equal dates and sizes share their strings."""
    one, other = rows([HEAD, row(b"a"), row(b"b"), FOOT], HERE)
    assert one.listed_date is other.listed_date
    assert one.listed_size is other.listed_size


@pytest.mark.promise(
    "A listing of a million names is read, in some tens of seconds; a longer one, one of more than 512 MiB, "
    "and one that is mostly something else is `EIO`, and no empty directory."
)
@pytest.mark.parametrize(
    "piece",
    [
        b"<b></b>",
        b"<a href=..></a>",
        b"<a href=//x/y></a>",
        b"<tr><td></td></tr>",
        b"<p>",
        b"<a href=a></a><i></i>" * 9,
    ],
    ids=["tags", "links out", "links elsewhere", "empty rows", "paragraphs", "one row and tags"],
)
def test_a_page_of_much_that_is_no_row_is_given_up_soon(piece: bytes) -> None:
    """A page of half a gigabyte without rows is given up soon."""
    whole = piece * (65536 // len(piece))
    begun = time.process_time()
    with pytest.raises(NotAListing):
        rows(itertools.chain([HEAD], itertools.repeat(b"</td>" + whole, 8000)), HERE)
    assert time.process_time() - begun < SLOW


@pytest.mark.parametrize(
    "piece",
    [
        b'<td a="' + b"&amp;" * 12_000 + b'">',
        b" ".join(b"a%d=1" % number for number in range(7000)) + b" ",
        b"<!DOCTYPE html [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;'>]>&b;&b;&b;",
        b"<?xml version='1.0'?><!DOCTYPE x SYSTEM 'file:///etc/passwd'><x>&x;</x>",
        b"<iframe src='file:///etc/passwd'></iframe><object data='http://127.0.0.1:1/'><base href='//evil/'>",
        b"</div>" * 9000,
        b"&" * 60_000,
        b"<" * 60_000,
        b"<a href=" + b"'" * 60_000,
        b"<script>" + b"</scrip" * 8000,
        b"<table><tr><td>" * 3000,
        b"<form><select><option><textarea><title>" * 500,
        b"\0" * 60_000,
    ],
)
def test_no_markup_takes_long(piece: bytes) -> None:
    """A megabyte of malformed markup is read or refused soon, and yields no row."""
    begun = time.process_time()
    try:
        found = rows(itertools.chain([HEAD], itertools.repeat(piece, 16), [FOOT]), HERE)
    except NotAListing:
        found = []
    assert time.process_time() - begun < SLOW
    assert not found


def test_a_page_so_deep_that_its_paths_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a page counts the paths of its rows."""
    monkeypatch.setattr(autoindex, "MOST_BYTES", 100_000)
    page = HEAD + b"".join(row(b"%d" % number) for number in range(1000)) + FOOT
    assert len(rows([page], HERE)) == 1000
    with pytest.raises(NotAListing, match="too large"):
        rows([page], HERE + "d/" * 100)


def test_a_hundred_thousand_names_are_listed_within_bounds() -> None:
    """A hundred thousand long names are listed in seconds, with at most 500 bytes of memory each."""

    def speak(_: bytes) -> Iterator[bytes | None]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + HEAD
        for begin in range(0, 100_000, 1000):
            yield b"".join(row(b"%0255d" % number) for number in range(begin, begin + 1000))
        yield FOOT
        yield None

    with RawServer(speak) as server, Client(server.url) as client:
        begun = time.process_time()
        found = client.listing.scan("10028")
        assert time.process_time() - begun < SLOW
    assert len(found) == 100_000
    assert sum(sys.getsizeof(one) + sys.getsizeof(one.path) for one in found) < 100_000 * 500


@pytest.mark.promise(
    "Names, dates and messages of a server reach a terminal or a log without control characters, one line each."
)
def test_a_name_makes_no_lines_in_the_log(tmp_path: Path) -> None:
    """A name with line ends and escapes is one printable line of the log."""
    file = tmp_path / "log"
    logger = logging.getLogger("empiarfs")
    before: list[Any] = [logger.handlers[:], logger.propagate, logger.level]
    try:
        options.log_to(file, verbose=False)
        logger.warning("%s", NotFound("10028/a\n2030-01-01 00:00:00 ERROR forged\x1b[2J", "gone"))
        logger.handlers[0].close()
    finally:
        logger.handlers[:], logger.propagate = before[:2]
        logger.setLevel(before[2])
    (line,) = file.read_text().splitlines()
    assert line.isprintable()


def test_a_file_of_any_date_can_be_shown() -> None:
    """A date from the first to the last year can be shown."""
    for modified in (-62_135_596_800, -1, 0, 253_402_300_799):
        assert files._date(File("a", 1, modified))
