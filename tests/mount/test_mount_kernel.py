"""A mount as the kernel sees it: type, options, refusals, and the number of its requests."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH110, PTH123, PTH211

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.apache import Apache
from support.fault_proxy import FaultProxy
from support.fixture_tree import BLOCK, RANDOM, SMALL_FILES
from support.mounting import DEADLINE, Account, Mount, Mounts, eventually
from support.programs import names

ENDED_IN_A_READ = "went silent|retrying|was closed|connection was lost|no reply|refuses connections"


@contextmanager
def upcalls(mount: Mounts, account: Account, *entries: str) -> Iterator[tuple[Mount, "Counter[str]"]]:
    """Mount in the foreground with libfuse's debug output, and count the requests of the kernel."""
    made = mount.prepare(account)
    counted: Counter[str] = Counter()
    process = account.start(
        sys.executable, "-m", "empiarfs", "mount", "--foreground", f"--base-url={mount.base_url}",
        f"--log-file={made.log_file}", "-o", "debug", made.path, *entries,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip

    def count() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            match = re.search(rb"opcode: (\w+)", line)
            if match:
                counted[match[1].decode()] += 1

    counter = threading.Thread(target=count)
    counter.start()
    try:
        eventually(made.is_mounted, "the mount")
        made.call(names, made.path)
        yield made, counted
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE)
        counter.join()
        assert process.stderr is not None
        process.stderr.close()


def test_findmnt_shows_what_it_is(mounted: Mount) -> None:
    """The kernel's mount table shows type fuse.empiarfs, source empiarfs, and ro, nosuid, nodev."""
    words = ("--noheadings", "--output", "FSTYPE,SOURCE,OPTIONS", "--mountpoint", mounted.path)
    kind, source, options = mounted.run("findmnt", *words).stdout.decode().split()
    assert (kind, source) == ("fuse.empiarfs", "empiarfs")
    assert {"ro", "nosuid", "nodev", "default_permissions"} <= set(options.split(","))


@pytest.mark.promise("There are no extended attributes.")
def test_there_are_no_extended_attributes(mounted: Mount) -> None:
    """Extended attributes are not supported."""

    def attributes(path: str) -> list[int]:
        found = []
        for call in (lambda: os.getxattr(path, "user.x"), lambda: os.listxattr(path)):
            try:
                call()
                found.append(0)
            except OSError as error:
                found.append(error.errno or 0)
        return found

    got, listing = mounted.call(attributes, mounted / RANDOM)
    assert got == errno.ENOTSUP
    assert listing in {0, errno.ENOTSUP}


def test_the_kernel_asks_for_extended_attributes_once(mount: Mounts) -> None:
    """A request for extended attributes gets ENOSYS, after which the kernel sends no other."""

    def many(path: str) -> None:
        for _ in range(50):
            try:
                os.getxattr(path, "security.capability")
            except OSError:
                continue

    with upcalls(mount, mount.account(), "10100") as (made, counted):
        made.call(many, made / RANDOM)
    assert counted["GETXATTR"] <= 1


@pytest.mark.promise(
    "The kernel caches names, attributes and missing names for an hour, and pages as long as it has memory "
    "for them."
)
def test_ls_of_a_known_directory_asks_for_no_file(mount: Mounts) -> None:
    """`ls -l` of 3,000 measured files costs a few READDIRPLUS requests, and none for single files."""
    account = mount.account()
    before = mount("10300", account=account)
    assert before.run("ls", "-l", before / "10300/data").returncode == 0
    before.umount()
    with upcalls(mount, account, "10300") as (made, counted):
        done = made.run("ls", "-l", made / "10300/data")
        assert done.stdout.count(b"\n") == SMALL_FILES + 1
    assert counted["READDIRPLUS"] > 5
    assert counted["LOOKUP"] + counted["GETATTR"] < 100


@pytest.mark.promise(
    "The kernel caches names, attributes and missing names for an hour, and pages as long as it has memory "
    "for them."
)
def test_a_file_read_twice_is_requested_once(mount: Mounts, binding: str) -> None:
    """A file that is opened and read again is served from the kernel's page cache."""
    with upcalls(mount, mount.account(binding=binding), "10100") as (made, counted):
        assert made.run("md5sum", made / RANDOM).returncode == 0
        eventually(lambda: counted["RELEASE"], "all that the kernel asked so far is counted")
        first = counted["READ"]
        assert made.run("md5sum", made / RANDOM).returncode == 0
    assert counted["READ"] == first > 30


