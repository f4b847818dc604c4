"""Blocks on disk, within their limits.

Blocks that are put together are kept together, in a segment: a file and a row cost more than the bytes. Each block
is verified whenever it is read: one that was cut, swapped or flipped is a block that is not here.
"""

import errno
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from empiarfs.model import Block, File
from empiarfs.private_dirs import Identity, check_private_file, ensure_private, identity
from empiarfs.storage import database, segments
from empiarfs.storage.circuit_breaker import CALM_SECONDS, CircuitBreaker, is_damage, is_wrong, may_be_whole
from empiarfs.storage.database import Database
from empiarfs.storage.fork_guard import fork_guard
from empiarfs.storage.places import Place, Places
from empiarfs.units import GIB

log = logging.getLogger(__name__)

FLOOR_SHARE = 0.05  # of the file system that stays free, whatever the limit says
FLOOR_BYTES = 2 * GIB
TOUCHED_AT_ONCE = 256
MOST_USED = 65_536  # blocks noted as used until the database is told
LOOK_SECONDS = 1.0  # how old a look at the free space may be
TROUBLES = (*database.FAILURES, OSError, ValueError, TypeError)


def min_free_of(total: int) -> int:
    """Return how many of `total` bytes of a file system are always left free."""
    return max(int(total * FLOOR_SHARE), FLOOR_BYTES)


