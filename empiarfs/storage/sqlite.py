"""A SQLite file that other programs may delete, replace, lock or damage; what SQLite's errors say of it."""

import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from empiarfs.circuit_breaker import CircuitBreaker
from empiarfs.private_dirs import Identity, UnsafePath, check_private_file, ensure_private, identity

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # how old the last check of the file may be
# Not WAL: its index is mapped into memory, and if it cannot be read (a bad disk, an unreachable server of home
# directories) the kernel ends the process with SIGBUS; nor does it work for several hosts that share a home.
JOURNAL = "truncate"
SqliteError = sqlite3.Error  # for the modules above this package
# of a database and its folder; ValueError and TypeError are raised by values that another program wrote
FAILURES = (sqlite3.Error, OSError, ValueError, TypeError, OverflowError)


class Format(NamedTuple):
    """The format of a database.

    Attributes:
        version: its version; a database of another version is removed.
        create: creates the tables of an empty database.
        check: raises sqlite3.Error if the tables are those of another program.
    """

    version: int
    create: Callable[[sqlite3.Connection], object]
    check: Callable[[sqlite3.Connection], object]


class Closing(Protocol):
    """Something that can be closed."""

    def close(self) -> object:
        """Close it."""
        ...


T = TypeVar("T", bound=Closing)


class DatabaseFile(Generic[T]):
    """A database that is opened again after it was replaced or has failed, and removed if its content is corrupt.

    A use that fails is suspended for a while, which is logged once. The caller's lock makes it safe for threads.

    Attributes:
        opened: the database, as it was last opened, which no lock is needed to read; None if there is none.
        breaker: suspends a use that has failed.

    Args:
        file: the file; its folder is private, and created if it is missing.
        what: the name of the database, for the log.
        connect: opens the file, or creates it.

    Raises:
        UnsafePath: others may have written the file.
    """

    def __init__(self, file: Path, what: str, connect: Callable[[], T]) -> None:
        self.file = file
        self.breaker = CircuitBreaker(what)
        self._connect = connect
        self.opened: T | None = None
        self._identity: Identity | None = None
        self._looked = time.monotonic()
        self._is_outdated = True  # to be opened again
        self._is_corrupt = self._is_closed = False
        try:
            self._open()
        except UnsafePath:
            raise  # the user must choose another folder
        except FAILURES as error:
            self.failure(error, "opening")

    def database(self, use: str) -> T | None:
        """Return the database, None if it cannot be opened or is closed, or while `use` is suspended."""
        if self._is_closed or self.breaker.is_open(use):
            return None
        now = time.monotonic()
        if (self._is_outdated or now - self._looked >= LOOK_SECONDS) and not self.breaker.is_open("opening"):
            self._looked = now
            try:
                if self._is_outdated or identity(self.file) != self._identity:
                    self._open()
            except FAILURES as error:
                self.failure(error, "opening")
        return self.opened

    def failure(self, error: Exception, use: str) -> None:
        """Record that `use` of the database failed, which may have to be opened again."""
        is_value = isinstance(error, ValueError | TypeError | OverflowError)  # of one row: the others are good
        self.breaker.failure(error, "" if is_value and use != "opening" else use)
        self._is_corrupt = self._is_corrupt or is_wrong(error)
        self._is_outdated = self._is_outdated or isinstance(error, sqlite3.Error) or use == "opening"

    def close(self) -> T | None:
        """Return the database for the caller to close; there is none from now on."""
        self._is_closed = True
        database, self.opened = self.opened, None
        return database

    def _open(self) -> None:
        """Open the file; remove one that is corrupt, or of another version."""
        before, self.opened = self.opened, None
        if before is not None:
            before.close()  # first: a connection that has failed may hold locks
        ensure_private(self.file.parent)
        check_private_file(self.file)
        try:
            if self._is_corrupt and identity(self.file) == self._identity:
                raise sqlite3.DatabaseError("its content is corrupt")
            self.opened = self._connect()
        except FAILURES as error:
            if may_be_whole(error):
                raise
            self.breaker.failure(error, "")
            log.info("%s is removed, and starts empty", self.file)
            remove(self.file)
            self.opened = self._connect()
        self._identity = identity(self.file)
        self._is_outdated = self._is_corrupt = False


def beside(file: Path) -> list[Path]:
    """Return the files that SQLite may create beside `file`; they belong to it, and to no file that replaces it."""
    return [file.with_name(file.name + suffix) for suffix in ("-journal", "-wal", "-shm")]


def remove(file: Path) -> None:
    """Remove a database and the files that belong to it."""
    for path in (file, *beside(file)):
        path.unlink(missing_ok=True)


def connect(file: Path | None, form: Format, busy_seconds: float) -> sqlite3.Connection:
    """Open the database `file`, or one in memory if it is None, and create its tables if it is empty.

    Args:
        file: the database.
        form: its format.
        busy_seconds: how long this and each statement waits for another process that has locked it.

    Raises:
        sqlite3.Error: it cannot be opened, or has another format.
    """
    # used by one thread at a time: FUSE calls from threads that Python did not start
    database = sqlite3.connect(file or ":memory:", timeout=busy_seconds, check_same_thread=False)
    try:
        database.execute(f"PRAGMA journal_mode = {JOURNAL}")
        database.execute("PRAGMA synchronous = OFF")  # a power cut may corrupt the file: it is removed then
        if _is_empty(database):
            with database:
                database.execute("BEGIN IMMEDIATE")  # another process may be creating them now
                if _is_empty(database):
                    form.create(database)
                    database.execute(f"PRAGMA user_version = {form.version}")
        _check(database, form)
    except BaseException:
        database.close()
        raise
    return database


def fault(file: Path, form: Format, busy_seconds: float) -> str:
    """Return why `file` cannot be used; empty if it can, or does not exist yet. See `connect`.

    Raises:
        sqlite3.Error: it is locked for too long.
    """
    if not file.exists():
        return ""
    try:
        with closing(sqlite3.connect(file, timeout=busy_seconds)) as database:
            _check(database, form)
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        if is_locked(error):
            raise
        return str(error)
    return "" if found == "ok" else str(found)


def _is_empty(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT 1 FROM sqlite_master").fetchone() is None


def _check(database: sqlite3.Connection, form: Format) -> None:
    (found,) = database.execute("PRAGMA user_version").fetchone()
    if found != form.version:
        raise sqlite3.DatabaseError(f"version {found} of the format, and this program writes {form.version}")
    form.check(database)


def may_be_whole(error: Exception) -> bool:
    """Return whether a database that does not open may be intact: locked, full, read-only or out of reach."""
    if isinstance(error, sqlite3.Error):
        return isinstance(error, sqlite3.OperationalError) and _code(error) != sqlite3.SQLITE_ERROR
    return isinstance(error, OSError)


def is_locked(error: Exception) -> bool:
    """Return whether `error` says that another connection has locked the database for longer than the timeout."""
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_wrong(error: Exception) -> bool:
    """Return whether `error`, from using a database, says that its content is corrupt."""
    return _code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # without the extended code
