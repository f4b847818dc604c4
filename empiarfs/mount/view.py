"""What the kernel sees: attributes, names, links; pure, independent of the FUSE binding."""

import hashlib
import stat
from dataclasses import dataclass, replace
from typing import TypeVar

from empiarfs.model import Directory, File, Node
from empiarfs.paths import entry_of

NodeKind = TypeVar("NodeKind", bound=Node)

BLOCK_SIZE = 4096  # st_blksize; larger makes Python's open().read(1024) fetch a whole megabyte
SECTOR = 512  # the unit of st_blocks
NAME_MAX = 255
ARCHIVE_BYTES = 10 << 50  # EMPIAR holds about 9 PiB
ROOT_INODE = 1
# of directories too, which says that subdirectories are not counted: programs that take two links for "no
# subdirectory" (older Perl's File::Find) would find none
LINKS = 1
# modes of writable files, although the mount is read-only: `cp`, `tar` and overlays copy the modes, and the owner
# of a copy must be able to write into it and to delete it
FILE_MODE, DIRECTORY_MODE = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of all files: the user who mounted."""

    uid: int
    gid: int


def inode(path: str) -> int:
    """Return the inode number of `path`: the same at every mount, because it depends on the path alone.

    What is shown at two paths has one number.
    """
    if not path:
        return ROOT_INODE
    digest = hashlib.blake2b(archive_path(path).encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1 | 2  # positive as a signed number, and never that of the root


def attributes(node: File | Directory, owner: Owner, mounted: int) -> dict[str, int]:
    """Return the `stat` of `node`; times in nanoseconds.

    Args:
        node: a measured file or a directory.
        owner: its owner.
        mounted: seconds since 1970; the time of a node for which the server has none.
    """
    match node:
        case File():
            mode, size, date = FILE_MODE, node.size, node.mtime
        case Directory():
            mode, size, date = DIRECTORY_MODE, BLOCK_SIZE, node.modified
    return _attributes(node.path, mode, size, owner, mounted if date is None else date)


def status_attributes(path: str, owner: Owner, mounted: int) -> dict[str, int]:
    """Return the `stat` of the status file; its length is known, as in /proc, only when it is read."""
    return _attributes(path, FILE_MODE, 0, owner, mounted)


def _attributes(path: str, mode: int, size: int, owner: Owner, seconds: int) -> dict[str, int]:
    time = seconds * 10**9
    return {
        "st_mode": mode,
        "st_ino": inode(path),
        "st_nlink": LINKS,
        "st_size": size,
        "st_blocks": -(-size // SECTOR),
        "st_blksize": BLOCK_SIZE,
        "st_uid": owner.uid,
        "st_gid": owner.gid,
        "st_mtime": time,
        "st_ctime": time,
        "st_atime": time,
    }


def kind(node: Node) -> int:
    """Return the file type bits of `node`, which are all that a listing needs."""
    return stat.S_IFDIR if isinstance(node, Directory) else stat.S_IFREG


def archive_path(path: str) -> str:
    """Return the path in the archive of what is shown at `path`: `10028/data` for `EMPIAR-10028/data`."""
    first, slash, rest = path.partition("/")
    entry = entry_of(first)
    return path if entry is None else f"{entry}{slash}{rest}"


def at(node: NodeKind, path: str) -> NodeKind:
    """Return `node` as it is shown, or kept, at `path`."""
    return node if node.path == path else replace(node, path=path)


def is_too_long(name: str) -> bool:
    """Return whether `name` is longer than any name of a file may be."""
    return len(name.encode("utf-8", "surrogateescape")) > NAME_MAX


def statfs() -> dict[str, int]:
    """Return the size of the file system: that of EMPIAR, with no free space, as on any read-only medium."""
    return {
        "f_bsize": BLOCK_SIZE,
        "f_frsize": BLOCK_SIZE,
        "f_blocks": ARCHIVE_BYTES // BLOCK_SIZE,
        "f_bfree": 0,
        "f_bavail": 0,
        "f_files": 0,
        "f_ffree": 0,
        "f_favail": 0,
        "f_namemax": NAME_MAX,
    }
