"""Folders of our own: for their owner alone."""

import os
import tempfile
from pathlib import Path

Identity = tuple[int, int]


def runtime_folder() -> Path:
    """Give where locks of this user's processes on this machine live."""
    named = os.environ.get("XDG_RUNTIME_DIR")
    return Path(named) / "empiarfs" if named else Path(tempfile.gettempdir()) / f"empiarfs-{os.geteuid()}"


def secure(folder: Path) -> None:
    """Make `folder`, for its owner alone.

    Raises:
        OSError: it is someone else's, or cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    if status.st_mode & 0o077:
        folder.chmod(0o700)


def identity(file: Path) -> Identity | None:
    """Give which file `file` is now, while someone holds it open; None where there is none.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
