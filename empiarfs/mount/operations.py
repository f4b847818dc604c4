"""What the kernel asks, answered by an archive; knows no FUSE binding, and is importable without libfuse."""

import errno
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from empiarfs.archive import Archive, OpenFile
from empiarfs.cancellation import cancel_scope
from empiarfs.errors import ArchiveError, Cancelled, IsADirectory, NotFound, Offline, Unavailable
from empiarfs.lru import LruCache
from empiarfs.model import Directory, File, Node, base_name, parent_path
from empiarfs.mount import status, view
from empiarfs.mount.caller_signals import is_dead
from empiarfs.mount.names import NameWaits, WaitedInVain
from empiarfs.mount.versions import KernelViewStale, Versions

log = logging.getLogger(__name__)

BACKGROUND = 48  # requests of the kernel's readahead at once
MOST_OFFLINE = 10_000  # files and directories that were told to be out of reach

Measured = File | Directory


class Operations:
    """What the kernel asks, answered by an archive.

    Neither binding's class of defaults stands above it: what is not here (extended attributes, locks) libfuse
    answers itself, once, and the kernel asks no more. Writing never comes here: the mount is read-only.

    Args:
        archive: what is mounted.
        owner: whose the files are.
        mounted: the time of the mount, in seconds since 1970.
        ready: called when the kernel has been answered for the first time.
        stats: counts, and tells what the hidden file holds.
        caller: gives the id of the thread that the kernel asks for, in the thread that answers it; 0 where it is
            not known.
    """

    use_ns = True

    def __init__(
        self,
        archive: Archive,
        owner: view.Owner,
        mounted: int,
        ready: Callable[[], None],
        stats: status.MountStats,
        caller: Callable[[], int] = lambda: 0,
    ) -> None:
        self._stats = stats
        stats.open_files = self._open_files
        self._archive = archive
        self._owner = owner
        self._mounted = mounted
        self._ready = ready
        self._caller = caller
        self._names = NameWaits(archive.has_answered, caller)
        self._versions = Versions()
        self._handles: dict[int, OpenFile | list[Node] | bytes] = {}
        # what was told to be out of reach: programs ask again and again, and `ls -l` for each name of a directory
        self._told_offline: LruCache[tuple[str, str], bool] = LruCache(MOST_OFFLINE, lambda _: 1)
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
        if view.is_too_long(base_name(path)):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if path == status.NAME:
            return view.status_attributes(path, self._owner, self._mounted)
        target = view.link_target(path)
        with self.errors("stat", path), self._waiting_for_name(path):
            if target is not None:
                self._archive.stat(target)
                return view.link_attributes(path, target, self._owner, self._mounted)
            node = self.to_announce(self._archive.stat(path))
            self.announced(node)
            return self.attributes(node)

    def readlink(self, path: str) -> str:
        """Answer where a link leads."""
        target = view.link_target(path[1:])
        if target is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return target

    def opendir(self, path: str) -> int:
        """List a directory; the handle keeps what was listed, so that names neither double nor go missing."""
        with self.errors("list", path[1:]), self._waiting_for_name(path[1:]):
            return self._new_handle(self._archive.listdir(path[1:]))

    def releasedir(self, _path: str | None, handle: int) -> int:
        """Forget a listing."""
        self._handles.pop(handle, None)
        return 0

    def open(self, path: str, info: Any) -> int:
        """Open a file; its pages are kept across opens as long as it is the same version."""
        path = path[1:]
        with self.errors("open", path):
            if path == status.NAME:
                # what it tells is of this moment, and the kernel keeps neither it nor its length
                info.direct_io = True
                info.fh = self._new_handle(status.as_text(self._stats.status()).encode())
                return 0
            with self._waiting_for_name(path):
                found = self._archive.stat(path)
            if isinstance(found, Directory):
                raise IsADirectory(path)
            opened = OpenFile(self._archive, self._versions.to_open(found))
            self._stats.record_open(path)
            info.keep_cache = self._versions.open(opened.file)
            info.fh = self._new_handle(opened)  # with nothing that can fail in between: no `release` would follow
        return 0

    def release(self, path: str | None, info: Any) -> int:
        """Forget an open file."""
        with self.errors("release", (path or "/")[1:]):
            opened = self._handles.pop(info.fh, None)
            if isinstance(opened, OpenFile):
                self._versions.close(opened.file)
        return 0

    def read(self, path: str | None, size: int, offset: int, info: Any) -> bytes:
        """Return bytes of an open file."""
        with self.errors("read", (path or "/")[1:]):
            opened = self._handles[info.fh]
            if isinstance(opened, bytes):
                return opened[offset : offset + size]
            assert isinstance(opened, OpenFile)  # noqa: S101 - the kernel reads only what it opened
            # to a program that catches SIGINT a read that fails is an error of the file; some ignore it
            with self._stats.reads_waiting, cancel_scope(self._is_alive):
                data = opened.read(offset, size)
            count = len(data)
            self._stats.reads += 1
            self._stats.served_bytes += count
            return data

    def statfs(self, _path: str) -> dict[str, int]:
        """Answer the size of the file system."""
        return view.statfs()

    def readdir(self, _path: str | None, handle: int, offset: int = 0) -> Iterator[tuple[int, Node]]:
        """Return the entries of a listed directory from the one after `offset` on, each with its own offset.

        The offsets 1 and 2 are those of the directory itself and its parent.
        """
        entries = self._handles[handle]
        assert isinstance(entries, list)  # noqa: S101 - the kernel lists only what it opened
        # the kernel takes some tens of names at a time: to count from the first one each time is a million squared
        return ((place + 3, entries[place]) for place in range(max(0, offset - 2), len(entries)))

    def to_announce(self, node: Measured) -> Measured:
        """Return what the kernel may be told of `node`: of a file the version that is open, or else the newest."""
        return self._versions.to_announce(node) if isinstance(node, File) else node

    def announced(self, node: Measured) -> None:
        """Record that the kernel was told of `node`."""
        if isinstance(node, File):
            self._versions.announced(node)

    def attributes(self, node: Measured) -> dict[str, int]:
        """Return all attributes of `node`, for the kernel to keep."""
        return view.attributes(node, self._owner, self._mounted)

    def errors(self, verb: str, path: str) -> "_Errors":
        """Return what stands around an answer to the kernel: it logs an error once, and a surprise becomes EIO."""
        return _Errors(verb, path, self._told_offline)

    @contextmanager
    def _waiting_for_name(self, path: str) -> Iterator[None]:
        """Count the wait for the name `path`, and bound it."""
        with self._stats.names_waiting, self._names.bounded(path):
            yield

    def _is_alive(self) -> bool:
        return not is_dead(self._caller())

    def _open_files(self) -> int:
        return sum(isinstance(thing, OpenFile) for thing in list(self._handles.values()))

    def _new_handle(self, thing: OpenFile | list[Node] | bytes) -> int:
        handle = next(self._numbers)
        self._handles[handle] = thing
        return handle


class _Errors:
    """Hand on what an OSError says; what nobody foresaw is logged and becomes EIO.

    Args:
        verb: what the kernel asked.
        path: of what.
        told: what was told to be out of reach.
    """

    def __init__(self, verb: str, path: str, told: LruCache[tuple[str, str], bool]) -> None:
        self._verb = verb
        self._path = path
        self._told = told

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        match error:
            case None:
                return
            case NotFound() | KernelViewStale() | Cancelled() | WaitedInVain():
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
        about = (self._verb, parent_path(path) if self._verb == "stat" else path)
        news = self._told.get(about) is None
        self._told.put(about, True)
        return news
