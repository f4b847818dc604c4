"""A file that changes at the server is another file."""

import errno
import hashlib
import os
import random
from pathlib import Path

import pytest
from apache import Apache
from mounting import Mounts, eventually

OLD = random.Random(1).randbytes(4_000_000)


def read_across_a_change(path: str, here: str, go_on: str) -> int:
    """Read the start, wait for the change, read the end; give the errno of that, 0 where there is none."""
    fd = os.open(path, os.O_RDONLY)
    os.pread(fd, 65_536, 0)
    os.close(os.open(here, os.O_CREAT | os.O_WRONLY))
    while not os.access(go_on, os.F_OK):
        os.sched_yield()
    try:
        os.pread(fd, 65_536, 3_900_000)
    except OSError as error:
        return error.errno or 0
    return 0


def whole(path: str) -> tuple[int, str]:
    """Give the length by `stat` after opening, and the digest of what can be read."""
    fd = os.open(path, os.O_RDONLY)
    content = b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
    return os.fstat(fd).st_size, hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("size", [4_000_000, 5_500_000, 3_950_000], ids=["same size", "grown", "shrunk"])
def test_a_changed_file_is_never_mixed(
    mount: Mounts, own_apache: Apache, small_tree: Path, binding: str, size: int
) -> None:
    """A handle opened before gets ESTALE; a new open gets the new version, whole, with its own length."""
    file = small_tree / "10028/data/big.mrc"
    file.write_bytes(OLD)
    os.utime(file, (1_700_000_000, 1_700_000_000))
    made = mount("10028", base_url=own_apache.url, binding=binding)
    made.expect("was replaced|had 4000000 bytes|shorter than it was|another length|contradicts")
    path = made / "10028/data/big.mrc"
    here, go_on = made.account.home / "here", made.account.home / "go on"
    _, answer = made.calling(read_across_a_change, path, here, go_on)
    eventually(here.exists, "the reader has begun")
    new = random.Random(size).randbytes(size)
    file.write_bytes(new)
    os.utime(file, (1_700_009_000, 1_700_009_000))
    go_on.touch()
    assert answer(60) == errno.ESTALE
    assert made.call(whole, path) == (size, hashlib.sha256(new).hexdigest())
