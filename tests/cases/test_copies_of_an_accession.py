"""Copies of `EMPIAR-10028`, which was a link: `cp -r`, `rsync -a` and `tar` made a dangling link of it."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH118

import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from support.apache import Apache
from support.fixture_tree import FixtureTree
from support.mounting import Mount, Mounts

from empiarfs.archive import Archive
from empiarfs.errors import Stale
from empiarfs.model import File
from empiarfs.mount.operations import Operations
from empiarfs.mount.status import MountStats, RecentWarnings
from empiarfs.mount.view import Owner

COPIES = {
    "cp": 'cp -r "$1" "$2/copy"',
    "rsync": 'rsync -a "$1" "$2" && mv "$2/$(basename "$1")" "$2/copy"',
    # a listing's dates are in the server's time zone
    "tar": 'mkdir "$2/copy" && tar -C "$1/.." -cf - "$(basename "$1")" | '
    'tar -C "$2/copy" -x --strip-components=1 --warning=no-timestamp',
}
NAMES = ["EMPIAR-10100", "empiar-10100"]


def files(root: str) -> dict[str, bytes]:
    """Return the content of all files below `root`, by path."""
    found = (os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)
    return {os.path.relpath(path, root): Path(path).read_bytes() for path in found}


@pytest.mark.parametrize("tool", COPIES)
@pytest.mark.parametrize("name", NAMES)
def test_a_copy_has_all_files(mounted: Mount, tree: FixtureTree, tmp_path: Path, tool: str, name: str) -> None:
    """A copy of an entry by its accession is a directory with all its files."""
    target = mounted.account.mkdir(mounted.account.home / f"{tool}-{name}-{tmp_path.name}")
    done = mounted.run("bash", "-e", "-o", "pipefail", "-c", COPIES[tool], "bash", mounted / name, target)
    assert (done.returncode, done.stderr) == (0, b"")
    expected = {path: data for path, data in files(os.fspath(tree.root / "10100")).items() if "README" not in path}
    assert {path: len(data) for path, data in mounted.call(files, target / "copy").items()} == {
        path: len(data) for path, data in expected.items()
    }


def test_the_size_is_that_of_the_files(mounted: Mount) -> None:
    """`du` of an accession shows the size of its files."""

    def used(path: str) -> int:
        return int(mounted.run("du", "-sB1", mounted / path).stdout.split()[0])

    assert used("EMPIAR-10100") == used("10100") > 4096


def test_a_file_read_by_both_names_is_fetched_once(mount: Mounts, apache: Apache, binding: str) -> None:
    """A file that was read by one name is read by the other without a request."""
    made = mount("10100", binding=binding)
    before = made.call(files, made / "10100/data")
    apache.clear()
    assert made.call(files, made / "EMPIAR-10100/data") == before
    assert apache.requests() == []


def test_a_view_of_each_name_is_kept(tree: FixtureTree) -> None:
    """A version that the kernel knows by one name is not opened by the other, whose length it has not."""
    old, new = File("10028/a", 4000, 1), File("10028/a", 3000, 2)
    newest = [old]
    archive = SimpleNamespace(stat=lambda path: newest[0], has_answered=lambda: True)
    stats = MountStats("/mnt", RecentWarnings())
    operations = Operations(cast("Archive", archive), Owner(0, 0), 0, lambda: None, stats)
    assert operations.getattr("/EMPIAR-10028/a")["st_size"] == 4000
    newest[0] = new
    assert operations.getattr("/10028/a")["st_size"] == 3000
    assert operations.open("/10028/a", SimpleNamespace(fh=0, flags=os.O_RDONLY)) == 0
    with pytest.raises(Stale):
        operations.open("/EMPIAR-10028/a", SimpleNamespace(fh=0, flags=os.O_RDONLY))
    assert operations.getattr("/EMPIAR-10028/a")["st_ino"] == operations.getattr("/10028/a")["st_ino"]
    assert operations.open("/EMPIAR-10028/a", SimpleNamespace(fh=0, flags=os.O_RDONLY)) == 0
