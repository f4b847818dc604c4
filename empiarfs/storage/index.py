"""The index of the tree, stored in SQLite: listings, exact sizes and absent names."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from empiarfs.fork_guard import fork_guard
from empiarfs.model import Directory, File, Node, Stub, base_name, parent_path
from empiarfs.ports import Known
from empiarfs.private_dirs import FOLDER
from empiarfs.storage.index_tables import (
    COLUMNS,
    below,
    children,
    entry_of,
    found_values,
    key_of,
    listed_values,
    moment,
    open_tables,
)
from empiarfs.storage.sqlite import FAILURES, DatabaseFile

MISSES = 2  # consecutive listings that lack a name before it is removed
MOST_ABSENT = 100_000

_ADD = """
INSERT INTO entries VALUES (?, ?, -1, ?, 0, 0, '', '', ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    is_directory = excluded.is_directory, size = excluded.size, modified = excluded.modified,
    dated_by_list = excluded.dated_by_list, exact_mtime = excluded.exact_mtime
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
        self._lock = threading.Lock()
        with fork_guard:
            self._file = (
                None if file is None else DatabaseFile(file, f"the index {file}", partial(open_tables, file))
            )
            self._memory: sqlite3.Connection | None = open_tables(None)

    def close(self) -> None:
        """Close the file."""
        with fork_guard, self._lock:
            for database in (self._memory, self._file and self._file.close()):
                if database is not None:
                    database.close()
            self._memory = None

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
                INSERT INTO entries VALUES (?, ?, ?, ?, 1, 0, ?, ?, ?, ?, 0, NULL)
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
        self.add_all([node])

    def add_all(self, nodes: Sequence[File | Directory]) -> None:
        """See `Index.add_all`."""
        with self._used("writing") as database:
            database.executemany(_ADD, map(found_values, nodes))
            database.executemany("DELETE FROM absent WHERE path = ?", ((key_of(node.path),) for node in nodes))

    def remove(self, path: str, asked: float) -> None:
        """See `Index.remove`."""
        with self._used("writing") as database:
            where = (key_of(parent_path(path)), key_of(base_name(path)))
            database.execute("DELETE FROM entries WHERE directory = ? AND name = ?", where)
            added = database.execute("INSERT OR REPLACE INTO absent VALUES (?, ?)", (key_of(path), asked))
            # the row of a name that is absent again is a new one, with the next number
            database.execute("DELETE FROM absent WHERE rowid <= ?", ((added.lastrowid or 0) - MOST_ABSENT,))

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
            database = self._usable(use)
            used = database or sqlite3.connect(":memory:")  # each query fails
            try:
                yield used
                used.commit()
            except FAILURES as error:
                if self._file is not None and database is not None:
                    self._file.failure(error, use)
                with suppress(sqlite3.Error):
                    used.rollback()
            finally:
                if database is None:
                    used.close()

    def _usable(self, use: str) -> sqlite3.Connection | None:
        """Return the database, the one in memory if the file cannot be opened; None while `use` is suspended."""
        if self._file is None:
            return self._memory
        return self._file.database(use) or (None if self._file.breaker.is_open(use) else self._memory)
