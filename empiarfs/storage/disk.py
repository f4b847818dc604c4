"""Blocks on disk, within their limits.

Blocks of an aligned part of a file are stored together, as a chunk: a file and a row cost more than the bytes. Each
block is verified whenever it is read: one that was cut, swapped or flipped is a block that is not here.
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
from empiarfs.errors import Cancelled
from empiarfs.model import File
from empiarfs.private_dirs import Identity, check_private_file, ensure_private, identity
from empiarfs.storage import chunk_file, chunks, database
from empiarfs.storage.chunk_file import Stored
from empiarfs.storage.chunks import Chunk
from empiarfs.storage.circuit_breaker import CALM_SECONDS, CircuitBreaker, is_wrong, may_be_whole
from empiarfs.storage.database import Database, Place
from empiarfs.units import GIB

log = logging.getLogger(__name__)

FLOOR_SHARE = 0.05  # of the file system that stays free, whatever the limit says
FLOOR_BYTES = 2 * GIB
TOUCHED_AT_ONCE = 256
MOST_USED = 65_536  # chunks noted as used until the database is told
LOOK_SECONDS = 1.0  # how old a look at the free space may be
CLOSE_SECONDS = 3.0  # how long closing waits for the disk
TROUBLES = (*database.FAILURES, OSError, ValueError, TypeError)

T = TypeVar("T")


def min_free_of(total: int) -> int:
    """Return how many of `total` bytes of a file system are always left free."""
    return max(int(total * FLOOR_SHARE), FLOOR_BYTES)


class DiskStore:
    """Blocks below `folder`, at most `most` bytes of them, the ones used last.

    Args:
        folder: made if it is missing, with mode 0700.
        most: the most bytes to store.
        archive: which archive the paths belong to; two that hold the same path are two.
        block_bytes: the length of a block, a part of its name.

    Raises:
        OSError: the folder is another user's, others may write to it, or it cannot be made.
    """

    def __init__(self, folder: Path, most: int, *, archive: str, block_bytes: int) -> None:
        if os.path.expandvars(folder) != os.fspath(folder):  # diskcache would
            raise OSError(
                errno.EINVAL, "a cache folder may not have a variable like $HOME in its name", os.fspath(folder)
            )
        self._folder = folder
        self._database_file = folder / database.NAME
        self._most = most
        self._archive = archive
        self._block_bytes = block_bytes
        self._used: dict[str, None] = {}  # chunks read since the database was last told
        self._looked = float("-inf")
        self._damaged = float("-inf")  # when the last damaged block was found
        self._looking = threading.Lock()
        self._full = self._is_closed = False
        self._breaker = CircuitBreaker(f"the cache in {folder}")
        self._outdated = self._wrong = False  # the database is to be opened again; its content is wrong
        self._identity: Identity | None = None
        self._database: Database | None = None
        self.broken = 0
        try:
            self._open()
        except (PermissionError, NotADirectoryError, FileExistsError):
            raise  # to be chosen otherwise, not to be done without
        except TROUBLES as error:
            self._record_failure(error, "writing")

    def __repr__(self) -> str:
        return f"<DiskStore {self._folder} most={self._most} broken={self.broken}>"

    def get(self, file: File, numbers: range) -> dict[int, bytes]:
        """See `BlockStore.get`."""
        kept = self._database
        if kept is None or self._breaker.is_open("reading"):
            return {}
        try:
            return self._wait(kept, partial(self._get, kept, file, numbers)) or {}
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
            kept = self._writable()
            if kept is not None:
                self._wait(kept, partial(self._put, kept, file, blocks))
        except Cancelled:
            raise
        except TROUBLES as error:
            self._record_failure(error, "writing")

    def kept(self) -> int | None:
        """Return the bytes now stored; None where that cannot be found now, which is no trouble of a reader's."""
        kept = self._database
        try:
            return self._wait(kept, kept.stored_bytes) if kept is not None else 0
        except TROUBLES:
            return None

    def close(self) -> None:
        """Close the database; a disk that hangs is not waited for."""
        self._is_closed = True
        kept, self._database = self._database, None
        if kept is None:
            return
        try:
            self._wait(kept, partial(self._touch, kept), CLOSE_SECONDS)
        except TROUBLES as error:
            self._record_failure(error, "writing")
        kept.close(CLOSE_SECONDS)

    def _wait(self, kept: Database, call: Callable[[], T], seconds: float | None = None) -> T | None:
        """Return what `call` returns in a thread of the database; None where that is closed, or takes too long.

        Raises:
            Cancelled: nobody waits for it any more.
        """
        future = kept.submit(call)
        if future is None:
            return None
        try:
            return future.result() if wait_future(future, seconds) else None
        finally:
            future.cancel()

    def _get(self, kept: Database, file: File, numbers: range) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for number, wanted in chunks.split(numbers, self._block_bytes):
            chunk = Chunk(self._archive, self._block_bytes, file, number)
            _, stored = self._read(kept, chunk, wanted)
            found |= stored.blocks
            if stored.damaged:
                self._report_damage(file, stored.damaged)
                self._repair(kept, chunk)
            elif stored.blocks and len(self._used) < MOST_USED:
                self._used[chunk.key] = None
        return found

    def _read(self, kept: Database, chunk: Chunk, numbers: list[int] | range) -> tuple[Place | None, Stored]:
        """Return where `chunk` is, and those blocks of `numbers` that are whole there."""
        place = None
        for _ in range(2):  # a chunk that was stored again meanwhile is in another file
            place = kept.find(chunk.key)
            if place is None:
                break
            try:
                return place, chunk_file.read(place.path, chunk, numbers)
            except FileNotFoundError:
                continue  # evicted, stored again, or deleted by hand
        return place, Stored()

    def _put(self, kept: Database, file: File, blocks: Mapping[int, bytes]) -> None:
        for number, inside in chunks.split(sorted(blocks), self._block_bytes):
            chunk = Chunk(self._archive, self._block_bytes, file, number)
            self._merge(kept, chunk, {one: blocks[one] for one in inside})
        if len(self._used) >= TOUCHED_AT_ONCE:
            self._touch(kept)
        self._breaker.success()

    def _merge(self, kept: Database, chunk: Chunk, blocks: dict[int, bytes]) -> None:
        """Store `blocks` in `chunk`, with those of it that are whole on disk.

        No lock is held in between: of two writers of one chunk the later one may not have seen the other's blocks,
        which are then fetched again. Neither file is ever changed.
        """
        place, stored = (None, Stored()) if chunk.is_complete(blocks) else self._read(kept, chunk, chunk.numbers)
        merged = stored.blocks | blocks
        if not merged:
            kept.delete((chunk.key, place))
        elif merged != stored.blocks or stored.damaged:
            kept.store(chunk.key, chunks.pack(chunk, merged))

    def _repair(self, kept: Database, chunk: Chunk) -> None:
        """Leave of `chunk` the blocks that are whole."""
        try:
            if not self._breaker.is_open("writing"):
                self._merge(kept, chunk, {})
        except TROUBLES as error:
            self._record_failure(error, "writing")

    def _report_damage(self, file: File, count: int) -> None:
        """Record that blocks of `file` are damaged; a disk that fails damages many, and is logged once."""
        self.broken += count
        now = time.monotonic()
        if now - self._damaged > CALM_SECONDS:
            log.warning("a cached block of %s was damaged; it and others like it are fetched again", file.path)
        self._damaged = now

    def _touch(self, kept: Database) -> None:
        """Tell the database which chunks were used."""
        used, self._used = self._used, {}
        if not used:
            return
        with kept.connected() as cache, cache.transact():
            for key in list(used):  # a reader may still hold it
                cache.touch(key, expire=database.CENTURY)

    def _writable(self) -> Database | None:
        """Return the database if a block may be stored now. Now and then, look whether it is there and has room."""
        with self._looking:
            now = time.monotonic()
            if self._database is None or self._outdated or now - self._looked >= LOOK_SECONDS:
                self._looked = now
                if self._database is None or self._outdated or self._is_another():
                    self._open()
                kept = self._database
                self._full = kept is None or not self._wait(kept, partial(self._has_room, kept))
            return None if self._full else self._database

    def _open(self) -> None:
        """Open the database; one whose content is wrong is begun anew, and chunks that no row names go."""
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
        except (ValueError, TypeError) as error:  # settings in it that diskcache cannot take
            self._breaker.failure(error, "")
        if opened is None:
            for file in self._folder.glob(f"{database.NAME}*"):
                file.unlink(missing_ok=True)
            log.info("%s: the cache begins anew", self._folder)
            opened = Database(self._folder, self._most)
        self._outdated = self._wrong = False
        self._identity = identity(self._database_file)
        before, self._database = self._database, opened
        if before is not None:
            before.close()
        if self._is_closed:  # meanwhile
            self.close()

    def _is_another(self) -> bool:
        """Return whether the database is no longer the file that was opened: its folder was deleted, say."""
        return identity(self._database_file) != self._identity

    def _has_room(self, kept: Database) -> bool:
        """Return whether the free space is above the floor; shrink where it is not."""
        disk = shutil.disk_usage(self._folder)
        floor = min_free_of(disk.total)
        kept.stored_bytes()  # see there: `volume` would try for a minute
        with kept.connected() as cache:
            most = min(self._most, max(0, cache.volume() + disk.free - floor))
            cache.reset("size_limit", most, update=False)
            if disk.free >= floor:
                return True
            if not self._full:
                log.warning("%s: less than %d MiB are free; the cache gives way", self._folder, floor >> 20)
            cache.cull()
            return False

    def _record_failure(self, error: Exception, use: str) -> None:
        """Record that `use` of the database failed; it may have to be opened again."""
        row = isinstance(error, ValueError | TypeError)  # one that another program wrote; the others are good
        self._breaker.failure(error, "" if row else use)
        self._wrong = self._wrong or is_wrong(error)
        self._outdated = self._outdated or isinstance(error, database.FAILURES)
