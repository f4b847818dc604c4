"""Storage recovers from failures of the disk and of other programs, without an error and with one log line."""

import errno
import fcntl
import logging
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import diskcache
import pytest
from support import cache_files
from support.cache_files import get, put
from support.fakes import noise, stub

from empiarfs import circuit_breaker
from empiarfs.model import Block, File, Stub
from empiarfs.process_semaphore import ProcessSemaphore
from empiarfs.storage import database as of_blocks
from empiarfs.storage import disk, index_tables, sqlite
from empiarfs.storage.disk import DiskStore
from empiarfs.storage.index import SqliteIndex
from empiarfs.units import MIB

FILE = File("10028/data/a.mrc", 1_000_000_000, 1_700_000_000)
LISTED = stub("10028/data/a.mrc")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pauses and lock timeouts short, and checks always due."""
    monkeypatch.setattr(circuit_breaker, "FIRST_REST", 0.0)
    for module in (disk, sqlite):
        monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    for module in (of_blocks, index_tables):
        monkeypatch.setattr(module, "BUSY_SECONDS", 0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of the store and the index."""
    return tmp_path / "v1" / "blocks"


@pytest.fixture
def store(folder: Path) -> Iterator[DiskStore]:
    """Return a store with one block."""
    with closing(opened(folder)) as store:
        put(store, Block(FILE, 0), noise(500))
        yield store


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[SqliteIndex]:
    """Return an index with one directory."""
    with closing(SqliteIndex(tmp_path / "v1" / "tree.sqlite")) as tree:
        tree.replace("10028/data", [LISTED], 1.0)
        yield tree


def opened(folder: Path) -> DiskStore:
    """Open a store as `wire` does."""
    return DiskStore(folder, 100 * MIB, archive="ebi", block_bytes=4096)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the logged warnings."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def orphans(folder: Path) -> set[str]:
    """Return the chunk files without a row in the database."""
    with closing(sqlite3.connect(folder / "cache.db")) as database:
        known = {name for (name,) in database.execute("SELECT filename FROM Cache")}
    return {file.relative_to(folder).as_posix() for file in cache_files.chunks(folder)} - known


def works(store: DiskStore) -> bool:
    """Return whether blocks are stored and returned."""
    put(store, Block(FILE, 1), noise(500, 1))
    put(store, Block(FILE, 2), noise(500, 2))
    return [get(store, Block(FILE, number)) for number in (1, 2)] == [noise(500, 1), noise(500, 2)]


def file_of(tree: SqliteIndex) -> Path:
    """Return the file of an index."""
    assert tree._file is not None
    return tree._file.file


def knows(tree: SqliteIndex) -> bool:
    """Return whether the index returns what it stores."""
    tree.replace("10400", [stub("10400/b")], 1.0)
    tree.add(File("10400/c", 7, None))
    return tree.node("10400/b") == stub("10400/b") and tree.node("10400/c") == File("10400/c", 7, None)


