"""What each job of scripts/bench costs the server: counters, not clocks."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH123, PTH208

import ctypes
import json
import mmap
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.apache import Apache
from support.fixture_tree import SMALL_FILES, FixtureTree
from support.ftp_server import FtpServer
from support.mounting import Account, Mount, Mounts, eventually
from support.relay import Line, Relay
from support.request_log import (
    BLOCK,
    RequestLog,
    asked_twice,
    blocks_of,
    bytes_of,
    counted,
    in_a_calm_moment,
    spans,
)

from empiarfs.model import Span
from empiarfs.units import KIB, MIB

BUDGET = 10  # connections, as they come
ROUND_TRIP = 0.005  # seconds
BIG, EIGHTH, HEADED, STACK = 32 * MIB, 8 * MIB, 4 * MIB, 512 * MIB
HEADS, MOVIES = 100, 200
MOST_READY = 64  # files that are made ready for one who walks
READS = 30

DATA = "10600/data"
BIG_FILE, STACK_FILE = f"{DATA}/big.bin", f"{DATA}/stack.mrcs"
MANY = "10300/data"


@pytest.fixture(scope="module")
def jobs_apache() -> Iterator[Apache]:
    """An Apache that serves the sparse files of the jobs."""
    folder = Path(tempfile.mkdtemp(prefix="empiarfs-jobs-"))
    folder.chmod(0o755)
    sizes = {"big.bin": BIG, "stack.mrcs": STACK}
    sizes |= {f"eight/{number}.bin": EIGHTH for number in range(8)}
    sizes |= {f"movies/{number:03}.mrc": HEADED for number in range(MOVIES)}
    for name, size in sizes.items():
        file = folder / DATA / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.truncate(file, size)
    with closing(Apache(folder)) as server:
        yield server
    shutil.rmtree(folder)


@pytest.fixture
def jobs(jobs_apache: Apache) -> Iterator[RequestLog]:
    """The log of requests for the files of the jobs; each test stays within the connection budget."""
    with counted(jobs_apache, ROUND_TRIP) as made:
        yield made
        assert 0 < made.connections <= BUDGET


@pytest.fixture
def many(apache: Apache) -> Iterator[RequestLog]:
    """The log of requests for the directory of 3,000 files; each test stays within the connection budget."""
    with counted(apache, ROUND_TRIP) as made:
        yield made
        assert 0 < made.connections <= BUDGET


@pytest.fixture
def ftp(tree: FixtureTree) -> Iterator[FtpServer]:
    """An FTP server that shows the tree."""
    with closing(FtpServer(tree.root)) as server:
        yield server


@contextmanager
def mounted(
    mount: Mounts, served: RequestLog, entry: str, *flags: str, account: Account | None = None
) -> Iterator[Mount]:
    """Mount with an empty cache, or that of `account`; unmount at the end, so that connections do not add up."""
    made = mount(entry, base_url=served.url, flags=flags, account=account or mount.account())
    served.forget()
    yield made
    made.umount()


def names(path: str) -> int:
    """Return how many names a directory has."""
    return len(os.listdir(path))


def walk(path: str) -> int:
    """Read a file sequentially; return its size."""
    total = 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            total += len(piece)
    return total


def walk_all(folder: str, count: int) -> int:
    """Read files at once; return their total size."""

    def one(number: int) -> int:
        total = 0
        with open(f"{folder}/{number}.bin", "rb", buffering=0) as file:
            while piece := file.read(1 << 20):
                total += len(piece)
        return total

    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(one, range(count)))


def heads(folder: str, count: int) -> int:
    """Read the first KiB of files in order; return the number of bytes."""
    total = 0
    for number in range(count):
        with open(f"{folder}/{number:03}.mrc", "rb", buffering=0) as file:
            total += len(file.read(1024))
    return total


def scattered(path: str, size: int, count: int) -> int:
    """Read `size` bytes at random places; return the number of bytes."""
    chance = random.Random(size)
    total = 0
    with open(path, "rb", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        for _ in range(count):
            place = chance.randrange(0, length - size) // 4096 * 4096
            total += len(os.pread(file.fileno(), size, place))
    return total


def pages(path: str) -> list[int]:
    """Return the numbers of the pages of a file that the kernel has cached."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as whole:
        found = (ctypes.c_ubyte * -(-len(whole) // 4096))()
        first = ctypes.c_char.from_buffer(whole)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(whole)), found)
        del first
    return [] if failed else [number for number, held in enumerate(found) if held & 1]


def check_in_line(found: Sequence[Span], size: int) -> None:
    """Check that a file of `size` bytes was fetched once, whole, and in few requests."""
    assert asked_twice(found) == []
    assert size <= bytes_of(found) <= 1.02 * size
    assert len(found) <= size // (256 * KIB) + 8


