"""A cache on a disk that is full, failing, locked or gone: reads go on, one line says so, and it heals."""

import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support import cache_files, flaky_disk, sandbox
from support.fixture_tree import RANDOM, SPARSE, FixtureTree
from support.mounting import DEADLINE, Account, Mount, Mounts, eventually
from support.programs import checksum

pytestmark = pytest.mark.slow  # waits on purpose, or repeats for long

DISK_WARNINGS = r"cannot be used|was damaged|gives way"
OTHERS = ["10028/data/stack.mrcs", "10028/data/movie.tif", "10100/data/1.bin", "10100/data/524288.bin"]


def differing(mounted: str, real: str, paths: list[str]) -> list[str]:
    """Return the files whose bytes differ."""
    return [path for path in paths if Path(mounted, path).read_bytes() != Path(real, path).read_bytes()]


def bytes_at(path: str, offset: int) -> bytes:
    """Read 64 KiB at an offset."""
    with Path(path).open("rb", buffering=0) as file:
        return os.pread(file.fileno(), 65_536, offset)


def stores_again(made: Mount, tree: FixtureTree) -> Callable[[], bool]:
    """Return a function that reads on, checks the bytes, and returns whether new blocks were stored."""
    before = set(cache_files.of(made.account))
    offsets = itertools.count(10 * 2**20, 2**20)

    def looked() -> bool:
        offset = next(offsets)
        assert made.call(bytes_at, made / SPARSE, offset) == bytes(65_536)
        time.sleep(0.1)
        return bool(set(cache_files.of(made.account)) - before)

    return looked


def warnings_of(made: Mount) -> list[str]:
    """Return the subject of each warning in the log."""
    lines = [line.partition(" WARNING ")[2] for line in made.log().splitlines() if " WARNING " in line]
    abouts = ("the cache in", "the index", "a cached block", "gives way", "")
    return sorted(next(about for about in abouts if about in line) for line in lines)


@pytest.fixture
def disk(mount: Mounts) -> Iterator[tuple[Account, Path]]:
    """A user whose cache is on a disk that can be made to fail, and the file that says how."""
    account = mount.account()
    for name in ("real", "cache"):
        (account.home / name).mkdir()
    illness = account.home / "illness"
    illness.write_text("")
    place = account.home / "cache"
    account.start(sys.executable, flaky_disk.__file__, account.home / "real", place, illness)
    eventually(lambda: sandbox.mounted(place), "the disk is there")
    yield account, illness
    mount.finish()
    subprocess.run(["umount", "-l", place] if not account.user.uid else ["fusermount3", "-uz", place], check=True)


@pytest.mark.promise(
    "A disk that is full, failing, read-only or without locks, a database that is locked, broken or gone: "
    "reads go on, the log warns of it once, and the cache is used again within a minute of its recovery."
)
@pytest.mark.parametrize(
    "illness",
    ["write ENOSPC", "write EDQUOT", "write EIO", "create EROFS", "read EIO", "lock ENOLCK"],
)
def test_a_disk_that_fails_for_a_while(
    disk: tuple[Account, Path], mount: Mounts, tree: FixtureTree, illness: str
) -> None:
    """While a disk fails in any way, reads are right and one line is logged; later blocks are stored again."""
    account, ill = disk
    made = mount("10028", "10100", "10200", account=account)
    made.expect(DISK_WARNINGS)
    assert made.call(differing, made.path, tree.root, [RANDOM]) == []
    eventually(lambda: cache_files.of(account), "blocks are kept")
    ill.write_text(f"{illness}\n")
    assert made.call(differing, made.path, tree.root, [*OTHERS, RANDOM]) == []
    looked = stores_again(made, tree)
    looked()
    ill.write_text("")
    eventually(looked, "it heals", 60)
    assert len(warnings_of(made)) == len(set(warnings_of(made))), made.log()


