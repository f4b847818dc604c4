"""A daemon that is killed, stopped, or runs for long: nothing wrong is served afterwards, and nothing is left."""

import errno
import fcntl
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from support import cache_files, sandbox
from support.apache import Apache
from support.fixture_tree import FixtureTree
from support.mounting import DEADLINE, Account, Mount, Mounts, eventually

pytestmark = pytest.mark.slow  # waits on purpose, or repeats for long

FILES = ("10100/data/random.bin", "10028/data/stack.mrcs", "10028/data/movie.tif")
MIB = 2**20


def compared(mounted: str, real: str, paths: list[str], seed: int, seconds: float, threads: int) -> list[str]:
    """Read parts of files in order from random places until the mount is gone; return what was wrong."""
    end = time.monotonic() + seconds
    wrong: list[str] = []

    def is_gone() -> bool:
        try:
            os.statvfs(mounted)
        except OSError:
            return True
        return False

    def read_on(path: str, chance: random.Random) -> None:
        file, truth = (os.open(f"{place}/{path}", os.O_RDONLY) for place in (mounted, real))
        try:
            size = os.fstat(truth).st_size
            start = chance.choice((0, chance.randrange(size)))
            for offset in range(start, min(size, start + 2_000_000), 131_072):
                length = chance.randrange(1, 131_072)
                got, there = os.pread(file, length, offset), os.pread(truth, length, offset)
                # the kernel may cut a read short when the daemon is killed in its middle; the next one fails
                if got != there and not (there.startswith(got) and is_gone()):
                    wrong.append(f"{path}: {len(got)} bytes at {offset}")
        finally:
            os.close(file)
            os.close(truth)

    def work(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        while time.monotonic() < end:
            path = chance.choice(paths)
            try:
                read_on(path, chance)
            except OSError as error:
                if error.errno not in {errno.ENOTCONN, errno.ECONNABORTED}:
                    wrong.append(f"{path}: {error}")
                return

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return wrong


def are_free(slots: list[Path]) -> bool:
    """Return whether no process holds any of `slots`."""
    return all(map(is_free, slots))


def is_free(slot: Path) -> bool:
    """Return whether no process holds a slot of the connection budget."""
    with slot.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def is_dead(made: Mount) -> bool:
    """Return whether a mount has no daemon."""
    return not made.daemons()


def unknown_blocks(account: Account) -> list[Path]:
    """Return the files of the cache that are not in its database."""
    folder = account.home / "cache" / "empiarfs" / "v1" / "blocks"
    with closing(sqlite3.connect(folder / "cache.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        known = {name for (name,) in database.execute("SELECT filename FROM Cache")}
    return [file for file in cache_files.chunks(folder) if file.relative_to(folder).as_posix() not in known]


@pytest.mark.promise(
    "What a killed daemon has left behind is used by the next mount, and nothing wrong is served from it."
)
@pytest.mark.timeout(0)
def test_a_daemon_that_is_killed_leaves_nothing_wrong(
    lasting_mount: Mounts,
    tree: FixtureTree,
    apache: Apache,
    how_long: Callable[[int, int], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After a daemon is killed at any moment, the next mount replaces it and reads right bytes from its cache."""
    account = lasting_mount.account()
    chance = random.Random(4)
    kills = how_long(12, 100)
    place = account.home / "mnt"
    for turn in range(kills):
        made = lasting_mount("10028", "10100", account=account, path=place)
        made.expect("damaged")
        assert len(sandbox.mounted(place)) == 1, "dead mounts pile up"
        reader, answer = made.calling(compared, place, tree.root, list(FILES), turn, 20.0, 4)
        threading.Event().wait(chance.uniform(0.05, 0.8))
        os.kill(made.daemon(), signal.SIGKILL)
        assert answer(DEADLINE) == []
        assert reader.returncode == 0
        eventually(partial(is_dead, made), "the daemon is dead")
        slots = list((account.home / "empiarfs").rglob("slot-*"))
        assert slots
        eventually(partial(are_free, slots), "its slots are free")
        lasting_mount.made.remove(made)
    apache.clear()
    made = lasting_mount("10028", "10100", account=account, path=place)
    lasting_mount.made[0].expect("damaged")
    assert made.call(compared, place, tree.root, list(FILES), 0, 2.0, 4) == []
    sent = sum(one.sent for one in apache.requests("GET", "|".join(FILES)))
    whole = sum((tree.root / path).stat().st_size for path in FILES)
    assert sent < whole, "nothing came from the cache of those that were killed"
    made.umount()
    lost = sum(file.stat().st_size for file in unknown_blocks(account))
    with capsys.disabled():
        print(f"\n{kills} kills: {len(unknown_blocks(account))} files of {lost} bytes that nobody knows of")  # noqa: T201 - the figures of the long form
    assert lost < kills * 4 * MIB


def test_a_daemon_that_is_stopped_goes_on(
    lasting_mount: Mounts, tree: FixtureTree, how_long: Callable[[int, int], int]
) -> None:
    """Readers of a stopped daemon wait, and read the right bytes when it continues."""
    made = lasting_mount("10028", "10100", flags=["--memory-cache-size=16M", "--cache-size=8M"])
    made.expect("connection was lost|went silent|retrying|sends too slowly|breaks its replies")
    _, answer = made.calling(compared, made.path, tree.root, list(FILES), 1, 4.0 + how_long(3, 65), 8)
    daemon = made.daemon()
    threading.Event().wait(1.0)
    os.kill(daemon, signal.SIGSTOP)
    try:
        threading.Event().wait(how_long(3, 60))
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert answer(how_long(60, 120)) == []
    assert made.call(compared, made.path, tree.root, list(FILES), 2, 1.0, 8) == []


def left_over(account: Account) -> Counter[str]:
    """Count what a mount may leave behind: processes, mounts, and files by directory."""
    counts = Counter({"processes": len(sandbox.processes(account.token))})
    counts["mounts"] = sum(str(account.home) in line for line in Path("/proc/self/mounts").read_text().splitlines())
    for folder, _, files in os.walk(account.home):
        inside = Path(folder).relative_to(account.home).parts
        counts["/".join(inside[:3])] += len(files)
    counts["temporary"] = len(list((account.home / "tmp").iterdir()))
    return counts


@pytest.mark.timeout(0)
def test_mounting_again_and_again_leaves_nothing(
    lasting_mount: Mounts,
    tree: FixtureTree,
    how_long: Callable[[int, int], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Repeated mounts leave no process, mount, lock or temporary file, and the cache does not grow."""
    account = lasting_mount.account()
    (account.home / "tmp").mkdir()
    cycles = how_long(8, 100)
    seen = []
    for turn in range(cycles):
        made = lasting_mount(
            "10028", account=account, path=account.home / "mnt", env={"TMPDIR": str(account.home / "tmp")}
        )
        assert made.call(compared, made.path, tree.root, list(FILES[1:]), turn, 0.2, 2) == []
        made.call(whole, made / FILES[1])
        made.call(whole, made / FILES[2])
        made.umount()
        lasting_mount.made.remove(made)
        seen.append(left_over(account))
    with capsys.disabled():
        print(f"\n{cycles} cycles: after the first {dict(seen[0])}, after the last {dict(seen[-1])}")  # noqa: T201 - the figures of the long form
    assert seen[-1]["processes"] == seen[-1]["mounts"] == seen[-1]["temporary"] == 0
    # blocks that were read twice at once may be stored once more; the rest is what it was after the first
    assert sum(seen[-1].values()) <= sum(seen[1].values()) + 4, (seen[1], seen[-1])


def whole(path: str) -> int:
    """Read a file to its end."""
    return len(Path(path).read_bytes())


def used(daemon: int) -> dict[str, int]:
    """Return the open files, threads and KiB of memory of a process."""
    status = Path(f"/proc/{daemon}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return {
        "files": len(list(Path(f"/proc/{daemon}/fd").iterdir())),
        "threads": int(fields["Threads"]),
        "memory": int(fields["VmRSS"].split()[0]),
        "peak": int(fields["VmHWM"].split()[0]),
    }


def opened_and_listed(folder: str, times: int) -> int:
    """Open, read and close files and list directories repeatedly."""
    count = 0
    for turn in range(times):
        for file in list(Path(folder).iterdir())[:40]:
            count += len(file.read_bytes()[: turn % 5])
        list(Path(folder).parent.iterdir())
    return count


def test_a_daemon_that_lives_for_long_does_not_grow(
    lasting_mount: Mounts, binding: str, how_long: Callable[[int, int], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Opening, reading and closing files leaves no open file, thread or memory in the daemon."""
    made = lasting_mount("10300", binding=binding)
    daemon = made.daemon()
    made.call(opened_and_listed, made / "10300/data", 60)
    before = used(daemon)
    made.call(opened_and_listed, made / "10300/data", how_long(100, 1500), timeout=300)
    after = used(daemon)
    with capsys.disabled():
        print(f"\n{binding}: before {before}, after {after}")  # noqa: T201 - the figures of the long form
    # libfuse makes up to 96 threads as they are wanted, and each has the database open
    assert after["files"] < 200
    assert after["threads"] < 150
    assert after["memory"] <= before["memory"] + 12 * 1024


def mixed(path: str, size: int, readers: int, each: int) -> int:
    """Read with many threads, half of them sequentially, half at random; return the number of bytes."""

    def work(number: int) -> int:
        chance = random.Random(number)
        file = os.open(path, os.O_RDONLY)
        count, offset = 0, chance.randrange(size - 2 * each)
        while count < each:
            if number % 2:
                offset = chance.randrange(size - each)
            count += len(os.pread(file, 262_144, offset))
            offset += 262_144
        os.close(file)
        return count

    with ThreadPoolExecutor(readers) as pool:
        return sum(pool.map(work, range(readers)))


@pytest.fixture
def busy(lasting_mount: Mounts) -> Mount:
    """A mount with a small memory cache."""
    return lasting_mount("10200", flags=["--memory-cache-size=64M", "--cache-size=512M"])


@pytest.mark.timeout(300)
def test_many_readers_do_not_take_more_memory(
    busy: Mount, how_long: Callable[[int, int], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """With `--memory-cache-size 64M` and 32 readers the daemon stays below 300 MB."""
    each = how_long(12, 60) * MIB
    path = busy / "10200/data/sparse.mrc"
    assert busy.call(mixed, path, path.stat().st_size, 32, each, timeout=250) >= 32 * each
    peak = used(busy.daemon())["peak"]
    with capsys.disabled():
        print(f"\n32 readers: {peak // 1024} MiB at most")  # noqa: T201 - the figures of the long form
    assert peak < 300_000_000 // 1024


def test_two_users_have_two_caches(mount: Mounts, tree: FixtureTree) -> None:
    """Root and an ordinary user have separate caches, and neither can use that of the other."""
    if len(sandbox.users()) == 1:
        return
    mounts = [mount("10028", "10100", user=user) for user in sandbox.users()]
    for made in mounts:
        made.account.home.chmod(0o755)
        assert made.call(compared, made.path, tree.root, list(FILES), 3, 1.0, 4) == []
        folder = made.account.home / "cache" / "empiarfs" / "v1"
        assert {file.stat().st_uid for file in folder.rglob("*")} == {made.account.user.uid}
    theirs = mounts[0].account.home / "cache" / "empiarfs"
    other = mount("10028", "10100", user="user", flags=[f"--cache-dir={theirs}"])
    other.expect("nothing is cached on disk")
    assert other.call(compared, other.path, tree.root, list(FILES), 4, 0.5, 4) == []
    assert "nothing is cached on disk" in other.log()
    assert {file.stat().st_uid for file in theirs.rglob("*")} == {mounts[0].account.user.uid}


def test_a_reader_that_is_killed_holds_nothing(mount: Mounts, tree: FixtureTree) -> None:
    """The daemon releases the open files of a reader that is killed, and serves others."""
    made = mount("10028", "10100")
    for seed in range(4):
        reader, _ = made.calling(
            compared, made.path, tree.root, list(FILES), seed, 60.0, 8, stdout=subprocess.DEVNULL
        )
        threading.Event().wait(0.4)
        reader.kill()
        reader.wait(DEADLINE)
    assert made.call(compared, made.path, tree.root, list(FILES), 9, 1.0, 4) == []


def test_a_mount_survives_another_one_of_its_cache(mount: Mounts, tree: FixtureTree) -> None:
    """When one of two mounts that share a cache is killed, the other reads the right bytes."""
    account = mount.account()
    first, second = (mount("10028", "10100", account=account, flags=["--memory-cache-size=16M"]) for _ in range(2))
    _, answers = zip(
        *(one.calling(compared, one.path, tree.root, list(FILES), 5, 3.0, 4) for one in (first, second)),
        strict=True,
    )
    threading.Event().wait(1.0)
    os.kill(first.daemon(), signal.SIGKILL)
    assert [answer(DEADLINE) for answer in answers] == [[], []]
    assert second.call(compared, second.path, tree.root, list(FILES), 6, 1.0, 4) == []
    second.umount()
    assert sum(file.stat().st_size for file in unknown_blocks(account)) < 8 * MIB
