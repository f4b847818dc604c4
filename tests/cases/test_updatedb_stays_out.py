"""Machines with `locate`, whose updatedb searches every mount that root can read, each night."""

import re
import subprocess
from pathlib import Path

import pytest
from support import sandbox

from empiarfs.cli import fuse_checks
from empiarfs.mount import mount_table
from empiarfs.settings import Settings

# as plocate is configured by Debian
DEBIAN = """\
PRUNE_BIND_MOUNTS="yes"
# PRUNENAMES=".git .bzr .hg .svn"
PRUNEPATHS="/tmp /var/spool /media /var/lib/os-prober /var/lib/ceph"
PRUNEFS="NFS afs autofs fuse.ceph fuse.rclone fuse.sshfs fusesmb"
"""


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that configures updatedb, as it comes."""
    file = tmp_path / "updatedb.conf"
    file.write_text(DEBIAN)
    monkeypatch.setattr(fuse_checks, "UPDATEDB_CONFIG", file)
    monkeypatch.setattr(mount_table, "table", list)
    return file


def state(user: int, monkeypatch: pytest.MonkeyPatch, *, allow_other: bool = False) -> list[str]:
    """Return the state of the check, for a user."""
    monkeypatch.setattr("os.geteuid", lambda: user)
    return [one.state for one in fuse_checks.updatedb(Settings(allow_other=allow_other))]


def test_the_doctor_warns_of_mounts_that_updatedb_can_search(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor warns root, and users of `--allow-other`, where updatedb does not leave out fuse.empiarfs."""
    assert state(0, monkeypatch) == ["warn"]
    assert state(1000, monkeypatch, allow_other=True) == ["warn"]
    assert state(1000, monkeypatch) == ["ok"]


def test_the_doctor_names_a_mount_that_updatedb_can_search(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount with allow_other that exists is named, whoever runs the doctor."""
    shared = mount_table.Mounted("/mnt/empiar", mount_table.KIND, frozenset({"allow_other"}))
    monkeypatch.setattr(mount_table, "table", lambda: [shared])
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (found,) = fuse_checks.updatedb(Settings())
    assert (found.state, "searches /mnt/empiar each night" in found.what) == ("warn", True)


@pytest.mark.parametrize("source", ["doctor", "document"])
def test_the_advice_keeps_updatedb_out(configuration: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """The command of the doctor, and that of the document, add fuse.empiarfs to PRUNEFS, and nothing else."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (found,) = fuse_checks.updatedb(Settings())
    text = (sandbox.PROJECT / "docs" / "running.md").read_text(encoding="utf-8")
    (documented,) = re.findall(r"^sudo (sed -i .*updatedb\.conf)$", text, re.MULTILINE)
    command = {
        "doctor": found.advice.removeprefix("as root: "),
        "document": documented.replace("/etc/updatedb.conf", str(configuration)),
    }[source]
    subprocess.run(["bash", "-c", command], check=True)
    assert configuration.read_text() == DEBIAN.replace('PRUNEFS="', 'PRUNEFS="fuse.empiarfs ')
    assert state(0, monkeypatch) == ["ok"]


def test_a_machine_without_updatedb_is_not_mentioned(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where updatedb is not installed the doctor has no line about it."""
    configuration.unlink()
    assert state(0, monkeypatch) == []


def test_the_document_says_so_wherever_a_mount_is_open_to_others() -> None:
    """Each section of docs/running.md that uses allow_other leads to the command."""
    text = (sandbox.PROJECT / "docs" / "running.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    using = [one for one in sections if re.search("allow.other", one.partition("| message |")[0])]
    assert [one.splitlines()[0] for one in using if "updatedb" not in one] == ["Watching a mount"]
