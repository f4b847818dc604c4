"""The disk cache of a mount: shared by runs and mounts, within its limits, and never wrong."""

import hashlib
import os
import stat
from pathlib import Path

import pytest
from support import cache_files
from support.apache import Apache
from support.fixture_tree import BLOCK, RANDOM, SPARSE, FixtureTree
from support.mounting import Account, Mount, Mounts, eventually, status_of
from support.programs import checksum, checksum_of_beginning

pytestmark = pytest.mark.slow  # waits on purpose, or repeats for long

SIZE = 8 * 2**20 + 4_321


def filled(mount: Mounts, account: Account) -> None:
    """Read a file of 8 MiB through a mount, and unmount when all of its blocks are on disk."""
    made = mount("10100", account=account)
    made.call(checksum, made / RANDOM)
    eventually(lambda: cache_files.volume_of(account) > SIZE, "all blocks are on disk")
    made.umount()


@pytest.fixture
def truth(tree: FixtureTree) -> str:
    """The checksum of the file."""
    return hashlib.sha256((tree.root / RANDOM).read_bytes()).hexdigest()


def test_the_cache_outlives_the_mount(mount: Mounts, apache: Apache, binding: str, truth: str) -> None:
    """What one mount has read, a later mount reads without a request."""
    account = mount.account(binding=binding)
    filled(mount, account)
    apache.clear()
    again = mount("10100", account=account)
    assert again.call(checksum, again / RANDOM) == truth
    assert apache.requests("GET", RANDOM) == []


@pytest.mark.promise(
    "The cache folder's contents are 0700, never executed, never unpickled, bounded by `--cache-size` and by "
    "the free space that is always left, and may be shared by several processes."
)
def test_two_mounts_share_the_cache(mount: Mounts, apache: Apache, truth: str) -> None:
    """Two mounts at once share what either has read, and both read the right bytes at the same time."""
    account = mount.account()
    first = mount("10100", account=account)
    second = mount("10100", account=account)
    assert first.call(checksum, first / RANDOM) == truth
    eventually(lambda: cache_files.volume_of(account) > SIZE, "all blocks are on disk")
    apache.clear()
    assert second.call(checksum, second / RANDOM) == truth
    assert apache.requests("GET", RANDOM) == []
    pairs = [one.calling(checksum, one / f"10100/data/{2 * BLOCK}.bin") for one in (first, second)]
    assert len({answer(60) for _, answer in pairs}) == 1


@pytest.mark.promise(
    "The cache folder's contents are 0700, never executed, never unpickled, bounded by `--cache-size` and by "
    "the free space that is always left, and may be shared by several processes."
)
def test_the_cache_is_its_owners_alone(mount: Mounts, user: str) -> None:
    """The cache directory belongs to the user and has mode 0700."""
    account = mount.account(user)
    os.umask(os.umask(0o022))
    filled(mount, account)
    for folder in (account.home / "cache" / "empiarfs", account.home / "cache" / "empiarfs" / "v1"):
        status = folder.stat()
        assert status.st_uid == account.user.uid
        assert stat.S_IMODE(status.st_mode) == 0o700, folder


def test_a_cache_that_stood_open_is_closed(mount: Mounts) -> None:
    """A cache directory that others may read gets mode 0700 when it is used."""
    account = mount.account()
    folder = account.home / "shown"
    folder.mkdir(mode=0o755)
    mount("10100", account=account, flags=[f"--cache-dir={folder}"])
    assert stat.S_IMODE((folder / "v1").stat().st_mode) == 0o700


@pytest.mark.promise(
    "The cache folder's contents are 0700, never executed, never unpickled, bounded by `--cache-size` and by "
    "the free space that is always left, and may be shared by several processes."
)
def test_the_cache_keeps_its_bounds(mount: Mounts, tree: FixtureTree) -> None:
    """With `--cache-size 4M` about 4 MiB of 64 stay on disk, and evicted blocks are fetched again."""
    account = mount.account()
    with (tree.root / SPARSE).open("rb") as file:
        expected = hashlib.sha256(file.read(64 * 2**20)).hexdigest()
    for _ in range(2):
        made = mount("10200", account=account, flags=["--cache-size=4M"])
        assert made.call(checksum_of_beginning, made / SPARSE, 64 * 2**20) == expected
        made.umount()
        assert 2 * 2**20 < cache_files.volume_of(account) < 5 * 2**20


def test_a_cache_of_nothing_keeps_nothing(mount: Mounts, truth: str) -> None:
    """With `--cache-size 0` no block is stored on disk."""
    account = mount.account()
    made = mount("10100", account=account, flags=["--cache-size=0"])
    assert made.call(checksum, made / RANDOM) == truth
    made.umount()
    assert cache_files.of(account) == []