def test_a_disk_that_fails_from_the_start(disk: tuple[Account, Path], mount: Mounts, tree: FixtureTree) -> None:
    """On a file system without locks the mount works, and the log says what is not stored."""
    account, ill = disk
    (account.home / "real" / "empiarfs" / "v1" / "blocks").mkdir(parents=True)
    ill.write_text("lock ENOLCK\n")
    made = mount("10028", "10100", "10200", account=account)
    made.expect(DISK_WARNINGS)
    assert made.call(differing, made.path, tree.root, [*OTHERS, RANDOM]) == []
    assert cache_files.of(account) == []
    assert warnings_of(made) == ["the cache in", "the index"], made.log()
    ill.write_text("")
    eventually(stores_again(made, tree), "it heals", 60)


@pytest.mark.promise(
    "A disk that is full, failing, read-only or without locks, a database that is locked, broken or gone: "
    "reads go on, the log warns of it once, and the cache is used again within a minute of its recovery."
)
def test_a_cache_that_is_deleted_under_the_mount(mount: Mounts, tree: FixtureTree) -> None:
    """Deleting the cache under a mount costs requests alone, and a new cache with mode 0700 is created."""
    made = mount("10028", "10100", "10200")
    made.expect(DISK_WARNINGS)
    folder = made.account.home / "cache" / "empiarfs"
    assert made.call(differing, made.path, tree.root, [RANDOM]) == []
    eventually(lambda: cache_files.of(made.account), "blocks are kept")
    folder.rename(made.account.home / "deleted")  # in one step; the daemon goes on writing
    shutil.rmtree(made.account.home / "deleted", ignore_errors=True)
    assert made.call(differing, made.path, tree.root, [*OTHERS, RANDOM]) == []
    eventually(stores_again(made, tree), "it heals", 60)
    assert folder.stat().st_mode & 0o777 == 0o700
    made.umount()
    with closing(sqlite3.connect(folder / "v1" / "blocks" / "cache.db")) as database:
        known = {name for (name,) in database.execute("SELECT filename FROM Cache")}
    blocks = folder / "v1" / "blocks"
    assert {file.relative_to(blocks).as_posix() for file in cache_files.of(made.account)} <= known
    assert len(warnings_of(made)) == len(set(warnings_of(made))), made.log()


@pytest.mark.promise(
    "A disk that is full, failing, read-only or without locks, a database that is locked, broken or gone: "
    "reads go on, the log warns of it once, and the cache is used again within a minute of its recovery."
)
def test_databases_that_another_program_locks(mount: Mounts, tree: FixtureTree) -> None:
    """Reads go on without a long wait while another program holds locks on the databases."""
    made = mount("10028", "10100", "10200")
    made.expect(DISK_WARNINGS)
    assert made.call(checksum, made / RANDOM)
    eventually(lambda: cache_files.of(made.account), "blocks are kept")
    folder = made.account.home / "cache" / "empiarfs" / "v1"
    files = [*folder.glob("tree-*.sqlite"), folder / "blocks" / "cache.db"]
    assert len(files) == 2
    locks = [sqlite3.connect(file, isolation_level=None, timeout=10) for file in files]
    try:
        for lock in locks:
            lock.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        assert made.call(differing, made.path, tree.root, OTHERS * 5) == []
        assert time.monotonic() - begun < 10
        looked = stores_again(made, tree)
        # a segment lies on the disk while its row is waited for
        eventually(lambda: not looked(), "nothing is kept", 10)
    finally:
        for lock in locks:
            lock.close()
    eventually(looked, "it heals", 60)
    assert len(warnings_of(made)) == len(set(warnings_of(made))), made.log()


@pytest.mark.root
def test_a_small_file_system_that_fills_up(mount: Mounts, tree: FixtureTree) -> None:
    """A cache on a file system of 8 MiB stores nothing, and reads go on when it is full."""
    account = mount.account()
    place = account.home / "cache"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", place], check=True)
    try:
        made = mount("10028", "10100", account=account)
        made.expect(DISK_WARNINGS)
        filler = place / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (65_536, 512):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    continue
        assert made.call(differing, made.path, tree.root, [*OTHERS, RANDOM]) == []
        filler.unlink()
        assert made.call(differing, made.path, tree.root, [*OTHERS, RANDOM]) == []
        assert "gives way" in made.log()
        assert len(warnings_of(made)) == len(set(warnings_of(made))), made.log()
        made.umount()
    finally:
        subprocess.run(["umount", "-l", place], check=True, timeout=DEADLINE)
