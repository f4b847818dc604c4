"""Helpers for a SQLite file: the files that belong to it, and its check."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

# Not WAL: its index is mapped into memory, and if it cannot be read (a bad disk, an unreachable server of home
# directories) the kernel ends the process with SIGBUS; nor does it work for several hosts that share a home.
JOURNAL = "truncate"
_BESIDE = ("-journal", "-wal", "-shm")


def beside(file: Path) -> list[Path]:
    """Return the files that SQLite may create beside `file`; they belong to it, and to no file that replaces it."""
    return [file.with_name(file.name + suffix) for suffix in _BESIDE]


def fault(file: Path, objection: Callable[[sqlite3.Connection], str], busy_seconds: float) -> str:
    """Return why `file` cannot be used; empty if it can, or does not exist yet.

    Args:
        file: the database.
        objection: returns what is wrong with its tables; empty if nothing is.
        busy_seconds: how long to wait for another process that has locked it.
    """
    if not file.exists():
        return ""
    try:
        with closing(sqlite3.connect(file, timeout=busy_seconds)) as database:
            reason = objection(database)
            if reason:
                return reason
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return "" if found == "ok" else str(found)


def may_be_whole(error: sqlite3.Error) -> bool:
    """Return whether a database that does not open may be intact: locked, full or read-only."""
    return isinstance(error, sqlite3.OperationalError) and _code(error) != sqlite3.SQLITE_ERROR


def is_wrong(error: Exception) -> bool:
    """Return whether `error`, from using a database, says that its content is corrupt."""
    return _code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # without the extended code
