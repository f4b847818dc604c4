"""The database of the chunks; the only module that uses diskcache.

Nothing is ever unpickled, whatever the database holds (CVE-2025-69872): values are chunk files, keys are text.

The key of a chunk gives the name of its file, so reading needs no database. A file takes its place while the
database is locked. One that is evicted is deleted after that: if another process stores the same chunk at that
moment it may lose its new file, which is a miss.
"""

import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import diskcache
from diskcache.core import DBNAME, MODE_BINARY

from empiarfs.errors import Closed
from empiarfs.fork_guard import fork_guard
from empiarfs.storage import chunk_file, chunks, sqlite
from empiarfs.storage.chunk_file import Stored, Written
from empiarfs.storage.chunks import Chunk
from empiarfs.threads import ThreadPool

NAME: str = DBNAME  # of the database, in the folder of the store
FILES = {NAME, *(path.name for path in sqlite.beside(Path(NAME)))}
VERSION = 4  # of the stored format; a database of another version is removed, with its files
BUSY_SECONDS = 2.0  # how long to wait for a database that another process has locked
PRAGMAS = {
    "auto_vacuum": 0,  # the pages of deleted rows are used again
    "journal_mode": sqlite.JOURNAL,
    "synchronous": 0,  # a block that a crash truncates fails its checksum
    "mmap_size": 0,
    "cache_size": 256,  # pages, 1 MiB
}
CENTURY = 100 * 365.25 * 86400  # seconds

# With diskcache's own least-recently-used policy each lookup, hit or miss, writes: it locks the database, and fails
# on a disk that is full or read-only. With this one `touch` updates many chunks in one transaction: each expires a
# century after its last use, and diskcache has an index of that column.
_POLICY = "expires-first"
diskcache.EVICTION_POLICY[_POLICY] = {
    "init": None,
    "get": None,
    # diskcache asks for ten rows at a time, which may be all of a small cache
    "cull": "SELECT {fields} FROM Cache ORDER BY expire_time LIMIT min(?, 1)",
}

T = TypeVar("T")
ForeignKey = tuple[Any, Any]  # what another program wrote as the key of a row, and whether it says that it is raw

_FILE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{30}\.val")


class Row(NamedTuple):
    """A row of the database: its key, the chunk unless another program wrote it, when it was stored or last used.

    The moment is in seconds since 1970.
    """

    key: str | ForeignKey
    chunk: Chunk | None
    used: float


def is_chunk_file(filename: object) -> bool:
    """Return whether `filename`, relative to the folder of a store, is a name of a chunk file."""
    return isinstance(filename, str) and _FILE.fullmatch(filename) is not None


