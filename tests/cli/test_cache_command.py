"""`empiarfs cache`: what is kept, whether it is whole, and how to be rid of it."""

import errno
import json
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest
from support import cache_files
from support.cache_files import get, put
from support.commands import isolated, run
from support.fakes import noise
from support.scripted import MODIFIED, Reply, Request, ScriptedServer, Website

from empiarfs import wire
from empiarfs.maintenance.cache import CacheMaintenance
from empiarfs.model import Block, File
from empiarfs.setting_sources import load
from empiarfs.settings import Settings, archive_name
from empiarfs.storage import database as of_blocks
from empiarfs.storage import index_tables
from empiarfs.storage.chunks import parse_key
from empiarfs.storage.disk import DiskStore
from empiarfs.storage.index import SqliteIndex
from empiarfs.units import KIB, MIB

SIZE = 512 * KIB  # two blocks a chunk
LARGE = noise(4 * SIZE + 100)
FILES = {
    b"10028/data/large.mrc": LARGE,
    b"10028/data/a b \xff.mrc": b"odd",
    b"10029/x": b"x",
}
LONG_AGO = 1_000_000_000


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A good server, which the settings name, and a cache that holds all of its files: seven blocks."""
    isolated(tmp_path, monkeypatch)
    with ScriptedServer(Website(FILES)) as server:
        monkeypatch.setenv("EMPIARFS_BASE_URL", server.base_url)
        monkeypatch.setenv("EMPIARFS_BLOCK_SIZE", f"{SIZE}")
        for path in FILES:
            assert run("stat", os.fsdecode(path)).exit_code == 0
        with closing(store()) as kept:
            for path, content in FILES.items():
                file = File(os.fsdecode(path), len(content), MODIFIED)
                parts = [content[begin : begin + SIZE] for begin in range(0, len(content), SIZE)]
                put(kept, Block(file, 0), *parts)
        yield server


def store() -> DiskStore:
    """Open the blocks as an archive does."""
    settings = load({}, os.environ)
    folder = settings.cache_dir / "v1" / "blocks"
    return DiskStore(folder, 1 << 30, archive=archive_name(settings.base_url), block_bytes=SIZE)


def cache() -> Path:
    """Return the cache folder."""
    return load({}, os.environ).cache_dir


def stored_chunks() -> list[Path]:
    """Return the files of chunks: of the large file two, two and one block together, and of the others one."""
    return cache_files.chunks(cache() / "v1" / "blocks")


def kept_text() -> str:
    """Return the bytes of all chunks, as people read them."""
    return f"{cache_files.volume(cache()) / MIB:.1f} MiB"


def large_chunk(number: int) -> Path:
    """Return the file of the chunk that holds a block of the large file."""
    folder = cache() / "v1" / "blocks"
    with closing(sqlite3.connect(folder / "cache.db")) as database:
        for key, name in database.execute("SELECT key, filename FROM Cache"):
            found = parse_key(key)
            if found and found.file.path == "10028/data/large.mrc" and number in found.numbers:
                return Path(folder / name)
    raise AssertionError("it is not kept")


def info() -> Any:
    """Return what `info` tells programs."""
    result = run("cache", "info", "--json")
    assert result.exit_code == 0
    return json.loads(result.stdout)


def kept() -> dict[str, int]:
    """Return the number of blocks of each entry."""
    return {one["entry"]: one["blocks"] for one in info()["entries"]}


def test_path_is_the_folder(server: ScriptedServer) -> None:
    """One line, fit for a shell."""
    assert run("cache", "path").stdout == f"{cache()}\n"
    assert run("cache", "path", "--cache-dir=/elsewhere").stdout == "/elsewhere\n"


def test_info_counts_what_is_kept(server: ScriptedServer) -> None:
    """Blocks and bytes, entry by entry; listings; the room there is."""
    told = info()
    assert kept() == {"10028": 6, "10029": 1}
    assert (told["blocks"], told["files"], told["limit"]) == (7, 3, Settings().cache_size)
    assert told["bytes"] == cache_files.volume(cache())
    assert (told["index"]["directories"], told["index"]["measured"]) == (2, 3)
    assert told["unrecognised"] == told["errors"] == []
    room = shutil.disk_usage(cache())
    assert told["min_free"] == max(room.total // 20, 2 << 30)


def test_info_is_for_people_too(server: ScriptedServer) -> None:
    """Every entry has a line, the largest first."""
    lines = run("cache", "info").stdout.splitlines()
    assert lines[0] == f"folder:    {cache()}"
    assert lines[1].startswith(f"cached:    {kept_text()} of at most 20.0 GiB: 7 blocks of 3 files")
    assert [line.split()[0] for line in lines[-2:]] == ["10028", "10029"]


def test_to_look_at_a_cache_that_is_not_there_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told so, and none is made."""
    isolated(tmp_path, monkeypatch)
    result = run("cache", "info")
    assert (result.exit_code, result.stdout) == (0, f"there is no cache in {tmp_path / 'cache'}\n")
    assert not (tmp_path / "cache").exists()