@pytest.mark.promise(
    "The kernel caches names, attributes and missing names for an hour, and pages as long as it has memory "
    "for them."
)
def test_a_missing_name_is_looked_up_once(mount: Mounts, binding: str) -> None:
    """The kernel caches that a name is missing, so that a thousand lookups cost one request."""

    def thousand(path: str) -> int:
        return sum(os.path.exists(path) for _ in range(1000))

    with upcalls(mount, mount.account(binding=binding), "10100") as (made, counted):
        assert made.call(thousand, made / "10100/data/missing.mrc") == 0
    assert counted["LOOKUP"] + counted["GETATTR"] < 20


def test_whatever_writes_is_refused(mounted: Mount) -> None:
    """Every attempt to change anything fails with EROFS, for root too."""

    def attempts(file: str, folder: str) -> dict[str, int]:
        new = f"{folder}/new"
        calls: dict[str, Callable[[], object]] = {
            "open w": lambda: os.open(file, os.O_WRONLY | os.O_TRUNC),
            "open r+": lambda: os.open(file, os.O_RDWR),
            "open a": lambda: os.open(file, os.O_WRONLY | os.O_APPEND),
            "create": lambda: os.open(new, os.O_CREAT | os.O_WRONLY),
            "truncate": lambda: os.truncate(file, 0),
            "unlink": lambda: os.unlink(file),
            "rmdir": lambda: os.rmdir(folder),
            "mkdir": lambda: os.mkdir(new),
            "rename": lambda: os.rename(file, new),
            "link": lambda: os.link(file, new),
            "symlink": lambda: os.symlink("x", new),
            "mkfifo": lambda: os.mkfifo(new),
            "chmod": lambda: os.chmod(file, 0o644),
            "chown": lambda: os.chown(file, os.getuid(), os.getgid()),
            "utime": lambda: os.utime(file),
            "setxattr": lambda: os.setxattr(file, "user.x", b"x"),
            "removexattr": lambda: os.removexattr(file, "user.x"),
        }
        found = {}
        for name, call in calls.items():
            try:
                call()
                found[name] = 0
            except OSError as error:
                found[name] = error.errno or -1
        found["access"] = errno.EROFS if not os.access(file, os.W_OK) else 0
        return found

    found = mounted.call(attempts, mounted / RANDOM, mounted / "10100/data")
    assert found == dict.fromkeys(found, errno.EROFS)


def test_locks_for_reading_work(mounted: Mount) -> None:
    """Shared locks, which HDF5 takes, are granted."""

    def locks(path: str) -> None:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            fcntl.lockf(file, fcntl.LOCK_SH)

    assert mounted.call(locks, mounted / RANDOM) is None


@pytest.mark.promise("An open directory is one listing: read in pieces, it repeats no name and misses none.")
def test_a_large_directory_is_listed_whole_piece_by_piece(mounted: Mount) -> None:
    """A directory of 3,000 names that is listed in pieces by two readers shows each name once."""

    def walks(path: str) -> list[list[int]]:
        found = []
        for stop in (1, 700, 2999):
            with os.scandir(path) as first, os.scandir(path) as second:
                seen = [next(first).name for _ in range(stop)]
                others = [entry.name for entry in second]
                seen += [entry.name for entry in first]
            found.append([len(seen), len(set(seen)), len(others), len(set(others))])
        return found

    assert mounted.call(walks, mounted / "10300/data") == [[SMALL_FILES] * 4] * 3


@pytest.mark.promise("Readers that wait for the server do not delay `ls` of a known directory.")
def test_readers_of_a_silent_server_do_not_block_ls(mount: Mounts, fault_proxy: FaultProxy, binding: str) -> None:
    """While 32 readers wait for a silent server, `ls` of a known directory returns at once."""

    def read(path: str, offset: int, mark: str) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)  # by themselves: no two wait for one page of the kernel's
        Path(mark).touch()
        return os.preadv(fd, [bytearray(4096)], offset)

    sparse = "10200/data/sparse.mrc"
    made = mount("10200", "10300", base_url=fault_proxy.url, binding=binding, env={"EMPIARFS_PATIENCE": "90"})
    made.expect(ENDED_IN_A_READ)
    assert made.run("ls", "-l", made / "10300/data/").returncode == 0
    marks = [made.account.home / f"reads-{number}" for number in range(32)]
    with fault_proxy.hold(sparse, method="GET") as rule:
        readers = [
            made.calling(read, made / sparse, number * 100 * 2**20, mark) for number, mark in enumerate(marks)
        ]
        eventually(lambda: rule.waiting, "the server is asked")
        eventually(lambda: all(mark.exists() for mark in marks), "all readers are about to read")
        eventually(lambda: all(sleeps(process.pid) for process, _ in readers), "all readers wait")
        names_alone = made.run("ls", made / "10300/data", timeout=10)
        assert names_alone.stdout.count(b"\n") == SMALL_FILES
        whole = made.run("ls", "-l", made / "10300/data", timeout=10)
        assert whole.stdout.count(b"\n") == SMALL_FILES + 1
        assert all(process.poll() is None for process, _ in readers)
        rule.release()
        assert [answer(60) for _, answer in readers] == [4096] * 32


