"""The FUSE binding; the only module that imports it: mfusepy on libfuse 3, or fusepy on libfuse 2.

The binding loads its library when it is imported, so only a process that mounts imports this module.
"""

import codecs
import ctypes
import os
import stat
from collections.abc import Callable, Sequence
from typing import Any

from empiarfs.archive import Archive
from empiarfs.model import Stub, base_name, parent_path
from empiarfs.mount import kernel_limit, requirements, status, view
from empiarfs.mount.operations import BACKGROUND, Operations

# if both are installed, mfusepy would load libfuse 2 by default
os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")

ON_FUSEPY = requirements.binding_name() == "fusepy"
if ON_FUSEPY:
    import fuse
else:
    import mfusepy as fuse

THREADS = 96  # idle threads that libfuse keeps: more than the kernel's background requests
# in all: so many programs can wait at once before the next request is not even received. A thread that reads has
# the database open, and a process may have 1,024 files
MOST_THREADS = 256
HOUR = 3600  # how long the kernel keeps attributes, names, and names that were not there
FILL_PLUS = 2  # FUSE_FILL_DIR_PLUS of fuse.h
READDIR_PLUS = 1  # FUSE_READDIR_PLUS of fuse.h


def _escaped(name: str) -> codecs.CodecInfo | None:
    """Return UTF-8 with surrogate escapes as an encoding, since fusepy decodes names strictly."""
    if name != "empiarfs_names":
        return None

    def encode(text: str, _: str = "strict") -> tuple[bytes, int]:
        return codecs.utf_8_encode(text, "surrogateescape")

    def decode(data: Any, _: str = "strict") -> tuple[str, int]:
        return codecs.utf_8_decode(data, "surrogateescape", True)

    return codecs.CodecInfo(encode, decode, name=name)


class _Called(Operations):
    """Operations for fusepy, which calls the object itself."""

    def __call__(self, operation: str, *arguments: Any) -> Any:
        return getattr(self, operation)(*arguments)


class _Fuse(fuse.FUSE):  # type: ignore[misc] # the bindings ship no types
    """The binding, with a readdir that returns attributes and offsets to the kernel.

    Without offsets libfuse holds the whole directory and looks every name up again; without the flag the kernel
    requests the attributes of each file of `ls -l` again.
    """

    operations: Operations

    def readdir_fuse_3(self, path: bytes, buffer: Any, filler: Any, offset: int, info: Any, flags: int) -> int:
        plus = bool(flags & READDIR_PLUS)
        return self._list(path, offset, info, lambda *entry: filler(buffer, *entry), plus=plus)

    def readdir_fuse_2(self, path: bytes, buffer: Any, filler: Any, offset: int, info: Any) -> int:
        return self._list(path, offset, info, lambda *entry: filler(buffer, *entry[:3]), plus=False)

    def _list(self, path: bytes, offset: int, info: Any, fill: Callable[..., int], *, plus: bool) -> int:
        here = path[1:].decode("utf-8", "surrogateescape")
        with self.operations.errors("list", here):
            self._fill(here, offset, info.contents.fh, fill, plus=plus)
        return 0

    def _fill(self, here: str, offset: int, handle: int, fill: Callable[..., int], *, plus: bool) -> None:
        """Pass the names after `offset` to `fill`, until it returns that its buffer is full."""
        operations = self.operations
        shown = fuse.c_stat()
        reference = ctypes.byref(shown)
        for number, (dots, directory) in enumerate(((b".", here), (b"..", parent_path(here))), 1):
            # a number of 0 would have readdir(3) leave it out
            shown.st_mode, shown.st_ino = stat.S_IFDIR, view.inode(directory)
            if offset < number and fill(dots, reference, number, 0):
                return
        for number, listed in operations.readdir(None, handle, offset):
            node = operations.known(listed) if plus else listed
            name = base_name(node.path).encode("utf-8", "surrogateescape")
            if plus and not isinstance(node, Stub):
                measured = operations.to_announce(node)
                fuse.set_st_attrs(shown, operations.attributes(measured), use_ns=True)
                if fill(name, reference, number, FILL_PLUS):
                    return  # the kernel did not get it
                operations.announced(measured)
                continue
            shown.st_mode, shown.st_ino = view.kind(node), view.inode(node.path)
            if fill(name, reference, number, 0):
                return


if ON_FUSEPY:
    codecs.register(_escaped)
    _Fuse.readdir = _Fuse.readdir_fuse_2  # fusepy supports libfuse 2 only, and has no name for each version
    del _Fuse.readdir_fuse_2, _Fuse.readdir_fuse_3


def serve(
    archive: Archive,
    mountpoint: str,
    owner: view.Owner,
    mounted: int,
    ready: Callable[[], None],
    stats: status.MountStats,
    options: Sequence[str],
) -> None:
    """Mount, and answer the kernel until the mount is gone.

    Args:
        archive: see `Operations`.
        mountpoint: an empty directory.
        owner: see `Operations`.
        mounted: see `Operations`.
        ready: see `Operations`.
        stats: see `Operations`.
        options: further options for libfuse, `"name"` or `"name=value"`.

    Raises:
        RuntimeError: libfuse could not mount; it has written the reason to standard error.
    """
    kind = _Called if ON_FUSEPY else Operations
    chosen: dict[str, Any] = {
        "foreground": True,
        "ro": True,
        "nosuid": True,
        "nodev": True,
        "noatime": True,
        "default_permissions": True,
        "fsname": "empiarfs",
        "subtype": "empiarfs",
        "attr_timeout": HOUR,
        "entry_timeout": HOUR,
        "negative_timeout": HOUR,
    }
    if _major() == 2:  # noqa: PLR2004 - libfuse 2
        chosen |= {"use_ino": True, "max_background": BACKGROUND, "max_read": 131072}
    else:
        chosen |= {"max_threads": MOST_THREADS, "max_idle_threads": THREADS}
    for option in options:
        name, _, value = option.partition("=")
        chosen[name] = value or True
    encoding = {"encoding": "empiarfs_names"} if ON_FUSEPY else {}
    operations = kind(archive, owner, mounted, ready, stats, _caller, kernel_limit.longest_wait())
    _Fuse(operations, mountpoint, raw_fi=True, **encoding, **chosen)


def _caller() -> int:
    """Return the id of the thread whose request this thread answers."""
    return int(fuse.fuse_get_context()[2])


def library() -> str:
    """Return the name of the binding and the version of libfuse that it has loaded."""
    if ON_FUSEPY:
        major, minor = divmod(fuse._libfuse.fuse_version(), 10)  # noqa: SLF001 - there is no public way
    else:
        major, minor = fuse.fuse_version_major, fuse.fuse_version_minor
    return f"{'fusepy' if ON_FUSEPY else 'mfusepy'} on libfuse {major}.{minor}"


def _major() -> int:
    """Return the major version of the libfuse that was loaded."""
    return 2 if ON_FUSEPY else int(fuse.fuse_version_major)