def scribbled(file: Path) -> None:
    """Overwrite a database, and the files that belong to it, with rubbish."""
    for one in file.parent.glob(f"{file.name}*"):
        with one.open("r+b") as opened:
            opened.write(b"rubbish!" * (one.stat().st_size // 8))


def cut(file: Path) -> None:
    """Truncate a database to nothing."""
    for one in file.parent.glob(f"{file.name}*"):
        os.truncate(one, 0)


def emptied(file: Path) -> None:
    """Drop all tables."""
    with closing(sqlite3.connect(file)) as database, database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            database.execute(f"DROP TABLE {name}")


def replaced(file: Path) -> None:
    """Replace a database by one of another program."""
    deleted(file)
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE Cache (other)")
        database.execute("CREATE TABLE entries (other)")


def deleted(file: Path) -> None:
    """Delete a database, but not the files beside it."""
    for one in file.parent.glob(f"{file.name}*"):
        one.unlink()


HARM: dict[str, Callable[[Path], None]] = {
    "deleted with its folder": lambda file: shutil.rmtree(file.parent),
    "deleted": deleted,
    "scribbled": scribbled,
    "cut": cut,
    "emptied": emptied,
    "replaced": replaced,
}


@pytest.mark.parametrize("harm", HARM)
def test_a_store_in_use_recovers_from_any_damage_to_its_database(
    store: DiskStore, folder: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no wrong block, no error and at most one log line, and blocks are stored, in the next run too."""
    HARM[harm](folder / "cache.db")
    for number in range(5):
        put(store, Block(FILE, number), noise(500, number))
        assert get(store, Block(FILE, number)) in {None, noise(500, number)}
    assert works(store)
    store.close()  # SQLite may have held all of it in memory; the next run sees what is on the disk
    with closing(opened(folder)) as again:
        assert works(again)
    assert orphans(folder) == set()
    assert len(warned(caplog)) <= 2
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("harm", HARM)
def test_a_store_opens_after_any_damage_to_its_database(
    folder: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After damage between two runs the store opens, with at most one log line, and stores blocks."""
    with closing(opened(folder)) as store:
        put(store, Block(FILE, 0), noise(500))
    HARM[harm](folder / "cache.db")
    with closing(opened(folder)) as store:
        assert get(store, Block(FILE, 0)) in {None, noise(500)}
        assert works(store)
    assert orphans(folder) == set()
    assert len(warned(caplog)) <= 1


@pytest.mark.parametrize(
    ("key", "value"), [("disk_nonsense", 5), ("sqlite_cache_size", "x"), ("size", "x"), ("cull_limit", b"\xff")]
)
def test_foreign_settings_in_the_database_are_harmless(
    folder: Path, key: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Settings that another program wrote into diskcache's table do not prevent the use of the store."""
    opened(folder).close()
    with closing(sqlite3.connect(folder / "cache.db")) as database, database:
        database.execute("INSERT OR REPLACE INTO Settings VALUES (?, ?)", (key, value))
    with closing(opened(folder)) as store:
        put(store, Block(FILE, 1), noise(500, 1))
        assert get(store, Block(FILE, 1)) in {None, noise(500, 1)}
    assert len(warned(caplog)) <= 1


@pytest.mark.parametrize("harm", HARM)
def test_an_index_in_use_recovers_from_any_damage_to_its_file(
    tree: SqliteIndex, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no error and at most one log line, and the index soon stores again."""
    HARM[harm](file_of(tree))
    for _ in range(3):
        assert tree.directory("10028/data") is None or tree.node("10028/data/a.mrc") in {LISTED, None}
        tree.add(File("10028/data/b.mrc", 5, None))
    assert knows(tree)
    tree.close()
    with closing(SqliteIndex(file_of(tree))) as again:
        assert knows(again)
    assert len(warned(caplog)) <= 2


def test_an_index_that_is_corrupt_in_its_depth_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that opens and fails in use with a corrupt page is replaced, once, and not opened again and again."""
    file = tmp_path / "tree.sqlite"
    with closing(SqliteIndex(file)) as tree:
        tree.replace("10028/data", [stub(f"10028/data/{number:05}.mrc") for number in range(5000)], 1.0)
    data = bytearray(file.read_bytes())
    size, page = len(data), 4096
    leaf = b"\x0a"  # the first byte of a page of an index without other pages below it
    (start,) = [
        at for at in range(0, size, page) if data[at : at + 1] == leaf and b"04999.mrc" in data[at : at + page]
    ]
    data[start : start + page] = b"\xff" * page
    file.write_bytes(data)
    with closing(SqliteIndex(file)) as tree:
        assert file.stat().st_size == size, "the first page of each table is intact, and the file opens"
        assert tree.directory("10028/data") is None
        assert tree.directory("10028/data") is None
        assert knows(tree)
    assert file.stat().st_size < size
    assert len(warned(caplog)) == 1


@pytest.mark.parametrize("version", [1, index_tables.VERSION + 1, 10**6])
def test_an_index_of_an_older_or_newer_program_is_replaced(
    tmp_path: Path, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The old file is removed, which is logged once, and the new one works."""
    file = tmp_path / "tree.sqlite"
    with closing(SqliteIndex(file)) as tree:
        tree.replace("10028/data", [LISTED], 1.0)
    with closing(sqlite3.connect(file)) as database:
        database.execute(f"PRAGMA user_version = {version}")
    with closing(SqliteIndex(file)) as tree:
        assert tree.directory("10028/data") is None
        assert knows(tree)
    assert {path.name for path in tmp_path.iterdir()} <= {"tree.sqlite", "tree.sqlite-journal"}
    assert len(warned(caplog)) == 1


@pytest.fixture
def locked() -> Iterator[Callable[..., sqlite3.Connection]]:
    """Lock a database against writes by others; if `alone`, against reads too."""
    made: list[sqlite3.Connection] = []

    def lock(file: Path, *, alone: bool = False) -> sqlite3.Connection:
        database = sqlite3.connect(file, isolation_level=None, timeout=5)
        made.append(database)
        database.execute("BEGIN EXCLUSIVE" if alone else "BEGIN IMMEDIATE")
        return database

    yield lock
    for database in made:
        database.close()


def test_a_store_recovers_from_a_lock(
    store: DiskStore, folder: Path, locked: Callable[..., sqlite3.Connection], caplog: pytest.LogCaptureFixture
) -> None:
    """Reads go on, and blocks that cannot be stored are dropped, logged once, until the lock is released."""
    database = locked(folder / "cache.db")
    for number in range(1, 4):
        put(store, Block(FILE, number), noise(500, number))
    assert get(store, Block(FILE, 0)) == noise(500)
    assert get(store, Block(FILE, 1)) is None
    assert len(warned(caplog)) == 1
    database.close()
    assert works(store)
    assert orphans(folder) == set()
    assert len(warned(caplog)) == 1


def test_a_store_that_is_opened_locked_recovers(
    folder: Path, locked: Callable[..., sqlite3.Connection], caplog: pytest.LogCaptureFixture
) -> None:
    """Its blocks are returned all the time; it stores none until the lock is released."""
    with closing(opened(folder)) as store:
        put(store, Block(FILE, 0), noise(500))
    database = locked(folder / "cache.db", alone=True)
    with closing(opened(folder)) as store:
        assert get(store, Block(FILE, 0)) == noise(500)
        put(store, Block(FILE, 1), noise(500, 1))
        assert get(store, Block(FILE, 1)) is None
        database.close()
        assert works(store)
        assert get(store, Block(FILE, 0)) == noise(500)
    assert len(warned(caplog)) == 1


def test_a_lock_delays_no_read(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading needs no database: neither a statement nor a writer that waits for a lock delays a hit or a miss."""

    def refuse(*_: object) -> object:
        raise AssertionError("the database was used")

    with monkeypatch.context() as patch:
        patch.setattr(diskcache.Cache, "_sql", property(refuse))
        patch.setattr(sqlite3, "connect", refuse)
        patch.setattr(disk, "TOUCHED_AT_ONCE", 1)
        patch.setattr(store, "_database", refuse)  # what a writer opens again
        assert store.get(FILE, range(20)) == {0: noise(500)}
        assert get(store, Block(File("other", 5, None), 0)) is None
    assert warned(caplog) == []


def test_an_index_recovers_from_a_lock(
    tree: SqliteIndex, locked: Callable[..., sqlite3.Connection], caplog: pytest.LogCaptureFixture
) -> None:
    """Reads go on, and changes are lost, logged once, until the lock is released."""
    database = locked(file_of(tree))
    for number in range(4):
        tree.add(File(f"10028/data/{number}", 5, None))
    assert tree.replace("10400", [stub("10400/b")], 1.0).nodes == {"b": stub("10400/b")}
    assert tree.directory("10028/data") is not None
    assert len(warned(caplog)) == 1
    database.close()
    assert knows(tree)
    assert len(warned(caplog)) == 1


def test_an_index_that_is_opened_locked_is_in_memory(
    tmp_path: Path, locked: Callable[..., sqlite3.Connection], caplog: pytest.LogCaptureFixture
) -> None:
    """The index is in memory until the lock is released, and then has its previous content."""
    file = tmp_path / "tree.sqlite"
    with closing(SqliteIndex(file)) as tree:
        tree.replace("10028/data", [LISTED], 1.0)
    database = locked(file, alone=True)
    with closing(SqliteIndex(file)) as tree:
        tree.add(File("10400/m", 7, None))
        assert tree.node("10400/m") == File("10400/m", 7, None)
        database.close()
        assert tree.node("10028/data/a.mrc") == LISTED
        assert knows(tree)
    assert len(warned(caplog)) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_store_recovers_from_a_disk_that_cannot_be_written(
    store: DiskStore, folder: Path, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full, failing or read-only disk blocks are dropped, logged once, and stored ones are returned."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object) -> int:
            raise OSError(number, os.strerror(number))

        patch.setattr(os, "writev", refuse)
        for one in range(1, 4):
            put(store, Block(FILE, one), noise(500, one))
            assert get(store, Block(FILE, one)) is None
        assert get(store, Block(FILE, 0)) == noise(500)
    assert works(store)
    assert orphans(folder) == set()
    assert len(warned(caplog)) == 1


def test_a_block_whose_disk_cannot_be_read_is_fetched_again(
    store: DiskStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A block that cannot be read is missing, which is logged once, until it is stored again."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patch.setattr(os, "pread", refuse)
        assert get(store, Block(FILE, 0)) is None
    put(store, Block(FILE, 0), noise(500))
    assert get(store, Block(FILE, 0)) == noise(500)
    assert len(warned(caplog)) == 1


class Failing(sqlite3.Connection):
    """A connection whose commits fail with a full disk, `left` times."""

    left = 0

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Execute the statement, or fail."""
        if sql == "COMMIT" and type(self).left:
            type(self).left -= 1
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, *values)


def test_a_failed_commit_holds_no_lock(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A commit that fails does not lock the database for ever."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{"factory": Failing, **k}))
    with closing(opened(folder)) as store:
        monkeypatch.setattr(Failing, "left", 1)
        put(store, Block(FILE, 0), noise(500))
        with closing(connect(folder / "cache.db", timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")
        assert works(store)
    assert len(warned(caplog)) == 1


def test_folders_that_are_created_again_are_private(folder: Path) -> None:
    """After any deletion the new folder, and those above it, have mode 0700."""
    before = os.umask(0o022)
    try:
        with closing(opened(folder)) as store:
            shutil.rmtree(folder.parent)
            assert works(store)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(one.stat().st_mode) for one in (folder.parent, folder)] == [0o700, 0o700]


def test_two_stores_share_a_folder_again_after_its_deletion(folder: Path) -> None:
    """Two mounts that share a folder share its successor, without chunk files that no row names."""
    with closing(opened(folder)) as one, closing(opened(folder)) as other:
        put(one, Block(FILE, 0), noise(500))
        shutil.rmtree(folder)
        put(one, Block(FILE, 1), noise(500, 1))
        put(other, Block(FILE, 2), noise(500, 2))
        assert orphans(folder) == set()
        assert get(other, Block(FILE, 1)) == noise(500, 1)
        assert get(one, Block(FILE, 2)) == noise(500, 2)


def test_a_damaged_disk_is_logged_once(store: DiskStore, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A hundred damaged blocks are one log line and a count."""
    blocks = [Block(FILE, number * 256) for number in range(100)]  # each in a chunk of its own
    for block in blocks:
        put(store, block, noise(500))
    for file in cache_files.chunks(folder):
        os.truncate(file, 100)
    assert [get(store, block) for block in blocks] == [None] * 100
    assert store.broken == 100
    assert len(warned(caplog)) == 1


def test_folders_that_are_created_meanwhile_are_used(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process may create a folder just as this one is about to; an emptied folder is used again."""
    make, made = os.mkdir, []

    def raced(path: str, mode: int) -> None:
        make(path, mode)
        made.append(path)
        make(path, mode)

    monkeypatch.setattr(os, "mkdir", raced)
    for _ in range(2):
        put(store, Block(FILE, 256), noise(500))  # of the next chunk
        assert get(store, Block(FILE, 256)) == noise(500)
        (file,) = [one for one in cache_files.chunks(Path(made[0])) if one]
        os.truncate(file, 100)
        assert get(store, Block(FILE, 256)) is None
    assert len(made) == 1
    assert len(warned(caplog)) == 1  # of the damage


def test_a_block_that_another_process_stored_again_is_found(store: DiskStore, folder: Path) -> None:
    """A block that was stored again in another file is found by another lookup."""
    assert get(store, Block(FILE, 0)) == noise(500)
    with closing(opened(folder)) as other:
        put(other, Block(FILE, 0), noise(500))
    assert get(store, Block(FILE, 0)) == noise(500)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO, errno.ENOSYS])
def test_slots_on_a_file_system_without_locks_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Without file locks connections are opened, and one log line says that those of others are not counted."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    semaphore = ProcessSemaphore(tmp_path / "slots", "ftp.ebi.ac.uk", 1)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        begun = time.monotonic()
        for _ in range(3):
            semaphore.acquire(30.0)()
        assert not semaphore.has_waiters()
        assert time.monotonic() - begun < 20
    assert len(warned(caplog)) == 1
    release = semaphore.acquire(0.0)
    with pytest.raises(TimeoutError):
        semaphore.acquire(0.0)
    release()


def test_slots_without_room_for_their_files_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full runtime folder does not prevent reading."""

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    semaphore = ProcessSemaphore(tmp_path / "slots", "ftp.ebi.ac.uk", 1)
    monkeypatch.setattr(os, "open", refuse)
    semaphore.acquire(0.0)()
    semaphore.acquire(0.0)()
    assert len(warned(caplog)) == 1


def test_a_child_holds_no_slot_of_its_parent(tmp_path: Path) -> None:
    """A parent releases its slots although a forked child has the files open."""
    semaphore = ProcessSemaphore(tmp_path / "slots", "ftp.ebi.ac.uk", 1)
    release = semaphore.acquire(0.0)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write_end)
        with suppress(OSError):
            os.read(read_end, 1)  # until the parent is done
        os._exit(0)
    os.close(read_end)
    try:
        release()
        semaphore.acquire(0.0)()
    finally:
        os.close(write_end)
        os.waitpid(child, 0)


def test_no_database_is_mapped_into_memory(store: DiskStore, folder: Path, tree: SqliteIndex) -> None:
    """No database has a memory-mapped file, as a failing disk would end the process with SIGBUS."""
    put(store, Block(FILE, 1), noise(500, 1))
    tree.add(File("10400/c", 7, None))
    assert not [*folder.parent.rglob("*-shm"), *folder.parent.rglob("*-wal")]
    assert "cache.db" not in Path("/proc/self/maps").read_text()


def test_the_index_of_these_tests_has_its_listing(tree: SqliteIndex) -> None:
    """The index that these tests damage holds the expected listing."""
    assert tree.node("10028/data/a.mrc") == Stub("10028/data/a.mrc", LISTED.listed_size, LISTED.listed_date)
