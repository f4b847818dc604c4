"""Which version of each file the kernel has: it has one length and one set of pages for all open handles."""

import threading

from empiarfs.errors import Stale
from empiarfs.lru import LruCache
from empiarfs.model import File

MAX_ANNOUNCED = 500_000  # files whose version was announced; one that was evicted is looked up again


class KernelViewStale(Stale):
    """The kernel has another version: it looks the name up again and opens it (open(2) in fs/namei.c)."""


class Versions:
    """The versions that were announced to the kernel, those it may have pages of, and those that are open.

    While a version is open no other is announced: the kernel would serve the pages of the new one to readers of the
    old one, and cut the old one to the length of the new one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._announced: LruCache[str, File] = LruCache(MAX_ANNOUNCED, lambda _: 1)
        self._paged: LruCache[str, File] = LruCache(MAX_ANNOUNCED, lambda _: 1)
        self._open_versions: dict[str, tuple[File, int]] = {}  # and the number of open handles

    def to_announce(self, newest: File) -> File:
        """Return the version to announce to the kernel: the one that is open, or else the newest."""
        with self._lock:
            version, _ = self._open_versions.get(newest.path, (newest, 0))
            return version

    def to_open(self, newest: File) -> File:
        """Return the version to open: the open one if it may be `newest` with a less exact date; else `newest`."""
        with self._lock:
            version, _ = self._open_versions.get(newest.path, (newest, 0))
            return version if version.could_be(newest) or newest.could_be(version) else newest

    def announced(self, version: File) -> None:
        """Record that `version` was announced to the kernel."""
        with self._lock:
            self._announced.put(version.path, version)

    def open(self, newest: File) -> bool:
        """Record that `newest` is opened, and return whether the kernel may keep the pages that it has.

        Raises:
            Stale: another version is open. ESTALE makes the kernel try once more, which fails again as long as
                that is so.
            KernelViewStale: another version was announced to the kernel.
        """
        path = newest.path
        with self._lock:
            other, times = self._open_versions.get(path, (newest, 0))
            if other != newest:
                raise Stale(path, "it changed at the server, and its older version is still open")
            if self._announced.get(path) != newest:
                raise KernelViewStale(path, "the kernel has another version")
            self._open_versions[path] = newest, times + 1
            # pages of an unknown version are dropped too; if there are none that costs nothing
            are_its_own = self._paged.get(path) == newest
            self._paged.put(path, newest)
            return are_its_own

    def close(self, version: File) -> bool:
        """Record that `version` is closed, once; return whether no handle of it is open any more."""
        with self._lock:
            _, times = self._open_versions.pop(version.path)
            if times > 1:
                self._open_versions[version.path] = version, times - 1
            return times == 1
