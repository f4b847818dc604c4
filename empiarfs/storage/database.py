"""The database of the chunks; the only module that uses diskcache.

Nothing is ever unpickled, whatever the database holds (CVE-2025-69872): values are chunk files, keys are text.
"""

import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, TypeVar

import diskcache
from diskcache.core import DBNAME, MODE_BINARY

from empiarfs.storage import chunk_file, sqlite
from empiarfs.storage.fork_guard import fork_guard
from empiarfs.threads import ThreadPool
from empiarfs.units import MIB

NAME: str = DBNAME  # of the database, in the folder of the store
FILES = {NAME, *(path.name for path in sqlite.beside(Path(NAME)))}
VERSION = 3  # of the stored format; a database of another version is removed, with its files
BUSY_SECONDS = 2.0  # how long to wait for a database that another process has locked
THREADS = 4  # for concurrent reads and writes
PRAGMAS = {
    "auto_vacuum": 1,
    "journal_mode": sqlite.JOURNAL,
    "synchronous": 0,  # a block that a crash truncates fails its checksum
    "mmap_size": 0,
    "cache_size": 256,  # pages, 1 MiB
}
FAILURES = (sqlite3.Error, diskcache.Timeout)  # of the database itself
EVICTED_AT_ONCE = 10  # chunks that storing a chunk evicts at the limit; fewer if the limit is small
EXCESS = 1.1  # times the limit, beyond which more are evicted
CENTURY = 100 * 365.25 * 86400  # seconds

# With diskcache's own least-recently-used policy each lookup, hit or miss, writes: it locks the database, and fails
# on a disk that is full or read-only. With this one a lookup is one SELECT, and `touch` updates many chunks in one
# transaction: each expires a century after its last use, and diskcache has an index of that column.
_POLICY = "expires-first"
diskcache.EVICTION_POLICY[_POLICY] = {
    "init": None,
    "get": None,
    # diskcache asks for ten rows at a time, which may be all of a small cache: a twentieth of them goes at once
    "cull": "SELECT {fields} FROM Cache ORDER BY expire_time LIMIT min(?, "
    "max(1, (SELECT value FROM Settings WHERE key = 'count') / 20))",
}

T = TypeVar("T")

_FILE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")


class ForeignKey(NamedTuple):
    """A key that another program wrote, as it is in the database."""

    value: Any
    is_raw: Any


class Place(NamedTuple):
    """The file `path` of a chunk, and when the chunk was stored or last used, in seconds since 1970."""

    path: str
    used: float


def is_chunk_file(filename: object) -> TypeGuard[str]:
    """Return whether `filename`, relative to the folder of a store, is a name of a chunk file."""
    return isinstance(filename, str) and _FILE.fullmatch(filename) is not None


