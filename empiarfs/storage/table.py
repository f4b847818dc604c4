"""The rows of a store of blocks, for who looks after them; beside `database` alone this knows how they are kept."""

import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from empiarfs.model import File
from empiarfs.storage import segments, sqlite
from empiarfs.storage.circuit_breaker import is_damage
from empiarfs.storage.database import BINARY, BUSY_SECONDS, NAME, is_block_file

FILES = {NAME, *(path.name for path in sqlite.beside(Path(NAME)))}
ROWS_AT_ONCE = 1000
_COLUMNS = "rowid, key, raw, mode, filename, size, store_time"
_NAME = re.compile(
    r"(?P<prefix>(?P<archive>\S+) (?P<block_bytes>\d{1,10}) (?P<path>[\x00-\xff]*) (?P<size>\d{1,19}) "
    r"(?P<modified>None|-?\d{1,19}) (?P<listed>[01]) )\d+\+\d+",
    re.ASCII | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Segment:
    """What the name of a segment says.

    Attributes:
        archive: which archive its file belongs to.
        block_bytes: the length of a block.
        file: which version of which file.
        numbers: which blocks of it.
    """

    archive: str
    block_bytes: int
    file: File
    numbers: range


@dataclass(frozen=True, slots=True)
class Row:
    """One row, whoever wrote it.

    Attributes:
        number: the database's name for it.
        name: of the segment; empty where it is not one of ours.
        segment: what the name says; None where it says nothing to us.
        file: where its bytes are, below the folder; None where the row tells of no file of ours.
        written: what the row says in place of it.
        size: bytes on disk, as the row says.
        stored: when it was stored or used last, in seconds since 1970.
    """

    number: int
    name: str
    segment: Segment | None
    file: str | None
    written: object
    size: int
    stored: float


class Table:
    """The rows of the store in `folder`, as they are: nothing is made, mended or evicted.

    Raises:
        sqlite3.Error: the database cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._database = sqlite3.connect(folder / NAME, timeout=BUSY_SECONDS)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def volume(self) -> int:
        """Return the bytes of all rows."""
        (count,) = self._database.execute("SELECT coalesce(sum(size), 0) FROM Cache").fetchone()
        return int(count)

    def rows(self) -> Iterator[Row]:
        """Yield what is kept, some at a time; what comes or goes meanwhile may be missing."""
        last = -1
        while found := self._database.execute(
            f"SELECT {_COLUMNS} FROM Cache WHERE rowid > ? ORDER BY rowid LIMIT ?",  # noqa: S608 - a constant
            (last, ROWS_AT_ONCE),
        ).fetchall():
            last = found[-1][0]
            yield from (_row(*values) for values in found)

    def blocks(self, row: Row) -> list[bytes | None]:
        """Return the blocks of a segment, None in place of each that is not whole; nothing of what is not ours.

        Raises:
            FileNotFoundError: its file is gone.
            OSError: it cannot be read now.
        """
        if row.segment is None or row.file is None:
            return []
        count = len(row.segment.numbers)
        try:
            stored = (self._folder / row.file).read_bytes()
        except OSError as error:
            if not is_damage(error):
                raise
            return [None] * count
        head = stored[: segments.head_bytes(count)]
        found: list[bytes | None] = []
        for index in range(count):
            part = segments.part(row.name, count, index, head)
            data = b"" if part is None else stored[part.start : part.stop]
            found.append(data if part is not None and segments.is_whole(row.name, index, head, data) else None)
        return found

    def remove(self, rows: Sequence[Row]) -> int:
        """Remove rows and their files; give how many were still as they had been."""
        gone = []
        with self._database:
            for row in rows:
                done = self._database.execute(
                    "DELETE FROM Cache WHERE rowid = ? AND filename IS ?", (row.number, row.written)
                )
                gone += [row] * done.rowcount
        for row in gone:
            if row.file is not None:
                with suppress(OSError):
                    (self._folder / row.file).unlink()
                    os.removedirs((self._folder / row.file).parent)  # as far as they are empty
        return len(gone)


def fault(folder: Path) -> str:
    """Say why the database in `folder` cannot be used; empty where it can, or is not there yet."""

    def objection(database: sqlite3.Connection) -> str:
        database.execute(f"SELECT {_COLUMNS} FROM Cache LIMIT 1").fetchone()  # noqa: S608 - a constant
        return ""

    return sqlite.fault(folder / NAME, objection, BUSY_SECONDS)


def parsed(name: str) -> Segment | None:
    """Read the name of a segment, as a store writes it; None where it is none."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    path = match["path"].encode("latin-1").decode("utf-8", "surrogateescape")
    modified = None if match["modified"] == "None" else int(match["modified"])
    file = File(path, int(match["size"]), modified, match["listed"] == "1")
    numbers = segments.numbers(match["prefix"], name)
    return Segment(match["archive"], int(match["block_bytes"]), file, numbers) if numbers else None


def _row(number: int, key: object, raw: object, mode: object, written: object, size: object, stored: object) -> Row:
    name = key if isinstance(key, str) and raw == 1 and mode == BINARY else ""
    file = written if is_block_file(written) else None
    counts = [value if isinstance(value, int | float) else 0 for value in (size, stored)]
    return Row(number, name, parsed(name), file, written, int(counts[0]), float(counts[1]))
