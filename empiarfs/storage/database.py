"""The database of a store of blocks, and the files it tells of; the only module that knows diskcache.

Nothing is ever unpickled, whatever the database says (CVE-2025-69872).
"""

import errno
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import wraps
from io import FileIO
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeGuard, TypeVar

import diskcache
from diskcache.core import DBNAME, MODE_BINARY

from empiarfs.storage import segments
from empiarfs.storage.circuit_breaker import JOURNAL

NAME: str = DBNAME  # of the database, in the folder of the store
BINARY: int = MODE_BINARY  # the mode of a row whose value is bytes in a file
BUSY_SECONDS = 2.0  # how long a database that another process locks is waited for
MOST_TRIES = 5  # to make a file
PRAGMAS = {
    "journal_mode": JOURNAL,
    "synchronous": 0,  # a block that a crash cuts fails its checksum
    "mmap_size": 0,
    "cache_size": 256,  # pages, 1 MiB: as many threads as read at once have a connection each
}
FAILURES = (sqlite3.Error, diskcache.Timeout)  # of the database itself

P = ParamSpec("P")
T = TypeVar("T")

_FILE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")


def is_block_file(filename: object) -> TypeGuard[str]:
    """Return whether `filename`, below the folder of a store, is called like the file of a segment."""
    return isinstance(filename, str) and _FILE.fullmatch(filename) is not None


def _connected(method: Callable[Concatenate["Database", P], T]) -> Callable[Concatenate["Database", P], T]:
    """Lend the thread that calls `method` a connection meanwhile."""

    @wraps(method)
    def with_connection(self: "Database", /, *arguments: P.args, **options: P.kwargs) -> T:
        with self._cache.connection():
            return method(self, *arguments, **options)

    return with_connection


class Database:
    """The rows of the segments in `folder`, one a segment, and their files.

    Args:
        folder: is there, and safe.
        most: the most bytes to keep.

    Raises:
        sqlite3.Error: it cannot be opened, or what is in it is not diskcache's.
        ValueError, TypeError: there are settings in it that diskcache cannot take.
    """

    def __init__(self, folder: Path, most: int) -> None:
        _check(folder)
        self._cache = _Cache(
            folder,
            disk=_OnlyBytes,
            size_limit=most,
            # With its own least-recently-used diskcache locks the whole database for every look, hit or miss;
            # here looks are free, and what was used is given a newer store time now and then.
            eviction_policy="least-recently-stored",
            cull_limit=10,
            timeout=BUSY_SECONDS,
            tag_index=False,
            statistics=0,
            **{f"sqlite_{pragma}": value for pragma, value in PRAGMAS.items()},
        )
        self.directory: str = self._cache.directory

    def close(self) -> None:
        """Close all connections; what is used after that opens one for itself."""
        self._cache.close_all()

    @_connected
    def files(self, prefix: str) -> list[tuple[str, str]]:
        """Return the names that begin with `prefix`, which ends with a space, and where each segment lies."""
        rows = self._cache._sql(  # noqa: SLF001 - diskcache has no way to ask for a range
            "SELECT key, filename FROM Cache WHERE raw = 1 AND mode = ? AND key >= ? AND key < ?",
            (BINARY, prefix, prefix[:-1] + "!"),
        )
        # else a row that someone else wrote
        return [(name, file) for name, file in rows if isinstance(name, str) and is_block_file(file)]

    @_connected
    def store(self, name: str, blocks: Sequence[bytes]) -> str:
        """Store the segment `name`; give where it lies now."""
        segment = _Segment(blocks)
        self._cache.set(name, segment)
        return segment.filename

    @_connected
    def drop(self, name: str, filename: str) -> None:
        """Drop the segment `name` if it still lies in `filename`: what was stored anew meanwhile is good."""
        row = (name, filename)
        sql = self._cache._sql  # noqa: SLF001 - diskcache deletes by name alone
        if sql("SELECT 1 FROM Cache WHERE key = ? AND raw = 1 AND filename = ?", row).fetchone() is None:
            return  # without a lock
        if sql("DELETE FROM Cache WHERE key = ? AND raw = 1 AND filename = ?", row).rowcount:
            self._cache.disk.remove(filename)

    @_connected
    def touch(self, names: Iterable[str]) -> None:
        """Record that segments were used now, in one go."""
        with self._cache.transact():
            now = time.time()
            for name in names:
                self._cache._sql(  # noqa: SLF001 - diskcache's own touch costs a transaction each
                    "UPDATE Cache SET store_time = ? WHERE key = ? AND raw = 1", (now, name)
                )

    @_connected
    def block_bytes(self) -> int:
        """Return the bytes of all segments: the sum of their sizes, which diskcache keeps for us."""
        (size,) = self._cache._sql("SELECT value FROM Settings WHERE key = 'size'").fetchone()  # noqa: SLF001 - it tells in no other way
        return int(size)

    @_connected
    def volume(self) -> int:
        """Return the bytes of all segments and of the database, which the limit is for."""
        return int(self._cache.volume())

    @_connected
    def limit(self, most: int) -> None:
        """Keep at most `most` bytes from now on."""
        self._cache.reset("size_limit", most, update=False)

    @_connected
    def shrink(self) -> None:
        """Evict what is more than the limit, the segments used last at last."""
        self._cache.cull()


