"""Mount points that are named by a link, or by several at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.mounting import Mounts, eventually

from empiarfs.mount import mount_table, mountpoints


def mounts_at(path: Path) -> int:
    """Return how many mounts are stacked at `path`."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return sum(line.split(" ")[1] == str(path) for line in lines)


def test_mounts_of_one_place_at_once_do_not_stack(mount: Mounts) -> None:
    """Of several mounts started at once on one mount point one is made, and the others fail."""
    made = mount.prepare(mount.account())
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: mount.command(made, "10028"), range(3)))
    assert sorted(one.returncode for one in done) == [0, 1, 1]
    assert all(b"already mounted" in one.stderr for one in done if one.returncode)
    assert mounts_at(made.path) == 1
    made.umount()
    assert mounts_at(made.path) == 0


def test_an_owner_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """`empiarfs umount` shows the user id of an owner that has no name on this machine."""
    other = mount_table.Mounted("/mnt", mount_table.KIND, frozenset({"ro", "user_id=54321", "group_id=0"}))
    monkeypatch.setattr(mount_table, "table", lambda: [other])
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(mountpoints.CannotMount, match="/mnt belongs to user 54321: sudo empiarfs umount /mnt"):
        mountpoints.unmount(Path("/mnt"), lazy=False)


def test_a_link_to_a_mount_point_may_stand_for_it(mount: Mounts) -> None:
    """A symbolic link to a mount point can be mounted and unmounted."""
    account = mount.account()
    made = mount.prepare(account)
    made.path.mkdir()
    account.run("ln", "-s", made.path, account.home / "link")
    through = mount.prepare(account, account.home / "link")
    assert mount.command(through, "10028").returncode == 0
    assert mounts_at(made.path) == 1
    assert account.empiarfs("umount", account.home / "link").returncode == 0
    eventually(lambda: not mounts_at(made.path), "it is gone")
