"""The bytes that programs read through a mount are the server's."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH123

import ctypes
import errno
import hashlib
import mmap
import os
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.apache import Apache
from support.fixture_tree import BLOCK, RANDOM, SPARSE_BYTES, SPARSE_MARK, SPARSE_MARKS, FixtureTree
from support.mounting import Mount, Mounts

HIDDEN = ("--exclude=README.md", "--exclude=.hidden")


def said(done: Any) -> str:
    """Return the output and errors of a program."""
    return str((done.stdout + done.stderr).decode(errors="replace"))


@pytest.mark.promise("Bytes read are the bytes of the server's file, of one version of it.")
@pytest.mark.parametrize("entry", ["10001", "10028", "10100"])
def test_diff_finds_nothing(mounted: Mount, tree: FixtureTree, entry: str) -> None:
    """`diff -r` of a mounted tree with the server's finds no difference."""
    done = mounted.run("diff", "-r", *HIDDEN, "--", mounted / entry, tree.root / entry)
    assert (done.returncode, said(done)) == (0, "")


def test_cmp_finds_nothing(mounted: Mount, tree: FixtureTree) -> None:
    """`cmp` of a file of many blocks with the server's finds no difference."""
    done = mounted.run("cmp", mounted / RANDOM, tree.root / RANDOM)
    assert (done.returncode, said(done)) == (0, "")


def test_find_sees_what_the_server_has(mounted: Mount, tree: FixtureTree) -> None:
    """`find` lists the paths of the server's tree, each with its type."""
    shown = mounted.run("find", mounted / "10001", "-printf", r"%y %P\0").stdout.split(b"\0")
    there = mounted.run("find", tree.root / "10001", "-printf", r"%y %P\0").stdout.split(b"\0")
    hidden = {b"f data/README.md", b"f data/.hidden"}
    assert sorted(shown) == sorted(set(there) - hidden)


def test_ls_walks_the_tree(mounted: Mount, tree: FixtureTree) -> None:
    """`ls -lR` of an entry prints no error, and shows every file."""
    done = mounted.run("ls", "-lR", mounted / "10001")
    assert (done.returncode, done.stderr) == (0, b"")
    files = sum(len(set(names) - {"README.md", ".hidden"}) for _, _, names in os.walk(tree.root / "10001"))
    assert sum(line.startswith(b"-rw") for line in done.stdout.splitlines()) == files


def test_cp_copies(mounted: Mount, tree: FixtureTree) -> None:
    """`cp -r` copies a tree of odd names, with its dates."""
    copy = mounted.account.home / "copy"
    assert mounted.run("cp", "-r", "--preserve=timestamps", mounted / "10001", copy).stderr == b""
    done = mounted.run("diff", "-r", *HIDDEN, "--", copy, tree.root / "10001")
    assert (done.returncode, said(done)) == (0, "")
    modified = int((tree.root / "10001/data/plain.mrc").stat().st_mtime)
    assert mounted.run("stat", "--format=%Y", copy / "data/plain.mrc").stdout == b"%d\n" % modified


def test_tar_packs(mounted: Mount, tree: FixtureTree) -> None:
    """`tar` packs a tree that unpacks to the server's."""
    home = mounted.account.home
    assert mounted.run("tar", "-C", mounted.path, "-cf", home / "a.tar", "10028").stderr == b""
    assert mounted.run("tar", "-C", home, "--mode=u+w", "-xf", home / "a.tar").returncode == 0
    done = mounted.run("diff", "-r", home / "10028", tree.root / "10028")
    assert (done.returncode, said(done)) == (0, "")


def test_rsync_finds_nothing_to_do(mounted: Mount, tree: FixtureTree) -> None:
    """`rsync --checksum` finds that mount and server hold the same files."""
    done = mounted.run(
        "rsync",
        "--recursive",
        "--checksum",
        "--dry-run",
        "--itemize-changes",
        *HIDDEN,
        f"{mounted.path}/10001/data/",
        f"{tree.root}/10001/data/",
    )
    files = [line for line in said(done).splitlines() if not line.startswith(".d")]
    assert (done.returncode, files) == (0, [])


