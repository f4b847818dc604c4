"""Any text of a header, setting, path or database row is accepted, or refused in one way."""

import math
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.cache_files import get, put

from empiarfs.empiar import validation
from empiarfs.empiar.connection import Reply
from empiarfs.errors import ArchiveError, Stale, Throttled, Unavailable
from empiarfs.model import Block, Directory, File, Span, Stub
from empiarfs.paths import archive_path
from empiarfs.settings import ROWS
from empiarfs.storage import chunks
from empiarfs.storage.chunks import Chunk
from empiarfs.storage.disk import DiskStore
from empiarfs.storage.index import SqliteIndex
from empiarfs.units import LARGEST, LONGEST_SECONDS, byte_count, seconds

FILE = File("10028/a", 1000, 1_700_000_000)
LISTED = File("10028/a", 1000, 1_700_000_000, coarse_mtime=True)
SPAN = Span(100, 300)
HEADER = st.text(alphabet=st.characters(max_codepoint=255), max_size=80)
DIGITS = st.text(alphabet="0123456789+-_. \t\x1e\x85\xb2\xb3\u0663\u2085xeE", max_size=24)


@dataclass
class Head:
    """A reply of which only the head is read."""

    status: int = 206
    reason: str = "Partial Content"
    headers: Mapping[str, str] = field(default_factory=dict)


def head(status: int = 206, **headers: str) -> Reply:
    """Return the head of a reply."""
    return cast("Reply", Head(status, headers={name.replace("_", "-"): value for name, value in headers.items()}))


RANGES = st.one_of(
    HEADER,
    st.builds("bytes {}-{}/{}".format, DIGITS, DIGITS, DIGITS),
    st.builds("bytes {}-{}/{}".format, *[st.sampled_from(["99", "100", "299", "300", "1000", "1001", "*"])] * 3),
)


@settings(max_examples=400)
@given(content_range=RANGES, modified=st.one_of(HEADER, st.sampled_from([formatdate(1_700_000_000, usegmt=True)])))
@example(content_range="bytes 100-299/1000", modified="")
@example(content_range="bytes 100-299/*", modified="")
def test_only_the_requested_range_is_accepted(content_range: str, modified: str) -> None:
    """Any Content-Range but the requested one raises Stale or Unavailable."""
    for file in (FILE, LISTED):
        try:
            validation.check_range(head(Content_Range=content_range, Last_Modified=modified), file, SPAN)
        except (Stale, Unavailable):
            continue
        assert content_range.strip() == "bytes 100-299/1000"


@given(st.one_of(DIGITS, HEADER))
@example("9" * 19)
@example(str(2**63))
@example(str(2**63 - 1))
@example("\x1e5")
@example("5\x85")
def test_a_length_is_a_number_that_a_file_can_have(text: str) -> None:
    """A length is a valid size of a file, or raises Unavailable."""
    with suppress(Unavailable):
        length = validation.length(text, "10028/a")
        assert 0 <= length < 2**63
        assert text.strip(" \t").isascii()
        assert text.strip(" \t").isdigit()


@given(st.one_of(HEADER, st.text(alphabet="MonJaFeb 0123456789:,-+GMTESZ()", max_size=60)))
@example("Mon, 01 Jan 2024 00:00:00 +9999")
@example("Mon, 01 Jan 2024 99:99:99 GMT")
@example("Mon, 31 Feb 2024 00:00:00 GMT")
@example("1 Jan 99999999999999999999 00:00:00")
@example("Fri, 31 Dec 9999 23:59:59 -1200")
@example("0 0 0 0:0:0 " + "9" * 5000)
def test_a_date_is_a_moment_or_none(text: str) -> None:
    """A date is a time that the kernel and a calendar can show, or None."""
    moment = validation.seconds(text)
    assert moment is None or time.gmtime(moment)


@given(status=st.integers(min_value=100, max_value=999), retry_after=st.one_of(DIGITS, HEADER))
@example(status=429, retry_after="9" * 5000)
@example(status=503, retry_after="Fri, 31 Dec 9999 23:59:59 GMT")
@example(status=503, retry_after="\u0663")
def test_every_status_is_right_or_one_error(status: int, retry_after: str) -> None:
    """200 and 206 are accepted, and any other status raises an ArchiveError with a pause of at most an hour."""
    reply = head(status, Retry_After=retry_after)
    if status in {200, 206}:
        validation.check_status(reply, "10028/a", is_part=True)
        return
    with pytest.raises(ArchiveError) as caught:
        validation.check_status(reply, "10028/a", is_part=True)
    assert not isinstance(caught.value, Throttled) or 0 <= caught.value.pause <= 3600


