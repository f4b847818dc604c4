"""Reads the status of mounts from outside; a mount that hangs does not hang the caller."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from empiarfs.mount import mount_table, mountpoints, status

ANSWER_SECONDS = 5.0
LAST_SECONDS = 0.5  # for a process that has its answer, and for one that was killed
# A process that waits for an answer which the daemon has begun cannot end, so a process of its own reads.
_READ = """\
import sys
try:
    with open(sys.argv[1], "rb") as file:
        sys.stdout.buffer.write(file.read())
except OSError as error:
    sys.exit(error.errno)
"""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The status of one mount, or why it has none.

    Attributes:
        mountpoint: its path.
        status: its status; None if it does not answer.
        trouble: why it does not answer, and what to do; empty if it does.
    """

    mountpoint: str
    status: status.Status | None
    trouble: str = ""


def mounts() -> list[str]:
    """Return the mounts of empiarfs that this user can read: the user's own, and those open to all."""
    on_top = {mounted.point: mounted for mounted in mount_table.table()}
    mine = f"user_id={os.geteuid()}"
    return [
        mounted.point
        for mounted in on_top.values()
        if mounted.kind == mount_table.KIND
        and mounted.root == "/"  # a bind mount of another directory has no status of its own
        and not {mine, "allow_other"}.isdisjoint(mounted.options)
    ]


def with_status(point: Path) -> str:
    """Return the mount whose status is that of the mount on `point`, which may be a bind mount of a part of it.

    Raises:
        CannotMount: there is none.
    """
    path = mountpoints.own(point)
    table = mount_table.table()
    shown = next(one for one in reversed(table) if one.point == path)
    whole = [one.point for one in table if (one.device, one.root) == (shown.device, "/")]
    if not whole:
        raise mountpoints.CannotMount(
            f"{path} shows {shown.root} of a mount that is not visible here; run this where it was mounted"
        )
    return path if path in whole else whole[0]


def probe_all(mountpoints: Sequence[str], seconds: float = ANSWER_SECONDS) -> list[ProbeResult]:
    """Read the status of all `mountpoints` at once, for at most `seconds`."""
    started = [(point, _start(point)) for point in mountpoints]
    deadline = time.monotonic() + seconds
    return [
        _collect(point, process, max(LAST_SECONDS, deadline - time.monotonic()), seconds)
        for point, process in started
    ]


def _start(point: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-I", "-S", "-c", _READ, os.fspath(Path(point) / status.NAME)]
    return subprocess.Popen(  # noqa: S603 - our own program and a path
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/"
    )


def _collect(point: str, process: "subprocess.Popen[bytes]", left: float, seconds: float) -> ProbeResult:
    try:
        out, _ = process.communicate(timeout=left)
    except subprocess.TimeoutExpired:
        process.kill()
        if process.stdout is not None:
            process.stdout.close()
        with suppress(subprocess.TimeoutExpired):  # it may be in a state that cannot be killed
            process.wait(LAST_SECONDS)
        return ProbeResult(
            point,
            None,
            f"does not answer within {seconds:.0f} s: its process hangs, or is stopped; end it with kill -9, "
            f"then: empiarfs umount {point}",
        )
    if process.returncode == 0:
        with suppress(ValueError):
            return ProbeResult(point, status.from_text(out.decode()))
    return ProbeResult(point, None, _why(process.returncode, point))


def _why(number: int, point: str) -> str:
    match number:
        case errno.ENOTCONN:
            return f"is dead: its process ended; clean up with: empiarfs umount {point}, or mount there again"
        case errno.EACCES:
            return "is not readable for you: run this as the user who mounted it"
        case errno.ENOENT:
            return "has no status: it was mounted by an older empiarfs; mount it again"
        case number if number in errno.errorcode:
            return f"cannot be read: {os.strerror(number)}"
        case _:
            return "has a status that cannot be read: it was mounted by another version of empiarfs"
