"""Blocks on disk; the only module that knows diskcache.

Each block is stored with the digest of its name and a checksum, and is verified whenever it is read: a block that
was cut, swapped or flipped is a block that is not here. Nothing is ever unpickled, whatever the database says
(CVE-2025-69872).
"""

import errno
import hashlib
import logging
import os
import re
import shutil
import sqlite3
import struct
import threading
import time
import zlib
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeGuard

import diskcache
from diskcache.core import DBNAME, MODE_BINARY

from empiarfs.model import Block, File
from empiarfs.settings import GIB
from empiarfs.storage.folders import Identity, identity, secure
from empiarfs.storage.trouble import CALM_SECONDS, Trouble, is_busy, is_wrong, may_be_whole

log = logging.getLogger(__name__)

_HEAD = struct.Struct("<4s16sII")  # magic, digest of the name, length, checksum of digest and data
_MAGIC = b"EFB1"

FLOOR_SHARE = 0.05  # of the file system that stays free, whatever the limit says
FLOOR_BYTES = 2 * GIB
KNOWN_SECONDS = 10.0  # how long the list of a file's blocks is believed
MOST_KNOWN = 4096  # files whose blocks are listed in memory
LONGEST_NUMBER = 19
TOUCHED_AT_ONCE = 256
MOST_USED = 65_536  # blocks noted as used until the database is told
LOOK_SECONDS = 1.0  # how old a look at the free space may be
BUSY_SECONDS = 2.0  # how long a database that another process locks is waited for
TROUBLES = (OSError, sqlite3.Error, diskcache.Timeout, ValueError, TypeError)


_FILE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{28}\.val")  # as diskcache names them


def _is_ours(filename: object) -> TypeGuard[str]:
    return isinstance(filename, str) and _FILE.fullmatch(filename) is not None


