"""Blocks on disk; the only module that knows diskcache.

Blocks that are put together are kept together, in a segment: a file and a row cost more than the bytes. Each block
is verified whenever it is read: one that was cut, swapped or flipped is a block that is not here. Nothing is ever
unpickled, whatever the database says (CVE-2025-69872).
"""

import errno
import logging
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import diskcache
from diskcache.core import DBNAME, MODE_BINARY

from empiarfs.model import Block, File
from empiarfs.settings import GIB
from empiarfs.storage import segments
from empiarfs.storage.folders import Identity, identity, secure, secure_file
from empiarfs.storage.forks import inside
from empiarfs.storage.trouble import CALM_SECONDS, JOURNAL, Trouble, is_wrong, may_be_whole

log = logging.getLogger(__name__)

FLOOR_SHARE = 0.05  # of the file system that stays free, whatever the limit says
FLOOR_BYTES = 2 * GIB
KNOWN_SECONDS = 10.0  # how long the list of a file's blocks is believed
MOST_KNOWN = 4096  # files whose blocks are listed in memory
MOST_PLACES = 262_144  # blocks that are listed there; some 30 MB
TOUCHED_AT_ONCE = 256
MOST_TRIES = 5  # to make a file
MOST_USED = 65_536  # blocks noted as used until the database is told
LOOK_SECONDS = 1.0  # how old a look at the free space may be
BUSY_SECONDS = 2.0  # how long a database that another process locks is waited for
TROUBLES = (OSError, sqlite3.Error, diskcache.Timeout, ValueError, TypeError)


_FILE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")  # as diskcache names them


def is_block_file(filename: object) -> TypeGuard[str]:
    """Tell whether `filename`, below the folder of a store, is called like the file of a segment."""
    return isinstance(filename, str) and _FILE.fullmatch(filename) is not None


def floor_of(total: int) -> int:
    """Give how many of `total` bytes of a file system are always left free."""
    return max(int(total * FLOOR_SHARE), FLOOR_BYTES)


def _made(path: str) -> FileIO:
    """Make the file `path`, and what is missing above it; another thread may be tidying empty folders away."""
    for _ in range(MOST_TRIES):
        try:
            return open(path, "xb", buffering=0)  # noqa: PTH123 - a Path costs as much as the block
        except FileNotFoundError:
            with suppress(FileNotFoundError):
                os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - see above
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


class _OnlyBytes(diskcache.Disk):  # type: ignore[misc]
    """A disk of diskcache that stores bytes under text, and refuses everything else."""

    def put(self, key: str) -> tuple[str, bool]:
        return key, True

    def get(self, key: Any, raw: bool) -> str:  # noqa: FBT001 - diskcache's signature
        if not raw or not isinstance(key, str):
            raise ValueError("a key that this program did not write")
        return key

    def store(self, value: "_Segment", read: bool, key: Any = diskcache.UNKNOWN) -> tuple[int, int, str, None]:  # noqa: FBT001
        if read or not isinstance(value, _Segment):
            raise ValueError("only segments are stored")
        path = os.path.join(self._directory, value.filename)  # noqa: PTH118 - a Path costs as much as the block
        file = _made(path)
        head = segments.head(key, value.blocks)
        size = len(head) + sum(map(len, value.blocks))
        try:
            with file:
                if os.writev(file.fileno(), (head, *value.blocks)) != size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)  # noqa: TRY301 - a short write
        except OSError:
            os.unlink(path)  # noqa: PTH108 - see above
            raise
        return size, MODE_BINARY, value.filename, None

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


