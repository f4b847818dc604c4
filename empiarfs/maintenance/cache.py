"""Maintenance of the cache folder: its contents, their verification and their removal.

All of it may run while mounts use the folder: they fetch again what was removed.
"""

import heapq
import operator
import os
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cached_property
from pathlib import Path

from empiarfs.maintenance.contents import Contents, EntryUsage, SampledBlock, VerifyReport
from empiarfs.private_dirs import CACHE_TAG, FOLDER, check_holder, ensure_private, nearest
from empiarfs.storage import chunk_file, chunks, database, index_tables, sqlite
from empiarfs.storage.chunks import Chunk
from empiarfs.storage.database import NAME, Database, Row, is_chunk_file
from empiarfs.storage.disk import CLOSE_SECONDS, min_free_of
from empiarfs.storage.sqlite import SqliteError

YOUNG_SECONDS = 60.0  # a younger file without a row may be a chunk that is being stored
TOGETHER = 500  # rows that are removed in one transaction, during which a mount cannot store
UNLIMITED = 1 << 62  # bytes: nothing is evicted here
_LISTINGS, _SILENT = "tree-", "ftp-silent-"  # prefixes of file names of the cache


class CacheMaintenance:
    """Inspects, verifies and clears the cache folder `cache`, which need not exist; checks its databases once.

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

    @cached_property
    def errors(self) -> dict[Path, str]:
        """The databases that cannot be used, and why; to check them takes a while.

        Raises:
            OSError: a database is locked for too long: another process uses it.
        """
        found = {}
        for path, fault in (
            (self._blocks, database.fault),
            *((file, index_tables.fault) for file in self._indexes()),
        ):
            with _os_errors(path):
                found[path] = fault(path)
        return {path: reason for path, reason in found.items() if reason}

    def contents(self) -> Contents:
        """Return the contents of the folder, without removing anything.

        Raises:
            OSError: see `errors`.
        """
        parts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        files = defaultdict(set)
        used: list[float] = []
        with self._store() as store:
            for row in store.rows() if store is not None else ():
                size = self._size(row)
                if row.chunk is not None and size is not None:
                    key = (row.chunk.archive, _entry(row.chunk))
                    parts[key][0] += chunks.block_count(row.chunk, size)
                    parts[key][1] += size
                    files[key].add(row.chunk.file)
                    used.append(row.used)
        counts = [_counted(file) for file in self._indexes() if file not in self.errors]
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
        )

    def verify(self, shown: Callable[[int], AbstractContextManager[Callable[[int], object]]]) -> VerifyReport:
        """Read every block; remove damaged ones, rows without a file, files without a row, rows of other programs.

        Args:
            shown: shows progress: takes the total bytes, and yields a function that is called with the bytes of
                each chunk.

        Raises:
            OSError: a file cannot be read now, and may be intact; or see `errors`.
        """
        found = VerifyReport()
        with self._store() as store:
            if store is not None:
                files = self._files()  # before the rows: a file that is stored later has one
                rows = store.rows()
                with shown(store.stored_bytes()) as advance:
                    for row in rows:
                        advance(self._verify(store, row, found))
                found.foreign = sum(store.delete([row.key for row in rows if row.chunk is None]))
                known = {chunks.file_name(row.chunk.key) for row in rows if row.chunk is not None}
                found.orphans = len(self._drop_files({name: files[name] for name in files.keys() - known}))
        return found

    def sample(self, archive: str, count: int) -> list[SampledBlock]:
        """Return `count` intact blocks of `archive` at random, or all if there are fewer."""
        sampled = []
        with self._store() as store:
            blocks_of_archive = (
                (row.chunk, index)
                for row in (store.rows() if store is not None else ())
                if row.chunk is not None and row.chunk.archive == archive
                for index in range(chunks.block_count(row.chunk, self._size(row) or 0))
            )
            chance = random.Random()  # noqa: S311 - a sample, not a secret
            for chunk, index in heapq.nsmallest(count, blocks_of_archive, key=lambda _: chance.random()):
                blocks = list(self._read(chunk).blocks.items())
                sampled += [SampledBlock(chunk, *block) for block in blocks[index : index + 1]]
        return sampled

    def drop(self, blocks: Sequence[SampledBlock]) -> None:
        """Remove the chunks of `blocks`, whose others are not trusted either, unless they were stored again."""
        with self._store() as store:
            if store is not None:
                store.delete(
                    block.chunk.key
                    for block in blocks
                    if self._read(block.chunk).blocks.get(block.number) == block.data
                )

    def clear(self, entries: Sequence[str]) -> int:
        """Remove the blocks and listings of `entries`, or all without any; return the bytes of the removed blocks.

        Raises:
            OSError: see `errors`.
        """
        count = self._clear_blocks(entries)
        for file in self._indexes():
            if file not in self.errors:
                _forget(file, entries)
            elif not entries:
                sqlite.remove(file)
        if not entries:
            for file in self._kept.glob(f"{_SILENT}*"):
                file.unlink(missing_ok=True)
        return count

    def _clear_blocks(self, entries: Sequence[str]) -> int:
        count = 0
        with self._store() as store:
            if store is not None and entries:
                rows = [row for row in store.rows() if row.chunk is not None and _entry(row.chunk) in entries]
                while rows:
                    part, rows = rows[:TOGETHER], rows[TOGETHER:]
                    sizes = [self._size(row) or 0 for row in part]
                    count += sum(map(operator.mul, sizes, store.delete(row.key for row in part)))
            elif store is not None:
                count = store.clear()
                self._drop_files(self._files())
        if not entries and self._blocks in self.errors:
            count += sum(file.st_size for file in self._drop_files(self._files(), 0.0))
            sqlite.remove(self._blocks / NAME)
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

    @contextmanager
    def _store(self) -> Iterator[Database | None]:
        """Yield the database of the blocks; None if there is none or it cannot be used.

        Raises:
            OSError: see `errors`.
        """
        with _os_errors(self._blocks):
            store = self._opened()
            try:
                yield store
            finally:
                if store is not None:
                    store.close(CLOSE_SECONDS)

    def _opened(self) -> Database | None:
        if (self._blocks / NAME).exists() and self._blocks not in self.errors:
            try:
                return Database(self._blocks, UNLIMITED)
            except sqlite.FAILURES as error:
                if sqlite.is_locked(error):
                    raise
                self.errors[self._blocks] = str(error)
        return None

    def _read(self, chunk: Chunk) -> chunk_file.Stored:
        return chunk_file.read(os.fspath(self._blocks), chunk, chunk.numbers)

    def _size(self, row: Row) -> int | None:
        """Return the length of the file of `row`; None if there is none."""
        try:
            return None if row.chunk is None else os.lstat(self._blocks / chunks.file_name(row.chunk.key)).st_size
        except OSError:
            return None

    def _verify(self, store: Database, row: Row, found: VerifyReport) -> int:
        """Read the chunk of `row`, and remove its damaged blocks; return its bytes."""
        if row.chunk is None:
            return 0
        size = self._size(row)
        if size is None:
            found.missing += sum(store.delete([row.key]))  # 0 if it was evicted meanwhile
            return 0
        stored = store.merge(row.chunk, {})
        damaged = stored.damaged
        if damaged and not stored.blocks:  # its head is damaged, and all of its blocks are lost
            damaged = max(damaged, chunks.block_count(row.chunk, size))
        found.blocks += len(stored.blocks) + damaged
        found.bytes += size
        found.damaged += damaged
        return size

    def _indexes(self) -> list[Path]:
        return sorted(self._kept.glob(f"{_LISTINGS}*.sqlite"))

    def _files(self) -> dict[str, os.stat_result]:
        """Return the chunk files, relative to the folder of the blocks."""
        found = {}
        for path in self._blocks.glob("??/*.val"):
            inside = path.relative_to(self._blocks).as_posix()
            if is_chunk_file(inside):
                with suppress(OSError):
                    found[inside] = path.lstat()
        return found

    def _drop_files(
        self, files: Mapping[str, os.stat_result], seconds: float = YOUNG_SECONDS
    ) -> list[os.stat_result]:
        """Remove those of `files` that are older than `seconds`; return them."""
        dropped = []
        for name, status in files.items():
            if time.time() - status.st_mtime >= seconds:
                with suppress(OSError):  # the file is gone, or a directory
                    (self._blocks / name).unlink()
                    dropped.append(status)
        return dropped


def _entry(chunk: Chunk) -> str:
    return chunk.file.path.partition("/")[0]


def _counted(file: Path) -> tuple[int, int]:
    with _os_errors(file):
        return index_tables.counted(file)


def _forget(file: Path, entries: Sequence[str]) -> None:
    with _os_errors(file):
        index_tables.forget(file, entries)


@contextmanager
def _os_errors(file: Path) -> Iterator[None]:
    """Raise an error of the database `file` as OSError."""
    try:
        yield
    except SqliteError as error:
        raise OSError(f"{file}: {str(error) or 'it is locked'}; try once more") from error


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
