"""What an error of SQLite says of the file: it may be intact, or its content is corrupt."""

import sqlite3

import pytest

from empiarfs.storage.sqlite import is_locked, is_wrong, may_be_whole


def failed(code: int, kind: type[sqlite3.Error] = sqlite3.OperationalError) -> sqlite3.Error:
    """Return an error as SQLite raises it."""
    error = kind("it failed")
    error.sqlite_errorcode = code  # SQLite sets it
    return error


@pytest.mark.parametrize(
    ("error", "whole", "locked", "wrong"),
    [
        (failed(sqlite3.SQLITE_BUSY), True, True, False),
        (failed(sqlite3.SQLITE_BUSY_SNAPSHOT), True, True, False),
        (failed(sqlite3.SQLITE_LOCKED), True, True, False),
        (failed(sqlite3.SQLITE_FULL), True, False, False),
        (failed(sqlite3.SQLITE_READONLY), True, False, False),
        (failed(sqlite3.SQLITE_IOERR), True, False, False),
        (failed(sqlite3.SQLITE_CANTOPEN), True, False, False),
        (failed(sqlite3.SQLITE_ERROR), False, False, False),
        (failed(sqlite3.SQLITE_CORRUPT, sqlite3.DatabaseError), False, False, True),
        (failed(sqlite3.SQLITE_NOTADB, sqlite3.DatabaseError), False, False, True),
        (sqlite3.DatabaseError("of our own: another version"), False, False, False),
    ],
)
def test_an_error_is_classified(error: sqlite3.Error, *, whole: bool, locked: bool, wrong: bool) -> None:
    """A locked, full or read-only database may be intact; one with invalid content is not."""
    assert (may_be_whole(error), is_locked(error), is_wrong(error)) == (whole, locked, wrong)