class Database:
    """The chunks in `folder`, by key, and their files.

    diskcache has a connection for each thread that uses it, which that thread alone can close; and the threads of
    libfuse, which are not Python's, would open one at each call. So use the other methods in the threads of this
    class, by `submit`, or in one thread that closes it at the end.

    Args:
        folder: an existing private folder.
        most: the most bytes to store.

    Raises:
        sqlite3.Error: it cannot be opened, or it is not a database of diskcache.
        ValueError, TypeError: it holds settings that diskcache cannot use.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._file = folder / NAME
        self._local = threading.local()
        with fork_guard:
            _prepare(folder)
            self._cache = diskcache.Cache.__new__(diskcache.Cache)
            try:
                self._cache.__init__(
                    os.fspath(folder),
                    disk=_FilesOnly,
                    size_limit=most,
                    eviction_policy=_POLICY,
                    cull_limit=max(1, min(EVICTED_AT_ONCE, most // (EVICTED_AT_ONCE * MIB))),
                    timeout=BUSY_SECONDS,
                    tag_index=False,
                    statistics=0,
                    **{f"sqlite_{pragma}": value for pragma, value in PRAGMAS.items()},
                )
            finally:
                self._cache.close()  # the connection of this thread, even if the constructor fails
        self._threads = ThreadPool("disk cache", THREADS, on_exit=self._disconnect)

    def submit(self, call: Callable[[], T]) -> "Future[T] | None":
        """Run `call` in a thread that may use the database; return its future, None if the database is closed."""
        try:
            return self._threads.submit(call)
        except RuntimeError:
            return None

    def close(self, seconds: float = 0.0) -> None:
        """Accept no more calls, and wait at most `seconds` for running calls to end and connections to close."""
        self._threads.close(seconds)
        self._disconnect()

    def find(self, key: str | ForeignKey) -> Place | None:
        """Return the place of the chunk `key`; None if it is not stored, or another program wrote its row."""
        with self.connected() as cache:
            path, expires = cache.get(key, read=True, expire_time=True)
        return None if path is None else Place(path, _moment(expires))

    def store(self, key: str, pieces: Sequence[bytes]) -> None:
        """Store `pieces` as the chunk `key`, replacing it; evict chunks beyond the limit."""
        value = _Pieces(pieces)
        with self.connected() as cache:
            try:
                cache.set(key, value, expire=CENTURY)
            except BaseException:
                cache.disk.remove(value.filename)
                raise
            if cache.volume() > EXCESS * cache.size_limit:  # the evicted chunks were smaller than the stored ones
                cache.cull()

    def delete(self, *rows: tuple[str | ForeignKey, Place | None]) -> list[bool]:
        """Delete each row whose place is unchanged, in one transaction; return for each whether it was deleted."""
        with self.connected() as cache, cache.transact():
            return [
                cache.get(key, read=True) == (place and place.path) and bool(cache.delete(key))
                for key, place in rows
            ]

    def stored_bytes(self) -> int:
        """Return the bytes of all chunks, a sum that diskcache maintains."""
        with self.connected() as cache:
            cache.get("")  # fails after `BUSY_SECONDS` if the database is locked; `reset` retries for a minute
            return int(cache.reset("size"))

    @contextmanager
    def connected(self) -> Iterator[diskcache.Cache]:
        """Yield diskcache, and hold off forks; after an error close its connection, which may hold a lock."""
        with fork_guard:
            try:
                if not getattr(self._local, "is_connected", False):
                    _wait_for_lock(self._file)
                    self._local.is_connected = True
                yield self._cache
            except BaseException:
                self._local.is_connected = False
                self._cache.close()
                raise

    def _disconnect(self) -> None:
        """Close the connection of this thread."""
        with fork_guard:
            self._local.is_connected = False
            self._cache.close()


def fault(folder: Path) -> str:
    """Return why the database in `folder` cannot be used; empty if it can, or does not exist yet."""

    def objection(database: sqlite3.Connection) -> str:
        _check(database)
        return ""

    return sqlite.fault(folder / NAME, objection, BUSY_SECONDS)


def _prepare(folder: Path) -> None:
    """Check that diskcache can open the database, whose lock it would await for a minute; set up an empty one.

    Raises:
        sqlite3.Error: it cannot be opened, is not a database of diskcache, or has another version.
    """
    with closing(sqlite3.connect(folder / NAME, timeout=BUSY_SECONDS, isolation_level=None)) as database:
        for pragma in ("auto_vacuum", "journal_mode"):  # the first cannot be set later
            database.execute(f"PRAGMA {pragma} = {PRAGMAS[pragma]}")
        database.execute("BEGIN IMMEDIATE")
        if database.execute("SELECT 1 FROM sqlite_master").fetchone():
            _check(database)
            return
        for below in folder.glob("[0-9a-f][0-9a-f]"):  # chunk files without a row
            shutil.rmtree(below, ignore_errors=True)
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("COMMIT")


def _check(database: sqlite3.Connection) -> None:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version != VERSION:
        raise sqlite3.DatabaseError(f"version {version} of the blocks, and this program writes {VERSION}")
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'Cache'").fetchone():  # else not created yet
        database.execute("SELECT rowid, key, raw, expire_time, size, mode, filename FROM Cache LIMIT 1").fetchone()


def _wait_for_lock(file: Path) -> None:
    """Wait until the database can be read; a new connection of diskcache would wait a minute.

    Raises:
        sqlite3.Error: it cannot be read within `BUSY_SECONDS`.
    """
    with closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as database:
        database.execute("SELECT 1 FROM sqlite_master").fetchone()


def _moment(expires: object) -> float:
    return expires - CENTURY if isinstance(expires, int | float) else 0.0


class _Pieces:
    """The content of a chunk file, and its name once it is written."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces
        self.filename = ""


class _FilesOnly(diskcache.Disk):  # type: ignore[misc] # it ships no types
    """A disk of diskcache whose keys are text, and whose values are chunk files only."""

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self._folder = directory

    def put(self, key: str | ForeignKey) -> tuple[Any, Any]:
        return key if isinstance(key, ForeignKey) else (key, True)

    def get(self, key: Any, raw: Any) -> str | ForeignKey:
        return key if raw == 1 and isinstance(key, str) else ForeignKey(key, raw)

    def store(self, value: _Pieces, read: bool, key: Any = diskcache.UNKNOWN) -> tuple[int, int, str, None]:  # noqa: ARG002, FBT001 - diskcache's signature
        if not isinstance(value, _Pieces):
            raise TypeError("only chunks are stored")
        value.filename, path = self.filename()
        return chunk_file.write(path, value.pieces), MODE_BINARY, value.filename, None

    def fetch(self, mode: Any, filename: Any, value: Any, read: bool) -> str | None:  # noqa: ARG002, FBT001 - see `store`
        """Return the path of a file; None if another program wrote the row."""
        return f"{self._folder}/{filename}" if mode == MODE_BINARY and is_chunk_file(filename) else None

    def remove(self, file_path: Any) -> None:
        if is_chunk_file(file_path):  # else another program wrote the row
            super().remove(file_path)