def chunk_blocks(block_bytes: int) -> int:
    return max(1, (1 << 20) // block_bytes)


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
        self._database_file = folder / database.NAME
        self._most = most
        self._prefix = f"{archive} {block_bytes}"
        self._places = Places(self._listed)
        self._used: dict[str, None] = {}  # segments read since the database was last told
        self._looked = float("-inf")
        self._damaged = float("-inf")  # when the last damaged block was found
        self._looking = threading.Lock()
        self._full = False
        self._breaker = CircuitBreaker(f"the cache in {folder}")
        self._outdated = self._wrong = False  # the database is to be opened anew; its content is wrong
        self._identity: Identity | None = None
        self._database: Database | None = None
        self.broken = 0
        try:
            with fork_guard:
                self._database = self._open()
        except (PermissionError, NotADirectoryError, FileExistsError):
            raise  # to be chosen otherwise, not to be done without
        except TROUBLES as error:
            self._record_failure(error, "writing")

    def __repr__(self) -> str:
        return f"<DiskStore {self._folder} most={self._most} broken={self.broken}>"

    def _open(self) -> Database:
        """Open the database; one whose content is wrong is begun anew, and blocks that nobody knows of go."""
        ensure_private(self._folder)
        check_private_file(self._database_file)
        if self._database is not None:
            self._database.close()
        try:
            if self._wrong and not self._is_another():
                raise sqlite3.DatabaseError("its content is wrong")
            return self._taken(Database(self._folder, self._most))
        except sqlite3.Error as error:
            if may_be_whole(error):
                raise
            self._breaker.failure(error, "")
        except (ValueError, TypeError) as error:  # settings in it that diskcache cannot take
            self._breaker.failure(error, "")
        for file in self._folder.glob(f"{database.NAME}*"):
            file.unlink(missing_ok=True)
        log.info("%s: the cache begins anew", self._folder)
        return self._taken(Database(self._folder, self._most))

    def _taken(self, opened: Database) -> Database:
        self._database = opened
        self._places.clear()
        self._outdated = self._wrong = False
        self._identity = identity(self._database_file)
        return opened

    def _is_another(self) -> bool:
        """Return whether the database is no longer the file that was opened: its folder was deleted, say."""
        return identity(self._database_file) != self._identity

    def get(self, file: File, numbers: range) -> dict[int, bytes]:
        """See `BlockStore.get`."""
        return {n: data for n in numbers if (data := self._get(Block(file, n))) is not None}

    def _get(self, block: Block) -> bytes | None:
        kept = self._database
        if kept is None or self._breaker.is_open("reading"):
            return None
        for _ in range(2):  # a segment that was stored anew meanwhile lies in another file
            try:
                with fork_guard:
                    place = self._places.find(block)
            except TROUBLES as error:
                self._record_failure(error, "reading")
                return None
            if place is None:
                return None
            try:
                data = self._read(kept, place, block.number)
            except FileNotFoundError:  # evicted, stored anew, or deleted by hand: its row may hide a good segment
                self._drop(kept, place, block.file)
                continue
            except OSError as error:
                if not is_damage(error):
                    self._record_failure(error, "reading")
                    return None
                data = None
            if data is None:
                self._tell_of_damage(block.file)
                self._drop(kept, place, block.file)
            elif len(self._used) < MOST_USED:
                self._used[place.name] = None
            return data
        return None

    def _read(self, kept: Database, place: Place, number: int) -> bytes | None:
        """Return a block; None where it is damaged."""
        index = number - place.numbers.start
        file = os.open(f"{kept.directory}/{place.filename}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            head = os.pread(file, segments.head_bytes(len(place.numbers)), 0)
            part = segments.part(place.name, len(place.numbers), index, head)
            if part is None or part.stop > os.fstat(file).st_size:  # a length that is wrong asks for any memory
                return None
            data = os.pread(file, part.size, part.start)
        finally:
            os.close(file)
        return data if segments.is_whole(place.name, index, head, data) else None

    def put(self, file: File, blocks: Mapping[int, bytes]) -> None:
        """See `BlockStore.put`."""
        from empiarfs.engine.blocks import runs

        for run in runs(sorted(blocks)):
            self._put(Block(file, run.start), *(blocks[n] for n in run))

    def _put(self, first: Block, *data: bytes) -> None:
        try:
            with fork_guard:
                self._store(first, data)
        except TROUBLES as error:
            self._record_failure(error, "writing")

    def _store(self, first: Block, data: Sequence[bytes]) -> None:
        kept = self._writable()
        if kept is None:
            return
        numbers = range(first.number, first.number + len(data))
        name = segments.name(self._prefix_of(first.file), numbers)
        self._places.add(first.file, Place(name, numbers, kept.store(name, data)))
        if len(self._used) >= TOUCHED_AT_ONCE:
            self._touch(kept)
        self._breaker.success()

    def volume(self) -> int:
        """Return the bytes of all blocks now kept."""
        with fork_guard:
            return self._database.block_bytes() if self._database is not None else 0

    def kept(self) -> int | None:
        """Return the bytes now kept; None where that cannot be told now, which is no trouble of a reader's."""
        try:
            return self.volume()
        except TROUBLES:
            return None

    def close(self) -> None:
        """Close the database."""
        kept = self._database
        if kept is None:
            return
        try:
            with fork_guard:
                self._touch(kept)
        except TROUBLES as error:
            self._record_failure(error, "writing")
        kept.close()

    def _tell_of_damage(self, file: File) -> None:
        """Record that a block of `file` is damaged; a disk that fails damages many, and is told of once."""
        self.broken += 1
        now = time.monotonic()
        if now - self._damaged > CALM_SECONDS:
            log.warning("a cached block of %s was damaged; it and others like it are fetched again", file.path)
        self._damaged = now

    def _drop(self, kept: Database, place: Place, file: File) -> None:
        """Drop a segment that is damaged or gone, and look for the others of `file` anew."""
        try:
            if not self._breaker.is_open("writing"):
                with fork_guard:
                    kept.drop(place.name, place.filename)
        except TROUBLES as error:
            self._record_failure(error, "writing")
        self._places.forget(file)

    def _touch(self, kept: Database) -> None:
        """Tell the database which segments were used."""
        used, self._used = self._used, {}
        kept.touch(list(used))  # a reader may still hold it

    def _prefix_of(self, file: File) -> str:
        """Return what the names of all blocks of `file` begin with; the number stands behind it."""
        # SQLite's text holds no surrogate escapes
        path = file.path.encode("utf-8", "surrogateescape").decode("latin-1")
        return f"{self._prefix} {path} {file.size} {file.modified} {int(file.coarse_mtime)} "

    def _listed(self, file: File) -> list[Place]:
        """Return the segments of `file` that are in the database now."""
        if self._database is None:
            return []
        prefix = self._prefix_of(file)
        return [Place(name, segments.numbers(prefix, name), lies) for name, lies in self._database.files(prefix)]

    def _writable(self) -> Database | None:
        """Return the database if a block may be stored now. Now and then, look whether it is there and has room."""
        if self._breaker.is_open("writing"):
            return None
        with self._looking:
            kept = self._database
            now = time.monotonic()
            if kept is None or self._outdated or now - self._looked >= LOOK_SECONDS:
                self._looked = now
                if kept is None or self._outdated or self._is_another():
                    kept = self._open()
                self._full = not self._has_room(kept)
            return None if self._full else kept

    def _has_room(self, kept: Database) -> bool:
        """Return whether the free space is above the floor; shrink where it is not."""
        disk = shutil.disk_usage(self._folder)
        floor = min_free_of(disk.total)
        kept.limit(min(self._most, max(0, kept.volume() + disk.free - floor)))
        if disk.free >= floor:
            return True
        if not self._full:
            log.warning("%s: less than %d MiB are free; the cache gives way", self._folder, floor >> 20)
        kept.shrink()
        return False

    def _record_failure(self, error: Exception, use: str) -> None:
        """Record that `use` of the database failed; it may have to be opened anew."""
        row = isinstance(error, ValueError | TypeError)  # one that someone else wrote; the others are good
        self._breaker.failure(error, "" if row else use)
        self._wrong = self._wrong or is_wrong(error)
        self._outdated = self._outdated or isinstance(error, database.FAILURES)
