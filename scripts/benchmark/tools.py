"""The programs that mount: how each is started, what it costs, and how it is ended whatever state it is in."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from support import sandbox

MOUNT_SECONDS = 60.0  # for a mount to appear
END_SECONDS = 10.0  # for a program to end once its mount is gone
KILL_SECONDS = 10.0
STATUS = ".empiarfs-status"

_OURS = ("EMPIARFS_", "RCLONE_", "XDG_")  # what the caller has set is no default
_TUNED = (
    "--vfs-read-chunk-streams", "8", "--vfs-read-chunk-size", "4M", "--vfs-read-ahead", "64M", "--checkers", "32",
)  # fmt: skip


class NotMounted(Exception):
    """A program did not mount; the text says which and how."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that mounts.

    Attributes:
        name: what a table calls it.
        version: as it says itself.
        command: returns the command that starts it in the foreground, from the URL, the mount point and the cache.
        variables: what its environment holds besides.
    """

    name: str
    version: str
    command: Callable[[str, Path, Path], Sequence[str | Path]]
    variables: Mapping[str, str] = field(default_factory=dict)


def all_tools() -> list[Tool]:
    """Return those that are installed, empiarfs first."""
    found = [empiarfs()]
    rclone = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if rclone:
        found += [_rclone(rclone, "rclone"), _rclone(rclone, "rclone tuned", *_TUNED)]
    httpdirfs = shutil.which("httpdirfs")
    if httpdirfs:
        found.append(_httpdirfs(httpdirfs))
    return found


def empiarfs(name: str = "empiarfs", flags: Sequence[str] = (), **variables: str) -> Tool:
    """Return empiarfs as it comes, or with further flags or variables."""

    def command(url: str, point: Path, cache: Path) -> Sequence[str | Path]:
        return [
            sys.executable, "-m", "empiarfs", "mount", "-f", "--base-url", url, "--cache-dir", cache, *flags, point,
        ]  # fmt: skip

    variables = {"PYTHONPATH": os.fspath(sandbox.PROJECT), **variables}
    return Tool(name, _version("empiarfs", sys.executable, "-m", "empiarfs", "--version"), command, variables)


def _rclone(program: str, name: str, *flags: str) -> Tool:
    def command(url: str, point: Path, cache: Path) -> Sequence[str | Path]:
        return [
            program, "mount", ":http:", point, "--http-url", url + "/", "--read-only", "--config", "",
            "--vfs-cache-mode", "full", "--cache-dir", cache, *flags,
        ]  # fmt: skip

    return Tool(name, _version("rclone", program, "version"), command)


def _httpdirfs(program: str) -> Tool:
    def command(url: str, point: Path, cache: Path) -> Sequence[str | Path]:
        return [program, "-f", "--cache", "--cache-location", cache, url + "/", point]

    return Tool("httpdirfs", _version("httpdirfs", program, "--version"), command)


def _version(name: str, *command: str) -> str:
    """Return the line in which a program says its name and version; libraries below it may say theirs too."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=MOUNT_SECONDS)
    lines = f"{done.stdout}\n{done.stderr}".splitlines()
    return next((line.strip() for line in lines if name in line.lower()), name)


@contextmanager
def mounted(tool: Tool, url: str, ftp_url: str, cache: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """Mount; yield the mount point and the process, and unmount afterwards.

    Raises:
        NotMounted: in time it did not.
    """
    point = cache.with_name(cache.name + "-mount")
    point.mkdir(exist_ok=True)
    home = cache.with_name("home")
    home.mkdir(exist_ok=True)
    with cache.with_name("tools.log").open("ab") as log:
        process = subprocess.Popen(
            tool.command(url, point, cache),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env=_environment(home) | dict(tool.variables) | {"EMPIARFS_FTP_URL": ftp_url},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + MOUNT_SECONDS
        while not sandbox.mounted(point):
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotMounted(f"{tool.name} does not mount")
            time.sleep(0.02)
        yield point, process
    finally:
        _end(process, point)


def _environment(home: Path) -> dict[str, str]:
    """Return an environment in which nothing that the caller has chosen is left, a proxy neither."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OURS) and not name.lower().endswith("_proxy")
    }
    return kept | {"HOME": os.fspath(home), "XDG_RUNTIME_DIR": os.fspath(home), "EMPIARFS_CONFIG": os.devnull}


def _end(process: subprocess.Popen[bytes], point: Path) -> None:
    """Unmount even if a program hangs in it, and end the mount's program, at last by force."""
    with suppress(OSError):  # it never mounted, or it is gone
        sandbox.unbind(point)
    for signal_number, seconds in ((0, END_SECONDS), (signal.SIGTERM, END_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal_number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
    while sandbox.mounted(point):
        sandbox.unbind(point)


def cost(process: int) -> tuple[float, float]:
    """Return the CPU seconds of all threads of a process, and its peak memory in MB; zeros after its end."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(") ", 1)[1].split()
        status = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    ticks = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    peak = next((line.split()[1] for line in status if line.startswith("VmHWM")), "0")
    return ticks, int(peak) / 1000


def served_bytes(point: Path) -> int:
    """Return the bytes that the kernel has read from the mount; 0 of a program that does not tell."""
    try:
        return int(json.loads((point / STATUS).read_bytes())["served_bytes"])
    except OSError:
        return 0


def forget_peak(process: int) -> None:
    """Let the peak memory of a process be what it uses now."""
    with suppress(OSError):
        Path(f"/proc/{process}/clear_refs").write_text("5")
