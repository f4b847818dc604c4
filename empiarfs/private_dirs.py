"""Private folders: only their owner has access, and no other user can have written into them."""

import errno
import itertools
import logging
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

Identity = tuple[int, int]

log = logging.getLogger(__name__)

FOLDER = "v1"  # the version of the format of the cache folder; each has a folder of its own
CACHE_TAG = "CACHEDIR.TAG"  # by which tar, restic and borg leave a cache out (https://bford.info/cachedir/)
_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder holds a cache of empiarfs.\n"
_ROOT = 0  # root may do anything anyway
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UnsafePath(PermissionError):
    """Another user may have written to a path: its content is not trusted, and nothing is written there.

    Args:
        path: the folder or file.
        reason: one line for a person.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")


def runtime_folder() -> Path:
    """Return the folder for the locks of this user's processes on this machine."""
    named = os.environ.get("XDG_RUNTIME_DIR")
    return Path(named) / "empiarfs" if named else Path(tempfile.gettempdir()) / f"empiarfs-{os.geteuid()}"


def prepare_cache_dir(cache: Path) -> Path | None:
    """Return the folder for blocks and the index in `cache`; None, after a warning, if it is not writable.

    Raises:
        UnsafePath: another user may write there.
        NotADirectoryError: it is a file, or below one.
    """
    folder = cache / FOLDER
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_holder(cache)
        ensure_private(folder)
    except (FileExistsError, NotADirectoryError) as error:
        says = "there is a file in the way; choose another folder: --cache-dir"
        raise NotADirectoryError(errno.ENOTDIR, says, error.filename) from error
    except UnsafePath:
        raise
    except OSError as error:
        log.warning("%s: %s; nothing is cached on disk; choose another folder: --cache-dir", folder, error.strerror)
        return None
    if not os.access(folder, os.W_OK):
        log.warning("%s is not writable; nothing is cached on disk; choose another folder: --cache-dir", folder)
        return None
    tag = folder / CACHE_TAG
    if not tag.exists():
        with suppress(OSError):  # the disk may be full
            tag.write_text(_TAG_TEXT)
    return folder


def nearest(folder: Path) -> Path:
    """Return `folder`, or the nearest path above it that exists, which may be a file."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def check_holder(folder: Path) -> None:
    """Check that no user but root could replace a folder of the cache in `folder`.

    Raises:
        UnsafePath: it belongs to another user, or all users may rename its files.
    """
    status = folder.stat()
    if status.st_uid not in {os.geteuid(), _ROOT}:
        raise UnsafePath(folder, "belongs to another user; choose a folder of your own: --cache-dir")
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise UnsafePath(
            folder, f"may be written by everybody; run chmod o-w {folder}, or choose another: --cache-dir"
        )


def ensure_private(folder: Path) -> None:
    """Create `folder`, and what is missing above it, for its owner only; close an existing one to others.

    Raises:
        UnsafePath: it, or the link that leads to it, is another user's, or others may have written into it.
        OSError: it cannot be created.
    """
    missing = itertools.takewhile(lambda above: not above.exists(), folder.parents)
    for above in reversed(list(missing)):  # mkdir's own `parents` would leave them open to others
        above.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_owner(folder)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & _OTHERS_WRITE:
        raise UnsafePath(
            folder,
            f"may be written by others, and its content cannot be trusted: rm -r {folder}, or choose another",
        )
    if mode & 0o077:
        folder.chmod(0o700)


def check_private_file(file: Path) -> None:
    """Check that `file`, in a folder that `ensure_private` has created, is this user's, if it exists.

    Raises:
        UnsafePath: it is another user's, or a link to a file that others may write.
    """
    try:
        _check_owner(file)
        others = file.is_symlink() and file.stat().st_mode & _OTHERS_WRITE
    except FileNotFoundError:
        return
    if others:
        raise UnsafePath(
            file, "leads to a file that others may write; remove it, or choose another folder: --cache-dir"
        )


def identity(file: Path) -> Identity | None:
    """Return the identity of the file `file`, valid while it is open; None if it does not exist.

    Raises:
        OSError: it cannot be accessed.
    """
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _check_owner(path: Path) -> None:
    for status in (path.lstat(), path.stat()):
        if status.st_uid != os.geteuid():
            raise UnsafePath(path, "belongs to another user; remove it, or choose another folder: --cache-dir")