def sleeps(process: int) -> bool:
    """Return whether a process sleeps."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in {"S", "D"}


@pytest.mark.promise(
    "Any number of threads and processes may read at once; those that need the same block share one request."
)
def test_readers_of_one_block_share_one_request(mount: Mounts, fault_proxy: FaultProxy, binding: str) -> None:
    """64 readers of one block at the same time cost one request."""

    def together(path: str, count: int, size: int) -> set[bytes]:
        start = threading.Barrier(count)

        def read(_: int) -> bytes:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECT)  # past the kernel's cache, which would share it too
            buffer = bytearray(size)
            start.wait()
            got = os.preadv(fd, [buffer], 1_000_001)
            os.close(fd)
            return hashlib.sha256(bytes(buffer[:got])).digest()

        import hashlib  # noqa: PLC0415 - in the child

        with ThreadPoolExecutor(count) as pool:
            return set(pool.map(read, range(count)))

    made = mount("10100", base_url=fault_proxy.url, binding=binding)
    assert len(made.call(together, made / RANDOM, 64, 4000)) == 1
    assert fault_proxy.count("GET", RANDOM) == 1


def test_a_stuck_reader_can_be_killed(mount: Mounts, fault_proxy: FaultProxy, binding: str) -> None:
    """A program that waits for a silent server ends on SIGKILL."""
    made = mount("10100", base_url=fault_proxy.url, binding=binding)
    made.expect(ENDED_IN_A_READ)
    with fault_proxy.hold(RANDOM, method="GET") as rule:
        reader = made.start("cat", made / RANDOM, stdout=subprocess.DEVNULL)
        eventually(lambda: rule.waiting, "the reader is stuck")
        reader.kill()
        assert reader.wait(DEADLINE) == -signal.SIGKILL


@pytest.mark.parametrize("library", ["libfuse 3", "libfuse 2"])
def test_each_binding_loads_its_own_library(mount: Mounts, library: str) -> None:
    """Mfusepy loads libfuse 3 although libfuse 2 is installed too, and fusepy loads libfuse 2."""
    made = mount("10100", binding="mfusepy" if library == "libfuse 3" else "fusepy")
    loaded = set(re.findall(r"libfuse3?\.so\.\d", Path(f"/proc/{made.daemon()}/maps").read_text()))
    assert loaded == {"libfuse3.so.3" if library == "libfuse 3" else "libfuse.so.2"}


def test_data_arrive_while_the_rest_is_on_its_way(mount: Mounts, fault_proxy: FaultProxy) -> None:
    """The first block of a long request is served before the rest has arrived."""

    def walk(path: str) -> None:
        fd = os.open(path, os.O_RDONLY)
        position = 0
        while piece := os.read(fd, 65_536):
            position += len(piece)
            os.write(1, b"%d\n" % position)

    sparse = "10200/data/sparse.mrc"
    made = mount("10200", base_url=fault_proxy.url)
    made.expect(ENDED_IN_A_READ)
    positions = made.account.home / "positions"
    with fault_proxy.hold(sparse, method="GET", after=BLOCK + 1) as cut, positions.open("wb") as out:
        made.calling(walk, made / sparse, stdout=out)
        eventually(lambda: cut.ranges, "a request of several blocks is cut after the first")
        first = min(int(one.removeprefix("bytes=").split("-")[0]) for one in cut.ranges)
        eventually(lambda: int(positions.read_bytes().split()[-1]) >= first, "the reader has come there")
        with fault_proxy.hold(sparse, method="GET"):  # nothing else comes from now on
            eventually(
                lambda: int(positions.read_bytes().split()[-1]) >= first + BLOCK,
                "the reader has the first block of the request",
            )


def test_neighbouring_blocks_are_joined_into_one_request(mount: Mounts, apache: Apache) -> None:
    """A sequential read costs fewer requests than half its blocks."""
    made = mount("10200")
    words = (f"if={made / '10200/data/sparse.mrc'}", "of=/dev/null", "bs=1M", "count=64")
    assert made.run("dd", *words).returncode == 0
    asked = apache.requests("GET", "10200/data/sparse.mrc")
    fetched = sum(one.sent for one in asked)
    assert fetched >= 64 * 2**20
    assert len(asked) < fetched / BLOCK / 2
