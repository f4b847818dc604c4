"""Answers the kernel's requests from an archive; independent of the FUSE binding, importable without libfuse."""

import errno
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from empiarfs.archive import Archive
from empiarfs.cancellation import cancel_scope
from empiarfs.errors import ArchiveError, Cancelled, IsADirectory, NotFound, Offline, Unavailable
from empiarfs.lru import LruCache
from empiarfs.model import Directory, File, Node, Stub, base_name, parent_path
from empiarfs.mount import status, view
from empiarfs.mount.caller_signals import Reader
from empiarfs.mount.names import NameWaits, WaitedInVain
from empiarfs.mount.versions import KernelViewStale, Versions

log = logging.getLogger(__name__)

BACKGROUND = 48  # requests of the kernel's readahead at once
MOST_OFFLINE = 10_000  # files and directories that were logged as not available offline

Measured = File | Directory


class Operations:
    """Answers the kernel's requests from an archive.

    It does not inherit from a binding's class of defaults: what is not here (extended attributes, locks) libfuse
    answers itself, once, and the kernel does not request it again. Writes come here only if root has remounted the
    mount as writable.

    Args:
        archive: what is mounted.
        owner: the owner of all files.
        mounted: the time of the mount, in seconds since 1970.
        ready: called when the kernel gets its first answer.
        stats: the counters, and the content of the status file.
        caller: returns the id of the thread whose request is answered, in the thread that answers; 0 if it is
            not known.
        longest_wait: the seconds after which a name or a read fails, whatever the engine waits for.
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
        longest_wait: float = math.inf,
    ) -> None:
        self._stats = stats
        stats.open_files = self._open_files
        self._archive = archive
        self._owner = owner
        self._mounted = mounted
        self._ready = ready
        self._caller = caller
        self._names = NameWaits(archive.has_answered, caller, most=longest_wait)
        self._longest_wait = longest_wait
        self._versions = Versions()
        self._handles: dict[int, File | list[Node] | bytes] = {}
        # logged as not available offline: programs try again and again, and `ls -l` tries each name of a directory
        self._logged_offline: LruCache[tuple[str, str], bool] = LruCache(MOST_OFFLINE, lambda _: 1)
        self._numbers = itertools.count(1)

    def init_with_config(self, connection: Any, config: Any) -> None:
        """Set up the connection; libfuse 2 takes these values as options."""
        if connection is not None:
            connection.max_background = BACKGROUND
            connection.congestion_threshold = BACKGROUND * 3 // 4
        if config is not None:
            config.use_ino = 1
            config.nullpath_ok = 0
        self._ready()

    def init(self, _path: str) -> None:
        """Set up the connection, with fusepy."""
        self._ready()

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        """Return the attributes for `stat`."""
        path = path[1:]
        if view.is_too_long(base_name(path)):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        if path == status.NAME:
            return view.status_attributes(path, self._owner, self._mounted)
        with self.errors("stat", path), self._waiting_for_name(path):
            node = self.to_announce(self._shown(path))
            self.announced(node)
            return self.attributes(node)

    def opendir(self, path: str) -> int:
        """List a directory; the handle holds the listing, so that no name is repeated or missing."""
        path = path[1:]
        with self.errors("list", path), self._waiting_for_name(path):
            in_archive = view.archive_path(path)
            listed = self._archive.listdir(in_archive)
            if in_archive != path:
                listed = [view.at(node, f"{path}/{base_name(node.path)}") for node in listed]
            return self._new_handle(listed)

    def releasedir(self, _path: str | None, handle: int) -> int:
        """Drop the listing of an open directory."""
        self._handles.pop(handle, None)
        return 0

    def open(self, path: str, info: Any) -> int:
        """Open a file; the kernel keeps its pages across opens while it is the same version."""
        path = path[1:]
        if info.flags & os.O_ACCMODE != os.O_RDONLY:
            self.refuse()
        with self.errors("open", path):
            if path == status.NAME:
                # it is made at this moment; the kernel must cache neither it nor its length
                info.direct_io = True
                info.fh = self._new_handle(status.as_text(self._stats.status()).encode())
                return 0
            with self._waiting_for_name(path):
                found = self._shown(path)
            if isinstance(found, Directory):
                raise IsADirectory(path)
            opened = self._versions.to_open(found)
            self._stats.record_open(view.archive_path(path))
            info.keep_cache = self._versions.open(opened)
            info.fh = self._new_handle(opened)  # last: after an error no `release` follows
        return 0

    def release(self, path: str | None, info: Any) -> int:
        """Close an open file."""
        with self.errors("release", (path or "/")[1:]):
            opened = self._handles.pop(info.fh, None)
            if isinstance(opened, File) and self._versions.close(opened):
                self._archive.release(_in_archive(opened))
        return 0

    def read(self, path: str | None, size: int, offset: int, info: Any) -> bytes:
        """Return bytes of an open file."""
        with self.errors("read", (path or "/")[1:]):
            opened = self._handles[info.fh]
            if isinstance(opened, bytes):
                return opened[offset : offset + size]
            assert isinstance(opened, File)  # noqa: S101 - the kernel reads only what it opened
            # a program that catches SIGINT takes a failed read for an error of the file, and some ignore that
            with self._stats.reads_waiting, self._waiting_for_bytes(opened.path):
                data = self._archive.read(_in_archive(opened), offset, size)
            count = len(data)
            self._stats.reads += 1
            self._stats.served_bytes += count
            return data

    def refuse(self, *_: object) -> NoReturn:
        """Refuse to change anything."""
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    chmod = chown = create = link = mkdir = mknod = removexattr = rename = rmdir = setxattr = symlink = refuse
    truncate = unlink = utimens = refuse

    def statfs(self, _path: str) -> dict[str, int]:
        """Return the size of the file system."""
        return view.statfs()

    def readdir(self, _path: str | None, handle: int, offset: int = 0) -> Iterator[tuple[int, Node]]:
        """Return the nodes of a listed directory after `offset`, each with its own offset.

        The offsets 1 and 2 are those of the directory itself and its parent.
        """
        entries = self._handles[handle]
        assert isinstance(entries, list)  # noqa: S101 - the kernel lists only what it opened
        # the kernel takes some tens of names at a time: counting from the first one each time would be quadratic
        return ((place + 3, entries[place]) for place in range(max(0, offset - 2), len(entries)))

    def known(self, listed: Node) -> Node:
        """Return what is known by now of a node that was listed, without a request."""
        return self._archive.known(listed) if isinstance(listed, Stub) else listed

    def to_announce(self, node: Measured) -> Measured:
        """Return the node to announce to the kernel: of a file the version that is open, or else the newest."""
        return self._versions.to_announce(node) if isinstance(node, File) else node

    def announced(self, node: Measured) -> None:
        """Record that `node` was announced to the kernel."""
        if isinstance(node, File):
            self._versions.announced(node)

    def attributes(self, node: Measured) -> dict[str, int]:
        """Return all attributes of `node`, which the kernel caches."""
        return view.attributes(node, self._owner, self._mounted)

    def errors(self, verb: str, path: str) -> "_Errors":
        """Return a context that logs an error once, and turns an unexpected exception into EIO."""
        return _Errors(verb, path, self._logged_offline)

    def _shown(self, path: str) -> Measured:
        """Return what is shown at `path`; the kernel has a view of its own of each path."""
        return view.at(self._archive.stat(view.archive_path(path)), path)

    @contextmanager
    def _waiting_for_name(self, path: str) -> Iterator[None]:
        """Count the wait for the name `path`, and bound it."""
        with self._stats.names_waiting, self._names.bounded(path):
            yield

    @contextmanager
    def _waiting_for_bytes(self, path: str) -> Iterator[None]:
        """Bound the wait for bytes of `path`."""
        until, reader = time.monotonic() + self._longest_wait, Reader(self._caller())
        try:
            with cancel_scope(lambda: not reader.is_dead() and time.monotonic() < until):
                yield
        except Cancelled as error:
            if time.monotonic() < until:
                raise
            raise Unavailable(path, f"no bytes within {self._longest_wait:.0f} s") from error

    def _open_files(self) -> int:
        return sum(isinstance(thing, File) for thing in list(self._handles.values()))

    def _new_handle(self, thing: File | list[Node] | bytes) -> int:
        handle = next(self._numbers)
        self._handles[handle] = thing
        return handle


def _in_archive(shown: File) -> File:
    """Return the file of the archive that the kernel sees as `shown`."""
    return view.at(shown, view.archive_path(shown.path))


class _Errors:
    """Lets an OSError pass with its errno; an unexpected exception is logged and becomes EIO.

    Args:
        verb: the operation.
        path: the path it was called with.
        logged: paths that were logged as not available offline.
    """

    def __init__(self, verb: str, path: str, logged: LruCache[tuple[str, str], bool]) -> None:
        self._verb = verb
        self._path = path
        self._logged = logged

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
        """Return True once for each file, and each directory, that was to be read and is not available offline."""
        about = (self._verb, parent_path(path) if self._verb == "stat" else path)
        news = self._logged.get(about) is None
        self._logged.put(about, True)
        return news