def test_names_cost_one_request(mount: Mounts, many: RequestLog, binding: str) -> None:
    """`ls` of 3,000 files costs one request, and the type of each file is known."""

    def kinds(path: str) -> tuple[int, int]:
        entries = list(os.scandir(path))
        return len(entries), sum(entry.is_file(follow_symlinks=False) for entry in entries)

    with mounted(mount, many, "10300", account=mount.account(binding=binding)) as made:
        assert made.call(kinds, made / MANY) == (SMALL_FILES, SMALL_FILES)
        assert [(one.method, one.path) for one in many.asked(f"{MANY}.*")] == [("GET", f"{MANY}/")]


def test_sizes_by_ftp_cost_three_requests(mount: Mounts, many: RequestLog, ftp: FtpServer) -> None:
    """`ls -l` of 3,000 files costs a listing, one HEAD and one FTP LIST; after a remount it costs nothing."""

    def check() -> None:
        account = mount.account()
        with mounted(mount, many, "10300", f"--ftp-url={ftp.url}", account=account) as made:
            lists = ftp.commands().count("LIST")
            done = made.run("ls", "-l", made / MANY)
            assert len(done.stdout.splitlines()) == SMALL_FILES + 1
            lists = ftp.commands().count("LIST") - lists
            assert len(many.asked(f"{MANY}.*")) + lists <= 3
        with mounted(mount, many, "10300", f"--ftp-url={ftp.url}", account=account) as again:
            asked = len(ftp.commands())
            assert again.run("ls", "-l", again / MANY).stdout == done.stdout
            assert many.asked(f"{MANY}.*") == []
            assert len(ftp.commands()) == asked

    in_a_calm_moment(check)


@pytest.mark.promise("`ls` costs one request for a directory that is not known, none for one that is.")
def test_sizes_without_ftp_cost_one_head_each(mount: Mounts, jobs: RequestLog) -> None:
    """Without FTP `ls` costs one request, `ls -l` one HEAD for each file, and after a remount none."""

    def check() -> None:
        account = mount.account()
        with mounted(mount, jobs, "10600", "--no-ftp", account=account) as made:
            assert made.call(names, made / DATA / "movies") == MOVIES
            assert [one.method for one in jobs.asked(f"{DATA}/movies/.*")] == ["GET"]
            jobs.forget()
            done = made.run("ls", "-l", made / DATA / "movies")
            asked = [(one.method, one.path) for one in jobs.asked()]
            assert sorted(asked) == [("HEAD", f"{DATA}/movies/{number:03}.mrc") for number in range(MOVIES)]
        with mounted(mount, jobs, "10600", "--no-ftp", account=account) as again:
            assert again.run("ls", "-l", again / DATA / "movies").stdout == done.stdout
            assert jobs.asked(f"{DATA}/movies/.*") == []

    in_a_calm_moment(check)


def test_a_file_read_sequentially_is_fetched_once(mount: Mounts, jobs: RequestLog) -> None:
    """A file read sequentially is fetched once, and not again, after a remount neither."""

    def check() -> None:
        account = mount.account()
        with mounted(mount, jobs, "10600", account=account) as made:
            assert made.call(walk, made / BIG_FILE) == BIG
            check_in_line(spans(jobs.asked(BIG_FILE), "GET"), BIG)
            jobs.forget()
            assert made.call(walk, made / BIG_FILE) == BIG
            assert jobs.asked() == []
        with mounted(mount, jobs, "10600", account=account) as again:  # the kernel's pages are gone, and our memory
            assert again.call(walk, again / BIG_FILE) == BIG
            assert jobs.asked(BIG_FILE) == []

    in_a_calm_moment(check)


def test_files_read_at_once_are_fetched_once(mount: Mounts, jobs: RequestLog) -> None:
    """Eight files read at the same time are each fetched once, over the same few connections."""

    def check() -> None:
        with mounted(mount, jobs, "10600") as made:
            assert made.call(walk_all, made / DATA / "eight", 8) == 8 * EIGHTH
            for number in range(8):
                check_in_line(spans(jobs.asked(f"{DATA}/eight/{number}.bin"), "GET"), EIGHTH)

    in_a_calm_moment(check)