def test_verify_finds_nothing_wrong_with_a_good_cache(server: ScriptedServer) -> None:
    """Every block is read, no server asked, nothing removed."""
    asked = len(server.requests)
    result = run("cache", "verify")
    assert (result.exit_code, result.stdout) == (0, f"7 blocks, {kept_text()}: 0 damaged, 0 without a file\n")
    assert len(server.requests) == asked
    assert len(stored_chunks()) == 5


def flipped(file: Path) -> None:
    """Change one bit of the last byte."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def emptied(file: Path) -> None:
    """Leave nothing."""
    os.truncate(file, 0)


def replaced(file: Path) -> None:
    """Put a directory in its place."""
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("harm", [flipped, emptied, replaced])
def test_verify_removes_a_damaged_block(server: ScriptedServer, harm: Callable[[Path], None]) -> None:
    """It says so, by its status too; the next look finds all well, and the block is fetched again."""
    harm(large_chunk(4))
    result = run("cache", "verify")
    assert result.exit_code == 1
    assert "1 damaged" in result.stdout
    assert kept() == {"10028": 5, "10029": 1}
    assert run("cache", "verify").exit_code == 0
    assert run("cat", "10028/data/large.mrc").stdout_bytes == LARGE


def test_verify_removes_nothing_that_cannot_be_read_now(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many open files are no damage: it says why it goes no further."""
    opens = os.open

    def refuse(path: str, *arguments: int) -> int:
        if path.endswith(".val"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return opens(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        result = run("cache", "verify")
    assert (result.exit_code, "Too many open files" in result.stderr) == (1, True)
    assert kept() == {"10028": 6, "10029": 1}
    assert run("cache", "verify").exit_code == 0


class Watched(sqlite3.Connection):
    """A connection that tells which databases were looked through."""

    looked: ClassVar[list[str]] = []

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Do it."""
        if "quick_check" in sql:
            (name,) = [path for _, name, path in super().execute("PRAGMA database_list") if name == "main"]
            self.looked.append(Path(name).name)
        return super().execute(sql, *values)


@pytest.mark.parametrize("command", ["info", "verify"])
def test_no_database_is_looked_through_twice(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A look reads all of it."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{"factory": Watched, **k}))
    monkeypatch.setattr(Watched, "looked", [])
    assert run("cache", command).exit_code == 0
    (tree,) = (cache() / "v1").glob("tree-*.sqlite")
    assert sorted(Watched.looked) == ["cache.db", tree.name]


def test_clear_leaves_nothing_beside_a_database_that_cannot_be_used(server: ScriptedServer) -> None:
    """A journal that stays would be played back into the next one."""
    (tree,) = (cache() / "v1").glob("tree-*.sqlite")
    tree.write_bytes(b"rubbish" * 1000)
    for suffix in ("-journal", "-wal", "-shm"):
        tree.with_name(tree.name + suffix).write_bytes(b"")
    assert run("cache", "clear", "--yes").exit_code == 0
    assert not list((cache() / "v1").glob("tree-*"))


def test_the_bytes_of_info_are_those_of_the_status(server: ScriptedServer) -> None:
    """One number, wherever it is told."""
    with closing(store()) as kept:
        assert kept.kept() == info()["bytes"]


def test_verify_removes_no_other_block_of_the_chunk(server: ScriptedServer) -> None:
    """The other blocks of a chunk with a damaged one stay, so that what is reported is what was removed."""
    flipped(large_chunk(3))
    said = f"7 blocks, {kept_text()}: 1 damaged, 0 without a file\n"
    assert run("cache", "verify").stdout.startswith(said)
    assert kept() == {"10028": 5, "10029": 1}
    assert run("cache", "verify").exit_code == 0


def test_verify_counts_all_blocks_of_a_chunk_that_is_lost(server: ScriptedServer) -> None:
    """A chunk whose head is damaged is removed, and each of its blocks is reported."""
    data = bytearray(large_chunk(3).read_bytes())
    data[0] ^= 1
    large_chunk(3).write_bytes(data)
    result = run("cache", "verify")
    blocks_before, damaged = 7, 7 - sum(kept().values())
    assert damaged > 1
    assert result.stdout.startswith(f"{blocks_before} blocks, ")
    assert f": {damaged} damaged, " in result.stdout


def test_verify_removes_rows_whose_files_are_gone(server: ScriptedServer) -> None:
    """Which counts as damage: somebody was in the folder."""
    large_chunk(4).unlink()
    result = run("cache", "verify")
    assert result.exit_code == 1
    assert "1 without a file" in result.stdout
    assert len(kept()) == 2
    assert run("cache", "verify").exit_code == 0


def test_verify_removes_files_that_nobody_knows_of(server: ScriptedServer) -> None:
    """Old ones: a young one may be a block that a mount is just storing."""
    old, young = (cache() / "v1" / "blocks" / "ab" / f"{digit * 30}.val" for digit in "01")
    old.parent.mkdir(parents=True, exist_ok=True)
    for file in (old, young):
        file.write_bytes(b"left over")
    os.utime(old, (LONG_AGO, LONG_AGO))
    result = run("cache", "verify")
    assert (result.exit_code, "removed 1 file that belonged to no block" in result.stdout) == (0, True)
    assert (old.exists(), young.exists()) == (False, True)


def test_verify_removes_rows_of_other_programs_and_not_the_files_they_name(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """Whatever a row points at outside stays as it is."""
    outside = tmp_path / "precious"
    outside.write_bytes(b"x")
    with closing(sqlite3.connect(cache() / "v1" / "blocks" / "cache.db")) as database, database:
        database.execute(
            "UPDATE Cache SET filename = ? WHERE rowid = (SELECT min(rowid) FROM Cache)", (str(outside),)
        )
        database.execute("UPDATE Cache SET raw = 0 WHERE rowid = (SELECT max(rowid) FROM Cache)")
    result = run("cache", "verify")
    assert (result.exit_code, "removed 2 rows of the database that another" in result.stdout) == (1, True)
    assert outside.exists()
    assert run("cache", "verify").exit_code == 0


def test_a_row_without_a_key_hides_no_other(server: ScriptedServer) -> None:
    """A row that another program wrote is no block, ends no walk through the others, and goes with `clear`."""
    with closing(sqlite3.connect(cache() / "v1" / "blocks" / "cache.db")) as database:
        with database:
            database.execute("INSERT INTO Cache (key, raw, store_time, size, mode) VALUES (NULL, 1, 0, 0, 4)")
        assert kept() == {"10028": 6, "10029": 1}
        assert run("cache", "verify").stdout.startswith("7 blocks, ")
        assert run("cache", "clear", "--yes").exit_code == 0
        assert database.execute("SELECT count(*) FROM Cache").fetchone() == (0,)


def test_info_counts_the_blocks_of_a_chunk_and_when_it_was_used(server: ScriptedServer) -> None:
    """What is read now is used now, whenever it was stored."""
    with closing(sqlite3.connect(cache() / "v1" / "blocks" / "cache.db")) as database, database:
        database.execute("UPDATE Cache SET expire_time = expire_time - 5000")
    assert time.time() - info()["newest"] >= 5000
    with closing(store()) as kept:
        assert get(kept, Block(File("10029/x", 1, MODIFIED), 0)) == b"x"
    found = info()
    assert time.time() - found["oldest"] >= 5000
    assert time.time() - found["newest"] < 1000


def test_a_sample_is_compared_with_the_server(server: ScriptedServer) -> None:
    """As many blocks as are asked for, one request each, over one connection."""
    asked, lines = len(server.requests), server.connections
    result = run("cache", "verify", "--against-origin", "3")
    assert result.exit_code == 0
    assert "3 blocks compared with the server: 3 identical" in result.stdout
    assert len(server.requests) - asked == 3
    assert server.connections - lines == 1


def test_all_are_compared_where_there_are_fewer(server: ScriptedServer) -> None:
    """Each once."""
    assert "7 blocks compared with the server: 7 identical" in run("cache", "verify", "--against-origin=99").stdout


def test_a_block_that_differs_from_the_servers_is_removed(server: ScriptedServer) -> None:
    """A block that is whole and wrong can be found in no other way; the status says so."""
    file = File("10028/data/large.mrc", len(LARGE), MODIFIED)
    with closing(store()) as kept:
        assert get(kept, Block(file, 2)) == LARGE[2 * SIZE : 3 * SIZE]
        put(kept, Block(file, 2), noise(SIZE, 7))
    assert run("cache", "verify").exit_code == 0
    result = run("cache", "verify", "--against-origin", "99")
    assert result.exit_code == 1
    assert "10028/data/large.mrc: block 2 differs; it was removed, and the blocks stored with it" in result.stdout
    assert run("cat", "10028/data/large.mrc").stdout_bytes == LARGE


def test_a_file_that_changed_at_the_server_is_no_damage(server: ScriptedServer) -> None:
    """Its old blocks are those of the old version."""
    server.answer = Website(FILES | {b"10029/x": b"longer"})
    result = run("cache", "verify", "--against-origin", "99")
    assert result.exit_code == 0
    assert "6 identical, 1 of files that have changed there" in result.stdout


def test_blocks_of_another_archive_are_not_compared(server: ScriptedServer) -> None:
    """This server knows nothing of them."""
    folder = cache() / "v1" / "blocks"
    with closing(DiskStore(folder, 1 << 30, archive="another", block_bytes=SIZE)) as other:
        put(other, Block(File("10029/x", 1, MODIFIED), 0), b"y")
    assert "7 identical, 0 of files" in run("cache", "verify", "--against-origin", "99").stdout
    assert info()["blocks"] == 8


def test_a_block_that_was_stored_anew_meanwhile_is_not_removed(server: ScriptedServer) -> None:
    """What was found of the one before is no word about it."""
    file = File("10029/x", 1, MODIFIED)
    (sampled,) = [
        one for one in CacheMaintenance(cache()).sample(archive_name(server.base_url), 99) if one.chunk.file == file
    ]
    with closing(store()) as kept:
        put(kept, Block(file, 0), b"y")
        CacheMaintenance(cache()).drop([sampled])
        assert get(kept, Block(file, 0)) == b"y"
        assert kept.kept() == cache_files.volume(cache())


def test_a_server_that_is_away_is_an_error(server: ScriptedServer) -> None:
    """What was not compared was not found the same; and nothing is removed for it."""
    server.stop()
    result = run("cache", "verify", "--against-origin", "1")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert len(stored_chunks()) == 5


def test_clear_removes_everything(server: ScriptedServer) -> None:
    """Blocks, listings, notes; the folder can be used again."""
    words = f"{kept_text()} removed"
    result = run("cache", "clear", "--yes")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, words)
    assert stored_chunks() == []
    told = info()
    assert told["blocks"] == 0
    assert (told["index"]["directories"], told["index"]["measured"]) == (0, 0)
    asked = len(server.requests)
    assert run("ls", "10028/data").exit_code == 0
    assert len(server.requests) == asked + 1


@pytest.mark.parametrize("name", ["EMPIAR-10028", "https://www.ebi.ac.uk/empiar/EMPIAR-10028/"])
def test_clear_of_an_entry_leaves_the_others(server: ScriptedServer, name: str) -> None:
    """Its blocks and listings are gone, by any name; a longer number is another entry."""
    run("ls")
    run("ls", "10028")
    for number, left in (("1002", {"10028": 6, "10029": 1}), (name, {"10029": 1})):
        assert run("cache", "clear", "--yes", number).exit_code == 0
        assert kept() == left
    asked = len(server.requests)
    run("ls")
    run("cat", "10029/x")
    assert len(server.requests) == asked
    run("ls", "10028")
    run("ls", "10028/data")
    assert len(server.requests) == asked + 2


def test_clear_wants_entries(server: ScriptedServer) -> None:
    """What is none removes nothing."""
    assert run("cache", "clear", "../10028").exit_code == 2
    assert len(stored_chunks()) == 5


@pytest.mark.parametrize(("answer", "left"), [("no", 5), ("yes", 0)])
def test_clear_asks_on_a_terminal(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    """And does as it is told; --yes is not asked."""
    asked = []

    def confirm(text: str, *, abort: bool) -> None:
        asked.append(text)
        if abort and answer == "no":
            raise click.Abort

    monkeypatch.setattr("empiarfs.cli.cache._is_interactive", lambda: True)
    monkeypatch.setattr(click, "confirm", confirm)
    assert run("cache", "clear").exit_code == (0 if answer == "yes" else 1)
    assert len(asked) == 1
    assert len(stored_chunks()) == left
    assert run("cache", "clear", "--yes").exit_code == 0
    assert len(asked) == 1
    assert stored_chunks() == []


def test_what_is_not_ours_stays_and_is_named(server: ScriptedServer) -> None:
    """Wherever in the folder it lies, by info, verify and clear."""
    ours = cache() / "v1" / "blocks"
    foreign = [
        cache() / "thesis.tex", cache() / "v1" / "notes", ours / "README", ours / "ab" / "x.val", ours / "00" / "y",
    ]  # fmt: skip
    for file in foreign:
        file.parent.mkdir(exist_ok=True)
        file.write_text("precious")
    assert sorted(info()["unrecognised"]) == sorted(str(path) for path in foreign)
    for command in ("info", "verify", "clear"):
        said = run("cache", command, *["--yes"] * (command == "clear")).stdout
        assert [path for path in foreign if str(path) not in said] == []
        assert all(path.read_text() == "precious" for path in foreign)


def test_a_broken_database_is_told_and_cleared(server: ScriptedServer) -> None:
    """Looking at it changes nothing: it may be rescued. Verify fails, clear makes room, and all is well again."""
    file = cache() / "v1" / "blocks" / "cache.db"
    for more in ("-wal", "-shm"):
        file.with_name(file.name + more).unlink(missing_ok=True)
    file.write_bytes(b"rubbish " * 4096)
    assert "cannot be used" in run("cache", "info").stdout
    assert run("cache", "verify").exit_code == 1
    assert file.read_bytes()[:7] == b"rubbish"
    assert run("cache", "clear", "--yes").exit_code == 0
    assert stored_chunks() == []
    assert run("cache", "verify").exit_code == 0
    assert run("cat", "10029/x").stdout == "x"


def test_blocks_of_another_version_are_told_and_cleared(server: ScriptedServer) -> None:
    """What an older program stored is named, is no block, and goes with `clear`."""
    with closing(sqlite3.connect(cache() / "v1" / "blocks" / "cache.db")) as database:
        database.execute("PRAGMA user_version = 0")
    (fault,) = info()["errors"]
    assert "version 0 of the format" in fault
    assert info()["blocks"] == 0
    assert run("cache", "clear", "--yes").exit_code == 0
    assert (info()["errors"], stored_chunks()) == ([], [])


@pytest.mark.parametrize("version", [1, 99])
def test_listings_of_another_version_are_told_and_cleared(server: ScriptedServer, version: int) -> None:
    """Older or newer; looking sets nothing aside."""
    (file,) = (cache() / "v1").glob("tree-*.sqlite")
    with closing(sqlite3.connect(file)) as database:
        database.execute(f"PRAGMA user_version = {version}")
    (fault,) = info()["errors"]
    assert f"version {version}" in fault
    assert "cannot be used" in run("cache", "info").stdout
    assert file.exists()
    assert run("cache", "clear", "--yes").exit_code == 0
    assert info()["errors"] == []


@pytest.mark.parametrize("command", ["info", "verify", "clear"])
@pytest.mark.parametrize(
    ("pattern", "lock"),
    [("blocks/cache.db", "EXCLUSIVE"), ("blocks/cache.db", "IMMEDIATE"), ("tree-*.sqlite", "EXCLUSIVE")],
)
def test_a_locked_database_is_an_error_and_stays(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, pattern: str, lock: str, command: str
) -> None:
    """A database that another process has locked is not corrupt: the command fails and removes nothing."""
    for module in (of_blocks, index_tables):
        monkeypatch.setattr(module, "BUSY_SECONDS", 0.02)
    before = info()
    (file,) = (cache() / "v1").glob(pattern)
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute(f"BEGIN {lock}")
        result = run("cache", command, *["--yes"] * (command == "clear"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "database is locked; try once more" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert info()["index"] == before["index"]
    assert kept() == {"10028": 6, "10029": 1}
    assert len(stored_chunks()) == 5


def test_clear_makes_room_on_a_full_disk(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that does not open because the disk is full is removed, and its files."""
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL

    def refuse(*_: object) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(of_blocks, "_prepare", refuse)
        assert "database or disk is full" in run("cache", "info").stdout
        assert run("cache", "clear", "--yes").exit_code == 0
    assert stored_chunks() == []
    assert info()["errors"] == []


@pytest.mark.parametrize("command", ["info", "verify", "clear"])
def test_a_folder_that_others_may_write_to_is_refused(server: ScriptedServer, command: str) -> None:
    """In one line that says what to do."""
    (cache() / "v1").chmod(0o777)
    result = run("cache", command, *["--yes"] * (command == "clear"))
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "may be written by others" in result.stderr
    assert stat.S_IMODE((cache() / "v1").stat().st_mode) == 0o777


def test_a_store_that_is_in_use_goes_on(server: ScriptedServer) -> None:
    """What is cleared under an open archive is fetched again by it."""
    settings = load({}, os.environ)
    with closing(wire.archive(settings)) as archive:
        opened = archive.open("10028/data/large.mrc")
        assert opened.read_at(0, 10) == LARGE[:10]
        assert run("cache", "clear", "--yes").exit_code == 0
        asked = len(server.requests)
        assert opened.read_at(3 * SIZE, 10) == LARGE[3 * SIZE : 3 * SIZE + 10]
        assert len(server.requests) > asked
    with closing(SqliteIndex(next((cache() / "v1").glob("tree-*.sqlite")))) as index:
        assert index.directory("10028/data") is None


def test_what_the_server_says_of_itself_is_compared_by_its_bytes(server: ScriptedServer) -> None:
    """A reply that is not what was asked for is no comparison, but an error."""
    site = Website(FILES)

    def cut(request: Request) -> Reply | None:
        reply = site(request)
        if reply is not None and request.method == "GET":
            reply.body = reply.body[:-1]
            reply.then = "close"
        return reply

    server.answer = cut
    assert run("cache", "verify", "--against-origin", "1").exit_code == 1
    assert len(stored_chunks()) == 5
