"""A program that forks, as the workers of a data loader do, works or gets a clear error."""

import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import sandbox
from support.apache import Apache
from support.fakes import SOON
from support.fixture_tree import FixtureTree

from empiarfs import wire
from empiarfs.fork_guard import _ForkGuard
from empiarfs.settings import Settings
from empiarfs.storage import database as of_blocks
from empiarfs.storage.database import Database
from empiarfs.units import MIB

PATH = "10100/data/random.bin"
FORKS = 20

# in a process of its own: threads and forks of the tests' own process are pytest's
PROGRAM = """
import os, random, sys, threading, warnings
from pathlib import Path
from empiarfs import wire
from empiarfs.errors import Closed
from empiarfs.settings import Settings

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of what is tried here
url, real, folder, forks = sys.argv[1:]
chosen = Settings(base_url=url, cache_dir=Path(folder), memory_cache_size=16 << 20, cache_size=6 << 20, no_ftp=True)
truth = (Path(real) / "10100/data/random.bin").read_bytes()
archive = wire.archive(chosen)
opened = archive.open("10100/data/random.bin")
stop, wrong = threading.Event(), []

def read(number):
    chance = random.Random(number)
    while not stop.is_set():
        offset = chance.randrange(len(truth))
        if opened.read_at(offset, 200_000) != truth[offset : offset + 200_000]:
            wrong.append(offset)

def refuses(ask):
    try:
        ask()
    except Closed as error:
        return "open it again in this process" in str(error)
    return False

def child():
    calls = (lambda: opened.read_at(0, 10), lambda: archive.stat("10100"), lambda: archive.listdir("10100"))
    if not all(map(refuses, calls)):
        return 3
    archive.close()
    mine = wire.archive(chosen)
    right = mine.open("10100/data/random.bin").read_at(1000, 500_000) == truth[1000:501_000]
    mine.close()
    return 0 if right else 4

threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
for one in threads:
    one.start()
ends = []
for _ in range(int(forks)):
    process = os.fork()
    if not process:
        import signal
        signal.alarm(20)
        try:
            os._exit(child())
        finally:
            os._exit(5)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
stop.set()
for one in threads:
    one.join()
archive.close()
print(ends, wrong)
"""


def settings(apache: Apache, folder: Path) -> Settings:
    """Return the settings of an archive on `apache`."""
    return Settings(base_url=apache.url, cache_dir=folder, memory_cache_size=16 * 2**20, no_ftp=True)


@pytest.mark.promise(
    "An archive that was opened before a fork refuses to work in the child, with a clear error: the two would "
    "share connections, and get each other's replies."
)
@pytest.mark.promise("A child finds the cache in order, whatever the threads of its parent were doing.")
def test_a_fork_in_the_middle_of_everything(apache: Apache, tree: FixtureTree, tmp_path: Path) -> None:
    """A child of a busy process gets a clear error from the parent's archive and can open its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, apache.url, tree.root, tmp_path / "cache", str(FORKS)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "PYTHONPATH": str(sandbox.PROJECT)},
    )
    assert done.stdout == f"{[0] * FORKS} []\n", done.stderr
    assert done.stderr == "", "a child could not use its cache"


def part(chosen: Settings, offset: int) -> bytes:
    """Read a part in a worker, with its own archive."""
    signal.alarm(60)
    archive = wire.archive(chosen)
    try:
        return archive.open(PATH).read_at(offset, 100_000)
    finally:
        archive.close()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_open_archives_of_their_own(apache: Apache, tree: FixtureTree, tmp_path: Path, method: str) -> None:
    """Workers open archives from pickled settings and share one cache with the parent."""
    chosen = settings(apache, tmp_path)
    archive = wire.archive(chosen)
    offsets = [number * 300_000 for number in range(8)]
    truth = (tree.root / PATH).read_bytes()
    with multiprocessing.get_context(method).Pool(2) as pool:
        parts = pool.starmap(part, [(chosen, offset) for offset in offsets])
    assert parts == [truth[offset : offset + 100_000] for offset in offsets]
    assert archive.open(PATH).read_at(0, 10) == truth[:10]
    archive.close()


def test_an_archive_cannot_be_sent(apache: Apache, tmp_path: Path) -> None:
    """An archive and an open file cannot be pickled, and the error says what to do; a File can."""
    archive = wire.archive(settings(apache, tmp_path))
    opened = archive.open(PATH)
    for thing in (archive, opened):
        with pytest.raises(TypeError, match="open one in each"):
            pickle.dumps(thing)
    assert pickle.loads(pickle.dumps(opened.file)) == opened.file  # noqa: S301 - our own
    archive.close()


def test_a_fork_waits_for_threads_inside_the_guard() -> None:
    """A fork waits for the threads inside the guard, and threads that come later wait for the fork."""
    guard, done = _ForkGuard(), []
    forked, entered = threading.Event(), threading.Event()

    def fork() -> None:
        guard.before()
        done.append("forked")
        forked.set()
        guard.after()

    def enter() -> None:
        with guard:
            done.append("entered")
            entered.set()

    with guard:
        threading.Thread(target=fork, daemon=True).start()
        while not guard._forking:
            forked.wait(0.001)
        threading.Thread(target=enter, daemon=True).start()
        assert not forked.wait(0.05)
        done.append("left")
    assert entered.wait(SOON)
    assert done == ["left", "forked", "entered"]


def test_an_error_inside_the_guard_ends_while_another_thread_forks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that closes its connection after an error, as of a locked database, does not wait for the fork."""
    guard, forked, ended = _ForkGuard(), threading.Event(), threading.Event()
    monkeypatch.setattr(of_blocks, "fork_guard", guard)
    blocks = Database(tmp_path, MIB)

    def fork() -> None:
        guard.before()
        forked.set()
        guard.after()

    def keys() -> Iterator[str]:  # inside the guard
        threading.Thread(target=fork, daemon=True).start()
        while not guard._forking:
            forked.wait(0.001)
        yield from ()
        raise sqlite3.OperationalError("database is locked")

    def delete() -> None:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            blocks.delete(keys())
        ended.set()

    threading.Thread(target=delete, daemon=True).start()
    assert forked.wait(SOON)
    assert ended.wait(SOON)
    assert blocks.delete(["of no chunk"]) == [False]
    blocks.close(SOON)
