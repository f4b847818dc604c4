"""Machines whose fusermount3 does not mount: AppArmor, an unknown file system, a program of conda or brew."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import sandbox
from support.apache import Apache
from support.mounting import Mount, Mounts

from empiarfs.cli import fuse_checks
from empiarfs.mount import mount_table, refusal, requirements

DENIED = b"fusermount3: mount failed: Permission denied\n1\n"
FORBIDDEN = b"fusermount3: mounting over filesystem type 0x858458f6 is forbidden\n1\n"


def program(folder: Path, mode: int = 0o755) -> Path:
    """Make a fusermount3 in `folder`, and return it."""
    folder.mkdir()
    made = folder / "fusermount3"
    made.touch()
    made.chmod(mode)
    return made


@pytest.fixture
def setuid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user with a fusermount3 that may mount."""
    monkeypatch.setattr(requirements, "may_mount", lambda _: True)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("USER", "ada")


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The AppArmor profile of fusermount3, as Ubuntu 25.04 has it."""
    file = tmp_path / "apparmor.d" / "fusermount3"
    file.parent.mkdir()
    file.touch()
    monkeypatch.setattr(refusal, "APPARMOR", file)
    return file


def test_apparmor_is_named(setuid: None, profile: Path) -> None:
    """Where AppArmor confines fusermount3, the message names it, a mount point that works, and the drop-in."""
    says = refusal.explained(DENIED, "/data/empiar")
    assert says.startswith(
        "AppArmor lets fusermount3 mount below /home, /mnt, /media and /tmp, and not on /data/empiar"
    )
    assert "mount on /tmp/empiar-ada" in says
    assert f"{profile.parent}/local/fusermount3; apparmor_parser -r {profile}" in says
    assert "container" not in says


def test_without_apparmor_a_container_is_named(setuid: None, profile: Path) -> None:
    """Where no profile confines fusermount3, the message is about containers, with all that they need."""
    profile.unlink()
    says = refusal.explained(DENIED, "/data/empiar")
    assert "--device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined" in says
    assert refusal.explained(DENIED.replace(b"fusermount3", b"fuse"), "/data/empiar").startswith("mounting is not")


def test_another_permission_is_not_apparmor(setuid: None, profile: Path) -> None:
    """A mount point that fusermount3 cannot reach is not taken for AppArmor."""
    line = "fusermount3: failed to access mountpoint /home/ada/x: Permission denied"
    assert refusal.explained(f"{line}\n1\n".encode(), "/home/ada/x") == line


def test_an_unknown_file_system_is_named(setuid: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the file system that fusermount3 does not know, and a mount point with a link to it."""
    table = [mount_table.Mounted("/", "ext4", frozenset()), mount_table.Mounted("/data", "beegfs", frozenset())]
    monkeypatch.setattr(mount_table, "table", lambda: table)
    assert refusal.explained(FORBIDDEN, "/data/x") == (
        "fusermount3 does not mount on beegfs, where /data/x is; mount on /tmp/empiar-ada and make a link to it: "
        "ln -s /tmp/empiar-ada /data/x"
    )


def test_a_fusermount_that_is_not_setuid_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fusermount3 without the rights of root is named, by the message and by the doctor, with the package."""
    made = program(tmp_path / "conda")
    monkeypatch.setenv("PATH", str(made.parent))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    says = refusal.explained(DENIED, "/data/x")
    assert says.startswith(f"{made} may not mount (fusermount3: mount failed: Permission denied); it is not setuid")
    (found,) = fuse_checks.helper()
    assert (found.state, "apt install fuse3" in found.advice) == ("bad", True)


@pytest.mark.root
def test_a_fusermount_that_may_mount_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several programs in PATH the first that is setuid root is used."""
    conda, system = program(tmp_path / "conda"), program(tmp_path / "system", 0o4755)
    monkeypatch.setenv("PATH", f"{conda.parent}:{system.parent}")
    assert requirements.fusermount() == str(system)


@pytest.fixture
def on_bpf(own_machine: None, mount: Mounts) -> Iterator[Mount]:
    """A mount point of an ordinary user on a file system that fusermount3 does not know."""
    made = mount.prepare(mount.account("user"))
    made.path.mkdir()
    sandbox.mount_bpf(made.path)
    made.path = made.account.mkdir(made.path / "empiar")
    yield made
    sandbox.unbind(made.path.parent)


@pytest.mark.root
def test_a_mount_on_it_fails_with_its_name(on_bpf: Mount, mount: Mounts, apache: Apache) -> None:
    """`mount` and `doctor` name the file system on which fusermount3 does not mount."""
    done = mount.command(on_bpf, "10028", env={"USER": "ada"})
    assert done.returncode == 1
    says = done.stderr.decode()
    assert f"fusermount3 does not mount on bpf, where {on_bpf.path} is; mount on /tmp/empiar-ada" in says
    doctor = on_bpf.account.empiarfs("doctor", on_bpf.path, "--offline", timeout=60)
    assert doctor.returncode == 1
    assert (
        f"bad   a mount on {on_bpf.path} fails\n      fusermount3 does not mount on bpf" in doctor.stdout.decode()
    )


@pytest.mark.root
def test_the_doctor_finds_a_fusermount_that_may_not_mount(mount: Mounts) -> None:
    """The doctor of an ordinary user whose only fusermount3 is not setuid reports it, and tries no mount."""
    account = mount.account("user")
    folder = account.mkdir(account.home / "conda")
    shutil.copyfile(shutil.which("fusermount3") or "", folder / "fusermount3")
    (folder / "fusermount3").chmod(0o755)
    os.chown(folder / "fusermount3", account.user.uid, account.user.gid)
    done = account.empiarfs("doctor", "--offline", env={"PATH": str(folder)}, timeout=60)
    assert done.returncode == 1
    assert f"bad   {folder}/fusermount3 may not mount\n" in done.stdout.decode()
    assert "a mount on" not in done.stdout.decode()
