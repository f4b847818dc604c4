"""The index stores the tree between runs, removes names slowly, and is harmless if its file is corrupt."""

import logging
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
from support.fakes import at_once, directory, stub

from empiarfs.model import Directory, File, Stub
from empiarfs.storage import index, index_tables
from empiarfs.storage.index import SqliteIndex

DATA = "10028/data"
A, B, C = (f"{DATA}/{name}.mrc" for name in "abc")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the path of the index."""
    return tmp_path / "tree.sqlite"


@pytest.fixture
def known(file: Path) -> Iterator[SqliteIndex]:
    """Return an empty index."""
    with closing(SqliteIndex(file)) as opened:
        yield opened


def database_of(opened: SqliteIndex) -> sqlite3.Connection:
    """Return the connection of an index that is open."""
    database = opened._usable("reading")
    assert database is not None
    return database


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the logged warnings, and clear them."""
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    caplog.clear()
    return lines


def test_a_tree_survives_a_restart(file: Path) -> None:
    """The next run has the listings, measured sizes, found names and absences."""
    with closing(SqliteIndex(file)) as first:
        first.replace(DATA, [stub(A), directory(f"{DATA}/sub")], 5.5)
        first.add(File(B, 7, None))
        first.remove(C, 9.5)
    with closing(SqliteIndex(file)) as second:
        kept = second.directory(DATA)
        assert kept is not None
        assert kept.scanned == 5.5
        assert set(kept.nodes.values()) == {stub(A), directory(f"{DATA}/sub"), File(B, 7, None)}
        assert second.absent_since(C) == 9.5


def test_two_indexes_on_one_file_share_their_content(file: Path) -> None:
    """Two mounts of one user share what they store."""
    with closing(SqliteIndex(file)) as one, closing(SqliteIndex(file)) as other:
        one.replace(DATA, [stub(A)], 1.0)
        other.add(File(A, 7, 8))
        assert one.node(A) == File(A, 7, 8)


def test_another_process_shares_the_file(file: Path, known: SqliteIndex) -> None:
    """Processes that write at once lose nothing and get no error."""
    program = (
        "import sys; from pathlib import Path; from empiarfs.model import File; "
        "from empiarfs.storage.index import SqliteIndex; index = SqliteIndex(Path(sys.argv[1]));\n"
        "for number in range(100): index.add(File(f'1/{sys.argv[2]}{number}', number, None))\n"
        "index.close()"
    )
    others = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", program, str(file), name], stderr=subprocess.PIPE)
        for name in "pq"
    ]
    for number in range(100):
        known.add(File(f"1/r{number}", number, None))
    assert [(other.communicate(timeout=60)[1], other.returncode) for other in others] == [(b"", 0)] * 2
    assert all(
        known.node(f"1/{name}{number}") == File(f"1/{name}{number}", number, None)
        for name in "pqr"
        for number in range(100)
    )


def test_threads_share_one_index(known: SqliteIndex) -> None:
    """Threads that read and write at once lose nothing and get no error."""

    def work(seed: int) -> None:
        for turn in range(40):
            known.add(File(f"1/{seed}-{turn}", turn, None))
            known.replace("2", [stub(f"2/{number}") for number in range(turn % 5)], float(turn))
            known.directory("2")

    assert at_once([partial(work, seed) for seed in range(6)]) == [None] * 6
    assert all(
        known.node(f"1/{seed}-{turn}") == File(f"1/{seed}-{turn}", turn, None)
        for seed in range(6)
        for turn in range(40)
    )