@pytest.mark.parametrize(
    ("size", "skip", "count"),
    [(1, 4097, 3), (7, 37_449, 11), (1000, 262, 2), (BLOCK + 1, 3, 2), (333_333, 7, 30), (131_072, 1, 5)],
)
def test_dd_at_odd_offsets(mounted: Mount, tree: FixtureTree, size: int, skip: int, count: int) -> None:
    """`dd` reads the same bytes at any offset, with any length."""
    words = (f"bs={size}", f"skip={skip}", f"count={count}", "status=none")
    assert (
        mounted.run("dd", f"if={mounted / RANDOM}", *words).stdout
        == mounted.run("dd", f"if={tree.root / RANDOM}", *words).stdout
    )


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_sizes_around_a_block(mounted: Mount, tree: FixtureTree, size: int) -> None:
    """A file of 0 bytes, 1 byte, or about one block has its size and bytes, and reads at its end return nothing."""

    def ends(path: str) -> tuple[str, int, list[bytes]]:
        fd = os.open(path, os.O_RDONLY)
        size = os.fstat(fd).st_size
        whole = hashlib.sha256()
        while piece := os.read(fd, 100_000):
            whole.update(piece)
        return whole.hexdigest(), size, [os.pread(fd, 100, size + more) for more in (-1, 0, 1, 10**12) if size]

    path = f"10100/data/{size}.bin"
    data = (tree.root / path).read_bytes()
    expected = [data[-1:], b"", b"", b""] if size else []
    assert mounted.call(ends, mounted / path) == (hashlib.sha256(data).hexdigest(), size, expected)


@pytest.mark.promise(
    "Any number of threads and processes may read at once; those that need the same block share one request."
)
def test_threads_read_one_file_crosswise(mounted: Mount, tree: FixtureTree) -> None:
    """16 threads that read one file in all orders, by own descriptors and a shared one, read the right bytes."""

    def crosswise(path: str, truth: str) -> int:
        data = Path(truth).read_bytes()
        shared = os.open(path, os.O_RDONLY)

        def wrong(seed: int) -> int:
            chance = random.Random(seed)
            own = os.open(path, os.O_RDONLY)
            count = 0
            for step in range(60):
                offset, size = chance.randrange(len(data)), chance.choice([1, 4097, 65_536, 300_001])
                if seed % 4 == 0:  # one in four walks in line, one backwards
                    offset = step * 100_001 % len(data)
                elif seed % 4 == 1:
                    offset = len(data) - 1 - step * 100_001 % len(data)
                fd = (own, shared)[step % 2]
                count += os.pread(fd, size, offset) != data[offset : offset + size]
            os.close(own)
            return count

        with ThreadPoolExecutor(16) as pool:
            return sum(pool.map(wrong, range(16)))

    assert mounted.call(crosswise, mounted / RANDOM, tree.root / RANDOM) == 0


@pytest.mark.promise("`mmap`, shared and private, works.")
@pytest.mark.parametrize("kind", ["MAP_SHARED", "MAP_PRIVATE"])
def test_mmap(mounted: Mount, tree: FixtureTree, kind: str) -> None:
    """A file can be mapped, shared and private, and the map holds its bytes."""

    def mapped(path: str, kind: str, offsets: list[int]) -> list[bytes]:
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, flags=getattr(mmap, kind), prot=mmap.PROT_READ) as view,
        ):
            return [view[offset : offset + 5000] for offset in offsets]

    offsets = [8_000_000, 0, 4_095, BLOCK - 2, 3_333_333, 8 * 2**20 + 4_000]
    data = (tree.root / RANDOM).read_bytes()
    expected = [data[offset : offset + 5000] for offset in offsets]
    assert mounted.call(mapped, mounted / RANDOM, kind, offsets) == expected