@given(
    st.one_of(
        st.text(max_size=40), st.builds("{}{}".format, DIGITS, st.sampled_from("KMGTkmgt\u212a\u0131 BiIsdh"))
    )
)
@example("5\u212a")
@example("5 \u0130B")
@example("\u0665G")
@example("9" * 400)
@example("1" * 5000 + "." + "1" * 5000 + "T")
@example("1e999")
@example("nan")
@example("inf")
def test_sizes_and_times_are_numbers_or_refused(text: str) -> None:
    """A text is a finite size or time, or raises ValueError."""
    with suppress(ValueError):
        assert 0 <= byte_count(text) <= LARGEST
    with suppress(ValueError):
        assert 0 <= seconds(text) <= LONGEST_SECONDS
        assert math.isfinite(seconds(text))


@pytest.mark.parametrize("text", ["5\u212a", "\u0665G", "1" * 500, "\u0665s"])
def test_digits_and_units_of_other_scripts_are_refused(text: str) -> None:
    """Digits and letters of other scripts, as the sign for kelvin, are refused in sizes."""
    with pytest.raises(ValueError, match="is not a size"):
        byte_count(text)


@pytest.mark.parametrize("text", ["9" * 90, "100000000000", "999999999d"])
def test_a_time_beyond_any_clock_is_refused(text: str) -> None:
    """A time too long for the system's clock is refused, because a wait would raise OverflowError."""
    with pytest.raises(ValueError, match="too long"):
        seconds(text)


@given(
    name=st.sampled_from(sorted(ROWS)),
    text=st.one_of(
        st.text(max_size=30),
        st.builds(
            "{}://{}{}".format,
            st.sampled_from(["http", "ftp", "https", "file", ""]),
            st.text(alphabet="a1.:@[]/%\\?# \n\xe9", max_size=12),
            st.sampled_from(["", ":99999", ":x", "/..", "/%00"]),
        ),
    ),
)
@example(name="ftp_url", text="ftp://a:x")
@example(name="base_url", text="http://a:99999")
@example(name="base_url", text="http://[")
@example(name="max_connections", text="\u0664")
def test_every_setting_is_understood_or_refused(name: str, text: str) -> None:
    """Any text of a setting is a usable value or raises ValueError."""
    with suppress(ValueError):
        ROWS[name].parse(text)


@pytest.mark.parametrize("text", ["ftp://a:x", "ftp://a:99999", "ftp://["])
def test_an_ftp_address_without_a_port_that_can_be_is_refused(text: str) -> None:
    """An FTP address with an invalid port is refused."""
    with pytest.raises(ValueError, match=r"FTP address|Invalid"):
        ROWS["ftp_url"].parse(text)


PARTS = ("..", ".", "", "10028", "EMPIAR-10028", "empiar:", "http:", "127.0.0.1", "base", "%2e%2e", "%2f", "%00")
ODD_PARTS = ("a\0b", "\x1b[2J", "\\..\\", "[", "\udcff", "..%2f..")
PATHS = st.lists(st.sampled_from([*PARTS, *ODD_PARTS]), max_size=8).map("/".join)


@pytest.mark.promise("A path that is typed or passed to the archive must not contain `..` either.")
@settings(max_examples=400)
@given(st.one_of(PATHS, st.text(max_size=40)))
@example("http://127.0.0.1/base/%2e%2e/%2e%2e/x")
@example("http://127.0.0.1/base/10028%2f..%2f..%2fx")
@example("empiar://../x")
@example("http://[/")
def test_a_path_that_is_typed_stays_in_the_archive(text: str) -> None:
    """Any text is a path without dots and empty names, or raises ValueError."""
    with suppress(ValueError):
        path = archive_path(text, "http://127.0.0.1/base")
        assert path == "" or not {*path.split("/")} & {"", ".", ".."}


# rows of a database that somebody else has written