class Database:
    """The chunks in `folder`, by key, and their files.

    diskcache has a connection for each thread that uses it, which that thread alone can close; and the threads of
    libfuse, which are not Python's, would open one at each call. So one thread does all of it.

    Args:
        folder: an existing private folder.
        most: the most bytes to store.

    Raises:
        sqlite3.Error: it cannot be opened, or it is not a database of diskcache.
        ValueError, TypeError: it holds settings that diskcache cannot use.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = os.fspath(folder)
        self._local = threading.local()
        with fork_guard:
            _prepare(folder)
            self._cache = diskcache.Cache.__new__(diskcache.Cache)
            try:
                self._cache.__init__(
                    self._folder,
                    disk=_FilesOnly,
                    size_limit=most,
                    eviction_policy=_POLICY,
                    cull_limit=0,  # `set` evicts nothing
                    timeout=BUSY_SECONDS,
                    tag_index=False,
                    statistics=0,
                    **{f"sqlite_{pragma}": value for pragma, value in PRAGMAS.items()},
                )
            finally:
                self._cache.close()  # the connection of this thread, even if the constructor fails
        self._thread = ThreadPool("disk cache", 1, on_exit=self._end)

    def close(self, seconds: float = 0.0) -> None:
        """Accept no more calls, and wait at most `seconds` for running calls to end and the connection to close."""
        self._thread.close(seconds)

    def merge(self, chunk: Chunk, blocks: Mapping[int, bytes]) -> Stored:
        """Store `blocks` in `chunk`, with its blocks that are intact on disk; return these, and how many are not.

        Damaged blocks are removed, and with the last block the chunk. Another process that merges the same chunk at
        the same time may replace the new blocks by its own; they are then fetched again.
        """
        return self._call(partial(self._merge, chunk, blocks))

    def delete(self, keys: Iterable[str | ForeignKey]) -> list[bool]:
        """Delete the rows of `keys` in one transaction; return for each whether there was one."""

        def delete(cache: diskcache.Cache) -> list[bool]:
            with cache.transact():
                return [bool(cache.delete(key)) for key in keys]

        return self._call(delete)

    def touch(self, keys: Iterable[str]) -> None:
        """Record soon that the chunks `keys` were used; do not wait for that."""

        def touch(cache: diskcache.Cache) -> None:
            with cache.transact():
                for key in keys:
                    cache.touch(key, expire=CENTURY)

        self._submit(touch)

    def clear(self) -> int:
        """Delete all rows and their files; return the bytes that there were."""

        def clear(cache: diskcache.Cache) -> int:
            size = self._size(cache)
            cache.clear()
            return size

        return self._call(clear)

    def stored_bytes(self) -> int:
        """Return the bytes of all chunks, a sum that diskcache maintains."""
        return self._call(self._size)

    def limit(self, most: int, spare: int) -> None:
        """Limit the chunks to `most` bytes, and to `spare` more than there are; if that is negative evict some."""

        def limit(cache: diskcache.Cache) -> None:
            self._size(cache)  # fails in time
            cache.reset("size_limit", min(most, max(0, cache.volume() + spare)), update=False)
            if spare < 0:
                cache.cull()

        self._call(limit)

    def rows(self) -> list[Row]:
        """Return all rows."""

        def row(cache: diskcache.Cache, key: str | ForeignKey) -> Row:
            name, expires = cache.get(key, read=True, expire_time=True)
            is_ours = isinstance(key, str) and name == chunks.file_name(key)
            return Row(
                key,
                chunks.parse_key(key) if isinstance(key, str) and is_ours else None,
                expires - CENTURY if isinstance(expires, int | float) else 0.0,
            )

        # `iterkeys` would stop at a row of another program whose key is NULL
        return self._call(lambda cache: [row(cache, key) for key in cache])

    def _merge(self, chunk: Chunk, blocks: Mapping[int, bytes], cache: diskcache.Cache) -> Stored:
        is_complete = chunk.is_complete(blocks)
        stored = Stored() if is_complete else chunk_file.read(self._folder, chunk, chunk.numbers)
        merged = {**stored.blocks, **blocks}
        name = chunks.file_name(chunk.key)
        if not merged:
            cache.delete(chunk.key)
        elif is_complete or merged != stored.blocks or stored.damaged:
            file = chunk_file.write(f"{self._folder}/{name}", chunks.pack(chunk, merged))
            cache.disk.placed = name
            try:
                with cache.transact():
                    cache.set(chunk.key, file, expire=CENTURY)
            except BaseException:
                file.delete()
                raise
            finally:
                cache.disk.placed = ""
            cache.cull()
        return stored

    def _size(self, cache: diskcache.Cache) -> int:
        cache.get("")  # fails after `BUSY_SECONDS` if the database is locked; `reset` retries for a minute
        return int(cache.reset("size"))

    def _call(self, work: Callable[[diskcache.Cache], T]) -> T:
        return self._submit(work).result()

    def _submit(self, work: Callable[[diskcache.Cache], T]) -> Future[T]:
        """Do `work` in the thread of this class.

        Raises:
            sqlite3.Error: the database is closed.
        """
        try:
            return self._thread.submit(partial(self._connected, work))
        except Closed as error:
            raise sqlite3.ProgrammingError(str(error)) from error

    def _connected(self, work: Callable[[diskcache.Cache], T]) -> T:
        """Do `work`, and hold off forks; after an error close the connection, which may hold a lock."""
        with fork_guard:
            try:
                if not getattr(self._local, "is_connected", False):
                    _prepare(Path(self._folder))
                    self._local.is_connected = True
                return work(self._cache)
            except BaseException as error:
                self._disconnect()
                if isinstance(error, diskcache.Timeout):
                    raise sqlite3.OperationalError("database is locked") from error
                raise

    def _disconnect(self) -> None:
        """Close the connection of this thread, which is inside the guard: to enter it again may wait for ever."""
        self._local.is_connected = False
        self._cache.close()

    def _end(self) -> None:
        """Close the connection of a thread that ends, and hold off forks."""
        with fork_guard:
            self._disconnect()


def fault(folder: Path) -> str:
    """Return why the database in `folder` cannot be used; empty if it can, or is missing; see `sqlite.fault`."""
    return sqlite.fault(folder / NAME, _format(folder), BUSY_SECONDS)


def _prepare(folder: Path) -> None:
    """Check that diskcache can connect to the database, whose lock it would await for a minute.

    Raises:
        sqlite3.Error: it cannot be opened, has another format, or is locked for `BUSY_SECONDS`.
    """
    with closing(sqlite.connect(folder / NAME, _format(folder), BUSY_SECONDS)) as database:
        database.execute("BEGIN IMMEDIATE")


def _format(folder: Path) -> sqlite.Format:
    """Return the format of the database in `folder`, whose tables diskcache creates."""

    def create(_: sqlite3.Connection) -> None:
        for below in folder.glob("[0-9a-f][0-9a-f]"):  # chunk files without a row
            shutil.rmtree(below, ignore_errors=True)

    def check(database: sqlite3.Connection) -> None:
        if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'Cache'").fetchone():
            database.execute("SELECT rowid, key, raw, expire_time, size, mode, filename FROM Cache LIMIT 1")

    return sqlite.Format(VERSION, create, check)


class _FilesOnly(diskcache.Disk):  # type: ignore[misc] # it ships no types
    """A disk of diskcache whose keys are text, and whose values are chunk files only."""

    placed = (
        ""  # the file that `set` has put into the place of an old one, which diskcache would remove by its name
    )

    def put(self, key: str | ForeignKey) -> tuple[Any, Any]:
        return key if isinstance(key, tuple) else (key, True)

    def get(self, key: Any, raw: Any) -> str | ForeignKey:
        return key if raw == 1 and isinstance(key, str) else (key, raw)

    def store(self, value: Written, read: bool, key: Any = diskcache.UNKNOWN) -> tuple[int, int, str, None]:  # noqa: ARG002, FBT001 - diskcache's signature
        name = chunks.file_name(key)
        value.move(f"{self._directory}/{name}")
        return value.size, MODE_BINARY, name, None

    def fetch(self, mode: Any, filename: Any, value: Any, read: bool) -> str | None:  # noqa: ARG002, FBT001 - see `store`
        """Return the name of a file; None if another program wrote the row."""
        return filename if mode == MODE_BINARY and is_chunk_file(filename) else None

    def remove(self, file_path: Any) -> None:
        if is_chunk_file(file_path) and file_path != self.placed:  # else another program wrote the row
            with suppress(OSError):
                os.unlink(f"{self._directory}/{file_path}")  # noqa: PTH108 - a Path costs as much as the call