def flipped(file: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def halved(file: Path) -> None:
    """Remove the second half of a file."""
    os.truncate(file, file.stat().st_size // 2)


def emptied(file: Path) -> None:
    """Truncate a file."""
    os.truncate(file, 0)


@pytest.mark.promise(
    "A cached block is verified against its checksum and its name whenever it is read from disk; one that "
    "fails is fetched again."
)
@pytest.mark.promise("Losing any of it costs requests, nothing else.")
@pytest.mark.parametrize("harm", [flipped, halved, emptied, Path.unlink])
def test_harmed_blocks_are_fetched_again(mount: Mounts, apache: Apache, harm: object, truth: str) -> None:
    """A block that was changed, cut or deleted on disk is fetched again, and damage is logged."""
    assert callable(harm)
    account = mount.account()
    filled(mount, account)
    for file in cache_files.of(account):
        harm(file)
    apache.clear()
    again = mount("10100", account=account)
    again.expect("block|cache")
    assert again.call(checksum, again / RANDOM) == truth
    assert apache.requests("GET", RANDOM)
    if harm is not Path.unlink:
        assert "WARNING" in again.log(), "nobody is told that the disk is failing"


@pytest.mark.promise(
    "A cached block is verified against its checksum and its name whenever it is read from disk; one that "
    "fails is fetched again."
)
def test_blocks_that_changed_places_are_fetched_again(mount: Mounts, truth: str) -> None:
    """A valid block in the place of another is not used."""
    account = mount.account()
    filled(mount, account)
    files = [file for file in cache_files.of(account) if file.stat().st_size > BLOCK]
    contents = [file.read_bytes() for file in files]
    for file, content in zip(files, contents[1:] + contents[:1], strict=True):
        file.write_bytes(content)
    again = mount("10100", account=account)
    again.expect("block|cache")
    assert again.call(checksum, again / RANDOM) == truth


@pytest.mark.promise("Losing any of it costs requests, nothing else.")
def test_a_database_that_is_rubbish_is_no_cache(mount: Mounts, truth: str) -> None:
    """A mount works when both databases of the cache are overwritten, and logs it."""
    account = mount.account()
    filled(mount, account)
    folder = account.home / "cache" / "empiarfs" / "v1"
    databases = [*folder.glob("*.sqlite"), folder / "blocks" / "cache.db"]
    assert len(databases) > 1
    for file in databases:
        file.write_bytes(b"rubbish " * 4096)
        for more in ("-wal", "-shm"):
            Path(f"{file}{more}").unlink(missing_ok=True)
    again = mount("10100", account=account)
    again.expect("WARNING")
    assert again.call(checksum, again / RANDOM) == truth
    assert "Traceback" not in again.log()


def test_memory_stays_in_bounds(mount: Mounts) -> None:
    """With `--memory-cache-size 64M` the daemon takes less than 264 MiB while 1 GiB is read."""
    made: Mount = mount("10200", flags=["--memory-cache-size=64M", "--cache-size=128M"])
    done = made.run(
        "dd", f"if={made / '10200/data/sparse.mrc'}", "of=/dev/null", "bs=1M", "count=1024", timeout=100
    )
    assert done.returncode == 0, done.stderr
    status = Path(f"/proc/{made.daemon()}/status").read_text()
    (peak,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    assert int(peak) < (64 + 200) * 1024


def test_the_cache_is_looked_after_under_a_mount(mount: Mounts, apache: Apache, truth: str, binding: str) -> None:
    """`cache info`, `verify` and `clear` work while a mount uses the cache, and the mount goes on."""
    account = mount.account(binding=binding)
    made = mount("10100", account=account)
    assert made.call(checksum, made / RANDOM) == truth
    eventually(lambda: not status_of(made)["write_queue_bytes"], "all is on disk")
    where = f"--base-url={mount.base_url}"
    for words in (("info",), ("verify", where, "--against-origin=5"), ("clear", "--yes")):
        done = account.empiarfs("cache", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert b"running mounts fetch again what they need" in done.stdout
    assert cache_files.of(account) == []
    made.umount()
    apache.clear()
    again = mount("10100", account=account)
    assert again.call(checksum, again / RANDOM) == truth
    assert apache.requests("GET", RANDOM)


def test_a_cache_that_others_may_write_to_does_not_mount(mount: Mounts, user: str) -> None:
    """A mount with a cache directory that others may write is refused in one line."""
    account = mount.account(user)
    shown = account.home / "shown"
    account.call(open_directory, shown)
    made = mount.prepare(account)
    done = mount.command(made, "10100", flags=[f"--cache-dir={shown}"])
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert "may be written by everybody" in line
    assert not made.is_mounted()


def test_a_cache_folder_that_cannot_be_used_is_named(mount: Mounts) -> None:
    """A mount without a disk cache says so at the prompt, in one line, and works."""
    made = mount.prepare(mount.account("user"))
    made.expect("nothing is cached on disk")
    done = mount.command(made, "10100", flags=["--cache-dir=/nowhere/cache"])
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("empiarfs: warning: /nowhere")
    assert "nothing is cached on disk" in line
    made.umount()


def open_directory(path: str) -> None:
    """Make a directory that every user may write."""
    Path(path).mkdir()
    Path(path).chmod(0o777)
