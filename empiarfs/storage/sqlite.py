"""Helpers for a SQLite file: the files that belong to it, and its check."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

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
