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
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from empiarfs.circuit_breaker import CALM_SECONDS
from empiarfs.model import File
from empiarfs.storage import chunk_file, chunks
from empiarfs.storage.chunks import Chunk
from empiarfs.storage.database import NAME, Database
from empiarfs.storage.sqlite import FAILURES, LOOK_SECONDS, DatabaseFile
from empiarfs.units import GIB

log = logging.getLogger(__name__)

FLOOR_SHARE = 0.05  # of the file system, which stays free whatever the limit is
FLOOR_BYTES = 2 * GIB
TOUCHED_AT_ONCE = 256
CLOSE_SECONDS = 3.0  # how long closing waits for the disk


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
        OSError: the folder belongs to another user, or others may write to it.
    """

    def __init__(self, folder: Path, most: int, *, archive: str, block_bytes: int) -> None:
        if os.path.expandvars(folder) != os.fspath(folder):  # diskcache would
            raise OSError(
                errno.EINVAL, "a cache folder may not have a variable like $HOME in its name", os.fspath(folder)
            )
        self._folder = folder
        self._most = most
        self._archive = archive
        self._block_bytes = block_bytes
        self._used: dict[str, None] = {}  # chunks that were read and are not recorded as used yet
        self._damaged = float("-inf")  # when the last damaged block was found
        self._looking = threading.Lock()
        self._looked = float("-inf")
        self._full = self._is_closed = False
        self._file = DatabaseFile(folder / NAME, f"the cache in {folder}", partial(Database, folder, most))
        self._breaker = self._file.breaker
        self.broken = 0

    def __repr__(self) -> str:
        return f"<DiskStore {self._folder} most={self._most} broken={self.broken}>"

    def get(self, file: File, numbers: range) -> dict[int, bytes]:
        """See `BlockStore.get`."""
        if self._is_closed or self._breaker.is_open("reading"):
            return {}
        found: dict[int, bytes] = {}
        try:
            for number, wanted in chunks.split(numbers, self._block_bytes):
                chunk = Chunk(self._archive, self._block_bytes, file, number)
                stored = chunk_file.read(os.fspath(self._folder), chunk, range(wanted[0], wanted[-1] + 1))
                found |= stored.blocks
                if stored.damaged:
                    self._report_damage(file, stored.damaged)
                    database = self._file.opened
                    if database is not None and not self._breaker.is_open("writing"):
                        self._merge(database, chunk, {})  # without the damaged blocks
                elif stored.blocks:
                    self._used[chunk.key] = None
            if len(self._used) >= TOUCHED_AT_ONCE:
                self._touch(self._file.opened)
        except FAILURES as error:
            self._record_failure(error, "reading")
        return found

    def put(self, file: File, blocks: Mapping[int, bytes]) -> None:
        """See `BlockStore.put`."""
        database = self._database("writing")
        if database is None or self._is_full(database):
            return
        for number, inside in chunks.split(sorted(blocks), self._block_bytes):
            chunk = Chunk(self._archive, self._block_bytes, file, number)
            self._merge(database, chunk, {one: blocks[one] for one in inside})

    def kept(self) -> int | None:
        """Return the bytes that are stored; None if they are not available now."""
        database = self._database("counting")
        try:
            return database.stored_bytes() if database is not None else 0
        except FAILURES:
            return None

    def close(self) -> None:
        """Close the database; do not wait for a disk that hangs."""
        self._is_closed = True
        with self._looking:
            database = self._file.close()
        self._touch(database)
        if database is not None:
            database.close(CLOSE_SECONDS)

    def _database(self, use: str) -> Database | None:
        with self._looking:
            return self._file.database(use)

    def _merge(self, database: Database, chunk: Chunk, blocks: Mapping[int, bytes]) -> None:
        try:
            database.merge(chunk, blocks)
        except FAILURES as error:
            self._record_failure(error, "writing")
        else:
            self._breaker.success()

    def _record_failure(self, error: Exception, use: str) -> None:
        if not self._is_closed:
            self._file.failure(error, use)

    def _report_damage(self, file: File, count: int) -> None:
        """Record that blocks of `file` are damaged; a failing disk damages many, which are logged once."""
        self.broken += count
        now = time.monotonic()
        if now - self._damaged > CALM_SECONDS:
            log.warning("a cached block of %s was damaged; it and others like it are fetched again", file.path)
        self._damaged = now

    def _touch(self, database: Database | None) -> None:
        """Record in the database, if there is one, which chunks were used."""
        used, self._used = self._used, {}
        if used and database is not None:
            database.touch(list(used))  # a copy: a reader may still hold it

    def _is_full(self, database: Database) -> bool:
        """Return whether the free space is below the floor, checked each `LOOK_SECONDS`; evict chunks if it is."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            try:
                disk = shutil.disk_usage(self._folder)
                floor = min_free_of(disk.total)
                database.limit(self._most, disk.free - floor)
            except FAILURES as error:
                self._record_failure(error, "writing")
                return True
            if disk.free < floor and not self._full:
                log.warning("%s: less than %d MiB are free; the cache gives way", self._folder, floor >> 20)
            self._full = disk.free < floor
        return self._full