@pytest.mark.promise(
    "Calls that change nothing work: `O_CREAT` of a file that exists, `fsync`, a private map that is written to."
)
def test_a_private_map_can_be_written(mounted: Mount, tree: FixtureTree) -> None:
    """A write to a private map changes the map and not the file."""

    def written(path: str) -> tuple[bytes, bytes]:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view:
            view[:5] = b"12345"
            return view[:5], os.pread(file.fileno(), 5, 0)

    first = (tree.root / RANDOM).read_bytes()[:5]
    assert mounted.call(written, mounted / RANDOM) == (b"12345", first)


@pytest.mark.promise(
    "Every way of reading returns the same bytes, at any offset and of any length: `read`, `preadv`, "
    "`O_DIRECT`, maps, `sendfile`, `splice`, `libaio`, `io_uring`."
)
def test_sendfile(mounted: Mount, tree: FixtureTree) -> None:
    """`sendfile` sends a file's bytes into a socket, from any offset."""

    def sent(path: str, offset: int, size: int) -> str:
        here, there = socket.socketpair()
        got = hashlib.sha256()

        def receive() -> None:
            while piece := there.recv(65_536):
                got.update(piece)

        receiver = threading.Thread(target=receive)
        receiver.start()
        fd = os.open(path, os.O_RDONLY)
        end = offset + size
        while offset < end:
            offset += os.sendfile(here.fileno(), fd, offset, end - offset)
        here.close()
        receiver.join()
        return got.hexdigest()

    data = (tree.root / RANDOM).read_bytes()[54_321 : 54_321 + 3_000_000]
    assert mounted.call(sent, mounted / RANDOM, 54_321, 3_000_000) == hashlib.sha256(data).hexdigest()


@pytest.mark.promise("A file has no holes: `SEEK_DATA` finds data everywhere, and `SEEK_HOLE` the end.")
def test_a_file_has_no_holes(mounted: Mount) -> None:
    """`lseek` finds data everywhere, the one hole at the end, and nothing beyond."""

    def seeks(path: str, size: int) -> list[int]:
        fd = os.open(path, os.O_RDONLY)
        found = [os.lseek(fd, 0, os.SEEK_DATA), os.lseek(fd, 5, os.SEEK_HOLE), os.lseek(fd, 7, os.SEEK_DATA)]
        found += [os.lseek(fd, -1, os.SEEK_END), os.lseek(fd, 10, os.SEEK_SET)]
        try:
            os.lseek(fd, size, os.SEEK_DATA)
        except OSError as error:
            found.append(-(error.errno or 0))
        return found

    size = 8 * 2**20 + 4_321
    assert mounted.call(seeks, mounted / RANDOM, size) == [0, size, 7, size - 1, 10, -errno.ENXIO]


def test_a_file_of_more_than_4_gib(mounted: Mount, tree: FixtureTree) -> None:
    """A file of over 4 GiB has its exact size, and its bytes are right before and after 4 GiB."""

    def marks(path: str, places: list[int]) -> tuple[int, list[bytes]]:
        fd = os.open(path, os.O_RDONLY)
        return os.fstat(fd).st_size, [os.pread(fd, 40, place - 20) for place in places]

    with (tree.root / "10200/data/sparse.mrc").open("rb") as file:
        expected = [os.pread(file.fileno(), 40, place - 20) for place in SPARSE_MARKS[1:]]
    assert all(SPARSE_MARK in one for one in expected)
    found = mounted.call(marks, mounted / "10200/data/sparse.mrc", list(SPARSE_MARKS[1:]))
    assert found == (SPARSE_BYTES, expected)


def test_a_jump_fetches_little(mount: Mounts, apache: Apache) -> None:
    """Reading a few bytes of 4 GiB fetches at most four blocks."""

    def last(path: str, size: int) -> bytes:
        fd = os.open(path, os.O_RDONLY)
        return os.pread(fd, 9, size - 9)

    made = mount("10200")
    assert made.call(last, made / "10200/data/sparse.mrc", SPARSE_BYTES) == SPARSE_MARK
    assert sum(one.sent for one in apache.requests("GET", "10200/data/sparse.mrc")) <= 4 * BLOCK


