"""The block store on disk, within its limits.

Blocks of an aligned part of a file are stored together, as a chunk: a file and a row cost more than the bytes. Each
block is verified whenever it is read: one that was truncated, swapped or flipped counts as missing.
"""

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from sqlite3 import DatabaseError
from sqlite3 import Error as SqliteError
from typing import TypeVar

from empiarfs.cancellation import wait_future
from empiarfs.circuit_breaker import CALM_SECONDS, CircuitBreaker
from empiarfs.errors import Cancelled
from empiarfs.model import File
from empiarfs.private_dirs import Identity, check_private_file, ensure_private, identity
from empiarfs.storage import chunk_file, chunks
from empiarfs.storage.chunk_file import Stored
from empiarfs.storage.chunks import Chunk
from empiarfs.storage.database import CENTURY, FAILURES, NAME, Database, Place
from empiarfs.storage.sqlite import is_wrong, may_be_whole
from empiarfs.units import GIB

log = logging.getLogger(__name__)

FLOOR_SHARE = 0.05  # of the file system, which stays free whatever the limit is
FLOOR_BYTES = 2 * GIB
TOUCHED_AT_ONCE = 256
MOST_USED = 65_536  # used chunks that the database has not recorded yet
LOOK_SECONDS = 1.0  # how old the last check of the database and the free space may be
CLOSE_SECONDS = 3.0  # how long closing waits for the disk
TROUBLES = (*FAILURES, OSError, ValueError, TypeError)

T = TypeVar("T")


def min_free_of(total: int) -> int:
    """Return how many bytes of a file system of `total` bytes are always left free."""
    return max(int(total * FLOOR_SHARE), FLOOR_BYTES)


