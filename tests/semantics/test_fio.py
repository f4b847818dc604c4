"""fio verifies through a mount what it has written, with a checksum in every 4 KiB, by all its engines."""

import ctypes
import errno
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.apache import Apache
from support.mounting import BINDINGS, Mount, Mounts

SIZE = "16m"
NAME = "10500/data/verified.bin"
CHECKED = (f"--size={SIZE}", "--verify=crc32c", "--verify_interval=4096", "--verify_fatal=1")
IO_URING_SETUP = 425  # its number is the same on all machines

# engine, direct, pattern, length of a read, reads at once
READERS = (
    ("psync", 0, "read", "128k", 1),
    ("psync", 0, "randread", "4k", 1),
    ("pvsync2", 0, "randread", "16k", 1),
    ("sync", 0, "randread", "32k", 1),
    ("mmap", 0, "randread", "64k", 1),
    ("mmap", 0, "read", "4k", 1),
    ("psync", 1, "randread", "1m", 1),
    ("libaio", 1, "randread", "64k", 16),
    ("libaio", 1, "read", "256k", 4),
    ("posixaio", 0, "randread", "32k", 8),
    ("io_uring", 0, "randread", "8k", 16),
    ("io_uring", 1, "randread", "64k", 16),
)


@pytest.fixture(scope="module")
def fio() -> str:
    """The path of fio."""
    program = shutil.which("fio")
    assert program, "there is no fio: apt install fio"
    return program


@pytest.fixture(scope="module")
def served(fio: str) -> Iterator[Path]:
    """A tree with a file that fio has written."""
    with tempfile.TemporaryDirectory(prefix="empiarfs-") as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / NAME
        file.parent.mkdir(parents=True)
        words = ("--name=write", f"--filename={file}", "--rw=write", "--bs=64k", "--do_verify=0")
        subprocess.run([fio, *words, *CHECKED], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        yield Path(folder)


@pytest.fixture(scope="module", params=BINDINGS)
def made(request: pytest.FixtureRequest, own_machine: None, served: Path) -> Iterator[Mount]:
    """A mount of that tree whose caches are smaller than the file."""
    server = Apache(served)
    folder = Path(tempfile.mkdtemp(prefix="empiarfs-"))
    folder.chmod(0o755)
    mounts = Mounts(folder, server.url)
    try:
        with mounts.watched(110):
            yield mounts(binding=request.param, flags=["--memory-cache-size=16M", "--cache-size=8M"])
        mounts.finish()
    finally:
        server.close()


def verified(fio: str, made: Mount, *words: str) -> tuple[int, str, list[tuple[str, int]]]:
    """Let fio read the file; return its status, its errors, and for each job its engine and the bytes read."""
    done = made.run(
        fio, "--output-format=json", f"--filename={made / NAME}", "--readonly", "--thread", *CHECKED, *words
    )
    complaints = done.stderr.decode(errors="replace")
    if done.returncode:
        return done.returncode, complaints, []
    jobs = json.loads(done.stdout)["jobs"]
    return 0, complaints, [(job["jobname"], job["read"]["io_bytes"]) for job in jobs if not job["error"]]


def has_io_uring() -> bool:
    """Return whether the kernel allows io_uring; many containers do not."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(IO_URING_SETUP, 0, None)
    return ctypes.get_errno() not in {errno.ENOSYS, errno.EPERM}


@pytest.mark.promise(
    "Every way of reading returns the same bytes, at any offset and of any length: `read`, `preadv`, "
    "`O_DIRECT`, maps, `sendfile`, `splice`, `libaio`, `io_uring`.",
    "Any number of threads and processes may read at once; those that need the same block share one request.",
)
def test_every_engine_reads_what_was_written(made: Mount, fio: str) -> None:
    """All engines at once, sequentially and at random, verify the whole file."""
    engines = [one for one in READERS if one[0] != "io_uring" or has_io_uring()]
    words = []
    for number, (engine, direct, pattern, length, depth) in enumerate(engines):
        words += [f"--name={engine}-{number}", f"--ioengine={engine}", f"--direct={direct}", f"--rw={pattern}"]
        words += [f"--bs={length}", f"--iodepth={depth}"]
    status, complaints, jobs = verified(fio, made, *words)
    assert (status, complaints) == (0, "")
    assert [name for name, size in jobs if size == 16 * 2**20] == [
        f"{engine}-{number}" for number, (engine, *_) in enumerate(engines)
    ]


def test_fio_finds_a_wrong_byte(made: Mount, fio: str, served: Path) -> None:
    """A copy in which one byte was changed is reported by fio."""
    copy = made.account.home / "harmed.bin"
    data = bytearray((served / NAME).read_bytes())
    data[9 * 2**20 + 2000] ^= 1
    copy.write_bytes(data)
    done = made.run(fio, f"--filename={copy}", "--name=read", "--rw=read", "--bs=64k", "--readonly", *CHECKED)
    assert done.returncode
    assert b"verify" in done.stderr
