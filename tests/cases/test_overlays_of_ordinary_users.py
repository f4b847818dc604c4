"""Programs of ordinary users that write beside their input, far below its top: the overlays of docs/running.md."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import sandbox
from support.apache import Apache
from support.fixture_tree import DEEP
from support.mounting import Account, Mount, Mounts

DOCUMENT = sandbox.PROJECT / "docs" / "running.md"
# what says that ordinary users may have no user namespaces, and the value that forbids them
FORBIDDING = {
    "kernel/apparmor_restrict_unprivileged_userns": "1",
    "kernel/unprivileged_userns_clone": "0",
    "user/max_user_namespaces": "0",
}
# what a program does that writes beside its input, far below the top
USES = f"""
set -e
cd ~/overlay/merged/data
grep -q bottom {DEEP}/bottom.txt
echo new > {DEEP}/new.txt
mkdir {DEEP}/made
echo more >> {DEEP}/bottom.txt
mv {DEEP}/new.txt {DEEP}/made/moved.txt
mv deep/2/3/4 deep/2/four
rm "50%/100%" "TS_016.mrc/inside.mrc"
rmdir TS_016.mrc
echo over > plain.mrc
test "$(cat deep/2/four/5/6/7/8/9/10/bottom.txt)" = bottommore
test "$(cat deep/2/four/5/6/7/8/9/10/made/moved.txt)" = new
test "$(cat plain.mrc)" = over
test ! -e "50%/100%"
test ! -e TS_016.mrc
test ! -e deep/2/3/4
echo all of it worked
"""


def section() -> str:
    """Return the section of the document about overlays."""
    text = DOCUMENT.read_text(encoding="utf-8")
    (found,) = re.findall(r"^## Programs that write beside their input\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    return str(found)


def recipes() -> list[str]:
    """Return the commands of the document, block by block: the common beginning, and then each way."""
    return [f"{one}\n" for one in re.findall(r"^```sh\n(.*?)\n```", section(), re.MULTILINE | re.DOTALL)]


def typed(account: Account, *lines: str, root: bool = False) -> "subprocess.CompletedProcess[bytes]":
    """Type `lines` into a shell of the user; a shell that they start gets those that follow."""
    text = "".join(lines).replace("empiar/10028", "empiar/10001")  # an entry whose directories are deep
    if root:  # as by sudo, with the user's home: the user's shell has put that in before
        text = text.removeprefix("sudo ")
        return subprocess.run(
            ["bash"], input=text.encode(), env=account.environment(), capture_output=True, check=False, timeout=60
        )
    return account.run("bash", typed=text, env={"SHELL": "/bin/bash"})


def denied_namespaces() -> str:
    """Return the kernel setting that denies user namespaces to ordinary users, or "" where they are allowed."""
    for name, value in FORBIDDING.items():
        setting = Path("/proc/sys", name)
        if setting.exists() and setting.read_text().strip() == value:
            return str(setting)
    return ""


@pytest.fixture
def disk(own_machine: None, open_folder: Path) -> Iterator[Path]:
    """A directory that can hold an overlay's upper directory; that of a container, itself an overlay, cannot."""
    found = subprocess.run(
        ["findmnt", "-no", "FSTYPE", "--target", open_folder], stdout=subprocess.PIPE, check=True
    )
    if found.stdout.strip() != b"overlay" or os.geteuid():
        yield open_folder
        return
    sandbox.mount_tmpfs(open_folder)
    yield open_folder
    sandbox.unbind(open_folder)


@pytest.fixture
def mounts(disk: Path, apache: Apache) -> Iterator[Mounts]:
    """Makes mounts there, unmounts them, and fails the test if anything is left or was logged."""
    made = Mounts(disk, apache.url)
    with made.watched(90):
        yield made
    made.finish()


def mounted(mounts: Mounts, binding: str, *flags: str) -> Mount:
    """Return 10001, mounted by an ordinary user on ~/empiar, with the directories that every recipe needs."""
    account = mounts.account("user", binding)
    made = mounts("10001", account=account, path=account.home / "empiar", flags=flags)
    assert typed(account, recipes()[0]).returncode == 0
    return made


def see_changed(made: Mount, done: "subprocess.CompletedProcess[bytes]") -> None:
    """Check that all changes were made in the overlay, and none in the mount."""
    assert done.stdout.decode().endswith("all of it worked\n"), done.stderr.decode(errors="replace")
    assert done.returncode == 0
    assert made.run("cat", made / f"10001/data/{DEEP}/bottom.txt").stdout == b"bottom"


def see_deletable(made: Mount, *, root: bool = False) -> None:
    """Check that the last command of the document deletes the overlay."""
    (command,) = re.findall(rf"`({'sudo rm' if root else 'chmod'} -[^`]+)`", section())
    done = typed(made.account, command, root=root)
    assert done.returncode == 0, done.stderr
    assert not (made.account.home / "overlay").exists()


def ends_with(word: str) -> str:
    """Return the command of the document that ends the overlay that `word` made."""
    (command,) = re.findall(rf"It ends with `([^`]*{word}[^`]*)`", section())
    return f"{command}\n"


def test_there_are_three_recipes() -> None:
    """The document shows one beginning and three ways to make an overlay, which these tests cover."""
    assert [re.sub(r"^sudo ", "", one).split()[0] for one in recipes()] == [
        "mkdir", "fuse-overlayfs", "unshare", "mount",
    ]  # fmt: skip


def test_fuse_overlayfs_is_written_at_every_depth(mounts: Mounts, binding: str) -> None:
    """An ordinary user can write at every depth with fuse-overlayfs, and delete the overlay afterwards."""
    made = mounted(mounts, binding)
    _, recipe, _, _ = recipes()
    try:
        see_changed(made, typed(made.account, recipe, USES))
    finally:
        assert typed(made.account, ends_with("fusermount3")).returncode == 0
    see_deletable(made)


def test_an_overlay_in_a_user_namespace_is_written_at_every_depth(mounts: Mounts, binding: str) -> None:
    """An ordinary user can write at every depth in a user namespace, or gets the error that the document names."""
    made = mounted(mounts, binding)
    _, _, recipe, _ = recipes()
    done = typed(made.account, recipe, USES, ends_with("exit"))
    denied = denied_namespaces()
    if denied:
        words = done.stderr.decode(errors="replace")
        assert re.search("unshare failed|permission denied", words), f"{denied} forbids it, but: {words}"
        return
    see_changed(made, done)
    see_deletable(made)


@pytest.mark.root
def test_an_overlay_of_roots_is_written_at_every_depth(mounts: Mounts, binding: str) -> None:
    """An overlay that root mounts can be written at every depth by the ordinary user who mounted empiarfs."""
    made = mounted(mounts, binding, "--allow-other")
    *_, recipe = recipes()
    done = typed(made.account, recipe, root=True)
    assert done.returncode == 0, done.stderr
    try:
        see_changed(made, typed(made.account, USES))
    finally:
        assert typed(made.account, ends_with("sudo umount"), root=True).returncode == 0
    see_deletable(made, root=True)
