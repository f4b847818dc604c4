"""Offline: what is cached is served, the rest is refused at once, and no server receives a request."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from support import cache_files
from support.apache import Apache
from support.fixture_tree import RANDOM, SMALL_FILES, FixtureTree, listed
from support.mounting import Account, Mount, Mounts, eventually
from support.programs import checksum, checksum_of_beginning

pytestmark = pytest.mark.slow  # waits on purpose, or repeats for long

FIRST = 2**20  # bytes that were read of the file of which the rest was not
EHOSTUNREACH, ENOENT = 113, 2
SOON = 1.0  # seconds in which a refusal must come; on a busy machine too, where most of it is Python's start


def refusal(verb: str, path: str, offset: int = 0) -> tuple[int, float]:
    """Try a call; return its errno, 0 for success, and the seconds it took."""
    import os  # noqa: PLC0415 - runs in a process of its own
    import time  # noqa: PLC0415 - the same

    begun = time.monotonic()
    try:
        if verb == "list":
            os.listdir(path)  # noqa: PTH208 - as programs do
        elif verb == "stat":
            os.stat(path)  # noqa: PTH116 - as programs do
        else:
            number = os.open(path, os.O_RDONLY)
            try:
                os.pread(number, 1000, offset)
            finally:
                os.close(number)
    except OSError as error:
        return error.errno or 0, time.monotonic() - begun
    return 0, time.monotonic() - begun


def refused(made: Mount, verb: str, path: str, offset: int = 0, number: int = EHOSTUNREACH) -> None:
    """Check that a call is refused at once."""
    found, seconds = made.call(refusal, verb, made / path, offset)
    assert found == number
    assert seconds < SOON


@pytest.fixture
def filled(mount: Mounts, binding: str) -> Account:
    """An account whose cache holds a file, the beginning of another, and some listings."""
    account = mount.account(binding=binding)
    made = mount("10100", "10200", "10300", "10400", account=account)
    made.call(checksum, made / RANDOM)
    made.call(checksum_of_beginning, made / "10200/data/sparse.mrc", FIRST)
    made.run("ls", made / "10300/data")
    made.run("stat", made / "10300/data/0007.txt")
    assert made.call(refusal, "stat", made / "10300/data/none.txt")[0] == ENOENT
    eventually(lambda: cache_files.volume_of(account) >= 8 * 2**20 + FIRST, "all blocks are on disk")
    made.umount()
    return account


@pytest.fixture
def offline(mount: Mounts, apache: Apache, filled: Account) -> Callable[..., Mount]:
    """Returns a function that mounts what `filled` has cached; the server receives no request from then on."""
    apache.clear()

    def made(*entries: str, env: dict[str, str] | None = None) -> Mount:
        flags = [] if env else ["--offline"]
        one = mount(*(entries or ("10100", "10200", "10300", "10400")), account=filled, flags=flags, env=env)
        one.expect("offline")
        return one

    return made


@pytest.mark.promise("With `--offline` no connection is ever made.")
def test_what_is_cached_is_served_without_a_request(
    offline: Callable[..., Mount], apache: Apache, tree: FixtureTree
) -> None:
    """Names, sizes and bytes in the cache are served offline, and the server receives no request."""
    made = offline()
    assert made.call(checksum, made / RANDOM) == hashlib.sha256((tree.root / RANDOM).read_bytes()).hexdigest()
    names = made.run("ls", made / "10300/data").stdout.decode().splitlines()
    assert sorted(names) == listed(tree.root / "10300/data")
    status = made.run("stat", "--format=%s %Y", made / "10300/data/0007.txt").stdout.split()
    truth = (tree.root / "10300/data/0007.txt").stat()
    assert [int(word) for word in status] == [truth.st_size, int(truth.st_mtime)]
    made.umount()
    assert apache.requests() == []


def test_it_needs_no_server_at_all(mount: Mounts, own_apache: Apache, small_tree: Path, binding: str) -> None:
    """Offline by environment variable, cached bytes are read while the server is stopped."""
    account = mount.account(binding=binding)
    online = mount("10028", account=account, base_url=own_apache.url)
    assert online.run("cat", online / "10028/data/a.txt").stdout == b"a.txt"
    eventually(lambda: cache_files.of(account), "the block is on disk")
    online.umount()
    own_apache.stop()
    made = mount("10028", account=account, base_url=own_apache.url, env={"EMPIARFS_OFFLINE": "1"})
    made.expect("offline")
    assert made.run("cat", made / "10028/data/a.txt").stdout == b"a.txt"
    refused(made, "read", "10028/data/b.txt")


@pytest.mark.promise(
    "Reading data that are not on disk fails with `EHOSTUNREACH` within a second, and so does a name that its "
    "listing lacks; `ENOENT` is only what the server answered when it was last reached."
)
def test_what_is_not_cached_is_refused_at_once(offline: Callable[..., Mount], apache: Apache) -> None:
    """What is not in the cache fails with EHOSTUNREACH within a second, each time."""
    made = offline()
    for _ in range(2):  # the kernel keeps what is not there, and must not take this for it
        refused(made, "stat", "10300/data/0008.txt")
        refused(made, "list", "10400")
        refused(made, "stat", "10300/data/unlisted.txt")
        refused(made, "read", "10200/data/sparse.mrc", 2**31)
    made.umount()
    assert apache.requests() == []


@pytest.mark.promise(
    "Reading data that are not on disk fails with `EHOSTUNREACH` within a second, and so does a name that its "
    "listing lacks; `ENOENT` is only what the server answered when it was last reached."
)
def test_what_was_not_there_is_not_there(offline: Callable[..., Mount]) -> None:
    """A name that the server has denied, and an entry that was not selected, fail with ENOENT."""
    made = offline()
    refused(made, "stat", "10300/data/none.txt", number=ENOENT)
    refused(made, "stat", "10028", number=ENOENT)


def test_the_cached_part_of_a_file_is_read_up_to_the_gap(offline: Callable[..., Mount]) -> None:
    """A sequential read returns every cached byte before the first gap, whatever the kernel reads ahead."""
    made = offline()
    path = made / "10200/data/sparse.mrc"
    done = made.run("dd", f"if={path}", "bs=64K", f"count={FIRST // 65536}", "status=none")
    assert (done.returncode, len(done.stdout)) == (0, FIRST)
    assert b"EMPIAR-3D" in done.stdout
    after = made.run("dd", f"if={path}", "bs=1M", f"skip={2**31 // 2**20}", "count=1", "of=/dev/null")
    assert b"No route to host" in after.stderr


def test_ls_shows_as_much_as_is_known(offline: Callable[..., Mount]) -> None:
    """`ls -l` shows the files whose size is known, reports an error for each other, and goes on to the end."""
    made = offline()
    done = made.run("ls", "-l", made / "10300/data")
    lines = done.stdout.decode().splitlines()[1:]
    known = [line for line in lines if not line.startswith("-?")]
    assert len(lines) == SMALL_FILES
    assert [line.split()[-1] for line in known] == ["0007.txt"]
    assert done.stderr.count(b"No route to host") == SMALL_FILES - 1


@pytest.mark.promise("The log reports each file and each directory that is not available offline once.")
def test_the_log_has_one_line_for_each_path(offline: Callable[..., Mount]) -> None:
    """Repeated reads or lookups of one file or directory log one line each, and no traceback."""
    made = offline()
    for _ in range(3):
        made.run("ls", "-l", made / "10300/data")
        made.run("ls", made / "10400")
        for place in (2**31, 2**31 + 2**20):
            made.call(refusal, "read", made / "10200/data/sparse.mrc", place)
    lines = [line.partition(": ")[2] for line in made.log().splitlines() if "is offline" in line]
    assert len(lines) == len(set(lines)) <= 3, lines
    assert any(line.startswith("read 10200/data/sparse.mrc") for line in lines)


@pytest.mark.promise("The kernel caches none of these errors.")
@pytest.mark.promise(
    "Listings are shown however old they are, and data that another program fetches into the same cache "
    "meanwhile are found; a directory that was shown stays as it was."
)
def test_what_another_program_fetches_meanwhile_is_seen(
    mount: Mounts, offline: Callable[..., Mount], filled: Account
) -> None:
    """A mount offline serves what an online program adds to the cache."""
    made = offline()
    refused(made, "list", "10400")
    refused(made, "stat", "10300/data/0008.txt")
    for words in (("ls", "10400"), ("stat", "10300/data/0008.txt")):
        assert filled.empiarfs(*words, f"--base-url={mount.base_url}").returncode == 0
    assert made.run("ls", made / "10400").stdout == b"closed\nopen.txt\n"
    assert made.run("stat", "--format=%s", made / "10300/data/0008.txt").stdout == b"2\n"


def test_an_empty_cache_mounts_with_a_warning(mount: Mounts, apache: Apache, binding: str) -> None:
    """A mount offline with an empty cache warns, sends no request, and refuses everything but its root."""
    account = mount.account(binding=binding)
    made = mount(account=account, flags=["--offline"])
    made.expect("offline")
    assert made.started is not None
    assert b"warning" in made.started.stderr
    assert b"offline" in made.started.stderr
    assert made.run("stat", made.path).returncode == 0
    refused(made, "list", "")
    refused(made, "stat", "10028")
    assert apache.requests() == []


@pytest.mark.promise("A directory that was not listed can be traversed if something below it is known.")
def test_the_way_to_what_is_known_is_known(mount: Mounts, apache: Apache, binding: str) -> None:
    """The parents of a directory in the cache exist, whether they were listed or not."""
    account = mount.account(binding=binding)
    assert account.empiarfs("ls", "10001/data/deep", f"--base-url={mount.base_url}").returncode == 0
    apache.clear()
    made = mount(account=account, flags=["--offline"])
    made.expect("offline")
    assert made.run("ls", made / "10001/data/deep").stdout == b"2\n"
    refused(made, "list", "10001")
    refused(made, "stat", "10001/other")
    assert apache.requests() == []


def test_the_sample_works_offline(mount: Mounts, binding: str) -> None:
    """The sample's server is not started offline; what is cached of it is read, and the rest is refused."""
    account = mount.account(binding=binding)
    whole = account.empiarfs("cat", "--sample", "99001/99001.xml")
    assert whole.returncode == 0
    made = mount("99001", account=account, flags=["--offline", "--sample"])
    made.expect("offline")
    assert made.run("cat", made / "99001/99001.xml").stdout == whole.stdout
    refused(made, "list", "99001/data")
    done = account.empiarfs("cat", "--sample", "--offline", "99001/99001.xml")
    assert (done.returncode, done.stdout) == (0, whole.stdout)