class DiskStore:
    """Stores at most `most` bytes of blocks in `folder`; the least recently used are evicted.

    Args:
        folder: the folder, created with mode 0700 if it is missing.
        most: the most bytes to store.
        archive: the archive of the paths; the same path in two archives is two files.
        block_bytes: the length of a block, a part of the key.

    Raises:
        OSError: the folder belongs to another user, others may write to it, or it cannot be created.
    """

    def __init__(self, folder: Path, most: int, *, archive: str, block_bytes: int) -> None:
        if os.path.expandvars(folder) != os.fspath(folder):  # diskcache would
            raise OSError(
                errno.EINVAL, "a cache folder may not have a variable like $HOME in its name", os.fspath(folder)
            )
        self._folder = folder
        self._database_file = folder / NAME
        self._most = most
        self._archive = archive
        self._block_bytes = block_bytes
        self._used: dict[str, None] = {}  # chunks that were read and are not recorded as used yet
        self._looked = float("-inf")
        self._damaged = float("-inf")  # when the last damaged block was found
        self._looking = threading.Lock()
        self._full = self._is_closed = False
        self._breaker = CircuitBreaker(f"the cache in {folder}")
        self._outdated = self._wrong = False  # the database is to be reopened; its content is corrupt
        self._identity: Identity | None = None
        self._database: Database | None = None
        self.broken = 0
        try:
            self._open()
        except (PermissionError, NotADirectoryError, FileExistsError):
            raise  # the user must choose another folder
        except TROUBLES as error:
            self._record_failure(error, "writing")

    def __repr__(self) -> str:
        return f"<DiskStore {self._folder} most={self._most} broken={self.broken}>"

    def get(self, file: File, numbers: range) -> dict[int, bytes]:
        """See `BlockStore.get`."""
        database = self._database
        if database is None or self._breaker.is_open("reading"):
            return {}
        try:
            return self._wait(database, partial(self._get, database, file, numbers)) or {}
        except Cancelled:
            raise
        except TROUBLES as error:
            self._record_failure(error, "reading")
            return {}

    def put(self, file: File, blocks: Mapping[int, bytes]) -> None:
        """See `BlockStore.put`."""
        if self._is_closed or self._breaker.is_open("writing"):
            return
        try:
            database = self._writable()
            if database is not None:
                self._wait(database, partial(self._put, database, file, blocks))
        except Cancelled:
            raise
        except TROUBLES as error:
            self._record_failure(error, "writing")

    def kept(self) -> int | None:
        """Return the bytes that are stored; None if they are not available now."""
        database = self._database
        try:
            return self._wait(database, database.stored_bytes) if database is not None else 0
        except TROUBLES:
            return None

    def close(self) -> None:
        """Close the database; do not wait for a disk that hangs."""
        self._is_closed = True
        database, self._database = self._database, None
        if database is None:
            return
        try:
            self._wait(database, partial(self._touch, database), CLOSE_SECONDS)
        except TROUBLES as error:
            self._record_failure(error, "writing")
        database.close(CLOSE_SECONDS)

    def _wait(self, database: Database, call: Callable[[], T], seconds: float | None = None) -> T | None:
        """Return what `call` returns in a thread of the database; None if that is closed, or takes too long.

        Raises:
            Cancelled: the caller is to stop waiting.
        """
        future = database.submit(call)
        if future is None:
            return None
        try:
            return future.result() if wait_future(future, seconds) else None
        finally:
            future.cancel()

    def _get(self, database: Database, file: File, numbers: range) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for number, wanted in chunks.split(numbers, self._block_bytes):
            chunk = Chunk(self._archive, self._block_bytes, file, number)
            _, stored = self._read(database, chunk, wanted)
            found |= stored.blocks
            if stored.damaged:
                self._report_damage(file, stored.damaged)
                self._repair(database, chunk)
            elif stored.blocks and len(self._used) < MOST_USED:
                self._used[chunk.key] = None
        return found

    def _read(self, database: Database, chunk: Chunk, numbers: list[int] | range) -> tuple[Place | None, Stored]:
        """Return the place of `chunk`, and those blocks of `numbers` that are intact there."""
        place = None
        for _ in range(2):  # once more for a chunk that was stored again meanwhile, in another file
            place = database.find(chunk.key)
            if place is None:
                break
            try:
                return place, chunk_file.read(place.path, chunk, numbers)
            except FileNotFoundError:
                continue  # evicted, stored again, or deleted by hand
        return place, Stored()

    def _put(self, database: Database, file: File, blocks: Mapping[int, bytes]) -> None:
        for number, inside in chunks.split(sorted(blocks), self._block_bytes):
            chunk = Chunk(self._archive, self._block_bytes, file, number)
            self._merge(database, chunk, {one: blocks[one] for one in inside})
        if len(self._used) >= TOUCHED_AT_ONCE:
            self._touch(database)
        self._breaker.success()

    def _merge(self, database: Database, chunk: Chunk, blocks: dict[int, bytes]) -> None:
        """Store `blocks` in `chunk`, with its blocks that are intact on disk.

        No lock is held between read and write: the later of two writers may replace the other's blocks, which are
        then fetched again. A chunk file is never changed.
        """
        place, stored = (
            (None, Stored()) if chunk.is_complete(blocks) else self._read(database, chunk, chunk.numbers)
        )
        merged = stored.blocks | blocks
        if not merged:
            database.delete((chunk.key, place))
        elif merged != stored.blocks or stored.damaged:
            database.store(chunk.key, chunks.pack(chunk, merged))

    def _repair(self, database: Database, chunk: Chunk) -> None:
        """Store `chunk` again without its damaged blocks."""
        try:
            if not self._breaker.is_open("writing"):
                self._merge(database, chunk, {})
        except TROUBLES as error:
            self._record_failure(error, "writing")

    def _report_damage(self, file: File, count: int) -> None:
        """Record that blocks of `file` are damaged; a failing disk damages many, which are logged once."""
        self.broken += count
        now = time.monotonic()
        if now - self._damaged > CALM_SECONDS:
            log.warning("a cached block of %s was damaged; it and others like it are fetched again", file.path)
        self._damaged = now

    def _touch(self, database: Database) -> None:
        """Record in the database which chunks were used."""
        used, self._used = self._used, {}
        if not used:
            return
        with database.connected() as cache, cache.transact():
            for key in list(used):  # a reader may still hold it
                cache.touch(key, expire=CENTURY)

    def _writable(self) -> Database | None:
        """Return the database if it exists and has room, checked each `LOOK_SECONDS`, else None."""
        with self._looking:
            now = time.monotonic()
            if self._database is None or self._outdated or now - self._looked >= LOOK_SECONDS:
                self._looked = now
                if self._database is None or self._outdated or self._is_another():
                    self._open()
                database = self._database
                self._full = database is None or not self._wait(database, partial(self._has_room, database))
            return None if self._full else self._database

    def _open(self) -> None:
        """Open the database; replace one whose content is corrupt by an empty one."""
        ensure_private(self._folder)
        check_private_file(self._database_file)
        opened = None
        try:
            if self._wrong and not self._is_another():
                raise DatabaseError("its content is wrong")
            opened = Database(self._folder, self._most)
        except SqliteError as error:
            if may_be_whole(error):
                raise
            self._breaker.failure(error, "")
        except (ValueError, TypeError) as error:  # it holds settings that diskcache cannot use
            self._breaker.failure(error, "")
        if opened is None:
            for file in self._folder.glob(f"{NAME}*"):
                file.unlink(missing_ok=True)
            log.info("%s: the cache starts empty", self._folder)
            opened = Database(self._folder, self._most)
        self._outdated = self._wrong = False
        self._identity = identity(self._database_file)
        before, self._database = self._database, opened
        if before is not None:
            before.close()
        if self._is_closed:  # it was closed meanwhile
            self.close()

    def _is_another(self) -> bool:
        """Return whether the database is not the file that was opened, as after its folder was deleted."""
        return identity(self._database_file) != self._identity

    def _has_room(self, database: Database) -> bool:
        """Return whether the free space is above the floor; evict chunks if it is not."""
        disk = shutil.disk_usage(self._folder)
        floor = min_free_of(disk.total)
        database.stored_bytes()  # fails in time if the database is locked; `volume` would retry for a minute
        with database.connected() as cache:
            most = min(self._most, max(0, cache.volume() + disk.free - floor))
            cache.reset("size_limit", most, update=False)
            if disk.free >= floor:
                return True
            if not self._full:
                log.warning("%s: less than %d MiB are free; the cache gives way", self._folder, floor >> 20)
            cache.cull()
            return False

    def _record_failure(self, error: Exception, use: str) -> None:
        """Record that `use` of the database failed; it may have to be reopened."""
        row = isinstance(error, ValueError | TypeError)  # a row of another program; the others are good
        self._breaker.failure(error, "" if row else use)
        self._wrong = self._wrong or is_wrong(error)
        self._outdated = self._outdated or isinstance(error, FAILURES)
