"""Maintenance of the cache folder: its contents, their verification and their removal.

All of it may run while mounts use the folder: they fetch again what was removed.
"""

import heapq
import os
import random
import shutil
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from empiarfs.private_dirs import CACHE_TAG, FOLDER, check_holder, ensure_private, nearest
from empiarfs.storage import chunk_file, chunks, database, index_tables, sqlite
from empiarfs.storage.chunks import Chunk
from empiarfs.storage.contents import Contents, EntryUsage, SampledBlock, VerifyReport
from empiarfs.storage.database import NAME, Database, ForeignKey, Place, is_chunk_file
from empiarfs.storage.disk import TROUBLES, min_free_of

YOUNG_SECONDS = 60.0  # a younger file without a row may be a chunk that is being stored
TOGETHER = 500  # rows that are removed in one transaction, during which a mount cannot store
UNLIMITED = 1 << 62  # bytes: nothing is evicted here
_LISTINGS, _SILENT = "tree-", "ftp-silent-"  # prefixes of file names of the cache


class _Row(NamedTuple):
    """A row of the database: its key, the chunk and its place unless another program wrote it, and its bytes."""

    key: str | ForeignKey
    chunk: Chunk | None
    place: Place | None
    size: int


class CacheMaintenance:
    """Inspects, verifies and clears the cache folder `cache`, which need not exist.

    Raises:
        UnsafePath: others may write to it.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._kept = cache / FOLDER
        self._blocks = self._kept / "blocks"
        if self._kept.is_dir():
            check_holder(cache)
            ensure_private(self._kept)

    def contents(self) -> Contents:
        """Return the contents of the folder, without removing anything."""
        errors = self._errors()
        parts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        files = defaultdict(set)
        used: list[float] = []
        with self._store(errors) as store:
            for _, chunk, place, size in _rows(store):
                if chunk is not None and place is not None:
                    key = (chunk.archive, _entry(chunk))
                    parts[key][0] += chunks.block_count(chunk, size)
                    parts[key][1] += size
                    files[key].add(chunk.file)
                    used.append(place.used)
        counts = [index_tables.counted(file) for file in self._indexes() if file not in errors]
        room = shutil.disk_usage(nearest(self._cache))
        return Contents(
            tuple(EntryUsage(*key, len(files[key]), *parts[key]) for key in sorted(parts)),
            min(used, default=None),
            max(used, default=None),
            sum(file.stat().st_size for file in self._kept.glob(f"{_LISTINGS}*")),
            sum(directories for directories, _ in counts),
            sum(measured for _, measured in counts),
            room.free,
            min_free_of(room.total),
            _described(errors),
            tuple(self.unrecognised()),
        )

    def verify(self, shown: Callable[[int], AbstractContextManager[Callable[[int], object]]]) -> VerifyReport:
        """Read every block; remove damaged chunks, rows without a file and files without a row.

        Args:
            shown: shows progress: takes the total bytes, and yields a function that is called with the bytes of
                each chunk.

        Raises:
            OSError: a file cannot be read now; it may be intact.
        """
        errors = self._errors()
        found = VerifyReport(unrecognised=tuple(self.unrecognised()))
        with self._store(errors) as store:
            if store is not None:
                files = self._files()  # before the rows: a file that is stored later has one
                with shown(store.stored_bytes()) as advance:
                    for row in _rows(store):
                        if row.place is not None:
                            files.pop(os.path.relpath(row.place.path, self._blocks), None)
                        advance(row.size)
                        _verify(store, row, found)
                found.orphans = self._drop_files(files)
        found.errors = _described(errors)
        return found

    def sample(self, archive: str, count: int) -> list[SampledBlock]:
        """Return `count` intact blocks of `archive` at random, or all if there are fewer."""
        sampled = []
        with self._store(self._error_of_blocks()) as store:
            blocks_of_archive = (
                (chunk, place, index)
                for _, chunk, place, size in _rows(store)
                if chunk is not None and place is not None and chunk.archive == archive
                for index in range(chunks.block_count(chunk, size))
            )
            chance = random.Random()  # noqa: S311 - a sample, not a secret
            for chunk, place, index in heapq.nsmallest(count, blocks_of_archive, key=lambda _: chance.random()):
                with suppress(FileNotFoundError):
                    blocks = list(chunk_file.read(place.path, chunk, chunk.numbers).blocks.items())
                    sampled += [SampledBlock(chunk, place, *block) for block in blocks[index : index + 1]]
        return sampled

    def drop(self, blocks: Sequence[SampledBlock]) -> None:
        """Remove the chunks of `blocks`: their other blocks are not trusted either."""
        with self._store(self._error_of_blocks()) as store:
            if store is not None:
                store.delete(*((block.chunk.key, block.place) for block in blocks))

    def clear(self, entries: Sequence[str]) -> int:
        """Remove the blocks and listings of `entries`, or all without any; return the bytes of the removed blocks.

        Raises:
            OSError: a database is locked for too long.
        """
        count = 0
        errors = self._errors()
        with self._store(errors) as store:
            if store is not None and entries:
                rows = [row for row in _rows(store) if row.chunk is not None and _entry(row.chunk) in entries]
                for begin in range(0, len(rows), TOGETHER):
                    part = rows[begin : begin + TOGETHER]
                    gone = store.delete(*((row.key, row.place) for row in part))
                    count += sum(row.size for row, is_gone in zip(part, gone, strict=True) if is_gone)
            elif store is not None:
                count = store.stored_bytes()
                with store.connected() as cache:
                    cache.clear()
                self._drop_files(self._files())
        if not entries and self._blocks in errors:
            count += self._delete_blocks()
        for file in self._indexes():
            if file not in errors:
                _forget(file, entries)
            elif not entries:
                _remove_database(file)
        if not entries:
            for file in [*self._kept.glob(f"{_LISTINGS}*.broken"), *self._kept.glob(f"{_SILENT}*")]:
                file.unlink(missing_ok=True)
        return count

    def unrecognised(self) -> Iterator[Path]:
        """Yield the files in the folder that are not part of the cache; they are never removed."""
        for path in _children(self._cache):
            if path.name not in {FOLDER, "sample"}:
                yield path
        for path in _children(self._kept):
            if path != self._blocks and not path.name.startswith((_LISTINGS, _SILENT, CACHE_TAG)):
                yield path
        for folder, _, names in os.walk(self._blocks):
            for name in names:
                inside = os.path.relpath(Path(folder) / name, self._blocks)
                if inside not in database.FILES and not is_chunk_file(inside):
                    yield Path(folder) / name

    def _errors(self) -> dict[Path, str]:
        """Check each database, which takes a while; return those that cannot be used, and why."""
        found = {file: index_tables.fault(file) for file in self._indexes()}
        return self._error_of_blocks() | {path: reason for path, reason in found.items() if reason}

    def _error_of_blocks(self) -> dict[Path, str]:
        reason = database.fault(self._blocks)
        return {self._blocks: reason} if reason else {}

    @contextmanager
    def _store(self, errors: dict[Path, str]) -> Iterator[Database | None]:
        """Yield the database of the blocks; None if there is none or it cannot be used, as `errors` then says."""
        store = None
        if (self._blocks / NAME).exists() and self._blocks not in errors:
            try:
                store = Database(self._blocks, UNLIMITED)
            except TROUBLES as error:
                errors[self._blocks] = str(error)
        try:
            yield store
        except database.FAILURES as error:
            raise _busy(self._blocks, error) from error
        finally:
            if store is not None:
                store.close()

    def _indexes(self) -> list[Path]:
        return sorted(self._kept.glob(f"{_LISTINGS}*.sqlite"))

    def _files(self) -> dict[str, float]:
        """Return the chunk files, relative to the folder of the blocks, and when they were written."""
        found = {}
        for path in self._blocks.glob("??/??/*.val"):
            inside = path.relative_to(self._blocks).as_posix()
            if is_chunk_file(inside):
                with suppress(OSError):
                    found[inside] = path.lstat().st_mtime
        return found

    def _drop_files(self, files: dict[str, float]) -> int:
        """Remove those of `files` that are not being stored; return how many."""
        count = 0
        for name, written in files.items():
            if time.time() - written > YOUNG_SECONDS:
                with suppress(OSError):  # the file is gone, or a directory
                    (self._blocks / name).unlink()
                    count += 1
        return count

    def _delete_blocks(self) -> int:
        """Remove the blocks and their database, which cannot be used; return the bytes of the blocks."""
        count = 0
        for name in self._files():
            with suppress(OSError):
                count += (self._blocks / name).stat().st_size
                (self._blocks / name).unlink()
        for path in _children(self._blocks):
            if path.name in database.FILES:
                path.unlink(missing_ok=True)
        return count


def _described(errors: Mapping[Path, str]) -> tuple[str, ...]:
    return tuple(f"{path}: {reason}" for path, reason in errors.items())


def _entry(chunk: Chunk) -> str:
    return chunk.file.path.partition("/")[0]


def _rows(store: Database | None) -> Iterator[_Row]:
    """Yield the rows of `store`; a row that is evicted meanwhile has no place."""
    if store is None:
        return
    with store.connected() as cache:
        keys = iter(cache)  # `iterkeys` would stop at a row of another program whose key is NULL
    for key in keys:
        place = store.find(key)
        size = 0
        if place is not None:
            with suppress(OSError):
                size = os.lstat(place.path).st_size
        yield _Row(key, None if isinstance(key, ForeignKey) else chunks.parse_key(key), place, size)


def _verify(store: Database, row: _Row, found: VerifyReport) -> None:
    """Read the chunk of `row`, and remove it if it is damaged."""
    if row.chunk is None or row.place is None:
        found.damaged += sum(store.delete((row.key, row.place)))  # 0 if it was evicted meanwhile
        return
    try:
        stored = chunk_file.read(row.place.path, row.chunk, row.chunk.numbers)
    except FileNotFoundError:
        found.missing += sum(store.delete((row.key, row.place)))  # 0 if it was evicted or stored again meanwhile
        return
    found.blocks += len(stored.blocks) + stored.damaged
    found.bytes += row.size
    found.damaged += stored.damaged
    if stored.damaged:
        store.delete((row.key, row.place))


def _forget(file: Path, entries: Sequence[str]) -> None:
    try:
        index_tables.forget(file, entries)
    except sqlite3.Error as error:
        raise _busy(file, error) from error


def _busy(file: Path, error: Exception) -> OSError:
    return OSError(f"{file}: {str(error) or 'it is locked'}; try once more")


def _remove_database(file: Path) -> None:
    for path in (file, *sqlite.beside(file)):
        path.unlink(missing_ok=True)


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
