"""What a mount needs of this machine: the device, the program by which ordinary users mount, and a binding."""

import errno
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

DEVICE = Path("/dev/fuse")
BINDINGS = ("mfusepy", "fusepy")


@dataclass(frozen=True, slots=True)
class Missing:
    """What is not there.

    Attributes:
        what: one line.
        advice: what to do.
    """

    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}"


def missing_device() -> Missing | None:
    """Return why the FUSE device cannot be opened; None where it can."""
    nothing = Missing(
        f"there is no {DEVICE}",
        "load the module (modprobe fuse), or start the container with --device /dev/fuse --cap-add SYS_ADMIN; "
        "ls, stat and cat work without",
    )
    try:
        if not stat.S_ISCHR(DEVICE.stat().st_mode):
            return nothing
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return nothing
    except OSError as error:
        is_absent = error.errno == errno.ENODEV
        return Missing(
            f"{DEVICE} cannot be opened: {error.strerror}",
            "load the module: modprobe fuse"
            if is_absent
            else "ask your administrator to let users mount with FUSE",
        )
    return None


def fusermount() -> str | None:
    """Return the program by which ordinary users mount and unmount."""
    return shutil.which("fusermount3") or shutil.which("fusermount")


def missing_fusermount() -> Missing:
    """Return what to say where it is needed and not there."""
    return Missing("there is no fusermount3", "install it: apt install fuse3, or dnf install fuse3")


def binding_name() -> str:
    """Return the binding that the user wants."""
    return os.environ.get("EMPIARFS_FUSE", BINDINGS[0])


def missing_binding() -> Missing | None:
    """Tell that there is no binding of that name; None where there is."""
    name = binding_name()
    if name in BINDINGS:
        return None
    return Missing(f"EMPIARFS_FUSE: {name!r} is no binding", f"write {' or '.join(BINDINGS)}")
