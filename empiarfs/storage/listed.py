"""The tables of an index, for who looks after them; beside `index_tables` alone this knows what is in them."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from empiarfs.storage import sqlite
from empiarfs.storage.index_tables import BUSY_SECONDS, VERSION, below

_PATHS = (("directories", "path"), ("entries", "directory"), ("absent", "path"))


def fault(file: Path) -> str:
    """Say why the index in `file` cannot be used; empty where it can, or is not there yet."""

    def objection(database: sqlite3.Connection) -> str:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            return f"version {version} of the tables, and this program writes {VERSION}"
        database.execute("SELECT count(*) FROM directories").fetchone()
        return ""

    return sqlite.fault(file, objection, BUSY_SECONDS)


def counted(file: Path) -> tuple[int, int]:
    """Return how many directories are listed in `file`, and of how many files the exact size is known.

    Raises:
        sqlite3.Error: it cannot be used.
    """
    with _opened(file) as database:
        (directories,) = database.execute("SELECT count(*) FROM directories").fetchone()
        (files,) = database.execute("SELECT count(*) FROM entries WHERE size IS NOT NULL").fetchone()
        return directories, files


def forget(file: Path, entries: Sequence[str]) -> None:
    """Forget what lies in `entries`, but not that they are there; or all that `file` knows, where there are none.

    Raises:
        sqlite3.Error: it cannot be used, or not now.
    """
    with _opened(file) as database:
        for entry in entries or ("",):
            values = (entry.encode(), *below(entry))
            for table, column in _PATHS:
                database.execute(
                    f"DELETE FROM {table} WHERE {column} = ? OR {column} > ? AND {column} < ?",  # noqa: S608 - constants
                    values,
                )


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Lend the database for one transaction."""
    with closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as database, database:
        yield database