@pytest.mark.promise(
    "Every way of reading returns the same bytes, at any offset and of any length: `read`, `preadv`, "
    "`O_DIRECT`, maps, `sendfile`, `splice`, `libaio`, `io_uring`."
)
def test_direct_reads_at_odd_places(mounted: Mount, tree: FixtureTree) -> None:
    """O_DIRECT reads the same bytes, aligned or not."""

    def direct(path: str, places: list[tuple[int, int]]) -> list[bytes]:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        found = []
        for offset, size in places:
            buffer = mmap.mmap(-1, size + 4096)  # begins on a page
            got = os.preadv(fd, [memoryview(buffer)[:size]], offset)
            found.append(bytes(buffer[:got]))
        return found

    places = [(0, 4096), (1, 511), (123_457, 99_999), (8 * 2**20, 8192), (BLOCK - 1, 2)]
    data = (tree.root / RANDOM).read_bytes()
    expected = [data[offset : offset + size] for offset, size in places]
    assert mounted.call(direct, mounted / RANDOM, places) == expected


def test_mrcfile_reads(mounted: Mount, tree: FixtureTree) -> None:
    """Mrcfile opens, maps and validates a stack through the mount, and finds the server's values."""

    def values(path: str) -> tuple[str, str, bool]:
        import mrcfile  # noqa: PLC0415 - in the child

        with mrcfile.open(path) as opened:
            whole = hashlib.sha256(opened.data.tobytes()).hexdigest()
        with mrcfile.mmap(path) as opened:
            mapped = hashlib.sha256(opened.data[7:9].tobytes()).hexdigest()
        return whole, mapped, mrcfile.validate(path)

    there = mounted.call(values, tree.root / "10028/data/stack.mrcs")
    assert mounted.call(values, mounted / "10028/data/stack.mrcs") == there
    assert there[2]


def test_starfile_reads(mounted: Mount) -> None:
    """Starfile reads a STAR file through the mount."""

    def rows(path: str) -> list[str]:
        import starfile  # noqa: PLC0415 - in the child

        return [str(name) for name in starfile.read(path)["rlnImageName"]]

    found = mounted.call(rows, mounted / "10028/data/particles.star")
    assert found == [f"{n:06d}@data/stack.mrcs" for n in range(1, 41)]


def test_tifffile_reads(mounted: Mount, tree: FixtureTree) -> None:
    """Tifffile decodes an LZW movie through the mount, whole and one frame alone."""

    def frames(path: str) -> tuple[str, str]:
        import tifffile  # noqa: PLC0415 - in the child

        with tifffile.TiffFile(path) as opened:
            one = opened.pages[5].asarray().tobytes()
        return hashlib.sha256(tifffile.imread(path).tobytes()).hexdigest(), hashlib.sha256(one).hexdigest()

    there = mounted.call(frames, tree.root / "10028/data/movie.tif")
    assert mounted.call(frames, mounted / "10028/data/movie.tif") == there


def test_a_library_can_read_past_the_end_in_one_call(mounted: Mount, tree: FixtureTree) -> None:
    """A read across the end of a file returns the bytes before the end, by read, preadv and fread."""

    def tails(path: str, offset: int) -> list[bytes]:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            plain = file.read(10_000) or b""
            buffers = [bytearray(7), bytearray(100_000)]
            got = os.preadv(file.fileno(), buffers, offset)
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        stream = ctypes.c_void_p(libc.fopen(path.encode(), b"rb"))
        libc.fseek(stream, ctypes.c_long(offset), 0)
        room = ctypes.create_string_buffer(5000)
        count = libc.fread(room, 1, 5000, stream)
        return [plain, b"".join(bytes(one) for one in buffers)[:got], room.raw[:count]]

    size = 8 * 2**20 + 4_321
    tail = (tree.root / RANDOM).read_bytes()[size - 99 :]
    assert mounted.call(tails, mounted / RANDOM, size - 99) == [tail] * 3