CELLS = st.one_of(
    st.none(), st.integers(min_value=-(2**63), max_value=2**63 - 1), st.floats(), st.binary(max_size=40),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40),
    st.sampled_from(["00/" + "0" * 30 + ".val", "../../../../etc/passwd", "/etc/passwd", "", b"a", 0, 1, 4]),
)  # fmt: skip
BLOCK = Block(FILE, 0)
_quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for blocks."""
    return tmp_path_factory.mktemp("blocks")


def _sql(folder: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(folder / "cache.db")) as database, database:
        database.execute(statement, values)


@_quick
@given(
    cells=st.tuples(CELLS, CELLS, CELLS, CELLS, CELLS),
    number=st.sampled_from(["", "0", "x", "-1", "0+1", "9" * 30, "\u0660"]),
)
def test_any_row_of_the_cache_is_a_block_or_nothing(disk: Path, cells: tuple[Any, ...], number: str) -> None:
    """Any row in the database of the cache is a miss, and the block can be stored and read afterwards."""
    with closing(DiskStore(disk, 1 << 30, archive="a", block_bytes=1024)) as store:
        raw, *rest = cells
        with suppress(sqlite3.Error, OverflowError):
            _sql(
                disk,
                "INSERT OR REPLACE INTO Cache (key, raw, store_time, access_time, size, mode, filename, value)"
                " VALUES (?, ?, 0, 0, ?, ?, ?, ?)",
                Chunk("a", 1024, FILE, 0).key[:-1] + (number or "0"),
                raw if number else 1,
                *rest,
            )
        assert get(store, BLOCK) is None
        put(store, BLOCK, b"right")
        assert get(store, BLOCK) in {b"right", None}
        with suppress(sqlite3.Error):
            _sql(disk, "DELETE FROM Cache")


@given(stored=st.binary(max_size=200), number=st.integers(0, 10**18))
def test_no_bytes_pass_for_the_head_of_a_chunk(stored: bytes, number: int) -> None:
    """Without the digest that belongs to the key."""
    chunk = Chunk("a", 1 << 17, FILE, number)
    assert chunks.parse(chunk, stored[: chunk.head_bytes]) is None


@given(key=st.one_of(st.text(max_size=60), st.builds("a {} b {} {} {} {}".format, *[DIGITS] * 5)))
@example(key="a 0 b 1 None 0 1")
@example(key="a 1 b 1 None 0 " + "9" * 30)
@example(key="a \u0661 b 1 None 0 1")
@example(key="a 1 \u0436 1 None 0 1")
def test_a_key_names_a_chunk_or_none(key: str) -> None:
    """However it is written by whoever wrote it: a chunk has few blocks, and this key alone but for zeros."""
    chunk = chunks.parse_key(key)
    if chunk is not None:
        assert 1 <= len(chunk.numbers) <= chunks.CHUNK_BYTES
        assert chunks.parse_key(chunk.key) == chunk


@_quick
@given(
    cells=st.fixed_dictionaries(
        {
            "name": CELLS, "position": CELLS, "is_directory": CELLS, "listed": CELLS, "missed": CELLS,
            "listed_size": CELLS, "listed_date": CELLS, "size": CELLS, "modified": CELLS, "dated_by_list": CELLS,
        }
    ),
    scanned=CELLS,
    asked=CELLS,
)  # fmt: skip
@example(
    cells=dict.fromkeys(["position", "is_directory", "listed", "missed", "size", "modified", "dated_by_list"], 0)
    | {"name": "text", "listed_size": "", "listed_date": ""},
    scanned=1.0,
    asked="never",
)
def test_any_row_of_the_index_is_an_entry_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, cells: dict[str, Any], scanned: Any, asked: Any
) -> None:
    """Any row of the index is a valid node under a valid name, or nothing."""
    with closing(SqliteIndex(tmp_path_factory.mktemp("index") / "tree")) as index:
        database = index._usable("reading")
        assert database is not None
        for statement, values in (
            ("INSERT INTO directories VALUES (?, ?)", (b"10028", scanned)),
            ("INSERT INTO absent VALUES (?, ?)", (b"10028/a", asked)),
            ("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (b"10028", *cells.values())),
        ):
            with suppress(sqlite3.Error):
                database.execute(statement, values)
        name = cells["name"]
        path = f"10028/{os.fsdecode(name)}" if isinstance(name, bytes) else "10028/a"
        asks: list[Callable[[], object]] = [
            lambda: index.node(path),
            lambda: index.directory("10028"),
            lambda: index.absent_since("10028/a"),
            lambda: index.unmeasure(File(path, 0, 0)),
            lambda: index.add(File(path, 7, 8)),
            lambda: index.remove(path, 9.0),
            lambda: index.replace("10028", [Stub("10028/b")], 10.0),
        ]
        for ask in asks:
            ask()
        node = index.node(path)
        assert node is None or isinstance(node, File | Directory | Stub)
        known = index.replace("10028", [Stub("10028/b")], 10.0)
        assert "10028/b" in {one.path for one in known.nodes.values()}
        for one in known.nodes.values():
            below = one.path.removeprefix("10028/")
            assert "/" not in below
            if isinstance(one, File):
                assert isinstance(one.size, int)
                assert one.size >= 0
