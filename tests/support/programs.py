"""What programs do with a path below a mount.

Each function runs in a process of its own, by `Account.call`, which takes its source: it sees what the prelude of
`support.mounting` imports, and nothing of this module.
"""

# as plain as programs are
# ruff: noqa: PTH208

import hashlib
import os
from pathlib import Path


def names(path: str) -> list[str]:
    """Return the names in a directory, sorted."""
    return sorted(os.listdir(path))


def length(path: str) -> int:
    """Read a file; return its length, or the errno as a negative number."""
    try:
        return len(Path(path).read_bytes())
    except OSError as error:
        return -(error.errno or 1)


def checksum(path: str) -> str:
    """Return the checksum of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def checksum_of_beginning(path: str, size: int) -> str:
    """Return the checksum of the first `size` bytes of a file."""
    with Path(path).open("rb") as file:
        return hashlib.sha256(file.read(size)).hexdigest()
