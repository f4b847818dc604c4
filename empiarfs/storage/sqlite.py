"""A file of SQLite, whatever it holds: what belongs to it, and whether it is sound."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

_BESIDE = ("-journal", "-wal", "-shm")


def beside(file: Path) -> list[Path]:
    """Return what SQLite may put beside `file`: part of it, or wrong for what comes in its place."""
    return [file.with_name(file.name + suffix) for suffix in _BESIDE]


def fault(file: Path, objection: Callable[[sqlite3.Connection], str], busy_seconds: float) -> str:
    """Say why `file` cannot be used; empty where it can, or is not there yet.

    Args:
        file: the database.
        objection: says what is wrong with its tables; empty where nothing is.
        busy_seconds: how long another process that locks it is waited for.
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
