"""Blocks on disk are returned intact or not at all, within their limits, whatever happened to the folder."""

import errno
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import cache_files
from support.cache_files import get, put
from support.fakes import at_once, noise

from empiarfs import circuit_breaker
from empiarfs.model import Block, File
from empiarfs.private_dirs import ensure_private
from empiarfs.storage import chunks, database, disk
from empiarfs.storage.disk import DiskStore
from empiarfs.units import GIB, MIB

FILE = File("10028/data/a.mrc", 1_000_000_000, 1_700_000_000)
BLOCK_BYTES = 64 * 1024
NEXT = 16  # blocks on: the same place in the next chunk


def block(number: int, file: File = FILE) -> Block:
    """Return a block of `FILE`."""
    return Block(file, number)


def opened(
    folder: Path, most: int = 100 * MIB, *, archive: str = "ebi", block_bytes: int = BLOCK_BYTES
) -> DiskStore:
    """Open a store as `wire` does."""
    return DiskStore(folder, most, archive=archive, block_bytes=block_bytes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a store, which does not exist yet."""
    return tmp_path / "cache" / "blocks"


@pytest.fixture
def store(folder: Path) -> Iterator[DiskStore]:
    """Return an empty store."""
    with closing(opened(folder)) as store:
        yield store


def volume(store: DiskStore) -> int:
    """Return the bytes that the store reports."""
    found = store.kept()
    assert found is not None
    return found


def tampered(folder: Path, change: str, *arguments: object) -> None:
    """Change the database with another connection."""
    with closing(sqlite3.connect(folder / "cache.db")) as database, database:
        database.execute(change, arguments)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the logged warnings, and clear them."""
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    return lines


@pytest.mark.parametrize("data", [b"", b"\n", b"x", noise(BLOCK_BYTES), b"\n" * 100, bytes(BLOCK_BYTES)])
def test_a_stored_block_is_returned(store: DiskStore, data: bytes) -> None:
    """A block of any content and length is returned unchanged."""
    put(store, block(0), data)
    assert get(store, block(0)) == data


def test_a_block_that_was_never_stored_is_missing(store: DiskStore) -> None:
    """A block that was never stored is missing, without a warning."""
    assert get(store, block(0)) is None


def test_a_second_put_replaces_the_first(store: DiskStore, folder: Path) -> None:
    """A second put leaves one file, not two."""
    put(store, block(0), b"old")
    put(store, block(0), b"new")
    assert get(store, block(0)) == b"new"
    assert len(cache_files.chunks(folder)) == 1


def test_blocks_survive_a_restart(folder: Path) -> None:
    """A store that is opened again has the blocks of the previous one."""
    with closing(opened(folder)) as store:
        put(store, block(0), noise(100))
    with closing(opened(folder)) as store:
        assert get(store, block(0)) == noise(100)


def descriptors(folder: Path) -> list[str]:
    """Return the files below `folder` that this process has open, one for each descriptor."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of this very listing
            found.append(os.fspath(link.readlink()))
    return [path for path in found if path.startswith(f"{folder}/")]


def test_a_store_has_one_connection(folder: Path) -> None:
    """Any number of readers and writers use one connection, and none is open after a close."""
    with closing(opened(folder)) as store:
        put(store, block(0), b"0")
        for _ in range(5):
            assert at_once([partial(get, store, block(0)) for _ in range(20)]) == [b"0"] * 20
            at_once([partial(put, store, block(number * NEXT), b"1") for number in range(1, 20)])
        assert len(descriptors(folder)) == 1
    assert descriptors(folder) == []


def test_a_closed_store_is_empty(folder: Path) -> None:
    """A late reader finds no block, a late writer stores none, and neither opens a connection."""
    store = opened(folder)
    put(store, block(0), b"0")
    store.close()
    put(store, block(1), b"1")
    assert [get(store, block(number)) for number in range(2)] == [None, None]
    assert store.kept() == 0
    assert descriptors(folder) == []
    with closing(opened(folder)) as store:
        assert store.get(FILE, range(2)) == {0: b"0"}


def test_blocks_are_shared_by_processes(folder: Path) -> None:
    """Each process gets the blocks that another one stores."""
    with closing(opened(folder)) as store:
        put(store, block(0), b"from here")
        program = (
            "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
            "from test_disk import opened, block, get, put; store = opened(Path(sys.argv[1]));"
            "sys.stdout.write(get(store, block(0)).decode()); put(store, block(1), b'from there'); store.close()"
        )
        paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path])
        said = subprocess.run(
            [sys.executable, "-c", program, str(folder), str(Path(__file__).parent)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": paths},
            timeout=60,
        )
        assert said.stdout == "from here"
        assert get(store, block(1)) == b"from there"


@pytest.mark.parametrize(
    "other",
    [
        File("10028/data/b.mrc", FILE.size, FILE.modified),
        File(FILE.path, FILE.size + 1, FILE.modified),
        File(FILE.path, FILE.size, FILE.modified and FILE.modified + 1),
        File(FILE.path, FILE.size, None),
        File(f"{FILE.path} ", FILE.size, FILE.modified),
        File(FILE.path, FILE.size, FILE.modified, coarse_mtime=True),
    ],
)
def test_another_file_or_version_is_another_block(store: DiskStore, other: File) -> None:
    """Path, size and date are the identity of a file."""
    put(store, block(0), b"this")
    put(store, block(0, other), b"that")
    assert get(store, block(0)) == b"this"
    assert get(store, block(0, other)) == b"that"


def test_similar_names_are_distinct(store: DiskStore) -> None:
    """A path that begins with numbers and spaces is not parsed as another block's number."""
    one, other = Block(File("2 10028/a", 5, None), 1), Block(File("10028/a", 5, None), 12)
    put(store, one, b"one")
    assert get(store, other) is None
    put(store, Block(File("10028/a", 5, None), 1), b"other")
    assert get(store, one) == b"one"


def test_a_name_that_begins_like_the_blocks_of_another_file_hides_none(store: DiskStore) -> None:
    """A file whose name is another's with numbers behind it shares nothing with it."""
    like = File(f"{FILE.path} {FILE.size} {FILE.modified} 0", 7, 5)
    put(store, block(3, like), b"like")
    put(store, block(3), b"this")
    assert get(store, block(3)) == b"this"
    assert get(store, block(3, like)) == b"like"


def test_another_number_is_another_block(store: DiskStore) -> None:
    """The blocks of one file are distinct."""
    for number in range(12):
        put(store, block(number), str(number).encode())
    assert [get(store, block(number)) for number in range(12)] == [str(number).encode() for number in range(12)]


def test_another_archive_or_block_size_is_another_block(folder: Path) -> None:
    """Two archives with the same path, or two block sizes, share a folder and no block."""
    with closing(opened(folder)) as store:
        put(store, block(0), b"ours")
    for other in (opened(folder, archive="pdbj"), opened(folder, block_bytes=8192)):
        with closing(other):
            assert get(other, block(0)) is None


@pytest.mark.parametrize(
    "name", ["10028/data/\udcff\udc80.mrc", "10028/\u0436\u4e2d.mrc", "10028/a\nb", "10028/%2F#?", "10028/a'\"--"]
)
def test_a_file_of_any_name_is_stored(store: DiskStore, name: str) -> None:
    """Blocks of files whose names are not UTF-8, or unusual, are stored too."""
    file = File(name, 5, None)
    put(store, block(0, file), b"12345")
    assert get(store, block(0, file)) == b"12345"


def test_names_of_other_bytes_are_other_blocks(store: DiskStore) -> None:
    """A byte that is not UTF-8 differs from the character of the same number."""
    put(store, block(0, File("10028/\udcff", 5, None)), b"byte")
    assert get(store, block(0, File("10028/\u00ff", 5, None))) is None


def flipped(file: Path) -> None:
    """Flip one bit in the middle of the file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def into_a_directory(file: Path) -> None:
    """Replace the file by a directory."""
    file.unlink()
    file.mkdir()


def into_a_link(file: Path) -> None:
    """Replace the file by a link to itself."""
    file.unlink()
    file.symlink_to(file.name)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flipped,
    "cut": lambda file: os.truncate(file, 1000),
    "cut in the head": lambda file: os.truncate(file, 10),
    "empty": lambda file: os.truncate(file, 0),
    "foreign": lambda file: file.write_bytes(b"\x89PNG" * 500),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "gone": Path.unlink,
    "a directory": into_a_directory,
    "a link to itself": into_a_link,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_block_is_missing_until_it_is_stored_again(
    store: DiskStore, folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A block is intact or missing, whatever happened to its file, and a put stores it again."""
    put(store, block(0), noise(BLOCK_BYTES))
    put(store, block(NEXT), noise(BLOCK_BYTES, 1))
    (file,) = [one for one in cache_files.chunks(folder) if noise(BLOCK_BYTES) in one.read_bytes()]
    DAMAGE[damage](file)
    assert get(store, block(0)) is None
    assert get(store, block(0)) is None
    assert get(store, block(NEXT)) == noise(BLOCK_BYTES, 1)
    put(store, block(0), noise(BLOCK_BYTES))
    assert get(store, block(0)) == noise(BLOCK_BYTES)
    assert len(warned(caplog)) <= 1


def test_a_damaged_block_is_dropped_counted_and_logged_once(
    store: DiskStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged block is deleted from the disk, counted, and logged once."""
    put(store, block(0), noise(BLOCK_BYTES))
    flipped(cache_files.chunks(folder)[0])
    get(store, block(0))
    get(store, block(0))
    assert cache_files.chunks(folder) == []
    assert store.broken == 1
    assert [FILE.path in line for line in warned(caplog)] == [True]


@pytest.mark.parametrize("wanted", [range(1), range(16)])
def test_a_damaged_block_loses_no_other(store: DiskStore, folder: Path, wanted: range) -> None:
    """The other blocks of its chunk stay, without the damaged one, which is counted once."""
    put(store, block(0), *(noise(BLOCK_BYTES, number) for number in range(16)))
    (file,) = cache_files.chunks(folder)
    data = bytearray(file.read_bytes())
    data[200] ^= 4  # in the first block
    file.write_bytes(data)
    good = {number: noise(BLOCK_BYTES, number) for number in range(1, 16)}
    assert store.get(FILE, wanted) == {number: good[number] for number in wanted if number}
    assert store.get(FILE, range(16)) == good
    assert store.broken == 1
    assert volume(store) == cache_files.volume(folder) < 16 * BLOCK_BYTES
    put(store, block(0), b"whole")
    assert store.get(FILE, range(16)) == {0: b"whole"} | good


def test_blocks_of_swapped_files_are_missing(
    store: DiskStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Intact bytes of another block are rejected."""
    for number in (0, NEXT):
        put(store, block(number), noise(BLOCK_BYTES, number))
    one, other = cache_files.chunks(folder)
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    assert [get(store, block(number)) for number in (0, NEXT)] == [None, None]
    assert len(warned(caplog)) == 1


def test_a_chunk_gains_blocks(store: DiskStore, folder: Path) -> None:
    """A chunk that gains blocks, in any order, is one file with all of them, without room for the others."""
    for number in (5, 0, 15, 7):
        put(store, block(number), noise(BLOCK_BYTES, number))
    assert store.get(FILE, range(100)) == {number: noise(BLOCK_BYTES, number) for number in (0, 5, 7, 15)}
    assert len(cache_files.chunks(folder)) == 1
    assert cache_files.volume(folder) < 4 * BLOCK_BYTES + 4096


def test_a_run_over_several_chunks_is_stored_and_returned(store: DiskStore, folder: Path) -> None:
    """A run that begins and ends within chunks is returned as stored, without blocks in its gap."""
    put(store, block(10), *(noise(BLOCK_BYTES, number) for number in range(10, 50)))
    put(store, block(60), b"60")
    expected = {number: noise(BLOCK_BYTES, number) for number in range(10, 50)} | {60: b"60"}
    assert store.get(FILE, range(100)) == expected
    assert store.get(FILE, range(14, 18)) == {number: expected[number] for number in range(14, 18)}
    assert len(cache_files.chunks(folder)) == 4


def test_a_put_of_stored_blocks_writes_nothing(store: DiskStore, folder: Path) -> None:
    """A second program that stores the same blocks writes nothing."""
    put(store, block(0), b"0", b"1")
    before = cache_files.chunks(folder)
    put(store, block(1), b"1")
    assert cache_files.chunks(folder) == before


def test_a_complete_chunk_is_stored_without_a_read(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storing a complete chunk reads no file, also for the last chunk of a file."""
    file = File("10028/short", 18 * BLOCK_BYTES + 1, 5)

    def refuse(*_: object) -> bytes:
        raise AssertionError("a file was read")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", refuse)
        for _ in range(2):
            put(store, block(0, file), *(noise(BLOCK_BYTES, number) for number in range(18)), b"!")
    assert len(store.get(file, range(19))) == 19


@pytest.mark.parametrize(
    ("wanted", "sizes"),
    [
        (range(16), [16 * BLOCK_BYTES]),
        (range(4, 12), [16 * BLOCK_BYTES]),
        (range(9, 10), [0, BLOCK_BYTES]),
        (range(13, 18), [0, 3 * BLOCK_BYTES, 0, 2 * BLOCK_BYTES]),
    ],
)
def test_half_a_chunk_or_more_is_read_with_one_call(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, wanted: range, sizes: list[int]
) -> None:
    """Half of a chunk or more takes one call; less takes one for the head and one for the blocks."""
    put(store, block(0), *(noise(BLOCK_BYTES, number) for number in range(32)))
    read, pread = [], os.pread

    def noted(number: int, size: int, offset: int) -> bytes:
        read.append(size)
        return pread(number, size, offset)

    monkeypatch.setattr(os, "pread", noted)
    assert store.get(FILE, wanted) == {number: noise(BLOCK_BYTES, number) for number in wanted}
    assert [size - size % BLOCK_BYTES for size in read] == sizes


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_of_a_fork_reads_on(store: DiskStore) -> None:
    """A child has its own threads and connections."""
    put(store, block(0), b"parent")
    child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            put(store, block(1), b"child")
            found = store.get(FILE, range(2))
            store.close()
            os._exit(0 if found == {0: b"parent", 1: b"child"} else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.get(FILE, range(2)) == {0: b"parent", 1: b"child"}


def test_a_cache_of_an_older_version_is_removed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Blocks in another format are removed when the store is opened, which is logged once."""
    with closing(opened(folder)) as store:
        put(store, block(0), b"old")
    tampered(folder, "PRAGMA user_version = 0")
    with closing(opened(folder)) as store:
        assert get(store, block(0)) is None
        assert cache_files.chunks(folder) == []
        put(store, block(0), b"new")
        assert get(store, block(0)) == b"new"
    (line,) = warned(caplog)
    assert "version 0" in line


def test_a_damaged_chunk_that_was_stored_again_meanwhile_stays(store: DiskStore, folder: Path) -> None:
    """A chunk that another process has stored in place of a damaged one stays."""
    put(store, block(0), noise(BLOCK_BYTES))
    flipped(cache_files.chunks(folder)[0])
    read = os.pread
    with pytest.MonkeyPatch.context() as patch:

        def raced(number: int, size: int, start: int) -> bytes:
            patch.undo()
            with closing(opened(folder)) as other:
                put(other, block(0), noise(BLOCK_BYTES))
            return read(number, size, start)

        patch.setattr(os, "pread", raced)
        assert get(store, block(0)) is None
    assert get(store, block(0)) == noise(BLOCK_BYTES)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT, errno.ESTALE])
def test_a_block_that_cannot_be_read_now_is_not_deleted(
    folder: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After an error of the system a block is missing, and there again later."""
    monkeypatch.setattr(circuit_breaker, "FIRST_REST", 0.0)

    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with closing(opened(folder)) as store:
        put(store, block(0), b"good")
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            assert get(store, block(0)) is None
        assert get(store, block(0)) == b"good"
    assert (len(cache_files.chunks(folder)), store.broken, len(warned(caplog))) == (1, 0, 1)


def test_the_bytes_of_a_store_are_those_of_its_files(store: DiskStore, folder: Path) -> None:
    """The reported bytes are those of the chunk files, without the database, each counted once."""
    assert volume(store) == 0
    for number in (0, 1, 0):
        put(store, block(number), noise(BLOCK_BYTES, number))
    assert store.kept() == cache_files.volume(folder)


class Evil:
    """A class whose pickle creates a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (os.fspath(self._mark),)


@pytest.mark.promise(
    "The cache folder's contents are 0700, never executed, never unpickled, bounded by `--cache-size` and by "
    "the free space that is always left, and may be shared by several processes."
)
@pytest.mark.parametrize("mode", [1, 2, 3, 4, 5, None, "4"])
def test_nothing_is_ever_unpickled(
    store: DiskStore, folder: Path, tmp_path: Path, mode: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that claims to be a pickle is not loaded: the block is missing until it is stored again."""
    mark = tmp_path / "executed"
    evil = pickle.dumps(Evil(mark))
    put(store, block(0), b"good")
    cache_files.chunks(folder)[0].write_bytes(evil)
    tampered(folder, "UPDATE Cache SET mode = ?, value = ?, filename = NULL", mode, evil)
    assert get(store, block(0)) is None
    name = cache_files.chunks(folder)[0].relative_to(folder).as_posix()
    tampered(folder, "UPDATE Cache SET mode = ?, value = NULL, filename = ?", mode, name)
    assert get(store, block(0)) is None
    assert not mark.exists()
    put(store, block(0), b"good")
    assert get(store, block(0)) == b"good"
    assert len(warned(caplog)) <= 2


def test_a_pickled_key_is_not_loaded(store: DiskStore, folder: Path, tmp_path: Path) -> None:
    """A key that claims to be a pickle is not loaded, also during eviction."""
    mark = tmp_path / "executed"
    put(store, block(0), b"good")
    tampered(folder, "UPDATE Cache SET key = ?, raw = 0", pickle.dumps(Evil(mark)))
    assert get(store, block(0)) == b"good"
    for number in range(20):
        put(store, block(number), noise(BLOCK_BYTES))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../../victim", "{absolute}", "../blocks/../../victim", "link/victim"])
def test_a_file_outside_the_folder_is_neither_read_nor_removed(
    store: DiskStore, folder: Path, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that points outside is not followed, and its target is unchanged."""
    victim = tmp_path / "victim"
    (folder / "link").symlink_to(tmp_path)
    put(store, block(0), b"good")
    shutil.copy(cache_files.chunks(folder)[0], victim)
    kept = victim.read_bytes()
    tampered(folder, "UPDATE Cache SET filename = ?", name.format(absolute=victim))
    assert get(store, block(0)) == b"good"
    put(store, block(0), b"better")
    assert victim.read_bytes() == kept
    assert get(store, block(0)) == b"better"
    assert len(warned(caplog)) <= 1


@pytest.mark.parametrize("value", [b"\x00\xff", 5, 1.5, "", "\0"])
def test_a_row_of_any_values_raises_nothing(
    store: DiskStore, folder: Path, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    """A row with any values is a missing block."""
    put(store, block(0), b"good")
    for column in ("filename", "size", "mode"):
        tampered(folder, f"UPDATE Cache SET {column} = ?", value)  # noqa: S608 - our own three names
        data = get(store, block(0))
        assert data is None or data == b"good"
        put(store, block(0), b"good")
    assert len(warned(caplog)) <= 2


@pytest.mark.parametrize("name", ["cache.db", "cache.db-wal"])
def test_a_corrupt_database_raises_nothing_when_it_is_opened(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A store with a corrupt database opens, and works or is empty."""
    with closing(opened(folder)) as store:
        put(store, block(0), b"good")
    (folder / name).write_bytes(b"rubbish" * 5000)
    with closing(opened(folder)) as store:
        assert get(store, block(0)) in {None, b"good"}
        put(store, block(1), b"more")
        assert get(store, block(1)) in {None, b"more"}
    warned(caplog)


@pytest.mark.parametrize(
    ("limit", "step", "count"), [(8 * MIB, 1, 1), (8 * MIB, 7, 1), (8 * MIB, NEXT, 1), (105 * MIB, NEXT, NEXT)]
)
def test_the_limit_holds_within_a_chunk(folder: Path, limit: int, step: int, count: int) -> None:
    """The stored bytes stay below the limit and a chunk, and use most of that."""
    with closing(opened(folder, limit)) as store:
        for turn in range(5 * limit // (4 * BLOCK_BYTES * count)):
            put(store, block(turn * step), *[noise(BLOCK_BYTES)] * count)
            assert volume(store) <= limit + MIB
        assert cache_files.volume(folder) == volume(store) > limit // 2


def test_complete_chunks_in_place_of_small_ones_keep_the_limit(folder: Path) -> None:
    """If stored chunks are larger than the evicted ones, more are evicted."""
    with closing(opened(folder, 8 * MIB)) as store:
        for number in range(120):
            put(store, block(number * NEXT), noise(BLOCK_BYTES))
        for number in range(120, 150):
            put(store, block(number * NEXT), *[noise(BLOCK_BYTES)] * 16)
            assert volume(store) <= 8 * MIB
        assert volume(store) > 4 * MIB


def test_recently_used_blocks_are_not_evicted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that is read repeatedly outlives those that are not."""
    monkeypatch.setattr(disk, "TOUCHED_AT_ONCE", 1)
    with closing(opened(folder, 8 * MIB)) as store:
        for number in range(300):
            put(store, block(number * NEXT), noise(BLOCK_BYTES, number))
            assert get(store, block(0)) is not None
        assert get(store, block(NEXT)) is None


def test_uses_are_known_to_the_next_run(folder: Path) -> None:
    """A block that was read outlives one that was not, also if nothing was stored in that run."""
    with closing(opened(folder)) as store:
        for number in range(20):
            put(store, block(number * NEXT), noise(BLOCK_BYTES, number))
    with closing(opened(folder)) as store:
        assert get(store, block(0)) is not None
    with closing(opened(folder, MIB)) as store:
        put(store, block(20 * NEXT), b"1")
        assert get(store, block(0)) is not None
        assert get(store, block(NEXT)) is None


def test_a_smaller_limit_applies_after_a_restart(folder: Path) -> None:
    """A store that is opened with a smaller limit evicts down to it as blocks are stored."""
    with closing(opened(folder, 100 * MIB)) as store:
        for number in range(100):
            put(store, block(number * NEXT), noise(BLOCK_BYTES, number))
    with closing(opened(folder, 4 * MIB)) as store:
        put(store, block(99), noise(BLOCK_BYTES))
        assert MIB < volume(store) <= 4 * MIB + MIB


class Room:
    """A file system whose free space the test sets."""

    def __init__(self, total: int, free: int) -> None:
        self.total, self.free = total, free

    def __call__(self, _: object) -> SimpleNamespace:
        """Return the usage, as `shutil.disk_usage` does."""
        return SimpleNamespace(total=self.total, used=self.total - self.free, free=self.free)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    """Return ample room, which every put checks."""
    room = Room(100 * GIB, 50 * GIB)
    monkeypatch.setattr(shutil, "disk_usage", room)
    monkeypatch.setattr(disk, "LOOK_SECONDS", -1.0)
    return room


@pytest.mark.promise(
    "The cache folder's contents are 0700, never executed, never unpickled, bounded by `--cache-size` and by "
    "the free space that is always left, and may be shared by several processes."
)
@pytest.mark.parametrize(
    ("total", "free", "kept"),
    [
        (100 * GIB, 5 * GIB + MIB, 2),
        (100 * GIB, 5 * GIB - 1, 0),
        (10 * GIB, 2 * GIB + MIB, 2),
        (10 * GIB, 2 * GIB - 1, 0),
        (1000 * GIB, 49 * GIB, 0),
        (1000 * GIB, 51 * GIB, 2),
    ],
)
def test_a_share_of_the_file_system_stays_free(
    store: DiskStore, room: Room, total: int, free: int, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Below 5 % of the file system, or 2 GiB, nothing is stored, which is logged once."""
    room.total, room.free = total, free
    put(store, block(0), b"1")
    put(store, block(1), b"1")
    assert [get(store, block(number)) for number in range(2)] == [b"1" if kept else None] * 2
    assert len(warned(caplog)) == (0 if kept else 1)


def test_the_store_evicts_when_free_space_is_low(
    store: DiskStore, room: Room, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store evicts what is missing to the floor, and stores again when there is room."""
    for number in range(60):
        put(store, block(number * NEXT), noise(BLOCK_BYTES, number))
    room.free = 5 * GIB - 2 * MIB
    put(store, block(99), b"1")
    volume = cache_files.volume(folder)
    assert 0 < volume <= 60 * 64 * 1024 - 2 * MIB + 64 * 1024
    assert get(store, block(99)) is None
    room.free = 50 * GIB
    put(store, block(99), b"1")
    assert get(store, block(99)) == b"1"
    assert len(warned(caplog)) == 1


def test_no_more_is_stored_than_leaves_the_floor_free(store: DiskStore, room: Room) -> None:
    """Close above the floor the store uses only the remaining space, whatever its limit."""
    for number in range(100):
        room.free = 5 * GIB + MIB - volume(store)
        put(store, block(number * NEXT), noise(BLOCK_BYTES, number))
    assert volume(store) <= MIB + 2 * 64 * 1024


def test_the_free_space_is_not_checked_for_every_block(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred puts at one time of the clock are one check."""
    looks = []

    def counted(path: object) -> SimpleNamespace:
        looks.append(path)
        return SimpleNamespace(total=100 * GIB, used=0, free=50 * GIB)

    monkeypatch.setattr(shutil, "disk_usage", counted)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    for number in range(100):
        put(store, block(number), b"1")
    assert len(looks) == 1


def mode(path: Path) -> int:
    """Return the permissions of `path`."""
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_private(folder: Path) -> None:
    """0700, whatever the umask, also where it was open before."""
    before = os.umask(0)
    try:
        opened(folder).close()
        assert mode(folder) == 0o700
        folder.chmod(0o755)
        opened(folder).close()
        assert mode(folder) == 0o700
    finally:
        os.umask(before)


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are neither stored nor read in a folder to which another user may write."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: theirs.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="another user"):
        ensure_private(theirs)
    with pytest.raises(PermissionError):
        opened(theirs)


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    """A file in place of the folder raises OSError."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        ensure_private(tmp_path / "file")


def test_the_name_of_a_folder_is_not_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose name diskcache would expand is refused."""
    monkeypatch.setenv("EVIL", "elsewhere")
    with pytest.raises(OSError, match="variable"):
        opened(tmp_path / "a$EVIL")
    assert not (tmp_path / "aelsewhere").exists()


def test_a_deleted_folder_is_logged_once(store: DiskStore, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Reads go on without the cache, which is logged once."""
    put(store, block(0), b"1")
    shutil.rmtree(folder)
    for number in range(5):
        put(store, block(number), b"1")
        assert get(store, block(number)) in {None, b"1"}
    assert len(warned(caplog)) <= 1


def test_a_disk_that_cannot_be_written_is_logged_once(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full, read-only or failing disk a put drops the block, a get works, and one line is logged."""
    put(store, block(0), b"kept")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    for number in range(1, 5):
        put(store, block(number), b"1")
        assert get(store, block(number)) is None
    assert get(store, block(0)) == b"kept"
    lines = warned(caplog)
    assert len(lines) == 1
    assert "No space left" in lines[0]


def test_an_incomplete_write_leaves_no_file(
    store: DiskStore, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that runs full during a write keeps no partial file."""
    monkeypatch.setattr(os, "writev", lambda number, parts: os.write(number, parts[0]))
    for number in range(5):
        put(store, block(number), noise(BLOCK_BYTES))
        assert get(store, block(number)) is None
    assert cache_files.chunks(folder) == []
    assert len(warned(caplog)) == 1


def test_a_database_that_cannot_be_used_now_is_not_deleted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only a corrupt database is replaced, not a locked or unreadable one."""
    with closing(opened(folder)) as store:
        put(store, block(0), b"good")
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
    with closing(sqlite3.connect(folder / "cache.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        store = opened(folder)
        put(store, block(1), b"dropped")
        assert store.get(FILE, range(2)) == {0: b"good"}
        store.close()
    assert len(warned(caplog)) == 1
    with closing(opened(folder)) as store:
        assert get(store, block(0)) == b"good"


@pytest.mark.skipif(os.geteuid() != 0, reason="chattr and uid changes need root; root may write anything else")
def test_a_read_only_folder_is_logged_once(folder: Path, tmp_path: Path) -> None:
    """A user whose cache became read-only reads on, and one line is logged."""
    program = f"""
import encodings.hex_codec, logging, os, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path]!r}
from pathlib import Path
from test_disk import opened, block, get, put
os.setgid(65534); os.setuid(65534)
logging.basicConfig(format="WARNED %(message)s")
folder = Path({str(folder)!r})
store = opened(folder)
put(store, block(0), b"kept")
for path in [folder, *folder.rglob("*")]:
    path.chmod(0o500 if path.is_dir() else 0o400)
for number in range(1, 4):
    put(store, block(number), b"1")
    assert get(store, block(number)) is None
print(get(store, block(0)))
store.close()
"""
    for path in [folder.parent, tmp_path, *tmp_path.parents]:
        if path.exists():
            path.chmod(path.stat().st_mode | stat.S_IXGRP | stat.S_IXOTH)
    folder.mkdir(parents=True)
    for path in (folder, folder.parent):
        os.chown(path, 65534, 65534)
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60, cwd="/"
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout == "b'kept'\n"
    assert said.stderr.count("WARNED") == 1


def test_many_threads_use_one_store(store: DiskStore) -> None:
    """Threads that put and get at once get the stored bytes or nothing, and no error."""

    def work(seed: int) -> None:
        for turn in range(30):
            number = (seed + turn) % 10
            put(store, block(number), noise(500, number))
            assert get(store, block(number)) in {None, noise(500, number)}

    assert at_once([partial(work, seed) for seed in range(8)]) == [None] * 8
    assert all(get(store, block(number)) == noise(500, number) for number in range(10))


def hammer(folder: Path, seed: int) -> int:
    """Put and get in another process; return how many blocks were wrong."""
    wrong = 0
    with closing(opened(folder, 2 * MIB)) as store:
        for turn in range(60):
            number = (seed * 31 + turn) % 40
            put(store, block(number), noise(BLOCK_BYTES, number))
            wrong += get(store, block((number * 7) % 40)) not in {None, noise(BLOCK_BYTES, (number * 7) % 40)}
    return wrong


def test_two_processes_write_at_once(folder: Path) -> None:
    """Two programs on one folder get no wrong block and no error, and keep the limit."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(hammer, [(folder, 1), (folder, 2)]) == [0, 0]
    with closing(opened(folder, 2 * MIB)) as store:
        assert volume(store) <= 2 * MIB + 4 * 64 * 1024


def test_a_crash_in_the_middle_of_a_put_leaves_no_wrong_block(folder: Path) -> None:
    """A process killed during a write leaves blocks that are intact or missing."""
    program = (
        "import sys; from pathlib import Path; from test_disk import opened, block, noise, put;"
        "store = opened(Path(sys.argv[1])); print('ready', flush=True);\n"
        "for number in range(10**6): put(store, block(number % 50 * 5), noise(65536, number % 50))"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        while len(cache_files.chunks(folder)) < 10:
            assert writer.poll() is None
        writer.kill()
    with closing(opened(folder)) as store:
        found = [get(store, block(number * 5)) for number in range(50)]
    assert all(data in {None, noise(65536, number)} for number, data in enumerate(found))
    assert any(found)


def test_the_repr_of_a_store_shows_its_folder(store: DiskStore, folder: Path) -> None:
    """The repr shows the folder and the number of damaged blocks."""
    assert repr(store) == f"<DiskStore {folder} most={100 * MIB} broken=0>"


def test_a_length_beyond_the_file_allocates_no_memory(
    store: DiskStore, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A flipped bit in a length does not allocate its memory."""
    put(store, block(0), noise(BLOCK_BYTES))
    (file,) = cache_files.chunks(folder)
    stored = bytearray(file.read_bytes())
    stored[23] = 0x80  # the highest byte of the length of the first block
    file.write_bytes(stored)
    sizes: list[int] = []
    pread = os.pread

    def noted(number: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return pread(number, size, offset)

    monkeypatch.setattr(os, "pread", noted)
    assert get(store, block(0)) is None
    assert max(sizes) <= chunks.CHUNK_BYTES + BLOCK_BYTES
    warned(caplog)


def test_a_small_cache_is_not_emptied_to_make_room(folder: Path) -> None:
    """Where whole chunks follow a few small ones the oldest are evicted, not the ten that diskcache asks for."""
    with closing(DiskStore(folder, 4 * MIB, archive="a", block_bytes=BLOCK_BYTES)) as store:
        for chunk in range(20):
            count = 1 if chunk < 5 else NEXT
            store.put(FILE, {chunk * NEXT + number: bytes(BLOCK_BYTES) for number in range(count)})
            assert (store.kept() or 0) >= min(2, chunk - 4) * MIB