class _ByThread:
    """Values by thread, in place of `threading.local`.

    The threads of libfuse are not Python's: their `threading.local` is gone after each call, and diskcache would
    open its database anew for every block.
    """

    def __init__(self) -> None:
        object.__setattr__(self, "_values", {})

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[threading.get_ident(), name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._values[threading.get_ident(), name] = value

    def __delattr__(self, name: str) -> None:
        self._values.pop((threading.get_ident(), name), None)


class _Place(NamedTuple):
    """Where a block is: in the segment `name`, which holds `numbers`, in the file `filename`."""

    name: str
    numbers: range
    filename: str


@dataclass(slots=True)
class _Listed:
    """The blocks of one file that were on disk `when` they were listed, by number."""

    when: float
    places: dict[int, _Place]


class DiskStore:
    """Blocks below `folder`, at most `most` bytes of them, the ones used last.

    Args:
        folder: made if it is missing, with mode 0700.
        most: the most bytes to keep.
        archive: which archive the paths belong to; two that hold the same path are two.
        block_bytes: the length of a block, a part of its name.

    Raises:
        OSError: the folder is someone else's, others may write to it, or it cannot be made.
    """

    def __init__(self, folder: Path, most: int, *, archive: str, block_bytes: int) -> None:
        if os.path.expandvars(folder) != os.fspath(folder):  # diskcache would
            raise OSError(
                errno.EINVAL, "a cache folder may not have a variable like $HOME in its name", os.fspath(folder)
            )
        self._folder = folder
        self._database_file = folder / DBNAME
        self._most = most
        self._prefix = f"{archive} {block_bytes}"
        self._known: dict[File, _Listed] = {}
        self._places = 0  # in all of them
        self._used: dict[str, None] = {}  # segments read since the database was last told
        self._looked = float("-inf")
        self._damaged = float("-inf")  # when the last damaged block was found
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._full = False
        self._trouble = Trouble(f"the cache in {folder}")
        self._outdated = self._wrong = False  # the database is to be opened anew; its content is wrong
        self._identity: Identity | None = None
        self._cache: diskcache.Cache | None = None
        self.broken = 0
        try:
            with inside:
                self._cache = self._opened()
        except (PermissionError, NotADirectoryError, FileExistsError):
            raise  # to be chosen otherwise, not to be done without
        except TROUBLES as error:
            self._tell(error, "writing")

    def __repr__(self) -> str:
        return f"<DiskStore {self._folder} most={self._most} broken={self.broken}>"

    def _opened(self) -> diskcache.Cache:
        """Open the database; one whose content is wrong is begun anew, and blocks that nobody knows of go."""
        secure(self._folder)
        secure_file(self._database_file)
        if self._cache is not None:
            self._cache._local = _ByThread()  # noqa: SLF001 - connections that fail may hold locks
        try:
            if self._wrong and not self._is_another():
                raise sqlite3.DatabaseError("its content is wrong")
            return self._taken(self._database())
        except sqlite3.Error as error:
            if may_be_whole(error):
                raise
            self._trouble.tell(error, "")
        except (ValueError, TypeError) as error:  # settings in it that diskcache cannot take
            self._trouble.tell(error, "")
        for file in self._folder.glob(f"{DBNAME}*"):
            file.unlink(missing_ok=True)
        log.info("%s: the cache begins anew", self._folder)
        return self._taken(self._database())

    def _taken(self, cache: diskcache.Cache) -> diskcache.Cache:
        cache.close()  # the connection of its constructor, which nobody would close
        cache._local = _ByThread()  # noqa: SLF001 - see the class; there is no other door
        with self._lock:
            self._cache, self._known, self._places = cache, {}, 0
        self._outdated = self._wrong = False
        self._identity = identity(self._database_file)
        return cache

    def _is_another(self) -> bool:
        """Tell whether the database is no longer the file that was opened: its folder was deleted, say."""
        return identity(self._database_file) != self._identity

    def _database(self) -> diskcache.Cache:
        self._check()
        return diskcache.Cache(
            os.fspath(self._folder),
            disk=_OnlyBytes,
            size_limit=self._most,
            # With its own least-recently-used diskcache locks the whole database for every look, hit or miss;
            # here looks are free, and what was used is given a newer store time now and then.
            eviction_policy="least-recently-stored",
            cull_limit=10,
            sqlite_journal_mode=JOURNAL,
            sqlite_synchronous=0,  # a block that a crash cuts fails its checksum
            sqlite_mmap_size=0,
            sqlite_cache_size=256,  # pages, 1 MiB: every thread of libfuse has a connection of its own
            timeout=BUSY_SECONDS,
            tag_index=False,
            statistics=0,
        )

    def _check(self) -> None:
        """See that diskcache can open the database: it would wait for a lock for a whole minute.

        Raises:
            sqlite3.Error: it cannot, or what is in it is not diskcache's.
        """
        with closing(sqlite3.connect(self._database_file, timeout=BUSY_SECONDS, isolation_level=None)) as database:
            database.execute(f"PRAGMA journal_mode = {JOURNAL}")
            database.execute("BEGIN IMMEDIATE")
            if database.execute("SELECT 1 FROM sqlite_master").fetchone():
                database.execute("SELECT rowid, key, raw, store_time, size, mode, filename, value FROM Cache")
                return
        for folder in self._folder.glob("[0-9a-f][0-9a-f]"):  # blocks that nobody knows of any more
            shutil.rmtree(folder, ignore_errors=True)

    def get(self, block: Block) -> bytes | None:
        """See `BlockStore.get`."""
        cache = self._cache
        if cache is None or self._trouble.rests("reading"):
            return None
        for _ in range(2):  # a segment that was stored anew meanwhile lies in another file
            try:
                with inside:
                    place = self._place(cache, block)
            except TROUBLES as error:
                self._tell(error, "reading")
                return None
            if place is None:
                return None
            try:
                data = self._read(cache, place, block.number)
            except FileNotFoundError:  # evicted, or stored anew
                self._forget(block.file)
                continue
            except OSError:  # of this one file; the others may be whole
                data = None
            if data is None:
                self._drop(cache, place.name, block)
            elif len(self._used) < MOST_USED:
                self._used[place.name] = None
            return data
        return None

    def _read(self, cache: diskcache.Cache, place: _Place, number: int) -> bytes | None:
        """Give a block; None where it is damaged."""
        index = number - place.numbers.start
        file = os.open(f"{cache.directory}/{place.filename}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            head = os.pread(file, segments.head_bytes(len(place.numbers)), 0)
            part = segments.part(place.name, len(place.numbers), index, head)
            if part is None:
                return None
            data = os.pread(file, part.size, part.start)
        finally:
            os.close(file)
        return data if segments.is_whole(place.name, index, head, data) else None

    def put(self, first: Block, *data: bytes) -> None:
        """See `BlockStore.put`."""
        try:
            with inside:
                self._store(first, data)
        except TROUBLES as error:
            self._tell(error, "writing")

    def _store(self, first: Block, data: Sequence[bytes]) -> None:
        cache = self._writable()
        if cache is None:
            return
        numbers = range(first.number, first.number + len(data))
        name = segments.name(self._prefix_of(first.file), numbers)
        segment = _Segment(data)
        cache.set(name, segment)
        with self._lock:
            listed = self._known.get(first.file)
            if listed is not None:
                self._places -= len(listed.places)
                listed.places.update(dict.fromkeys(numbers, _Place(name, numbers, segment.filename)))
                self._places += len(listed.places)
        if len(self._used) >= TOUCHED_AT_ONCE:
            self._touch(cache)
        self._trouble.well()

    def volume(self) -> int:
        """Give the bytes now kept."""
        with inside:
            return int(self._cache.volume()) if self._cache is not None else 0

    def kept(self) -> int | None:
        """Give the bytes now kept; None where that cannot be told now, which is no trouble of a reader's."""
        try:
            return self.volume()
        except TROUBLES:
            return None

    def close(self) -> None:
        """Close the database."""
        cache = self._cache
        if cache is None:
            return
        try:
            with inside:
                self._touch(cache)
                cache.close()
        except TROUBLES as error:
            self._tell(error, "writing")
        cache._local = _ByThread()  # noqa: SLF001 - the connections of other threads, which it cannot close

    def _forget(self, file: File) -> None:
        """Look for the blocks of `file` anew the next time."""
        with self._lock:
            listed = self._known.pop(file, None)
            self._places -= len(listed.places) if listed is not None else 0

    def _drop(self, cache: diskcache.Cache, name: str, block: Block) -> None:
        """Drop the segment of a damaged block; a disk that fails damages many, and is told of once."""
        self._forget(block.file)
        self.broken += 1
        now = time.monotonic()
        if now - self._damaged > CALM_SECONDS:
            log.warning(
                "a cached block of %s was damaged; it and others like it are fetched again", block.file.path
            )
        self._damaged = now
        try:
            if not self._trouble.rests("writing"):
                with inside:
                    cache.delete(name)
        except TROUBLES as error:
            self._tell(error, "writing")

    def _touch(self, cache: diskcache.Cache) -> None:
        """Tell the database which blocks were used, in one go."""
        used, self._used = self._used, {}
        with cache.transact():
            now = time.time()
            for name in list(used):  # a reader may still hold it
                cache._sql("UPDATE Cache SET store_time = ? WHERE key = ? AND raw = 1", (now, name))  # noqa: SLF001

    def _prefix_of(self, file: File) -> str:
        """Give what the names of all blocks of `file` begin with; the number stands behind it."""
        # SQLite's text holds no surrogate escapes
        path = file.path.encode("utf-8", "surrogateescape").decode("latin-1")
        return f"{self._prefix} {path} {file.size} {file.modified} {int(file.listed)} "

    def _place(self, cache: diskcache.Cache, block: Block) -> _Place | None:
        """Give where `block` was when the blocks of its file were last listed; a look at each costs more.

        What another process stores meanwhile is found later; what was evicted meanwhile is found missing.
        """
        with self._lock:
            listed = self._known.get(block.file)
            now = time.monotonic()
            if listed is not None and (block.number in listed.places or now - listed.when <= KNOWN_SECONDS):
                return listed.places.get(block.number)
            if self._trouble.rests("reading"):  # the thread before us has waited for nothing
                return None
            prefix = self._prefix_of(block.file)
            rows = cache._sql(  # noqa: SLF001 - diskcache has no way to ask for a range
                "SELECT key, filename FROM Cache WHERE raw = 1 AND mode = ? AND key >= ? AND key < ?",
                (MODE_BINARY, prefix, prefix[:-1] + "!"),
            )
            places: dict[int, _Place] = {}
            for name, filename in rows:
                if isinstance(name, str) and is_block_file(filename):  # else a row that someone else wrote
                    numbers = segments.numbers(prefix, name)
                    places.update(dict.fromkeys(numbers, _Place(name, numbers, filename)))
            self._known.pop(block.file, None)
            self._known[block.file] = _Listed(now, places)
            self._places = sum(len(known.places) for known in self._known.values())
            while len(self._known) > 1 and (self._places > MOST_PLACES or len(self._known) > MOST_KNOWN):
                self._places -= len(self._known.pop(next(iter(self._known))).places)
            return places.get(block.number)

    def _writable(self) -> diskcache.Cache | None:
        """Give the database if a block may be stored now. Now and then, look whether it is there and has room."""
        if self._trouble.rests("writing"):
            return None
        with self._looking:
            cache = self._cache
            now = time.monotonic()
            if cache is None or self._outdated or now - self._looked >= LOOK_SECONDS:
                self._looked = now
                if cache is None or self._outdated or self._is_another():
                    cache = self._opened()
                self._full = not self._has_room(cache)
            return None if self._full else cache

    def _has_room(self, cache: diskcache.Cache) -> bool:
        """Tell whether the free space is above the floor; shrink where it is not."""
        disk = shutil.disk_usage(self._folder)
        floor = floor_of(disk.total)
        limit = min(self._most, max(0, int(cache.volume()) + disk.free - floor))
        cache.reset("size_limit", limit, update=False)
        if disk.free >= floor:
            return True
        if not self._full:
            log.warning("%s: less than %d MiB are free; the cache gives way", self._folder, floor >> 20)
        cache.cull()
        return False

    def _tell(self, error: Exception, use: str) -> None:
        """Take in that `use` of the database failed; it may have to be opened anew."""
        row = isinstance(error, ValueError | TypeError)  # one that someone else wrote; the others are good
        self._trouble.tell(error, "" if row else use)
        self._wrong = self._wrong or is_wrong(error)
        self._outdated = self._outdated or isinstance(error, sqlite3.Error | diskcache.Timeout)
        with suppress(*TROUBLES), inside:
            if self._cache is not None:
                self._cache.close()  # the connection of this thread, which may hold a lock
