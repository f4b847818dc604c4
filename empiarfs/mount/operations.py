"""The archive to the kernel; the only module that knows the FUSE bindings.

mfusepy on libfuse 3, or fusepy on libfuse 2 where `EMPIARFS_FUSE=fusepy`. The binding loads its library when it is
imported, so this module is imported by the daemon alone.
"""

import codecs
import ctypes
import errno
import itertools
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from empiarfs.archive import Archive, OpenFile
from empiarfs.engine.cache import Recent
from empiarfs.errors import ArchiveError, NotFound, Offline, Unavailable
from empiarfs.model import Entry, File, name_of, parent_of
from empiarfs.mount import status, view
from empiarfs.mount.versions import Versions

# with libfuse 2 beside libfuse 3, mfusepy loads libfuse 2 unless it is told
os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")

ON_FUSEPY = os.environ.get("EMPIARFS_FUSE", "mfusepy") == "fusepy"
if ON_FUSEPY:
    import fuse as binding
else:
    import mfusepy as binding

log = logging.getLogger(__name__)

THREADS = 96  # of libfuse: more than the kernel's background requests, so that slow reads never block `ls`
BACKGROUND = 48  # requests of the kernel's readahead at once
HOUR = 3600  # how long the kernel keeps attributes, names, and names that were not there
MOST_OFFLINE = 10_000  # files and directories that were told to be out of reach
FILL_PLUS = 2  # FUSE_FILL_DIR_PLUS of fuse.h
READDIR_PLUS = 1  # FUSE_READDIR_PLUS of fuse.h


def _escaped(name: str) -> codecs.CodecInfo | None:
    """Give UTF-8 with surrogate escapes as an encoding, since fusepy decodes names strictly."""
    if name != "empiarfs_names":
        return None

    def encode(text: str, _: str = "strict") -> tuple[bytes, int]:
        return codecs.utf_8_encode(text, "surrogateescape")

    def decode(data: Any, _: str = "strict") -> tuple[str, int]:
        return codecs.utf_8_decode(data, "surrogateescape", True)

    return codecs.CodecInfo(encode, decode, name=name)


