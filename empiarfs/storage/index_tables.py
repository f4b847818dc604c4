"""The tables of an index, and the conversion between nodes and rows."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from empiarfs.model import Directory, File, Node, Stub, base_name, join, parent_path
from empiarfs.storage import sqlite

VERSION = 3  # of the tables; a file of another version is removed
BUSY_SECONDS = 0.5  # how long to wait for a file that another process has locked; a reader waits as long

_TABLES = (
    """
CREATE TABLE directories (path BLOB PRIMARY KEY, scanned REAL NOT NULL) WITHOUT ROWID
""",
    """
CREATE TABLE entries (
    directory BLOB NOT NULL,
    name BLOB NOT NULL,
    position INTEGER NOT NULL,    -- where the listing shows it
    is_directory INTEGER NOT NULL,
    listed INTEGER NOT NULL,      -- 0: measured, in no listing yet
    missed INTEGER NOT NULL,      -- consecutive listings that lacked it
    listed_size TEXT NOT NULL,
    listed_date TEXT NOT NULL,
    size INTEGER,                 -- exact; NULL until it is measured
    modified INTEGER,
    dated_by_list INTEGER NOT NULL DEFAULT 0,  -- modified is the listing's, to the minute
    exact_mtime INTEGER,          -- of a file that is dated by its list
    PRIMARY KEY (directory, name)
) WITHOUT ROWID
""",
    "CREATE TABLE absent (path BLOB PRIMARY KEY, asked REAL NOT NULL)",
)
_PATHS = (("directories", "path"), ("entries", "directory"), ("absent", "path"))
COLUMNS = "name, is_directory, listed_size, listed_date, size, modified, dated_by_list, exact_mtime"


def key_of(path: str) -> bytes:
    """Return a path or a name as it is in the tables; names need not be UTF-8."""
    return path.encode("utf-8", "surrogateescape")


def below(path: str) -> tuple[bytes, bytes]:
    """Return the two keys between which all paths below `path` lie."""
    key = key_of(path)
    return (key + b"/", key + b"0") if path else (b"", b"\xff")  # 0 is the character behind the slash


def entry_of(directory: str, row: object) -> Node:
    """Return the node of `row` in `directory`: SQLite accepts any type of value in any column.

    Raises:
        sqlite3.Error: another program wrote the row.
    """
    match row:
        case (
            bytes(name),
            kind,
            str(size),
            str(date),
            int() | None as exact,
            int() | None as modified,
            coarse,
            int() | None as exact_mtime,
        ):
            path = join(directory, name.decode("utf-8", "surrogateescape"))
            if b"/" in name or (exact or 0) < 0:
                raise _foreign()
            if kind:
                return Directory(path, modified)
            if exact is None:
                return Stub(path, size, date)
            return File(path, exact, modified, bool(coarse), exact_mtime)
    raise _foreign()


def moment(value: object) -> float:
    """Return `value` as a time in seconds.

    Raises:
        sqlite3.Error: it is not a number.
    """
    if not isinstance(value, int | float):
        raise _foreign()
    return float(value)


def _foreign() -> sqlite3.Error:
    """Return an error that reports a corrupt file, as SQLite's own does."""
    error = sqlite3.DatabaseError("a row that this program did not write")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def children(database: sqlite3.Connection, path: str) -> dict[str, Node]:
    """Return the nodes of the directory `path` by name, in the order of its listing."""
    rows = database.execute(
        f"SELECT {COLUMNS} FROM entries WHERE directory = ? ORDER BY position",  # noqa: S608 - a constant
        (key_of(path),),
    )
    entries = (entry_of(path, row) for row in rows)
    return {base_name(node.path): node for node in entries}


def found_values(node: File | Directory) -> tuple[object, ...]:
    """Return the row of a measured node, as `index` adds it."""
    directory, name = key_of(parent_path(node.path)), key_of(base_name(node.path))
    match node:
        case Directory():
            return directory, name, 1, None, node.modified, 0, None
        case File():
            return directory, name, 0, node.size, node.modified, node.coarse_mtime, node.exact_mtime


def listed_values(directory: bytes, position: int, node: Node) -> tuple[object, ...]:
    """Return the row of the node at `position` of a listing, as `index` replaces it."""
    name = key_of(base_name(node.path))
    match node:
        case Directory():
            return directory, name, position, 1, "", "", None, node.modified
        case Stub():
            return directory, name, position, 0, node.listed_size, node.listed_date, None, None
        case File():
            return directory, name, position, 0, "", "", node.size, node.modified


def open_tables(file: Path | None) -> sqlite3.Connection:
    """Open the database `file`, or one in memory if it is None; see `sqlite.connect`."""
    return sqlite.connect(file, _FORMAT, BUSY_SECONDS)


def fault(file: Path) -> str:
    """Return why the index in `file` cannot be used; empty if it can, or is missing; see `sqlite.fault`."""
    return sqlite.fault(file, _FORMAT, BUSY_SECONDS)


def _create(database: sqlite3.Connection) -> None:
    for statement in _TABLES:
        database.execute(statement)


def _check(database: sqlite3.Connection) -> None:
    for table, _ in _PATHS:
        database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()  # noqa: S608 - a constant


_FORMAT = sqlite.Format(VERSION, _create, _check)


def counted(file: Path) -> tuple[int, int]:
    """Return the numbers of listed directories and of measured files in the index `file`.

    Raises:
        sqlite3.Error: it cannot be used.
    """
    with closing(open_tables(file)) as database, database:
        (directories,) = database.execute("SELECT count(*) FROM directories").fetchone()
        (files,) = database.execute("SELECT count(*) FROM entries WHERE size IS NOT NULL").fetchone()
        return directories, files


def forget(file: Path, entries: Sequence[str]) -> None:
    """Delete what the index `file` holds below `entries`, but not the entries; without `entries` delete all.

    Raises:
        sqlite3.Error: it cannot be used, or not now.
    """
    with closing(open_tables(file)) as database, database:
        for entry in entries or ("",):
            values = (entry.encode(), *below(entry))
            for table, column in _PATHS:
                database.execute(
                    f"DELETE FROM {table} WHERE {column} = ? OR {column} > ? AND {column} < ?",  # noqa: S608 - constants
                    values,
                )
