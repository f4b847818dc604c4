"""What the shell offers at the tab key."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from support.mounting import Mounts

from empiarfs.cli import main
from empiarfs.model import Directory, File, Node, Stub
from empiarfs.settings import archive_name
from empiarfs.storage.index import SqliteIndex, index_file
from empiarfs.urls import BASE_URL

TREE: dict[str, list[Node]] = {
    "": [Directory("10028"), Directory("10934"), Directory("about"), Directory("٣"), Stub("notes.txt")],
    "10028": [Directory("10028/data"), Stub("10028/10028.xml")],
    "10028/data": [
        Directory("10028/data/Micrographs"),
        File("10028/data/a.mrc", 5, 6),
        Stub("10028/data/b.mrc"),
        Stub("10028/data/with space.mrc"),
        Stub("10028/data/tick`.mrc"),
        Stub("10028/data/\udcff.mrc"),
        Stub("10028/data/new\nline"),
    ],
}


@pytest.fixture(autouse=True)
def known(own_settings: None, tmp_path: Path) -> None:
    """An index that knows a tree, of a server that is not there."""
    file = index_file(tmp_path / "cache", archive_name(BASE_URL))
    file.parent.mkdir(parents=True)
    index = SqliteIndex(file)
    for path, entries in TREE.items():
        index.replace(path, entries, 1.0)
    index.close()


def offered(*words: str) -> list[str]:
    """Press the tab key after `words`; return what the shell receives, each with its kind."""
    shell = ShellComplete(main, {}, "empiarfs", "_EMPIARFS_COMPLETE")
    return [f"{item.type},{item.value}" for item in shell.get_completions(list(words[:-1]), words[-1])]


def test_bash_gets_the_completions_alone() -> None:
    """The program, called as bash calls it, writes the completions and nothing else."""
    asked = {"_EMPIARFS_COMPLETE": "bash_complete", "COMP_WORDS": "empiarfs ls 109", "COMP_CWORD": "2"}
    program = "from empiarfs.cli import main; main(prog_name='empiarfs')"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | asked, capture_output=True, check=True, timeout=30
    )
    assert (done.stdout, done.stderr) == (b"plain,10934/\n", b"")


@pytest.mark.parametrize("command", ["ls", "stat", "cat"])
@pytest.mark.parametrize(
    ("begun", "paths"),
    [
        ("1", ["10028/", "10934/"]),
        ("109", ["10934/"]),
        ("10028", ["10028/", "10028/data", "10028/10028.xml"]),  # two, lest the shell puts a space behind it
        ("10028/", ["10028/data/", "10028/10028.xml"]),
        ("10028/1", ["10028/10028.xml"]),
        ("EMPIAR-10028/data/a", ["EMPIAR-10028/data/a.mrc"]),
        (
            "10028/data/",
            ["10028/data/Micrographs/", "10028/data/a.mrc", "10028/data/b.mrc", "10028/data/with space.mrc"],
        ),
        ("10028/data/M", ["10028/data/Micrographs/"]),
        ("10934/", []),
        ("a", []),
        ("٣", []),  # a digit, and no number of an entry
    ],
)
def test_paths_that_were_listed_are_offered(command: str, begun: str, paths: list[str]) -> None:
    """The known children of the path so far are offered, except names that no shell can quote."""
    assert offered(command, begun) == [f"plain,{path}" for path in paths]


@pytest.mark.parametrize("begun", ["/mnt/e", "./x", "~/empiar/1"])
def test_local_paths_are_left_to_the_shell(begun: str) -> None:
    """A local path is completed by the shell, because it may be inside a mount."""
    (line,) = offered("ls", begun)
    assert line.startswith("file,")


def test_entries_are_offered_to_mount() -> None:
    """`mount` completes entries after the mount point, each of them once."""
    assert offered("mount", "/mnt/empiar", "10934", "100") == ["plain,10028"]


def test_another_archive_has_an_index_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The completions come from the index of the archive that the settings name, and from no other."""
    assert offered("ls", "--base-url", "https://example.org/e", "1") == []
    assert offered("ls", "--sample", "9") == []
    monkeypatch.setenv("EMPIARFS_BASE_URL", "https://example.org/e")
    assert offered("ls", "1") == []


def test_without_an_index_nothing_is_offered_and_nothing_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completion without an index offers nothing and creates no directory."""
    folder = tmp_path / "elsewhere"
    monkeypatch.setenv("EMPIARFS_CACHE_DIR", str(folder))
    assert offered("ls", "1") == []
    assert not folder.exists()


def test_completion_ignores_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completion with a wrong setting offers nothing; the command itself reports it."""
    monkeypatch.setenv("EMPIARFS_MEMORY_CACHE_SIZE", "much")
    assert offered("ls", "1") == []


@pytest.mark.parametrize("command", ["umount", "status"])
def test_mount_points_are_offered(mount: Mounts, command: str) -> None:
    """`umount` and `status` complete the mount points of empiarfs, and directories where none matches."""
    made = mount("10028")
    assert f"plain,{made.path}" in offered(command, f"{made.path.parent}/mn")
    assert offered(command, "/no/such") == ["dir,/no/such"]