@pytest.mark.parametrize("size", [64 * KIB, MIB])
def test_a_random_read_costs_its_blocks(mount: Mounts, jobs: RequestLog, size: int) -> None:
    """Random reads fetch the blocks of the kernel's requests and at most one more each, none of them twice."""

    def check() -> None:
        with mounted(mount, jobs, "10600") as made:
            assert made.call(scattered, made / STACK_FILE, size, READS) == READS * size
            found = spans(jobs.asked(STACK_FILE), "GET")
            held = made.call(pages, made / STACK_FILE)
            needed = {page * 4096 // BLOCK for page in held}
            assert len(held) * 4096 >= READS * size
            assert asked_twice(found) == []
            more = blocks_of(found) - needed
            assert more <= {number + 1 for number in needed}
            assert len(more) <= READS

    in_a_calm_moment(check)


def parts(path: str, places: list[tuple[int, int]]) -> int:
    """Read as many bytes at each offset, with an open and a reader's buffer of its own for each."""
    total = 0
    for start, size in places:
        with open(path, "rb") as file:
            file.seek(start)
            total += len(file.read(4096)) + len(file.read(size - 4096))
    return total


def mapped_parts(path: str, places: list[tuple[int, int]]) -> int:
    """Read as many bytes at each offset of a mapped file."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return sum(len(whole[start : start + size]) for start, size in places)


def alike(size: int, starts: Iterable[int]) -> list[tuple[int, int]]:
    """Return places of one size."""
    return [(start, size) for start in starts]


SKIPPING = {
    "every 50th particle": (parts, alike(64 * KIB, range(1024, STACK - MIB, 50 * 64 * KIB))),
    "rising reads of 1 MB": (parts, alike(10**6, sorted(random.Random(7).sample(range(STACK - MIB), 40)))),
    "128 KiB every 4 MB": (parts, alike(128 * KIB, range(0, STACK - MIB, 4_000_000))),
    "a slice of a tomogram": (mapped_parts, alike(2 * KIB, [0, *range(350 * KIB, STACK, MIB)])),
    "a member of a tar": (
        parts,
        [*alike(4 * KIB, range(STACK - 50 * MIB, STACK, 4_000_768)), (STACK // 2, 4 * MIB)],
    ),
    "the first MiB": (parts, [(0, MIB)]),
}


@pytest.mark.promise(
    "What is prefetched in vain for a program that reads parts of a file is at most half of what the kernel "
    "requests, in whole blocks; it is more only for one that reads some MiB in order and then stops."
)
@pytest.mark.parametrize("job", SKIPPING.values(), ids=SKIPPING)
def test_a_reader_that_skips_costs_half_as_much_more(
    mount: Mounts, jobs: RequestLog, job: tuple[Callable[..., int], list[tuple[int, int]]]
) -> None:
    """What is fetched for a program that skips is at most half as much again as the blocks that the kernel has."""
    read, places = job

    def check() -> None:
        with mounted(mount, jobs, "10600") as made:
            assert made.call(read, made / STACK_FILE, places) == sum(size for _, size in places)
            found = spans(jobs.asked(STACK_FILE), "GET")
            needed = {page * 4096 // BLOCK for page in made.call(pages, made / STACK_FILE)}
            assert asked_twice(found) == []
            assert len(blocks_of(found)) <= 1.5 * len(needed)

    in_a_calm_moment(check)


@pytest.mark.promise("What is queued for a file is dropped when its last handle is closed.")
def test_the_prefetch_of_a_closed_file_is_dropped(mount: Mounts, jobs_apache: Apache) -> None:
    """After a reader of a large window has closed its file, only the requests in flight come to their end."""
    line = Line(round_trip=0.02, total_rate=30e6)
    with closing(Relay(("127.0.0.1", jobs_apache.port), line)) as relay:
        jobs_apache.clear()
        served = RequestLog(jobs_apache, relay)
        with mounted(mount, served, "10600") as made:
            assert made.call(parts, made / STACK_FILE, [(0, 24 * MIB)]) == 24 * MIB

            def is_idle() -> bool:
                status = json.loads((made / ".empiarfs-status").read_bytes())
                return not status["blocks_in_flight"] and not status["background_queue_length"]

            eventually(is_idle, "the requests in flight end")
            fetched = bytes_of(spans(served.asked(STACK_FILE), "GET"))
            assert 24 * MIB <= fetched <= 24 * MIB + (BUDGET - 2) * 5 * MIB


def test_what_is_on_disk_is_read_without_the_rest(mount: Mounts, jobs: RequestLog) -> None:
    """The first MiB of a file, read again from disk after a remount, requests next to nothing of what follows."""

    def check() -> None:
        account = mount.account()
        for most in (2 * MIB, MIB):
            with mounted(mount, jobs, "10600", account=account) as made:
                assert made.call(parts, made / STACK_FILE, [(0, MIB)]) == MIB
                assert bytes_of(spans(jobs.asked(STACK_FILE), "GET")) <= most

    in_a_calm_moment(check)


def test_heads_cost_a_block_each(mount: Mounts, jobs: RequestLog) -> None:
    """The first KiB of 100 files costs a HEAD and a block each, and at most 64 further files are prefetched."""

    def check() -> None:
        with mounted(mount, jobs, "10600") as made:
            assert made.call(names, made / DATA / "movies") == MOVIES
            jobs.forget()
            assert made.call(heads, made / DATA / "movies", HEADS) == HEADS * 1024
            asked = jobs.asked(f"{DATA}/movies/.*")
        paths = {one.path for one in asked}
        assert HEADS <= len(paths) <= HEADS + MOST_READY
        assert len({(one.method, one.path) for one in asked}) == len(asked) <= 2 * len(paths)
        assert {(span.start, span.stop) for one in asked for span in spans([one], "GET")} == {(0, BLOCK)}

    in_a_calm_moment(check)
