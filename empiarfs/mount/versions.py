"""Which version of each file the kernel has: it keeps one length and one set of pages for all who have it open."""

import threading

from empiarfs.errors import Stale
from empiarfs.lru import LruCache
from empiarfs.model import File

MAX_ANNOUNCED = 500_000  # files whose version the kernel was told; one that was forgotten is looked up once more


class KernelViewStale(Stale):
    """A version that the kernel was not told of: it looks the name up anew and opens it (open(2) in fs/namei.c)."""


class Versions:
    """The versions that the kernel was told, those it may have pages of, and those that are open.

    While a version is open the kernel is told of no other: it would serve the pages of the new one to who reads the
    old one, and end the old one where the new one ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._announced: LruCache[str, File] = LruCache(MAX_ANNOUNCED, lambda _: 1)
        self._paged: LruCache[str, File] = LruCache(MAX_ANNOUNCED, lambda _: 1)
        self._open_versions: dict[str, tuple[File, int]] = {}  # and how often

    def to_announce(self, newest: File) -> File:
        """Return the version to tell the kernel: the one that is open, or else the newest."""
        with self._lock:
            version, _ = self._open_versions.get(newest.path, (newest, 0))
            return version

    def to_open(self, newest: File) -> File:
        """Return the version to open: the one that is open, where the two may be one by two dates; or `newest`."""
        with self._lock:
            version, _ = self._open_versions.get(newest.path, (newest, 0))
            return version if version.could_be(newest) or newest.could_be(version) else newest

    def announced(self, version: File) -> None:
        """Record that the kernel was told of `version`."""
        with self._lock:
            self._announced.put(version.path, version)

    def open(self, newest: File) -> bool:
        """Record that `newest` is opened, and tell whether the kernel may keep the pages that it has.

        Raises:
            Stale: another version is open. ESTALE makes the kernel try once more, which fails again as long as
                that is so.
            Untold: the kernel was told of another version.
        """
        path = newest.path
        with self._lock:
            other, times = self._open_versions.get(path, (newest, 0))
            if other != newest:
                raise Stale(path, "it changed at the server, and its older version is still open")
            if self._announced.get(path) != newest:
                raise KernelViewStale(path, "the kernel was told of another version")
            self._open_versions[path] = newest, times + 1
            # pages of who knows which version are dropped too; where there are none that costs nothing
            are_its_own = self._paged.get(path) == newest
            self._paged.put(path, newest)
            return are_its_own

    def close(self, version: File) -> None:
        """Record that `version` is closed, once."""
        with self._lock:
            _, times = self._open_versions.pop(version.path)
            if times > 1:
                self._open_versions[version.path] = version, times - 1
