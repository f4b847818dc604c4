"""Every way of reading, in any order, at any place: the bytes are the file's, or there is an error."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH110, PTH123

import ctypes
import errno
import mmap
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.apache import Apache
from support.fixture_tree import BLOCK, RANDOM, FixtureTree
from support.mounting import DEADLINE, Mount, Mounts, eventually

AWAY = "refuses connections|connection was lost|no reply|was closed"


def exercised(  # noqa: C901 - one way of reading after the other
    path: str, truth: str, seed: int, steps: int
) -> list[tuple[int, str, int, int]]:
    """Read `path` in all ways, as fsx does; return step, way, offset and length of each wrong read.

    Offsets and ends lie at edges, more often than not: of pages, of blocks, and of the file.
    """
    data = Path(truth).read_bytes()
    end = len(data)
    chance = random.Random(seed)
    files = [os.open(path, os.O_RDONLY) for _ in range(3)]
    direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
    maps = [mmap.mmap(files[0], 0, flags=kind, prot=mmap.PROT_READ) for kind in (mmap.MAP_SHARED, mmap.MAP_PRIVATE)]
    inlet, outlet = os.pipe()
    libc = ctypes.CDLL(None, use_errno=True)

    def place() -> int:
        unit = chance.choice([1, 512, 4096, 65_536, 131_072, 262_144, end])
        near = chance.randrange(end // unit + 1) * unit + chance.choice([-4097, -1, 0, 0, 1, 511, 4096])
        return min(max(0, near), end + 5000)

    def read(fd: int, offset: int, size: int) -> bytes:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)

    def preadv(fd: int, offset: int, size: int) -> bytes:
        cut = chance.randrange(size + 1)
        parts = [bytearray(cut), bytearray(size - cut)]
        count = os.preadv(fd, parts, offset)
        return b"".join(parts)[:count]

    def directly(_: int, offset: int, size: int) -> bytes:
        room = mmap.mmap(-1, size + 4096)
        shift = chance.choice([0, 0, 512, 7])
        return bytes(room[shift : shift + os.preadv(direct, [memoryview(room)[shift : shift + size]], offset)])

    def mapped(_: int, offset: int, size: int) -> bytes:
        return bytes(chance.choice(maps)[offset : offset + size])

    def spliced(fd: int, offset: int, size: int) -> bytes:
        count = os.splice(fd, outlet, min(size, 65_536), offset)
        return os.read(inlet, count) if count else b""

    def sent(fd: int, offset: int, size: int) -> bytes:
        count = os.sendfile(outlet, fd, offset, min(size, 65_536))
        return os.read(inlet, count) if count else b""

    def dropped(fd: int, offset: int, size: int) -> bytes:
        os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)
        return os.pread(fd, size, offset)

    def advised(fd: int, offset: int, size: int) -> bytes:
        os.posix_fadvise(fd, 0, 0, chance.choice([os.POSIX_FADV_RANDOM, os.POSIX_FADV_SEQUENTIAL]))
        os.posix_fadvise(fd, offset, size, os.POSIX_FADV_WILLNEED)
        return os.pread(fd, size, offset)

    def ahead(fd: int, offset: int, size: int) -> bytes:
        libc.readahead(fd, ctypes.c_long(offset), ctypes.c_size_t(size))
        return os.pread(fd, size, offset)

    def opened(_: int, offset: int, size: int) -> bytes:
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)

    ways = [read, preadv, directly, mapped, spliced, sent, dropped, advised, ahead, opened]
    wrong = []
    for step in range(steps):
        way, offset, limit = chance.choice(ways), place(), place()
        size = chance.choice([0, 1, 2, 511, 4096, 4097, 65_535, 131_073, 400_000, abs(limit - offset) % 1_000_000])
        got = way(chance.choice(files), offset, size)
        cut = min(size, 65_536) if way in (spliced, sent) else size
        expected = data[offset : offset + cut]
        # a pipe takes as many pages as it has room for
        if got != (expected[: len(got)] if way in (spliced, sent) and got else expected):
            wrong.append((step, way.__name__, offset, size))
    return wrong


@pytest.mark.promise(
    "Every way of reading returns the same bytes, at any offset and of any length: `read`, `preadv`, "
    "`O_DIRECT`, maps, `sendfile`, `splice`, `libaio`, `io_uring`."
)
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_way_is_read_the_bytes_are_the_files(
    mount: Mounts, tree: FixtureTree, binding: str, seed: int
) -> None:
    """Hundreds of reads of ten kinds, at all edges, are right while small caches evict blocks."""
    made = mount("10100", binding=binding, flags=["--memory-cache-size=16M", "--cache-size=3M"])
    assert made.call(exercised, made / RANDOM, tree.root / RANDOM, seed, 800) == []


@pytest.mark.promise(
    "Every way of reading returns the same bytes, at any offset and of any length: `read`, `preadv`, "
    "`O_DIRECT`, maps, `sendfile`, `splice`, `libaio`, `io_uring`."
)
@pytest.mark.parametrize("size", [1, 972, BLOCK - 1, BLOCK, BLOCK + 1])
def test_whatever_way_a_small_file_is_read_the_bytes_are_its_own(
    mounted: Mount, tree: FixtureTree, size: int
) -> None:
    """Reads of all kinds are right in files that end within or just after their first block."""
    path = f"10100/data/{size}.bin"
    assert mounted.call(exercised, mounted / path, tree.root / path, size, 150) == []


@pytest.mark.promise(
    "A read at or behind the end, or of no length, returns nothing; one before the start is `EINVAL`."
)
def test_there_is_nothing_behind_the_end(mounted: Mount) -> None:
    """Reads after the end return nothing, up to the largest offset, in empty files too."""

    def reads(path: str) -> list[object]:
        found: list[object] = []
        for flags in (os.O_RDONLY, os.O_RDONLY | os.O_DIRECT):
            fd = os.open(path, flags)
            size = os.fstat(fd).st_size
            found += [os.preadv(fd, [bytearray(100)], size + more) for more in (0, 1, 4095, 10**9, 2**44)]
            found += [os.preadv(fd, [bytearray(4096)], 2**63 - 8192), os.preadv(fd, [bytearray(0)], 0)]
            try:
                os.pread(fd, 1, -1)
            except OSError as error:
                found.append(error.errno)
        return found

    nothing = [*[0] * 7, errno.EINVAL] * 2
    for name in ("0.bin", "1.bin", "random.bin"):
        assert mounted.call(reads, mounted / f"10100/data/{name}") == nothing


@pytest.mark.promise(
    "A read comes back short only at the end of the file, or before an error: it returns what came before the "
    "error (with `O_DIRECT` nothing), and the next read fails.",
    "A page of a map that cannot be fetched is `SIGBUS`.",
)
def test_a_read_that_meets_an_error_gives_what_came_before(
    mount: Mounts, own_apache: Apache, small_tree: Path, binding: str
) -> None:
    """A long read with an error in the middle is short and right; the next one, and a map, fail."""

    def around(path: str, truth: str, go_on: str, here: str) -> tuple[bool, int, int]:
        data = Path(truth).read_bytes()
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        first = os.pread(fd, 65_536, 0)
        Path(here).touch()
        while not os.path.exists(go_on):
            time.sleep(0.01)
        got = os.pread(fd, len(data), 0)
        failed = 0
        try:
            os.pread(fd, 65_536, len(got))
        except OSError as error:
            failed = error.errno or -1
        child = os.fork()
        if not child:
            with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as view:
                os._exit(view[-1] * 0)
        _, status = os.waitpid(child, 0)
        right = len(first) <= len(got) < len(data) and data.startswith(got)
        return right, failed, os.WTERMSIG(status)

    file = small_tree / "10028/data/big.mrc"
    file.write_bytes(random.Random(24).randbytes(24 * 2**20))
    made = mount("10028", base_url=own_apache.url, binding=binding, env={"EMPIARFS_PATIENCE": "0"})
    made.expect(AWAY)
    here, go_on = made.account.home / "here", made.account.home / "go on"
    _, answer = made.calling(around, made / "10028/data/big.mrc", file, go_on, here)
    eventually(here.exists, "the reader has begun")
    own_apache.stop()
    go_on.touch()
    assert answer(60) == (True, errno.EIO, signal.SIGBUS)


@pytest.mark.promise("A program that waits for bytes or for a name can be killed, and interrupted with Ctrl-C.")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_program_that_waits_for_bytes_can_be_ended(
    mount: Mounts, own_apache: Apache, binding: str, number: signal.Signals
) -> None:
    """A signal ends a program that waits for bytes, and the mount goes on."""
    made = mount("10028", base_url=own_apache.url, binding=binding, env={"EMPIARFS_PATIENCE": "90"})
    made.expect(AWAY)
    path = made / "10028/data/a.txt"
    assert made.run("stat", path).returncode == 0
    own_apache.stop()
    waiting = made.start("cat", path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: re.search(AWAY, made.log()), "it waits for the server")
    waiting.send_signal(number)
    assert waiting.wait(DEADLINE) == -number
    own_apache.start()
    assert made.run("cat", path).stdout == b"a.txt"


@pytest.mark.parametrize(
    ("after", "says"),
    [
        ("the server answers", "No such file"),
        ("the patience is over", "Input/output error"),
        ("the daemon is to end", "Input/output error|not connected|aborted"),
    ],
)
def test_a_program_that_waits_for_a_name_gets_an_answer(
    mount: Mounts, own_apache: Apache, binding: str, after: str, says: str
) -> None:
    """A lookup waits until the server answers, the patience ends, or the daemon ends."""
    patience = "2" if after == "the patience is over" else "90"
    made = mount("10028", base_url=own_apache.url, binding=binding, env={"EMPIARFS_PATIENCE": patience})
    made.expect(AWAY)
    assert made.run("ls", made / "10028/data").returncode == 0
    own_apache.stop()
    waiting = made.start("stat", made / "10028/nothing", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    eventually(lambda: re.search(AWAY, made.log()), "it waits for the server")
    if after == "the server answers":
        own_apache.start()
    elif after == "the daemon is to end":
        os.kill(made.daemon(), signal.SIGTERM)
    _, err = waiting.communicate(timeout=DEADLINE)
    assert re.search(says, err.decode())
    if after == "the daemon is to end":
        made.see_gone()


@pytest.mark.promise(
    "A change is noticed at the next request for a part of the file, or the next listing of its directory; "
    "until then the old version is read if all of it is cached."
)
def test_a_change_is_noticed_when_the_directory_is_listed_again(
    mount: Mounts, own_apache: Apache, small_tree: Path, binding: str
) -> None:
    """A cached file keeps its bytes until its directory is listed again."""
    made = mount("10028", base_url=own_apache.url, binding=binding, env={"EMPIARFS_LISTING_TTL": "1"})
    path, file = made / "10028/data/a.txt", small_tree / "10028/data/a.txt"
    listed = made.run("ls", "-l", made / "10028/data").returncode
    assert (listed, made.run("cat", path).stdout) == (0, b"a.txt")
    file.write_text("another")
    os.utime(file, (1, 1))
    assert made.run("cat", path).stdout == b"a.txt"

    def relisted() -> bool:
        made.run("ls", made / "10028/data")
        return made.run("cat", path).stdout == b"another"

    eventually(relisted, "the new version, once the listing is no longer fresh")