@pytest.mark.parametrize(
    "content",
    [b"rubbish" * 1000, b"SQLite format 3\0" + b"\xff" * 5000],
    ids=["rubbish", "a good head"],
)
def test_a_corrupt_file_is_replaced(file: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A new index replaces a corrupt file, in this run and the next, which is logged once."""
    file.write_bytes(content)
    with closing(SqliteIndex(file)) as opened:
        opened.add(File(A, 7, None))
    with closing(SqliteIndex(file)) as opened:
        assert opened.node(A) == File(A, 7, None)
    assert {path.name for path in file.parent.iterdir()} <= {file.name, f"{file.name}-journal"}
    assert len(warned(caplog)) == 1


def test_an_index_of_another_version_is_replaced(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Tables of an older or newer program are not read."""
    for version in (index_tables.VERSION + 1, index_tables.VERSION + 2):
        with closing(SqliteIndex(file)) as opened:
            opened.add(File(A, 7, None))
        with closing(sqlite3.connect(file)) as database:
            database.execute(f"PRAGMA user_version = {version}")
        with closing(SqliteIndex(file)) as opened:
            assert opened.node(A) is None
    assert len(warned(caplog)) == 2


def test_an_empty_file_is_a_new_index(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An empty file, as a run killed at its start leaves, is a new index."""
    file.touch()
    with closing(SqliteIndex(file)) as opened:
        opened.add(File(A, 7, None))
        assert opened.node(A) == File(A, 7, None)
    assert warned(caplog) == []


def test_a_file_that_cannot_be_created_leaves_an_index_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tree works for this run, and one log line says that it is not stored."""
    (tmp_path / "file").write_text("")
    with closing(SqliteIndex(tmp_path / "file" / "tree.sqlite")) as opened:
        opened.replace(DATA, [stub(A)], 1.0)
        assert opened.node(A) == stub(A)
    assert len(warned(caplog)) == 1


def test_an_index_that_fails_in_use_is_empty_and_logged_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No call raises, and a new listing is returned unchanged."""
    with closing(SqliteIndex(file)) as opened:
        with closing(sqlite3.connect(file)) as database:
            for table in ("entries", "directories", "absent"):
                database.execute(f"DROP TABLE {table}")
        assert opened.node(A) is None
        assert opened.directory(DATA) is None
        assert opened.replace(DATA, [stub(A)], 1.0).nodes == {"a.mrc": stub(A)}
        opened.add(File(A, 7, None))
        opened.remove(A, 1.0)
        assert opened.absent_since(A) is None
        assert opened.unmeasure(File(A, 7, None)) == Stub(A)
    assert len(warned(caplog)) == 1


def test_a_closed_index_is_empty(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A background task that uses a closed index gets no error."""
    opened = SqliteIndex(file)
    opened.add(File(A, 7, None))
    opened.close()
    assert opened.node(A) is None
    assert opened.replace(DATA, [stub(A)], 1.0).nodes == {"a.mrc": stub(A)}
    opened.add(File(A, 7, None))
    opened.close()
    assert len(warned(caplog)) <= 1


@pytest.mark.parametrize("node", [File(A, 1 << 64, None), File(A, 5, 1 << 64), Directory(A, -(1 << 64))])
def test_numbers_beyond_the_database_raise_nothing(
    known: SqliteIndex, node: File | Directory, caplog: pytest.LogCaptureFixture
) -> None:
    """An absurd length or date from a server does not break the index."""
    known.add(node)
    assert known.node(A) in {None, node}
    known.add(File(B, 7, None))
    assert known.node(B) == File(B, 7, None)
    warned(caplog)


def test_a_hundred_thousand_names_take_a_bounded_number_of_steps(known: SqliteIndex) -> None:
    """The work for the largest directory is proportional to its names."""

    def steps(count: int) -> int:
        entries = [stub(f"{count}/FoilHole_{number:06}_fractions.tiff") for number in range(count)]
        ticks = 0

        def tick() -> int:
            nonlocal ticks
            ticks += 1
            return 0

        database_of(known).set_progress_handler(tick, 1000)
        for _ in range(2):
            assert len(known.replace(str(count), entries, 1.0).nodes) == count
        read = known.directory(str(count))
        database_of(known).set_progress_handler(None, 0)
        assert read is not None
        assert list(read.nodes.values()) == entries
        return ticks

    small, large = steps(1000), steps(100_000)
    assert large < 200 * small


def test_one_name_is_found_in_few_steps(known: SqliteIndex) -> None:
    """A lookup of one name does not read its directory."""
    known.replace("1", [stub(f"1/{number}") for number in range(20_000)], 1.0)
    ticks: list[int] = []

    def tick() -> int:
        ticks.append(1)
        return 0

    database_of(known).set_progress_handler(tick, 100)
    known.node("1/10000")
    known.add(File("1/10000", 5, None))
    database_of(known).set_progress_handler(None, 0)
    assert len(ticks) < 20


def test_the_number_of_absences_is_bounded(known: SqliteIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a million absent names a bounded number is stored, the newest ones."""
    monkeypatch.setattr(index, "MOST_ABSENT", 90)
    for number in range(250):
        known.remove(f"1/{number}", float(number))
    with closing(sqlite3.connect(database_of(known).execute("PRAGMA database_list").fetchone()[2])) as database:
        (count,) = database.execute("SELECT count(*) FROM absent").fetchone()
    assert count == 90
    assert known.absent_since("1/249") == 249.0
    assert known.absent_since("1/0") is None


def test_absences_are_never_counted(known: SqliteIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding an absence takes as few steps with many of them as with few."""
    monkeypatch.setattr(index, "MOST_ABSENT", 2000)

    def steps() -> int:
        ticks: list[int] = []
        database_of(known).set_progress_handler(lambda: ticks.append(1), 1)
        known.remove("1/another", 5.0)
        database_of(known).set_progress_handler(None, 0)
        return len(ticks)

    few = steps()
    for number in range(3000):
        known.remove(f"1/{number}", float(number))
    assert steps() < 2 * few


def test_the_file_is_closed_with_the_index(file: Path) -> None:
    """No file of a closed index stays open."""

    def held() -> list[Path]:
        links = []
        for link in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # the one that lists the directory is gone
                links.append(link.readlink())
        return [link for link in links if str(link).startswith(str(file))]

    opened = SqliteIndex(file)
    opened.add(File(A, 7, None))
    assert held()
    opened.close()
    assert held() == []
