"""A file that changes at the server is another file."""

import errno
import hashlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.apache import Apache
from support.mounting import Mount, Mounts, eventually

OLD = random.Random(1).randbytes(4_000_000)
SIZES = pytest.mark.parametrize("size", [4_000_000, 5_500_000, 3_950_000], ids=["same size", "grown", "shrunk"])
NEWS = "was replaced|had 4000000 bytes|shorter than it was|another length|contradicts|older version is still open"


def read_across_a_change(path: str, here: str, go_on: str) -> list[int]:
    """Read the start, wait, read at three places; return the errno of each, 0 for the old bytes."""
    fd = os.open(path, os.O_RDONLY)
    old = random.Random(1).randbytes(4_000_000)
    found = []
    os.pread(fd, 65_536, 0)
    Path(here).touch()
    while not os.path.exists(go_on):  # noqa: PTH110 - plainly
        time.sleep(0.01)
    for place in (0, 3_000_000, 3_990_000):
        try:
            found.append(0 if os.pread(fd, 4096, place) == old[place : place + 4096] else -1)
        except OSError as error:
            found.append(error.errno or -2)
    return found


def whole(path: str) -> tuple[int, str]:
    """Return the size after opening and the checksum of the bytes, or the errno."""
    try:
        fd = os.open(path, os.O_RDONLY)
        content = b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
    except OSError as error:
        return error.errno or -1, ""
    return os.fstat(fd).st_size, hashlib.sha256(content).hexdigest()


@pytest.fixture
def file(small_tree: Path) -> Path:
    """A file of 4 MB at the server."""
    file = small_tree / "10028/data/big.mrc"
    file.write_bytes(OLD)
    os.utime(file, (1_700_000_000, 1_700_000_000))
    return file


@pytest.fixture
def made(mount: Mounts, own_apache: Apache, file: Path, binding: str) -> Mount:
    """A mount of that file."""
    made = mount("10028", base_url=own_apache.url, binding=binding)
    made.expect(NEWS)
    return made


def replaced(file: Path, size: int) -> tuple[int, str]:
    """Replace `file` by another version; return its size and checksum."""
    new = random.Random(size).randbytes(size)
    file.write_bytes(new)
    os.utime(file, (1_700_009_000, 1_700_009_000))
    return size, hashlib.sha256(new).hexdigest()


def begun(made: Mount) -> tuple[Path, Path, Callable[[float], Any]]:
    """Let a program open the file; return its path, the file that lets it go on, and a function for its result."""
    path = made / "10028/data/big.mrc"
    here, go_on = made.account.home / "here", made.account.home / "go on"
    _, answer = made.calling(read_across_a_change, path, here, go_on)
    eventually(here.exists, "the reader has begun")
    return path, go_on, answer


@pytest.mark.promise("Bytes read are the bytes of the server's file, of one version of it.")
@pytest.mark.promise(
    "A file that changed at the server is another file: a handle opened before the change gets `ESTALE` for "
    "what was not read yet; a new `open` gets the new version, whole."
)
@pytest.mark.promise("The pages of the old version that the kernel had are dropped then.")
@SIZES
def test_a_changed_file_is_never_mixed(made: Mount, file: Path, size: int) -> None:
    """A handle of the old version gets ESTALE; a new open gets the whole new version with its size."""
    path, go_on, answer = begun(made)
    new = replaced(file, size)
    go_on.touch()
    assert answer(60) == [0, errno.ESTALE, errno.ESTALE]
    eventually(lambda: made.call(whole, path) == new, "the new version is there, whole")


@pytest.mark.promise(
    "While a handle of the old version is open, a new `open` is `ESTALE` and the length is that of the old "
    "version: the kernel has one set of pages for both."
)
@SIZES
def test_a_new_version_is_not_opened_while_the_old_one_is_open(made: Mount, file: Path, size: int) -> None:
    """Opening a file whose older version is open fails with ESTALE, and the log says why."""
    path, go_on, answer = begun(made)
    new = replaced(file, size)
    for _ in range(3):
        assert made.call(whole, path) == (errno.ESTALE, "")
    assert made.run("stat", "--format=%s", path).stdout == b"4000000\n"
    assert "older version is still open" in made.log()
    go_on.touch()
    assert answer(60) == [0, errno.ESTALE, errno.ESTALE]
    eventually(lambda: made.call(whole, path) == new, "the new version is there, whole")
