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
from pathlib import Path
from typing import Any, TypeGuard

import diskcache
from diskcache.core import MODE_BINARY

from empiarfs.model import Block, File
from empiarfs.settings import GIB
from empiarfs.storage.folders import secure

log = logging.getLogger(__name__)

_HEAD = struct.Struct("<4s16sII")  # magic, digest of the name, length, checksum of digest and data
_MAGIC = b"EFB1"

FLOOR_SHARE = 0.05  # of the file system that stays free, whatever the limit says
FLOOR_BYTES = 2 * GIB
KNOWN_SECONDS = 10.0  # how long the list of a file's blocks is believed
MOST_KNOWN = 4096  # files whose blocks are listed in memory
LONGEST_NUMBER = 19
TOUCHED_AT_ONCE = 256
LOOK_SECONDS = 1.0  # how old a look at the free space may be
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
        secure(folder)
        self._folder = folder
        self._most = most
        self._prefix = f"{archive} {block_bytes}"
        self._cache = self._opened()
        self._known: dict[File, tuple[float, set[int]]] = {}
        self._used: dict[str, None] = {}  # blocks read since the database was last told
        self._looked = float("-inf")
        self._lock = threading.Lock()
        self._full = False
        self._troubled = False
        self.broken = 0

    def __repr__(self) -> str:
        return f"<DiskStore {self._folder} most={self._most} broken={self.broken}>"

    def _opened(self) -> diskcache.Cache:
        """Open the database; one that is broken is begun anew."""
        try:
            cache = self._database()
        except sqlite3.OperationalError as error:  # locked, full, not to be written: it may be whole
            raise OSError(errno.EIO, f"the cache cannot be used now: {error}", os.fspath(self._folder)) from error
        except sqlite3.DatabaseError as error:
            log.warning("%s: %s; the cache begins anew", self._folder, error)
            for file in self._folder.glob("cache.db*"):
                file.unlink()
            for folder in self._folder.glob("[0-9a-f][0-9a-f]"):  # blocks that nobody knows of any more
                shutil.rmtree(folder, ignore_errors=True)
            cache = self._database()
        cache._local = _ByThread()  # noqa: SLF001 - see the class; there is no other door
        return cache

    def _database(self) -> diskcache.Cache:
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
            timeout=10,
            tag_index=False,
            statistics=0,
        )

    def get(self, block: Block) -> bytes | None:
        """See `BlockStore.get`."""
        prefix = self._prefix_of(block.file)
        name = f"{prefix}{block.number}"
        try:
            if not self._may_have(block, prefix):
                return None
            stored = self._cache.get(name)
        except TROUBLES as error:
            self._tell(error)
            return None
        if stored is None:
            return None
        self._used[name] = None
        data = unwrapped(name, stored)
        if data is None:
            self.broken += 1
            log.warning("a cached block of %s was damaged; it is fetched again", block.file.path)
            try:
                self._cache.delete(name)
            except TROUBLES as error:
                self._tell(error)
        return data

    def put(self, block: Block, data: bytes) -> None:
        """See `BlockStore.put`."""
        prefix = self._prefix_of(block.file)
        try:
            if self._has_room():
                self._cache.set(f"{prefix}{block.number}", data)
                with self._lock:
                    if block.file in self._known:
                        self._known[block.file][1].add(block.number)
            if len(self._used) >= TOUCHED_AT_ONCE:
                self._touch()
        except TROUBLES as error:
            self._tell(error)

    def volume(self) -> int:
        """Give the bytes now kept."""
        return int(self._cache.volume())

    def close(self) -> None:
        """Close the database."""
        try:
            self._touch()
        except TROUBLES as error:
            self._tell(error)
        self._cache.close()

    def _touch(self) -> None:
        """Tell the database which blocks were used, in one go."""
        used, self._used = self._used, {}
        with self._cache.transact():
            now = time.time()
            for name in used:
                self._cache._sql("UPDATE Cache SET store_time = ? WHERE key = ? AND raw = 1", (now, name))  # noqa: SLF001

    def _prefix_of(self, file: File) -> str:
        """Give what the names of all blocks of `file` begin with; the number stands behind it."""
        # SQLite's text holds no surrogate escapes
        path = file.path.encode("utf-8", "surrogateescape").decode("latin-1")
        return f"{self._prefix} {path} {file.size} {file.modified} {int(file.listed)} "

    def _may_have(self, block: Block, prefix: str) -> bool:
        """Tell whether `block` was here when the blocks of its file were last listed; a look at each costs more.

        What another process stores meanwhile is found later; what was evicted meanwhile is found missing.
        """
        with self._lock:
            now = time.monotonic()
            when, numbers = self._known.get(block.file, (float("-inf"), set()))
            if block.number in numbers or now - when <= KNOWN_SECONDS:
                return block.number in numbers
            rows = self._cache._sql(  # noqa: SLF001 - diskcache has no way to ask for a range
                "SELECT key FROM Cache WHERE raw = 1 AND key >= ? AND key < ?", (prefix, prefix[:-1] + "!")
            )
            ends = (str(key)[len(prefix) :] for (key,) in rows)
            numbers = {int(end) for end in ends if end.isdecimal() and len(end) < LONGEST_NUMBER}
            if len(self._known) >= MOST_KNOWN:
                self._known.pop(next(iter(self._known)))
            self._known[block.file] = (now, numbers)
            return block.number in numbers

    def _has_room(self) -> bool:
        """Look at the free space now and then; shrink, or stop storing, where it falls below the floor."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked < LOOK_SECONDS:
                return not self._full
            self._looked = now
            disk = shutil.disk_usage(self._folder)
            floor = max(int(disk.total * FLOOR_SHARE), FLOOR_BYTES)
            kept = self.volume()
            limit = min(self._most, max(0, kept + disk.free - floor))
            self._cache.reset("size_limit", limit, update=False)
            full = disk.free < floor
            if full and not self._full:
                log.warning("%s: less than %d MiB are free; the cache gives way", self._folder, floor >> 20)
            self._full = full
        if full:
            self._cache.cull()
        return not full

    def _tell(self, error: Exception) -> None:
        if not self._troubled:
            log.warning("the cache in %s cannot be used (%s); reads go on without it", self._folder, error)
        self._troubled = True


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
