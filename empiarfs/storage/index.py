"""The index of the tree, stored in SQLite: listings, exact sizes and absent names."""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from empiarfs.circuit_breaker import CircuitBreaker
from empiarfs.model import Directory, File, Node, Stub, base_name, parent_path
from empiarfs.ports import Known
from empiarfs.private_dirs import FOLDER, Identity, UnsafePath, check_private_file, ensure_private, identity
from empiarfs.storage.fork_guard import fork_guard
from empiarfs.storage.index_tables import (
    COLUMNS,
    below,
    children,
    connect,
    entry_of,
    found_values,
    key_of,
    listed_values,
    moment,
    set_aside,
    with_tables,
)
from empiarfs.storage.sqlite import is_wrong, may_be_whole

log = logging.getLogger(__name__)

MISSES = 2  # consecutive listings that lack a name before it is removed
MOST_ABSENT = 100_000
ABSENT_AT_ONCE = 1000  # added between two counts, which read them all
LOOK_SECONDS = 1.0  # how old the last check of the file may be

_ADD = """
INSERT INTO entries VALUES (?, ?, -1, ?, 0, 0, '', '', ?, ?, ?)
ON CONFLICT DO UPDATE SET
    is_directory = excluded.is_directory, size = excluded.size, modified = excluded.modified,
    dated_by_list = excluded.dated_by_list
"""


def index_file(cache_dir: Path, archive: str) -> Path:
    """Return the path of the index of `archive`."""
    return cache_dir / FOLDER / f"tree-{archive}.sqlite"