class Operations:
    """What the kernel asks, answered by an archive.

    Neither binding's class of defaults stands above it: what is not here (extended attributes, locks) libfuse
    answers itself, once, and the kernel asks no more. Writing never comes here: the mount is read-only.

    Args:
        archive: what is mounted.
        owner: whose the files are.
        mounted: the time of the mount, in seconds since 1970.
        ready: called when the kernel has been answered for the first time.
        watch: counts, and tells what the hidden file holds.
    """

    use_ns = True

    def __init__(
        self,
        archive: Archive,
        owner: view.Owner,
        mounted: int,
        ready: Callable[[], None],
        watch: status.Watch,
    ) -> None:
        self._watch = watch
        watch.open_files = self._open_files
        self._archive = archive
        self._owner = owner
        self._mounted = mounted
        self._ready = ready
        self._versions = Versions()
        self._handles: dict[int, OpenFile | list[Entry] | bytes] = {}
        self._numbers = itertools.count(1)

    def init_with_config(self, connection: Any, config: Any) -> None:
        """Begin; libfuse 3 takes here what libfuse 2 takes as options."""
        if connection is not None:
            connection.max_background = BACKGROUND
            connection.congestion_threshold = BACKGROUND * 3 // 4
        if config is not None:
            config.use_ino = 1
            config.nullpath_ok = 0
        self._ready()

    def init(self, _path: str) -> None:
        """Begin, under fusepy."""
        self._ready()

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        """Answer `stat`."""
        path = path[1:]
        if view.is_too_long(name_of(path)):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if path == status.NAME:
            return view.status_attributes(path, self._owner, self._mounted)
        target = view.link_target(path)
        with _errors("stat", path):
            if target is not None:
                self._archive.stat(target)
                return view.link_attributes(path, target, self._owner, self._mounted)
            return self.filled(self._archive.stat(path))

    def readlink(self, path: str) -> str:
        """Answer where a link leads."""
        target = view.link_target(path[1:])
        if target is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return target

    def opendir(self, path: str) -> int:
        """List a directory; the handle keeps what was listed, so that names neither double nor go missing."""
        with _errors("list", path[1:]):
            return self._kept(self._archive.entries(path[1:]))

    def releasedir(self, _path: str | None, handle: int) -> int:
        """Forget a listing."""
        self._handles.pop(handle, None)
        return 0

    def open(self, path: str, info: Any) -> int:
        """Open a file; its pages are kept across opens as long as it is the same version."""
        path = path[1:]
        if path == status.NAME:
            return self._open_status(info)
        with _errors("open", path):
            opened = self._archive.open(path)
        info.keep_cache = self._versions.opened(opened.file)
        self._watch.opened(path)
        info.fh = self._kept(opened)
        return 0

    def _open_status(self, info: Any) -> int:
        """Open the hidden file: what it tells is of this moment, and the kernel keeps neither it nor its length."""
        with _errors("open", status.NAME):
            info.direct_io = True
            info.fh = self._kept(status.as_text(self._watch.status()).encode())
        return 0

    def release(self, _path: str | None, info: Any) -> int:
        """Forget an open file."""
        opened = self._handles.pop(info.fh, None)
        if isinstance(opened, OpenFile):
            self._versions.closed(opened.file)
        return 0

    def read(self, path: str | None, size: int, offset: int, info: Any) -> bytes:
        """Give bytes of an open file."""
        with _errors("read", (path or "/")[1:]):
            opened = self._handles[info.fh]
            if isinstance(opened, bytes):
                return opened[offset : offset + size]
            assert isinstance(opened, OpenFile)  # noqa: S101 - the kernel reads only what it opened
            data = opened.read(offset, size)
            count = len(data)
            self._watch.reads += 1
            self._watch.served_bytes += count
            return data

    def statfs(self, _path: str) -> dict[str, int]:
        """Answer the size of the file system."""
        return view.statfs()

    def readdir(self, _path: str | None, handle: int, offset: int = 0) -> Iterator[tuple[int, Entry]]:
        """Give the entries of a listed directory from the one after `offset` on, each with its own offset.

        The offsets 1 and 2 are those of the directory itself and its parent; `_Fuse` asks for it.
        """
        entries = self._handles[handle]
        assert isinstance(entries, list)  # noqa: S101 - the kernel lists only what it opened
        # the kernel takes some tens of names at a time: to count from the first one each time is a million squared
        return ((place + 3, entries[place]) for place in range(max(0, offset - 2), len(entries)))

    def filled(self, entry: Entry) -> dict[str, int]:
        """Give all attributes of a measured entry, for the kernel to keep."""
        if isinstance(entry, File):
            entry = self._versions.told(entry)
        assert view.is_measured(entry)  # noqa: S101 - the callers have looked
        return view.attributes(entry, self._owner, self._mounted)  # type: ignore[arg-type] # measured: no Stub

    def _open_files(self) -> int:
        return sum(isinstance(thing, OpenFile) for thing in list(self._handles.values()))

    def _kept(self, thing: OpenFile | list[Entry] | bytes) -> int:
        handle = next(self._numbers)
        self._handles[handle] = thing
        return handle


class _Called(Operations):
    """The same for fusepy, which calls the object itself."""

    def __call__(self, operation: str, *arguments: Any) -> Any:
        return getattr(self, operation)(*arguments)


class _errors:  # noqa: N801 - reads like a verb where it is used
    """Hand on what an OSError says; what nobody foresaw is logged and becomes EIO."""

    # what was told to be out of reach: programs ask again and again, and `ls -l` for each name of a directory
    _told: Recent[tuple[str, str], bool] = Recent(MOST_OFFLINE, lambda _: 1)

    def __init__(self, verb: str, path: str) -> None:
        self._verb = verb
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        match error:
            case None:
                return
            case NotFound():
                log.debug("%s %s", self._verb, error)
            case Unavailable():
                log.warning("%s %s; given up", self._verb, error)
            case Offline() if not self._is_news(error.path):
                log.debug("%s %s", self._verb, error)
            case ArchiveError():
                log.warning("%s %s", self._verb, error)
            case _:
                log.error("%s %s", self._verb, self._path, exc_info=error)
                raise OSError(errno.EIO, os.strerror(errno.EIO)) from error

    def _is_news(self, path: str) -> bool:
        """Tell, once for each file that is read and each directory looked into, that `path` is out of reach."""
        about = (self._verb, parent_of(path) if self._verb == "stat" else path)
        news = self._told.get(about) is None
        self._told.put(about, True)
        return news