def _check(folder: Path) -> None:
    """Check that diskcache can open the database: it would wait for a lock for a whole minute.

    Raises:
        sqlite3.Error: it cannot, or what is in it is not diskcache's.
    """
    with closing(sqlite3.connect(folder / NAME, timeout=BUSY_SECONDS, isolation_level=None)) as database:
        database.execute(f"PRAGMA journal_mode = {JOURNAL}")
        database.execute("BEGIN IMMEDIATE")
        if database.execute("SELECT 1 FROM sqlite_master").fetchone():
            database.execute("SELECT rowid, key, raw, store_time, size, mode, filename, value FROM Cache")
            return
        for below in folder.glob("[0-9a-f][0-9a-f]"):  # blocks that nobody knows of any more
            shutil.rmtree(below, ignore_errors=True)


def _create(path: str) -> FileIO:
    """Make the file `path` and its two folders; another thread may be tidying empty ones away.

    The store's own folder is not made here: that would be open to others.
    """
    for _ in range(MOST_TRIES):
        try:
            return open(path, "xb", buffering=0)  # noqa: PTH123 - a Path costs as much as the block
        except FileNotFoundError:
            folder = os.path.dirname(path)  # noqa: PTH120 - see above
            for one in (os.path.dirname(folder), folder):  # noqa: PTH120 - see above
                with suppress(FileNotFoundError, FileExistsError):
                    os.mkdir(one, 0o700)  # noqa: PTH102 - see above
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


class _OnlyBytes(diskcache.Disk):  # type: ignore[misc] # it ships no types
    """A disk of diskcache that stores bytes under text, and refuses everything else."""

    def put(self, key: str) -> tuple[str, bool]:
        return key, True

    def get(self, key: Any, raw: bool) -> str:  # noqa: FBT001 - diskcache's signature
        if not raw or not isinstance(key, str):
            raise ValueError("a key that this program did not write")
        return key

    def store(self, value: "_Segment", read: bool, key: Any = diskcache.UNKNOWN) -> tuple[int, int, str, None]:  # noqa: FBT001 - see `get`
        if read or not isinstance(value, _Segment):
            raise ValueError("only segments are stored")
        path = os.path.join(self._directory, value.filename)  # noqa: PTH118 - a Path costs as much as the block
        file = _create(path)
        head = segments.head(key, value.blocks)
        size = len(head) + sum(map(len, value.blocks))
        try:
            with file:
                if os.writev(file.fileno(), (head, *value.blocks)) != size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)  # noqa: TRY301 - a short write
        except OSError:
            os.unlink(path)  # noqa: PTH108 - see above
            raise
        return size, BINARY, value.filename, None

    def fetch(self, *_: Any) -> bytes:
        raise ValueError("DiskStore reads the files itself, block by block")

    def remove(self, file_path: str) -> None:
        if is_block_file(file_path):  # else it is a row that someone else wrote, and a file that is not ours
            super().remove(file_path)


class _Segment:
    """Blocks to be stored together, and the name of their file."""

    def __init__(self, blocks: Sequence[bytes]) -> None:
        self.blocks = blocks
        name = os.urandom(16).hex()
        self.filename = f"{name[:2]}/{name[2:4]}/{name[4:]}.val"


class _Cache(diskcache.Cache):  # type: ignore[misc] # it ships no types
    """diskcache with connections that are lent for one use, and closed when the store is.

    diskcache keeps a connection for each thread in a `threading.local`, and that thread alone can close it. The
    threads of libfuse are not Python's: theirs is lost after each call, and every block would open the database.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._lock = threading.Lock()
        self._free: list[sqlite3.Connection] | None = []  # None once closed
        self._lent: dict[int, sqlite3.Connection] = {}  # by thread
        self._process = os.getpid()
        self._file = folder / NAME
        with self.connection():
            super().__init__(os.fspath(folder), **settings)

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Lend this thread a connection. One that failed may hold a lock, and is closed."""
        connection = self._acquire()
        thread = threading.get_ident()
        self._lent[thread] = connection
        try:
            yield
        except BaseException:
            connection.close()
            raise
        else:
            self._release(connection)
        finally:
            del self._lent[thread]

    def _acquire(self) -> sqlite3.Connection:
        if self._process != os.getpid():  # a child of a fork, and its parent's connections
            self._process = os.getpid()
            self._drop_free(None if self._free is None else [])
        with self._lock:
            if self._free:
                return self._free.pop()
        connection = sqlite3.connect(
            self._file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            for pragma, value in PRAGMAS.items():
                connection.execute(f"PRAGMA {pragma} = {value}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _release(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if self._free is not None:
                self._free.append(connection)
                return
        connection.close()

    @property
    def _con(self) -> sqlite3.Connection:
        """Return the connection that this thread was lent; diskcache asks for it before each statement."""
        return self._lent[threading.get_ident()]

    def close(self) -> None:
        """Close the connections that are not in use; diskcache's constructor does that at its end."""
        self._drop_free([])

    def close_all(self) -> None:
        """Close all connections; one that is in use, or is opened later, closes after its use."""
        self._drop_free(None)

    def _drop_free(self, free: list[sqlite3.Connection] | None) -> None:
        with self._lock:
            dropped, self._free = self._free or [], free
        for connection in dropped:
            connection.close()
