"""The time after which the kernel ends a mount that has not answered a request.

Linux 6.15 and newer read it when a mount is made (init_server_timeout in fs/fuse/inode.c), and end the whole mount
when one request takes longer.
"""

import math
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path("/proc/sys/fs/fuse")
_DEFAULT, _MOST = "default_request_timeout", "max_request_timeout"
LEAST_SECONDS = 15.0  # the kernel looks this often, and raises a shorter limit to it (FUSE_TIMEOUT_TIMER_FREQ)
MARGIN_SECONDS = 5.0  # for a busy machine


@dataclass(frozen=True, slots=True)
class Limit:
    """The limit of a mount.

    Attributes:
        seconds: for each request.
        sysctl: the name of the setting that it comes from.
    """

    seconds: float
    sysctl: str

    @property
    def patience(self) -> float:
        """How long a request may wait here: half, because it may have waited as long in the kernel's own queue."""
        return (self.seconds - MARGIN_SECONDS) / 2


def limit(folder: Path = _FOLDER) -> Limit | None:
    """Return the limit that a mount made now would have; None if there is none, as in older kernels."""
    default, most = _seconds(folder / _DEFAULT), _seconds(folder / _MOST)
    if not default and not most:
        return None
    name = _DEFAULT if default and (not most or default <= most) else _MOST
    return Limit(max(LEAST_SECONDS, default if name == _DEFAULT else most), f"fs.fuse.{name}")


def longest_wait() -> float:
    """Return how long a name or a read may wait in a mount made now, in seconds; without a limit for ever."""
    found = limit()
    return found.patience if found else math.inf


def _seconds(setting: Path) -> float:
    """Return the value of a setting; 0, which means none, if it does not exist."""
    try:
        return float(setting.read_text())
    except (OSError, ValueError):
        return 0.0
