"""The kernel's table of mounts; the only module that reads it. Reading it accesses no mount, which may be dead."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

KIND = "fuse.empiarfs"
_TABLE = Path("/proc/self/mountinfo")
_OPTIONAL_END = b"-"  # ends the optional fields of a line (proc(5))


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of the table.

    Attributes:
        point: the directory that it is mounted on.
        kind: the type of its file system.
        options: its options, and those of the file system.
        root: the directory of the file system that it shows; not `/` for a bind mount of another one.
        device: the number of the file system, which all its mounts share.
    """

    point: str
    kind: str
    options: frozenset[str]
    root: str = "/"
    device: str = ""


def table() -> list[Mounted]:
    """Return all mounts that this process sees, in the order in which they were made."""
    return [_parsed(line) for line in _TABLE.read_bytes().splitlines()]


def containing(path: str) -> Mounted | None:
    """Return the mount that `path`, without links, is on; None if there is none, as in a chroot."""
    inside = [one for one in table() if (path + "/").startswith(one.point.rstrip("/") + "/")]
    return max(reversed(inside), key=lambda one: len(one.point), default=None)


def _parsed(line: bytes) -> Mounted:
    fields = line.split(b" ")
    kind = fields[fields.index(_OPTIONAL_END) + 1]
    options = {*fields[5].split(b","), *fields[-1].split(b",")}
    return Mounted(
        _unescaped(fields[4]),
        kind.decode(),
        frozenset(os.fsdecode(one) for one in options),
        _unescaped(fields[3]),
        fields[2].decode(),
    )


def _unescaped(field: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field))
