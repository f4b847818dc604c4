"""The requests of a mount, counted by the server; those of whole jobs stand in test_mount_jobs."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH110, PTH116, PTH208

import errno
import os
import time
from pathlib import Path

import pytest
from support.apache import Apache
from support.fault_proxy import FaultProxy
from support.fixture_tree import FixtureTree
from support.mounting import Mount, Mounts, eventually
from support.programs import length, names

from empiarfs.cli.text import printable


def unsorted_names(path: str) -> list[str]:
    """Return the names in a directory, as they come."""
    return os.listdir(path)


def error_of_stat(path: str) -> int:
    """Return the errno of `stat`; 0 where it works."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno or -1
    return 0


def read(path: str) -> bytes:
    """Return the bytes of a file."""
    return Path(path).read_bytes()


@pytest.mark.promise("`stat` and `open` cost one request for a file, ever (until its listed size or date changes).")
def test_each_file_is_measured_once_for_ever(mount: Mounts, apache: Apache, binding: str) -> None:
    """`ls -l` sends one HEAD for each file, and none again, after a new mount neither."""
    account = mount.account(binding=binding)
    made = mount("10001", account=account)
    assert made.run("ls", "-l", made / "10001/data").returncode == 0
    heads = [one.path for one in apache.requests("HEAD", "10001/data/.*")]
    assert len(heads) == len(set(heads)) > 30
    apache.clear()
    assert made.run("ls", "-l", made / "10001/data").returncode == 0
    assert apache.requests() == []
    made.umount()
    again = mount(account=account)
    apache.clear()
    done = again.run("ls", "-l", again / "10001/data")
    assert done.returncode == 0
    assert apache.requests(path="10001/.*") == []


def test_ls_of_a_path_in_a_mount_measures_no_file(mount: Mounts, apache: Apache, binding: str) -> None:
    """`empiarfs ls` of a path in a mount costs one request for the listing, and shows the server's order."""
    made = mount("10001", binding=binding)
    apache.clear()
    done = made.account.empiarfs("ls", made / "10001/data")
    assert [one.method for one in apache.requests(path="10001/data/.*")] == ["GET"]
    shown = done.stdout.decode().splitlines()
    there = made.call(unsorted_names, made / "10001/data")
    assert [name.removesuffix("/") for name in shown] == [printable(name) for name in there]
    assert any(name.endswith("/") for name in shown)


@pytest.mark.promise(
    "A name that is not listed is requested before `ENOENT` is returned: the servers sometimes leave one out, "
    "and hide `README*` and dot files."
)
def test_a_hidden_file_is_found_by_its_name(mount: Mounts, apache: Apache) -> None:
    """A file that Apache leaves out of its listings is found by its name."""
    made = mount("10001")
    assert "README.md" not in made.call(names, made / "10001/data")
    assert made.call(read, made / "10001/data/README.md").startswith(b"# hidden")
    assert len(apache.requests("HEAD", "10001/data/README.md")) == 1


@pytest.mark.promise("If not, it is not requested again for an hour.")
def test_a_missing_name_is_requested_once(mount: Mounts, apache: Apache, binding: str) -> None:
    """A name that is not in the listing costs one HEAD, and none again, after a new mount neither."""

    def thrice(path: str) -> list[bool]:
        return [os.path.exists(path) for _ in range(3)]

    account = mount.account(binding=binding)
    made = mount("10001", account=account)
    assert made.call(thrice, made / "10001/data/nothing.mrc") == [False] * 3
    assert made.call(thrice, made / "10001/data/nothing.mrc") == [False] * 3
    assert len(apache.requests(path="10001/data/nothing.mrc")) == 1
    made.umount()
    again = mount("10001", account=account)
    assert again.call(thrice, again / "10001/data/nothing.mrc") == [False] * 3
    assert len(apache.requests(path="10001/data/nothing.mrc")) == 1


@pytest.mark.promise(
    "A name that is not listed is requested before `ENOENT` is returned: the servers sometimes leave one out, "
    "and hide `README*` and dot files."
)
@pytest.mark.promise("If it exists it is listed from then on.")
def test_a_file_that_one_listing_omits_is_there(mount: Mounts, fault_proxy: FaultProxy) -> None:
    """A file that a listing omits is found by its name, and listed from then on."""

    def without(page: bytes) -> bytes:
        return b"\n".join(line for line in page.split(b"\n") if b"plain.mrc" not in line)

    with fault_proxy.edit("10001/data/", without, times=1):
        made = mount("10001", base_url=fault_proxy.url)
        assert "plain.mrc" not in made.call(names, made / "10001/data")
        assert made.call(read, made / "10001/data/plain.mrc") == b"plain.mrc" * 3
        assert "plain.mrc" in made.call(names, made / "10001/data")


