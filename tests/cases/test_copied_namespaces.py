"""Mounts that a sandbox or container has copied into its mount namespace, and that outlive their umount."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.mounting import DEADLINE, Mount, Mounts, eventually
from support.programs import names

pytestmark = pytest.mark.root  # `unshare --mount`


@pytest.fixture
def copied(mount: Mounts) -> Iterator[Mount]:
    """A mount that another mount namespace has a copy of."""
    made = mount("10028")
    command = ("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo copied; exec sleep 60")
    holder = made.start(*command, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"copied\n"
    yield made
    holder.kill()


def test_umount_names_a_daemon_that_goes_on(copied: Mount, mount: Mounts) -> None:
    """`empiarfs umount` warns of a copy that keeps the daemon alive, and names the process that ends with it."""
    daemon = copied.daemon()
    done = copied.account.empiarfs("umount", copied.path, timeout=DEADLINE)
    assert done.returncode == 0
    assert not copied.is_mounted()
    assert f"warning: process {daemon} still serves an earlier mount on {copied.path}" in done.stderr.decode()
    assert f"a copy of it (unshare --mount); end it: kill {daemon}\n" in done.stderr.decode()
    again = mount.prepare(copied.account, copied.path)
    refused = mount.command(again, "10100")
    assert refused.returncode == 1
    assert f"end it: kill {daemon}\n" in refused.stderr.decode()
    os.kill(daemon, signal.SIGTERM)
    eventually(lambda: not copied.daemons(), "the daemon ends")
    assert mount.command(again, "10100").returncode == 0
    assert again.call(names, again.path) == ["10100"]


def test_a_daemon_outside_of_a_container_is_described(mount: Mounts) -> None:
    """Where the process that holds a mount point is not visible, the message says so, and what to do."""
    made = mount("10028")
    again = mount.prepare(made.account, made.path)
    inside = 'umount "$0" && exec "$@"'
    words = ("mount", f"--base-url={mount.base_url}", f"--log-file={again.log_file}", made.path, "10100")
    refused = made.run(
        "unshare", "--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private",
        "sh", "-c", inside, made.path, sys.executable, "-m", "empiarfs", *words,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "a process that is not visible here" in refused.stderr.decode()
    assert "end it there, or choose another mount point\n" in refused.stderr.decode()
    assert made.call(names, made.path) == ["10028"]


def test_umount_returns_when_the_daemon_has_ended(mount: Mounts, binding: str) -> None:
    """`empiarfs umount` returns without a word once the daemon has ended, so that the next mount need not wait."""
    made = mount("10028", binding=binding)
    done = made.account.empiarfs("umount", made.path, timeout=DEADLINE)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not made.daemons()
