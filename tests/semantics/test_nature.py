"""The nature of a mount: order, types, times, locks and events."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH110, PTH116, PTH118, PTH123, PTH208

import ctypes
import fcntl
import os
import re
import select
import stat
import time
import urllib.request
from pathlib import Path

import pytest
from support.apache import Apache
from support.fixture_tree import RANDOM, FixtureTree
from support.mounting import Mount, Mounts, eventually


@pytest.mark.promise("A directory begins with `.` and `..`, and continues in the server's order.")
def test_a_directory_is_in_the_servers_order(mounted: Mount, apache: Apache) -> None:
    """`ls -U` shows `.` and `..`, and then the names in the order of the server's page."""
    with urllib.request.urlopen(f"{apache.url}/10100/data/") as page:  # noqa: S310 - our own
        shown = re.findall(r'href="(\w+\.bin)"', page.read().decode())
    assert shown != sorted(shown, key=lambda name: (len(name), name)), "an order that says nothing"
    assert mounted.run("ls", "-aU", mounted / "10100/data").stdout.decode().split() == [".", "..", *shown]


@pytest.mark.promise("There are files and directories, and nothing else: no links, devices, FIFOs or sockets.")
def test_nothing_is_neither_file_nor_directory(mounted: Mount) -> None:
    """Everything below an entry is a regular file with one link, or a directory."""

    def odd(root: str) -> list[str]:
        found = []
        for folder, folders, files in os.walk(root):
            for name in files:
                status = os.lstat(os.path.join(folder, name))
                if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                    found.append(os.path.join(folder, name))
            found += [name for name in folders if not stat.S_ISDIR(os.lstat(os.path.join(folder, name)).st_mode)]
        return found

    assert mounted.call(odd, mounted / "10001") == []


@pytest.mark.promise("The times of access and of change are the same, and no program changes any of them.")
def test_reading_moves_no_time(mounted: Mount, tree: FixtureTree) -> None:
    """All three times of a file are those of the server, before and after reading."""

    def times(path: str) -> list[int]:
        def three() -> list[int]:
            found = os.stat(path)
            return [found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns]

        before = three()
        with open(path, "rb") as file:
            file.read(100)
        return before + three()

    date = int((tree.root / RANDOM).stat().st_mtime) * 10**9
    assert mounted.call(times, mounted / RANDOM) == [date] * 6


def held(path: str, way: str, here: str, go_on: str) -> None:
    """Hold a lock until a file appears."""
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX if way == "exclusive" else fcntl.LOCK_SH)
    fcntl.lockf(fd, fcntl.LOCK_SH)
    Path(here).touch()
    while not os.path.exists(go_on):
        time.sleep(0.01)


@pytest.mark.promise(
    "`flock`, and `fcntl` locks for reading, work between the programs of a machine, as on a local disk."
)
@pytest.mark.parametrize(("way", "shared", "exclusive"), [("shared", True, False), ("exclusive", False, False)])
def test_locks_hold_between_programs(mounted: Mount, way: str, *, shared: bool, exclusive: bool) -> None:
    """A shared lock excludes an exclusive one of another program, and no other shared one."""

    def tried(path: str) -> list[bool]:
        fd = os.open(path, os.O_RDONLY)
        found = []
        for lock in (fcntl.LOCK_SH, fcntl.LOCK_EX):
            try:
                fcntl.flock(fd, lock | fcntl.LOCK_NB)
                found.append(True)
            except BlockingIOError:
                found.append(False)
            fcntl.flock(fd, fcntl.LOCK_UN)
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return found

    path = mounted / RANDOM
    here, go_on = (mounted.account.home / f"{way}-{word}" for word in ("here", "go-on"))
    _, answer = mounted.calling(held, path, way, here, go_on)
    eventually(here.exists, "the lock is held")
    assert mounted.call(tried, path) == [shared, exclusive]
    go_on.touch()
    answer(30)
    assert mounted.call(tried, path) == [True, True]


@pytest.mark.promise(
    "`inotify` reports what programs of this machine open and read, not what changes at the server."
)
def test_inotify_reports_local_events_alone(
    mount: Mounts, own_apache: Apache, small_tree: Path, binding: str
) -> None:
    """A new name at the server causes no inotify event, and reading a file does."""

    def watched(folder: str, name: str) -> tuple[list[int], list[int]]:
        libc = ctypes.CDLL(None)
        fd = libc.inotify_init()
        libc.inotify_add_watch(
            fd, os.fsencode(folder), 0x1 | 0x20 | 0x100 | 0x40 | 0x80
        )  # access, open, create, move

        def events() -> list[int]:
            found = set()
            while select.select([fd], [], [], 0.1)[0]:
                data = os.read(fd, 65_536)
                while data:
                    mask, size = int.from_bytes(data[4:8], "little"), int.from_bytes(data[12:16], "little")
                    if not mask & 0x40000000:  # of the directory itself: it is looked into again and again
                        found.add(mask)
                    data = data[16 + size :]
            return sorted(found)

        while name not in os.listdir(folder):
            time.sleep(0.05)
        appeared = events()
        with open(os.path.join(folder, name), "rb") as file:
            file.read()
        return appeared, events()

    made = mount("10028", base_url=own_apache.url, binding=binding, env={"EMPIARFS_LISTING_TTL": "0.3"})
    assert made.run("ls", made / "10028/data").returncode == 0
    (small_tree / "10028/data/new.txt").write_text("new")
    assert made.call(watched, made / "10028/data", "new.txt") == ([], [0x1, 0x20])
