"""The cache folder as its owner looks after it: what is in it, whether it is whole, and how to be rid of it.

All of it may be done while mounts use the folder: what they miss then they fetch again.
"""

import os
import random
import shutil
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

from empiarfs.private_dirs import FOLDER, check_holder, ensure_private, nearest
from empiarfs.storage import listed, sqlite, table
from empiarfs.storage.contents import Contents, EntryUsage, SampledBlock, VerifyReport
from empiarfs.storage.database import NAME, is_block_file
from empiarfs.storage.disk import min_free_of
from empiarfs.storage.table import Row, Segment, Table

YOUNG_SECONDS = 60.0  # a file of which the database does not know may be a block that is being stored now
TOGETHER = 500  # rows removed in one go; a mount that stores waits for no longer than that takes
_LISTINGS, _SILENT = "tree-", "ftp-silent-"  # what the names of our files begin with


class CacheMaintenance:
    """Looks after the cache folder `cache`, which need not be there.

    Raises:
        NotSafe: others may write there.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._kept = cache / FOLDER
        self._blocks = self._kept / "blocks"
        if self._kept.is_dir():
            check_holder(cache)
            ensure_private(self._kept)

    def contents(self) -> Contents:
        """Return what is there; nothing is changed."""
        errors = self._errors()
        parts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        files = defaultdict(set)
        oldest = newest = None
        with self._store(errors) as store:
            for row in store.rows() if store is not None else ():
                segment = row.segment
                key = (segment.archive, _entry(segment)) if segment else ("", "")
                parts[key][0] += len(segment.numbers) if segment else 0
                parts[key][1] += row.size
                files[key].add(segment and segment.file)
                oldest = row.stored if oldest is None else min(oldest, row.stored)
                newest = row.stored if newest is None else max(newest, row.stored)
        counts = [listed.counted(file) for file in self._indexes() if file not in errors]
        room = shutil.disk_usage(nearest(self._cache))
        return Contents(
            tuple(EntryUsage(*key, len(files[key]), *parts[key]) for key in sorted(parts)),
            oldest,
            newest,
            sum(file.stat().st_size for file in self._kept.glob(f"{_LISTINGS}*")),
            sum(directories for directories, _ in counts),
            sum(measured for _, measured in counts),
            room.free,
            min_free_of(room.total),
            _described(errors),
            tuple(self.unrecognised()),
        )

    def verify(self, shown: Callable[[int], AbstractContextManager[Callable[[int], object]]]) -> VerifyReport:
        """Read every block; remove those that are not whole, and what belongs to nothing.

        Args:
            shown: takes how many bytes there are to read, and gives what is told how many more were read.

        Raises:
            OSError: a file cannot be read now, which is no damage.
        """
        errors = self._errors()
        found = VerifyReport(errors=_described(errors), unrecognised=tuple(self.unrecognised()))
        with self._store(errors) as store:
            if store is None:
                return found
            files = self._files()  # before the rows: what is stored later is known to them
            bad: list[Row] = []
            with shown(store.volume()) as advance:
                for row in store.rows():
                    files.pop(row.file or "", None)
                    advance(row.size)
                    try:
                        blocks = store.blocks(row)
                    except FileNotFoundError:
                        found.missing += _remove(store, [row])  # 0 where a mount has given it up meanwhile
                        continue
                    found.blocks += len(blocks)
                    found.bytes += row.size
                    if not blocks or None in blocks:
                        found.damaged += max(1, blocks.count(None))
                        bad.append(row)
            _remove(store, bad)
            found.orphans = self._drop_files(files)
        return found

    def sample(self, archive: str, count: int) -> list[SampledBlock]:
        """Return `count` whole blocks of `archive` at random; all of them where there are fewer."""
        chosen: list[tuple[Row, int]] = []
        with self._store(self._error_of_blocks()) as store:
            if store is None:
                return []
            seen = 0
            for row in store.rows():
                segment = row.segment
                for at in range(len(segment.numbers)) if segment and segment.archive == archive else ():
                    seen += 1
                    if len(chosen) < count:
                        chosen.append((row, at))
                    elif (place := random.randrange(seen)) < count:  # noqa: S311 - a sample, no secret
                        chosen[place] = (row, at)
            sampled = []
            for row, at in chosen:
                with suppress(FileNotFoundError):
                    data = store.blocks(row)[at]
                    if data is not None and row.segment is not None:
                        sampled.append(SampledBlock(row, row.segment, row.segment.numbers[at], data))
            return sampled

    def drop(self, rows: Sequence[Row]) -> None:
        """Remove blocks."""
        with self._store(self._error_of_blocks()) as store:
            if store is not None:
                _remove(store, rows)

    def clear(self, entries: Sequence[str]) -> int:
        """Remove blocks and listings, all or those of some `entries`; give the bytes of blocks that are gone.

        Raises:
            OSError: a listing is in use for too long.
        """
        count = 0
        errors = self._errors()
        if not entries and self._blocks in errors:
            count += self._delete_blocks()
        with self._store(errors) as store:
            if store is not None:
                rows = [row for row in store.rows() if not entries or _is_in(row, entries)]
                _remove(store, rows)
                count += sum(row.size for row in rows)
                if not entries:
                    self._drop_files(self._files())
        for file in self._indexes():
            if file not in errors:
                _forget(file, entries)
            elif not entries:
                _remove_database(file)
        if not entries:
            for file in [*self._kept.glob(f"{_LISTINGS}*.broken"), *self._kept.glob(f"{_SILENT}*")]:
                file.unlink(missing_ok=True)
        return count

    def errors(self) -> tuple[str, ...]:
        """Say what cannot be used, and why; a mount would begin it anew."""
        return _described(self._errors())

    def unrecognised(self) -> Iterator[Path]:
        """Yield what lies in the folder and is not ours: nothing here touches it."""
        for path in _children(self._cache):
            if path.name not in {FOLDER, "sample"}:
                yield path
        for path in _children(self._kept):
            if path != self._blocks and not path.name.startswith((_LISTINGS, _SILENT)):
                yield path
        for folder, _, names in os.walk(self._blocks):
            for name in names:
                inside = os.path.relpath(Path(folder) / name, self._blocks)
                if inside not in table.FILES and not is_block_file(inside):
                    yield Path(folder) / name

    def _errors(self) -> dict[Path, str]:
        """Look through each database, which takes a while; give those that cannot be used, and why."""
        found = {file: listed.fault(file) for file in self._indexes()}
        return self._error_of_blocks() | {path: reason for path, reason in found.items() if reason}

    def _error_of_blocks(self) -> dict[Path, str]:
        reason = table.fault(self._blocks)
        return {self._blocks: reason} if reason else {}

    @contextmanager
    def _store(self, errors: Container[Path]) -> Iterator[Table | None]:
        """Lend the blocks, as they are; None where there are none, or their database cannot be used."""
        if not (self._blocks / NAME).exists() or self._blocks in errors:
            yield None
            return
        with closing(Table(self._blocks)) as store:
            yield store

    def _indexes(self) -> list[Path]:
        return sorted(self._kept.glob(f"{_LISTINGS}*.sqlite"))

    def _files(self) -> dict[str, float]:
        """Return the files of blocks, below their folder, and when they were written."""
        found = {}
        for path in self._blocks.glob("??/??/*.val"):
            inside = path.relative_to(self._blocks).as_posix()
            if is_block_file(inside):
                with suppress(OSError):
                    found[inside] = path.lstat().st_mtime
        return found

    def _drop_files(self, files: dict[str, float]) -> int:
        """Remove those of `files` that are not just being stored; give how many."""
        old = [name for name, written in files.items() if time.time() - written > YOUNG_SECONDS]
        for name in old:
            (self._blocks / name).unlink(missing_ok=True)
        return len(old)

    def _delete_blocks(self) -> int:
        """Remove blocks whose database cannot be used; give their bytes."""
        count = 0
        for name in self._files():
            with suppress(OSError):
                count += (self._blocks / name).stat().st_size
                (self._blocks / name).unlink()
        for path in _children(self._blocks):
            if path.name in table.FILES:
                path.unlink(missing_ok=True)
        return count


def _described(errors: Mapping[Path, str]) -> tuple[str, ...]:
    return tuple(f"{path}: {reason}" for path, reason in errors.items())


def _entry(segment: Segment) -> str:
    return segment.file.path.partition("/")[0]


def _is_in(row: Row, entries: Sequence[str]) -> bool:
    return row.segment is not None and _entry(row.segment) in entries


def _remove(store: Table, rows: Sequence[Row]) -> int:
    return sum(store.remove(rows[begin : begin + TOGETHER]) for begin in range(0, len(rows), TOGETHER))


def _forget(file: Path, entries: Sequence[str]) -> None:
    try:
        listed.forget(file, entries)
    except sqlite3.Error as error:
        raise OSError(f"{file}: {error}; try once more") from error


def _remove_database(file: Path) -> None:
    for path in (file, *sqlite.beside(file)):
        path.unlink(missing_ok=True)


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
