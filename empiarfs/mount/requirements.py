"""What a mount needs of this machine: the device, the program with which ordinary users mount, and a binding."""

import errno
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

DEVICE = Path("/dev/fuse")
FUSERMOUNTS = ("fusermount3", "fusermount")
BINDINGS = ("mfusepy", "fusepy")


@dataclass(frozen=True, slots=True)
class Missing:
    """A requirement that is missing.

    Attributes:
        what: one line.
        advice: what to do.
    """

    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}"


def missing_device() -> Missing | None:
    """Return why the FUSE device cannot be opened; None if it can."""
    nothing = Missing(
        f"there is no {DEVICE}",
        "load the module (modprobe fuse), or start the container with --device /dev/fuse --cap-add SYS_ADMIN; "
        "ls, stat and cat work without it",
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
    """Return the program with which ordinary users mount and unmount; None if there is none.

    The first of `PATH` that may mount: conda and brew install one that may not.
    """
    folders = [None, *os.environ.get("PATH", os.defpath).split(os.pathsep)]  # None for what a shell would find
    found = [one for name in FUSERMOUNTS for folder in folders if (one := shutil.which(name, path=folder))]
    return next(filter(may_mount, found), next(iter(found), None))


def may_mount(program: str) -> bool:
    """Return whether `program` gets the rights of root: it is setuid, or has capabilities."""
    mode = Path(program).stat()
    if mode.st_uid == 0 and mode.st_mode & stat.S_ISUID:
        return True
    try:
        return bool(os.getxattr(program, "security.capability"))
    except OSError:
        return False


def missing_fusermount() -> Missing:
    """Return the finding that it is missing."""
    return Missing("there is no fusermount3", "install it: apt install fuse3, or dnf install fuse3")


def binding_name() -> str:
    """Return the binding that the user has chosen."""
    return os.environ.get("EMPIARFS_FUSE", BINDINGS[0])


def missing_binding() -> Missing | None:
    """Return that the chosen binding is unknown; None if it is known."""
    name = binding_name()
    if name in BINDINGS:
        return None
    return Missing(f"EMPIARFS_FUSE: {name!r} is not a binding", f"use {' or '.join(BINDINGS)}")