class _Fuse(binding.FUSE):  # type: ignore[misc] # the bindings ship no types
    """The binding, with a readdir that hands the kernel attributes and offsets.

    Without offsets libfuse holds the whole directory and looks every name up again; without the flag the kernel
    asks for each file of `ls -l` anew.
    """

    operations: Operations

    def readdir_fuse_3(self, path: bytes, buffer: Any, filler: Any, offset: int, info: Any, flags: int) -> int:
        plus = bool(flags & READDIR_PLUS)
        return self._list(path, offset, info, lambda *entry: filler(buffer, *entry), plus=plus)

    def readdir_fuse_2(self, path: bytes, buffer: Any, filler: Any, offset: int, info: Any) -> int:
        return self._list(path, offset, info, lambda *entry: filler(buffer, *entry[:3]), plus=False)

    def _list(self, path: bytes, offset: int, info: Any, fill: Callable[..., int], *, plus: bool) -> int:
        operations = self.operations
        status = binding.c_stat()
        reference = ctypes.byref(status)
        here = path[1:].decode("utf-8", "surrogateescape")
        for number, (dots, shown) in enumerate(((b".", here), (b"..", parent_of(here))), 1):
            # a number of 0 would have readdir(3) leave it out
            status.st_mode, status.st_ino = stat.S_IFDIR, view.inode(shown)
            if offset < number and fill(dots, reference, number, 0):
                return 0
        for number, entry in operations.readdir(None, info.contents.fh, offset):
            name = name_of(entry.path).encode("utf-8", "surrogateescape")
            if plus and view.is_measured(entry):
                binding.set_st_attrs(status, operations.filled(entry), use_ns=True)
                full = fill(name, reference, number, FILL_PLUS)
            else:
                status.st_mode, status.st_ino = view.kind(entry), view.inode(entry.path)
                full = fill(name, reference, number, 0)
            if full:
                return 0
        return 0


if ON_FUSEPY:
    codecs.register(_escaped)
    _Fuse.readdir = _Fuse.readdir_fuse_2  # fusepy knows libfuse 2 alone, and names no version
    del _Fuse.readdir_fuse_2, _Fuse.readdir_fuse_3


def serve(
    archive: Archive,
    mountpoint: str,
    owner: view.Owner,
    mounted: int,
    ready: Callable[[], None],
    watch: status.Watch,
    options: Sequence[str],
) -> None:
    """Mount, and answer the kernel until it is unmounted.

    Args:
        archive: see `Operations`.
        mountpoint: an empty directory.
        owner: see `Operations`.
        mounted: see `Operations`.
        ready: see `Operations`.
        watch: see `Operations`.
        options: further options for libfuse, `"name"` or `"name=value"`.

    Raises:
        RuntimeError: libfuse could not mount; it has said why on standard error.
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
    if binding_major() == 2:  # noqa: PLR2004 - libfuse 2
        chosen |= {"use_ino": True, "max_background": BACKGROUND, "max_read": 131072}
    else:
        chosen["max_threads"] = chosen["max_idle_threads"] = THREADS
    for option in options:
        name, _, value = option.partition("=")
        chosen[name] = value or True
    encoding = {"encoding": "empiarfs_names"} if ON_FUSEPY else {}
    _Fuse(kind(archive, owner, mounted, ready, watch), mountpoint, raw_fi=True, **encoding, **chosen)


def library() -> str:
    """Give the name of the binding, and the version of libfuse that it has loaded."""
    if ON_FUSEPY:
        major, minor = divmod(binding._libfuse.fuse_version(), 10)  # noqa: SLF001 - it tells in no other way
    else:
        major, minor = binding.fuse_version_major, binding.fuse_version_minor
    return f"{'fusepy' if ON_FUSEPY else 'mfusepy'} on libfuse {major}.{minor}"


def binding_major() -> int:
    """Give the major version of the libfuse that was loaded."""
    return 2 if ON_FUSEPY else int(binding.fuse_version_major)
