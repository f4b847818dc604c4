"""Scripts that wait for a lock or a pipe of the shell that mounted: `flock lk empiarfs mount M 10028`."""

import subprocess
import sys
from pathlib import Path

from support.mounting import Mount, Mounts
from support.programs import names


def mount_in_shell(mounts: Mounts, made: Mount, script: str) -> "subprocess.CompletedProcess[bytes]":
    """Run `script`, in which `"$@"` is the command that mounts; it must end while the mount goes on."""
    words = ("mount", f"--base-url={mounts.base_url}", f"--log-file={made.log_file}", made.path, "10028")
    return made.run("bash", "-c", script, "bash", sys.executable, "-m", "empiarfs", *words, timeout=20)


def test_a_lock_of_the_shell_is_free_once_the_mount_answers(mount: Mounts, binding: str) -> None:
    """A lock under which a mount was made is released when the command returns, not when the mount ends."""
    made = mount.prepare(mount.account(binding=binding))
    lock = made.account.home / "lock"
    assert mount_in_shell(mount, made, f'flock {lock} "$@"').returncode == 0
    assert made.run("flock", "--nonblock", lock, "true").returncode == 0
    assert made.call(names, made.path) == ["10028"]


def test_a_pipe_of_the_shell_ends_once_the_mount_answers(mount: Mounts) -> None:
    """A pipeline around a mount ends when the command returns, whatever descriptor leads to the pipe."""
    made = mount.prepare(mount.account())
    done = mount_in_shell(mount, made, '"$@" 3>&1 7>&1 1>&2 | cat')
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert made.call(names, made.path) == ["10028"]


def test_a_mount_works_where_the_standard_descriptors_are_closed(mount: Mounts) -> None:
    """A mount that was started without standard descriptors answers, and keeps the lock of its mount point."""
    made = mount.prepare(mount.account())
    assert mount_in_shell(mount, made, '"$@" <&- >&- 2>&-').returncode == 0
    opened = [str(one.readlink()) for one in Path(f"/proc/{made.daemon()}/fd").iterdir()]
    assert [one for one in opened if "/mount-" in one] != []
    assert made.call(names, made.path) == ["10028"]
