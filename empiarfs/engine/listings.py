"""Listings and measured files: cached in memory and in the index, and refreshed in the background."""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from empiarfs.engine.single_flight import SingleFlight
from empiarfs.errors import ArchiveError, Closed, Forbidden, NotADirectory, NotFound, Offline
from empiarfs.lru import LruCache
from empiarfs.model import Directory, File, Node, Stub, base_name, parent_path
from empiarfs.ports import Index, Known, Listing

log = logging.getLogger(__name__)

ABSENT_SECONDS = 3600.0  # how long an absent name is not requested again; the kernel caches it as long
REFUSED_SECONDS = 60.0  # how long a directory that the server does not list is not requested again
REFRESH_PAUSE = 60.0  # between two attempts to refresh a listing, if the first fails
MOST_NOTED = 10_000  # directories whose refusal or failed refresh is remembered
NEVER = float("-inf")
MOST_ENTRIES = 300_000  # directory entries cached in memory, about 100 MB; the rest is read from the index


class Listings:
    """The names of each directory, and what is known of each.

    Args:
        listing: lists directories at the server.
        index: stores listings and measured files.
        listing_ttl: seconds for which a listing is not requested again.
        clock: seconds since 1970.
        background: runs a task that lists, soon, in another thread.
        scans: the directories that are being listed.
        absent: seconds for which an absent name is not requested again.
        listed_mtime: returns the date of a listed file, in seconds since 1970; None if the listing has none.
    """

    def __init__(  # noqa: PLR0913 - each is a part that wire puts in by name
        self,
        listing: Listing,
        index: Index,
        *,
        listing_ttl: float,
        clock: Callable[[], float],
        background: Callable[[Callable[[], object]], None],
        scans: SingleFlight[str, Known],
        absent: float = ABSENT_SECONDS,
        listed_mtime: Callable[[Stub], int | None] = lambda _: None,
    ) -> None:
        self._listing = listing
        self._index = index
        self._listing_ttl = listing_ttl
        self._clock = clock
        self._background = background
        self._absent = absent
        self._listed_mtime = listed_mtime
        self._scans = scans
        self._keeping = threading.Lock()
        self._refresh_tried: LruCache[str, float] = LruCache(MOST_NOTED, lambda _: 1)
        self._forbidden: LruCache[str, float] = LruCache(MOST_NOTED, lambda _: 1)
        self._recent: LruCache[str, Known] = LruCache(
            MOST_ENTRIES, lambda known: min(len(known.nodes) + 1, MOST_ENTRIES)
        )

    def known(self, directory: str) -> Known:
        """Return what is known of `directory`: from memory, the index or the server.

        Raises:
            NotFound, NotADirectory, Forbidden, Unavailable: see `empiarfs.errors`.
        """
        known = self._recall(directory)
        if known is None:
            if self._is_recent(self._forbidden.get(directory), REFUSED_SECONDS):
                raise Forbidden(directory, "the server does not list it")
            return self.rescan(directory)
        is_fresh = self._is_recent(known.scanned, self._listing_ttl)
        if not is_fresh and not self._is_recent(self._refresh_tried.get(directory), REFRESH_PAUSE):
            self._refresh_tried.put(directory, self._clock())
            self._background(lambda: self._refresh(directory))
        return known

    def rescan(self, directory: str) -> Known:
        """List `directory` now; join a request that is in flight.

        Raises:
            NotFound, NotADirectory, Forbidden, Unavailable: see `empiarfs.errors`.
        """
        return self._scans.call(directory, lambda _: self._scan(directory))

    def cached(self, directory: str) -> Known | None:
        """Return `directory` if it is in memory, else None."""
        return self._recent.get(directory)

    def cached_node(self, path: str) -> Node | None:
        """Return the node at `path` if its directory is in memory and holds it, else None."""
        known = self._recent.get(parent_path(path))
        return None if known is None else known.nodes.get(base_name(path))

    def node(self, path: str) -> Node | None:
        """Return what the listing of the parent says of `path`; None if it does not hold it.

        Raises:
            NotFound, NotADirectory, Unavailable: see `empiarfs.errors`.
        """
        parent = parent_path(path)
        if not parent:  # requesting one entry is cheaper than listing them all
            return self._index.node(path)
        try:
            return self.known(parent).nodes.get(base_name(path))
        except (Forbidden, Offline):  # files may be known of a directory that cannot be listed, or never was
            return self._index.node(path)
        except NotADirectory as error:
            raise NotADirectory(path, error.reason) from error
        except NotFound as error:
            raise NotFound(path) from error

    def is_absent(self, path: str) -> bool:
        """Return whether `path` was requested recently, and was absent."""
        return self._is_recent(self._index.absent_since(path), self._absent)

    def keep(self, node: File | Directory) -> File | Directory:
        """Store a measured `node`; return what is known from now on.

        If the sizes of the directory came meanwhile, that is the same version with the listing's date: a program
        may have opened it, and for the kernel another date is another file.
        """
        name, directory = base_name(node.path), parent_path(node.path)
        with self._keeping:
            known = self._recent.get(directory)
            noted = None if known is None else known.nodes.get(name)
            if isinstance(node, File):
                node = self._dated(node, noted)
                if isinstance(noted, File) and noted.could_be(node):
                    node = replace(noted, exact_mtime=node.modified)
            self._index.add(node)  # before memory: a new listing, which may come in between, is read from the index
            known = self._recent.get(directory)
            if known is not None:
                known.nodes[name] = node
        return node

    def keep_all(self, known: Known, files: Iterable[File]) -> None:
        """Store the files of one directory that were measured together, except those measured meanwhile."""
        with self._keeping:
            noted = [(file, known.nodes.get(base_name(file.path))) for file in files]
            new = [self._dated(file, stub) for file, stub in noted if isinstance(stub, Stub)]
            self._index.add_all(new)
            for file in new:
                known.nodes[base_name(file.path)] = file

    def _dated(self, file: File, noted: Node | None) -> File:
        """Return a measured `file`; with the date of its listing, `noted`, if the server has sent none."""
        date = self._listed_mtime(noted) if file.modified is None and isinstance(noted, Stub) else None
        return file if date is None else replace(file, modified=date, coarse_mtime=True)

    def record_date(self, file: File, modified: int) -> None:
        """Record the exact date of `file`, whose own is that of a listing: it stays the same version."""
        if self._is_without(modified, file, self.cached_node(file.path)):
            # a reader waits for the reply that has told the date
            self._background(partial(self._keep_date, file, modified))

    def _keep_date(self, file: File, modified: int) -> None:
        """Store the exact date of `file`, unless its name is another file by now."""
        name = base_name(file.path)
        with self._keeping:
            known = self._recent.get(parent_path(file.path))
            if known is not None and self._is_without(modified, file, known.nodes.get(name)):
                dated = replace(file, exact_mtime=modified)
                self._index.add(dated)
                known.nodes[name] = dated

    @staticmethod
    def _is_without(modified: int, file: File, noted: Node | None) -> bool:
        """Return whether `noted` is `file` without the exact date `modified`."""
        return isinstance(noted, File) and noted == file and noted.exact_mtime != modified

    def mark_absent(self, path: str) -> None:
        """Record that `path` was requested now, and is absent."""
        self._index.remove(path, self._clock())
        known = self._recent.get(parent_path(path))
        if known is not None:
            known.nodes.pop(base_name(path), None)

    def mark_changed(self, file: File) -> None:
        """Record that `file` has changed: its name is not measured any more."""
        with self._keeping:
            stub = self._index.unmeasure(file)
            known = self._recent.get(parent_path(file.path))
            if known is not None and known.nodes.get(base_name(file.path)) == file:
                known.nodes[base_name(file.path)] = stub

    def _is_recent(self, since: float | None, seconds: float) -> bool:
        """Return whether `since` is less than `seconds` ago; a time in the future came from a wrong clock."""
        return since is not None and 0 <= self._clock() - since < seconds

    def _recall(self, directory: str) -> Known | None:
        known = self._recent.get(directory)
        if known is None:
            known = self._index.directory(directory)
            if known is not None:
                self._recent.put(directory, known)
        return known

    def _refresh(self, directory: str) -> None:
        try:
            self.rescan(directory)
        except Closed:
            return
        except ArchiveError as error:
            log.warning("%s; the previous listing is shown, and refreshed again after %.0f s", error, REFRESH_PAUSE)
        else:
            self._refresh_tried.put(directory, NEVER)

    def _scan(self, directory: str) -> Known:
        try:
            found = self._found(directory)
        except Forbidden:
            self._forbidden.put(directory, self._clock())
            raise
        known = self._index.replace(directory, found, self._clock())
        self._recent.put(directory, known)
        return known

    def _found(self, directory: str) -> Sequence[Node]:
        """Request a listing; once more if a server does not know a listed directory: another server may."""
        try:
            return self._listing.scan(directory)
        except (NotFound, Offline) as error:
            listed = self.node(directory) if directory else None
            if isinstance(listed, File | Stub):
                raise NotADirectory(directory) from error
            if listed is None or isinstance(error, Offline):
                raise
        return self._listing.scan(directory)