class _OnlyBytes(diskcache.Disk):  # type: ignore[misc]
    """A disk of diskcache that stores bytes under text, and refuses everything else."""

    def put(self, key: str) -> tuple[str, bool]:
        return key, True

    def get(self, key: Any, raw: bool) -> str:  # noqa: FBT001 - diskcache's signature
        if not raw or not isinstance(key, str):
            raise ValueError("a key that this program did not write")
        return key

    def store(self, value: bytes, read: bool, key: Any = diskcache.UNKNOWN) -> tuple[int, int, str, None]:  # noqa: FBT001
        if read or not isinstance(value, bytes):
            raise ValueError("only bytes are stored")
        name, path = self.filename(key, value)
        try:
            file = open(path, "xb", buffering=0)  # noqa: PTH123, SIM115 - a Path costs as much as the block
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120 - see above
            file = open(path, "xb", buffering=0)  # noqa: PTH123, SIM115
        head = _head(key, value)
        try:
            with file:
                if os.writev(file.fileno(), (head, value)) != len(head) + len(value):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)  # noqa: TRY301 - a short write
        except OSError:
            os.unlink(path)  # noqa: PTH108 - see above
            raise
        return len(head) + len(value), MODE_BINARY, name, None

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes:  # noqa: ARG002, FBT001
        if mode != MODE_BINARY or read or not _is_ours(filename):
            raise ValueError("a value that this program did not write")
        return (Path(self._directory) / filename).read_bytes()

    def remove(self, file_path: str) -> None:
        if _is_ours(file_path):  # else it is a row that someone else wrote, and a file that is not ours
            super().remove(file_path)


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
        self._known: dict[File, tuple[float, set[int]]] = {}
        self._used: dict[str, None] = {}  # blocks read since the database was last told
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
        try:
            if self._wrong and not self._is_another():
                raise sqlite3.DatabaseError("its content is wrong")
            if identity(self._database_file) is None:
                self._clear()
            return self._taken(self._database())
        except sqlite3.Error as error:
            if may_be_whole(error):
                raise
            self._trouble.tell(error, "")
        except (ValueError, TypeError) as error:  # settings in it that diskcache cannot take
            self._trouble.tell(error, "")
        self._clear()
        log.info("%s: the cache begins anew", self._folder)
        return self._taken(self._database())

    def _clear(self) -> None:
        """Take the database away, and all that only it knew."""
        for file in self._folder.glob(f"{DBNAME}*"):
            file.unlink(missing_ok=True)
        for folder in self._folder.glob("[0-9a-f][0-9a-f]"):
            shutil.rmtree(folder, ignore_errors=True)

    def _taken(self, cache: diskcache.Cache) -> diskcache.Cache:
        cache._local = _ByThread()  # noqa: SLF001 - see the class; there is no other door
        with self._lock:
            self._cache, self._known = cache, {}
        self._outdated = self._wrong = False
        self._identity = identity(self._database_file)
        return cache

    def _is_another(self) -> bool:
        """Tell whether the database is no longer the file that was opened: its folder was deleted, say."""
        return identity(self._database_file) != self._identity

    def _database(self) -> diskcache.Cache:
        # diskcache would wait for a whole minute for a lock while it opens
        with closing(sqlite3.connect(self._database_file, timeout=BUSY_SECONDS)) as database:
            database.execute("BEGIN IMMEDIATE")
        return diskcache.Cache(
            os.fspath(self._folder),
            disk=_OnlyBytes,
            size_limit=self._most,
            # With its own least-recently-used diskcache locks the whole database for every look, hit or miss;
            # here looks are free, and what was used is given a newer store time now and then.
            eviction_policy="least-recently-stored",
            cull_limit=10,
            sqlite_synchronous=0,  # a block that a crash cuts fails its checksum
            sqlite_mmap_size=0,
            sqlite_cache_size=256,  # pages, 1 MiB: every thread of libfuse has a connection of its own
            timeout=BUSY_SECONDS,
            tag_index=False,
            statistics=0,
        )

    def get(self, block: Block) -> bytes | None:
        """See `BlockStore.get`."""
        prefix = self._prefix_of(block.file)
        name = f"{prefix}{block.number}"
        cache = self._cache
        if cache is None or self._trouble.rests("reading"):
            return None
        try:
            stored = cache.get(name) if self._may_have(cache, block, prefix) else None
        except TROUBLES as error:
            self._tell(error, "reading")
            return None
        if stored is None:
            return None
        if len(self._used) < MOST_USED:
            self._used[name] = None
        data = unwrapped(name, stored)
        if data is None:
            self._drop(cache, name, block.file)
        return data

    def put(self, block: Block, data: bytes) -> None:
        """See `BlockStore.put`."""
        prefix = self._prefix_of(block.file)
        try:
            cache = self._writable()
            if cache is None:
                return
            cache.set(f"{prefix}{block.number}", data)
            with self._lock:
                if block.file in self._known:
                    self._known[block.file][1].add(block.number)
            if len(self._used) >= TOUCHED_AT_ONCE:
                self._touch(cache)
        except TROUBLES as error:
            self._tell(error, "writing")
        else:
            self._trouble.well()

    def volume(self) -> int:
        """Give the bytes now kept."""
        return int(self._cache.volume()) if self._cache is not None else 0

    def close(self) -> None:
        """Close the database."""
        cache = self._cache
        if cache is None:
            return
        try:
            self._touch(cache)
            cache.close()
        except TROUBLES as error:
            self._tell(error, "writing")

    def _drop(self, cache: diskcache.Cache, name: str, file: File) -> None:
        """Drop a damaged block; a disk that fails damages many, and is told of once."""
        self.broken += 1
        now = time.monotonic()
        if now - self._damaged > CALM_SECONDS:
            log.warning("a cached block of %s was damaged; it and others like it are fetched again", file.path)
        self._damaged = now
        try:
            if not self._trouble.rests("writing"):
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

    def _may_have(self, cache: diskcache.Cache, block: Block, prefix: str) -> bool:
        """Tell whether `block` was here when the blocks of its file were last listed; a look at each costs more.

        What another process stores meanwhile is found later; what was evicted meanwhile is found missing.
        """
        with self._lock:
            now = time.monotonic()
            when, numbers = self._known.get(block.file, (float("-inf"), set()))
            if block.number in numbers or now - when <= KNOWN_SECONDS:
                return block.number in numbers
            if self._trouble.rests("reading"):  # the thread before us has waited for nothing
                return False
            rows = cache._sql(  # noqa: SLF001 - diskcache has no way to ask for a range
                "SELECT key FROM Cache WHERE raw = 1 AND key >= ? AND key < ?", (prefix, prefix[:-1] + "!")
            )
            ends = (str(key)[len(prefix) :] for (key,) in rows)
            numbers = {int(end) for end in ends if end.isdecimal() and len(end) < LONGEST_NUMBER}
            if len(self._known) >= MOST_KNOWN:
                self._known.pop(next(iter(self._known)))
            self._known[block.file] = (now, numbers)
            return block.number in numbers

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
        floor = max(int(disk.total * FLOOR_SHARE), FLOOR_BYTES)
        limit = min(self._most, max(0, self.volume() + disk.free - floor))
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
        self._outdated = self._outdated or (isinstance(error, sqlite3.Error) and not is_busy(error))
        with suppress(*TROUBLES):
            if self._cache is not None:
                self._cache.close()  # the connection of this thread, which may hold a lock


def _head(name: str, data: bytes) -> bytes:
    """Give what stands before `data` in its file: whose it is, and how to verify it."""
    digest = _digest(name)
    return _HEAD.pack(_MAGIC, digest, len(data), zlib.crc32(data, zlib.crc32(digest)))


def unwrapped(name: str, stored: bytes) -> bytes | None:
    """Give the data of a stored block; None where it is not that of `name`, or not whole."""
    if len(stored) < _HEAD.size:
        return None
    magic, digest, length, checksum = _HEAD.unpack_from(stored)
    data = stored[_HEAD.size :]
    if magic != _MAGIC or digest != _digest(name) or length != len(data):
        return None
    return data if zlib.crc32(data, zlib.crc32(digest)) == checksum else None


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()