class SqliteIndex:
    """An index in one SQLite file, shared by all processes that use the cache.

    If the file cannot be used, or is None, the index is in memory and ends with the process.

    Raises:
        UnsafePath: others may have written the file.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._breaker = CircuitBreaker(f"the index {file}")
        self._looked = time.monotonic()
        self._identity: Identity | None = None
        self._absences = 0  # added by this process
        self._wrong = False  # the content of the file is corrupt
        self._outdated = False  # the file is to be reopened
        self._database: sqlite3.Connection | None = None
        try:
            with fork_guard:
                self._database = self._open()
        except UnsafePath:
            raise
        except (OSError, sqlite3.Error) as error:
            self._fall_back(error)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            database, self._database = self._database, None
        if database is not None:
            with fork_guard:
                database.close()

    def directory(self, path: str) -> Known | None:
        """See `Index.directory`."""
        with self._used() as database:
            key = key_of(path)
            scanned = database.execute("SELECT scanned FROM directories WHERE path = ?", (key,)).fetchone()
            if scanned is not None:
                return Known(children(database, path), moment(scanned[0]))
        return None

    def node(self, path: str) -> Node | None:
        """See `Index.node`."""
        with self._used() as database:
            row = database.execute(
                f"SELECT {COLUMNS} FROM entries WHERE directory = ? AND name = ?",  # noqa: S608 - a constant
                (key_of(parent_path(path)), key_of(base_name(path))),
            ).fetchone()
            if row is not None:
                return entry_of(parent_path(path), row)
        return None

    def holds(self, path: str) -> bool:
        """See `Index.holds`."""
        with self._used() as database:
            (count,) = database.execute(
                "SELECT count(*) FROM directories WHERE path = ? OR path > ? AND path < ?",
                (key_of(path), *below(path)),
            ).fetchone()
            return bool(count)
        return False

    def replace(self, path: str, nodes: Sequence[Node], scanned: float) -> Known:
        """See `Index.replace`."""
        key = key_of(path)
        with self._used("writing") as database:
            database.execute("UPDATE entries SET missed = missed + 1 WHERE directory = ? AND listed", (key,))
            database.executemany(
                """
                INSERT INTO entries VALUES (?, ?, ?, ?, 1, 0, ?, ?, ?, ?, 0)
                ON CONFLICT DO UPDATE SET
                    position = excluded.position, listed = 1, missed = 0,
                    size = CASE WHEN is_directory = excluded.is_directory
                        AND (excluded.size IS NOT NULL OR NOT listed
                             OR listed_size = excluded.listed_size AND listed_date = excluded.listed_date)
                        THEN coalesce(excluded.size, size) END,
                    modified = CASE WHEN excluded.is_directory OR excluded.size IS NOT NULL
                        THEN excluded.modified ELSE modified END,
                    is_directory = excluded.is_directory,
                    listed_size = excluded.listed_size, listed_date = excluded.listed_date
                """,
                (listed_values(key, position, node) for position, node in enumerate(nodes)),
            )
            database.execute("DELETE FROM entries WHERE directory = ? AND missed >= ?", (key, MISSES))
            database.execute("INSERT OR REPLACE INTO directories VALUES (?, ?)", (key, scanned))
            return Known(children(database, path), scanned)
        return Known({base_name(entry.path): entry for entry in nodes}, scanned)

    def add(self, node: File | Directory) -> None:
        """See `Index.add`."""
        with self._used("writing") as database:
            database.execute(_ADD, found_values(node))
            database.execute("DELETE FROM absent WHERE path = ?", (key_of(node.path),))

    def add_all(self, files: Sequence[File]) -> None:
        """See `Index.add_all`."""
        with self._used("writing") as database:
            database.executemany(_ADD, map(found_values, files))

    def remove(self, path: str, asked: float) -> None:
        """See `Index.remove`."""
        with self._used("writing") as database:
            where = (key_of(parent_path(path)), key_of(base_name(path)))
            database.execute("DELETE FROM entries WHERE directory = ? AND name = ?", where)
            database.execute("INSERT OR REPLACE INTO absent VALUES (?, ?)", (key_of(path), asked))
            if self._absences % ABSENT_AT_ONCE == 0 and _absences(database) > MOST_ABSENT:
                database.execute(
                    "DELETE FROM absent WHERE path IN (SELECT path FROM absent ORDER BY asked LIMIT ?)",
                    (MOST_ABSENT // 2,),
                )
            self._absences += 1

    def absent_since(self, path: str) -> float | None:
        """See `Index.absent_since`."""
        with self._used() as database:
            row = database.execute("SELECT asked FROM absent WHERE path = ?", (key_of(path),)).fetchone()
            return None if row is None else moment(row[0])
        return None

    def unmeasure(self, file: File) -> Stub:
        """See `Index.unmeasure`."""
        with self._used("writing") as database:
            where = (key_of(parent_path(file.path)), key_of(base_name(file.path)))
            database.execute(
                """
                UPDATE entries SET size = NULL, modified = NULL
                WHERE directory = ? AND name = ? AND size = ? AND modified IS ?
                """,
                (*where, file.size, file.modified),
            )
            row = database.execute(
                "SELECT listed_size, listed_date FROM entries WHERE directory = ? AND name = ?", where
            ).fetchone()
            if row is not None:
                return Stub(file.path, *map(str, row))
        return Stub(file.path)

    @contextmanager
    def _used(self, use: str = "reading") -> Iterator[sqlite3.Connection]:
        """Yield the database for one transaction; while it cannot be used, yield one without tables."""
        with fork_guard, self._lock:
            database = self._usable(use) or sqlite3.connect(":memory:")  # without tables: each query fails
            try:
                yield database
                database.commit()
            except (OSError, sqlite3.Error, OverflowError) as error:
                if database is self._database:
                    self._record_failure(error, use)
                with suppress(sqlite3.Error):
                    database.rollback()
            finally:
                if database is not self._database:
                    database.close()

    def _usable(self, use: str) -> sqlite3.Connection | None:
        """Return the database, reopened if necessary; None after a close, or while `use` is suspended."""
        if self._database is None or self._file is None:
            return self._database
        if self._breaker.is_open(use):
            return None
        now = time.monotonic()
        if (self._outdated or now - self._looked >= LOOK_SECONDS) and not self._breaker.is_open("opening"):
            self._looked = now
            try:
                if self._outdated or identity(self._file) != self._identity:  # its folder was deleted, for example
                    before = self._database
                    if self._identity is not None:
                        before.close()  # first: a connection that failed may hold locks
                    self._database = self._open()
                    before.close()
            except (OSError, sqlite3.Error) as error:
                self._fall_back(error)
        self._breaker.success()
        return self._database

    def _open(self) -> sqlite3.Connection:
        """Open the file; rename one that is corrupt or of another version."""
        if self._file is None:
            return with_tables(connect(None))
        ensure_private(self._file.parent)
        check_private_file(self._file)
        try:
            if self._wrong and identity(self._file) == self._identity:
                raise sqlite3.DatabaseError("its content is wrong")
            database = with_tables(connect(self._file))
        except sqlite3.Error as error:
            if may_be_whole(error):
                raise
            self._breaker.failure(error, "")
            log.info("%s is set aside; starting with empty listings", self._file)
            set_aside(self._file)
            database = with_tables(connect(self._file))
        self._identity = identity(self._file)
        self._wrong = self._outdated = False
        return database

    def _fall_back(self, error: Exception) -> None:
        """Use a database in memory until the file can be opened."""
        self._breaker.failure(error, "opening")
        if self._database is None or self._identity is not None:
            self._database = with_tables(connect(None))
        self._identity, self._outdated = None, True

    def _record_failure(self, error: Exception, use: str) -> None:
        """Record that `use` of the database failed; it may have to be reopened."""
        absurd = isinstance(error, OverflowError)  # the value is wrong, not the file
        self._breaker.failure(error, "" if absurd else use)
        self._wrong = self._wrong or is_wrong(error)
        self._outdated = self._outdated or not absurd


def _absences(database: sqlite3.Connection) -> int:
    (count,) = database.execute("SELECT count(*) FROM absent").fetchone()
    return int(count)
