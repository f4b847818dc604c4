"""Mounts that a shell has protected from a signal: `nohup empiarfs mount -f`, or `trap '' HUP` before a mount."""

import os
import signal
import subprocess
import sys

import pytest
from support.mounting import Mount, Mounts, eventually
from support.programs import names

PROTECTED = "trap '' HUP; exec \"$@\""  # as nohup does, whose output is another matter


def see_hup_ignored(made: Mount) -> None:
    """Send SIGHUP to the daemon, and check that it goes on, and that it still ends on SIGTERM."""
    daemon = made.daemon()
    os.kill(daemon, signal.SIGHUP)
    os.kill(daemon, signal.SIGUSR1)  # is answered after it
    eventually(lambda: "the status of" in made.log(), "the daemon answers signals")
    assert made.call(names, made.path) == ["10028"]
    os.kill(daemon, signal.SIGTERM)
    made.see_gone()


@pytest.mark.promise(
    "SIGHUP, SIGINT and SIGTERM unmount and end the daemon, except those that were ignored when it was started."
)
def test_a_daemon_that_was_started_with_hup_ignored_ignores_it(mount: Mounts, binding: str) -> None:
    """A mount in the background keeps ignoring SIGHUP where the shell had it ignored."""
    made = mount.prepare(mount.account(binding=binding))
    words = ("mount", f"--base-url={mount.base_url}", f"--log-file={made.log_file}", made.path, "10028")
    assert made.run("sh", "-c", PROTECTED, "sh", sys.executable, "-m", "empiarfs", *words).returncode == 0
    see_hup_ignored(made)


def test_a_mount_in_the_foreground_under_nohup_survives_the_terminal(mount: Mounts) -> None:
    """`nohup empiarfs mount -f` goes on when the terminal is closed."""
    made = mount.prepare(mount.account())
    words = ("mount", "-f", f"--base-url={mount.base_url}", f"--log-file={made.log_file}", made.path, "10028")
    made.start("nohup", sys.executable, "-m", "empiarfs", *words, stderr=subprocess.DEVNULL)
    eventually(made.is_mounted, "the mount")
    see_hup_ignored(made)


@pytest.mark.promise(
    "SIGHUP, SIGINT and SIGTERM unmount and end the daemon, except those that were ignored when it was started."
)
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_not_ignored_unmounts(mount: Mounts, number: signal.Signals) -> None:
    """Each of the three signals ends a mount that was started without protection."""
    made = mount("10028")
    os.kill(made.daemon(), number)
    made.see_gone()