@pytest.mark.promise(
    "A name that a new listing lacks is shown until a second listing lacks it too, or the server answers 404 "
    "for it."
)
def test_a_listing_that_shrinks_must_repeat(mount: Mounts, own_apache: Apache, small_tree: Path) -> None:
    """A name that a newer listing lacks stays until a second listing lacks it too."""
    made = mount("10028", base_url=own_apache.url, env={"EMPIARFS_LISTING_TTL": "0.3"})
    folder = made / "10028/data"
    assert made.call(names, folder) == ["a.txt", "b.txt", "c.txt"]
    (small_tree / "10028/data/c.txt").unlink()
    own_apache.clear()
    seen = []  # how many new listings had been asked for when the name was still there
    end = time.monotonic() + 30

    while time.monotonic() < end:
        before = len(own_apache.requests("GET", "10028/data/"))
        if "c.txt" not in made.call(names, folder):
            break
        seen.append(before)
    assert time.monotonic() < end, "the name never went"
    assert max(seen) >= 1, "one listing without it was enough"
    assert made.call(names, folder) == ["a.txt", "b.txt"]


def test_what_is_new_at_the_server_shows_up(mount: Mounts, own_apache: Apache, small_tree: Path) -> None:
    """A stale listing is shown at once and refreshed in the background."""
    made = mount("10028", base_url=own_apache.url, env={"EMPIARFS_LISTING_TTL": "0.3"})
    folder = made / "10028/data"
    made.call(names, folder)
    (small_tree / "10028/data/d.txt").write_text("d")
    eventually(lambda: "d.txt" in made.call(names, folder), "the new name")
    assert made.call(read, folder / "d.txt") == b"d"


@pytest.mark.promise(
    "An unreachable server is never `ENOENT`, and never an empty directory: what was listed before stays listed."
)
def test_without_the_server_what_is_known_is_shown(mount: Mounts, own_apache: Apache) -> None:
    """While the server is unreachable, cached listings, sizes and bytes are served, at a new mount too."""
    account = mount.account()
    settings = {"EMPIARFS_LISTING_TTL": "0", "EMPIARFS_PATIENCE": "1"}
    made = mount("10028", base_url=own_apache.url, account=account, env=settings)
    made.expect("refuses connections|connection was lost|no reply")
    assert made.run("cp", "-r", made / "10028/data", account.home / "copy").returncode == 0
    own_apache.stop()
    assert made.call(names, made / "10028/data") == ["a.txt", "b.txt", "c.txt"]
    assert made.call(read, made / "10028/data/a.txt") == b"a.txt"
    made.umount()
    again = mount("10028", base_url=own_apache.url, account=account, env=settings)
    again.expect("refuses connections|connection was lost|no reply")
    assert again.call(names, again / "10028/data") == ["a.txt", "b.txt", "c.txt"]
    assert again.call(read, again / "10028/data/b.txt") == b"b.txt"


@pytest.mark.promise(
    "An unreachable server is never `ENOENT`, and never an empty directory: what was listed before stays listed."
)
def test_the_archive_can_be_mounted_while_the_server_is_away(mount: Mounts, own_apache: Apache) -> None:
    """A mount works while the server is unreachable, and lookups fail with EIO after the patience."""
    own_apache.stop()
    made = mount(base_url=own_apache.url, env={"EMPIARFS_PATIENCE": "0.5"})
    made.expect("refuses connections|connection was lost|no reply")
    assert made.call(error_of_stat, made / "10028/data") == errno.EIO


def test_a_few_failed_replies_are_retried(mount: Mounts, fault_proxy: FaultProxy) -> None:
    """A few replies of 503 are retried, and the read succeeds."""
    made = mount("10100", base_url=fault_proxy.url)
    made.expect("HTTP 503")
    with fault_proxy.answer("10100/data/random.bin", 503, times=2):
        assert len(made.call(read, made / "10100/data/random.bin")) == 8 * 2**20 + 4_321


@pytest.mark.promise(
    "If a server does not answer, a read waits (`--patience`, 300 s), then fails with `EIO`; it never returns "
    "other bytes or fewer."
)
def test_an_error_that_lasts_is_an_error(mount: Mounts, fault_proxy: FaultProxy) -> None:
    """A read fails with EIO after the patience, and returns no other bytes."""
    made = mount("10100", base_url=fault_proxy.url, env={"EMPIARFS_PATIENCE": "1"})
    made.expect("HTTP 500")
    with fault_proxy.answer("10100/data/random.bin", 500, method="GET"):
        assert made.call(length, made / "10100/data/random.bin") == -errno.EIO
    assert made.call(length, made / "10100/data/random.bin") > 0


@pytest.mark.promise("A listing's rounded size is never shown as one.")
def test_known_sizes_are_not_the_rounded_ones(mount: Mounts, tree: FixtureTree) -> None:
    """A size that the listing rounds is shown exactly."""

    def sizes(folder: str) -> dict[str, int]:
        return {entry.name: entry.stat().st_size for entry in os.scandir(folder)}

    made: Mount = mount("10100")
    found = made.call(sizes, made / "10100/data")
    assert found == {file.name: file.stat().st_size for file in (tree.root / "10100/data").iterdir()}
