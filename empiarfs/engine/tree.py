"""The tree: what is listed, what was measured, what was asked for; remembered, and refreshed behind the user."""

import logging
from collections.abc import Callable, Sequence

from empiarfs.engine.cache import Recent
from empiarfs.engine.flights import Together
from empiarfs.errors import ArchiveError, IsADirectory, NotADirectory, NotFound, Refused
from empiarfs.model import Directory, Entry, File, Stub, name_of, parent_of
from empiarfs.ports import Index, Known, Listing, Origin

log = logging.getLogger(__name__)

ABSENT_SECONDS = 3600.0  # how long a name that was not there is not asked for again; the kernel keeps it as long
REFRESH_PAUSE = 60.0  # between two tries to refresh a listing, when the first fails
MOST_ENTRIES = 300_000  # entries of directories kept in memory, about 100 MB; the rest is read from the index


class Tree:
    """What is where.

    Args:
        listing: where listings come from.
        origin: who measures files.
        index: where both are kept.
        fresh: seconds for which a listing is not asked for again.
        clock: seconds since 1970.
        background: runs a task later, behind the caller's back.
        only: the entries shown at the root; all that the server lists where it is empty.
    """

    def __init__(
        self,
        listing: Listing,
        origin: Origin,
        index: Index,
        *,
        fresh: float,
        clock: Callable[[], float],
        background: Callable[[Callable[[], None]], None],
        only: Sequence[str] = (),
    ) -> None:
        self._listing = listing
        self._origin = origin
        self._index = index
        self._fresh = fresh
        self._clock = clock
        self._background = background
        self._only = tuple(only)
        self._together = Together()
        self._next_refresh: dict[str, float] = {}
        self._recent: Recent[str, Known] = Recent(
            MOST_ENTRIES, lambda known: min(len(known.entries) + 1, MOST_ENTRIES)
        )

    def entries(self, directory: str) -> list[Entry]:
        """Give the children of `directory`: from memory, the index or the server. No file is measured.

        Raises:
            NotFound, NotADirectory, Refused, Unavailable: as `empiarfs.errors` tells.
        """
        if not directory:
            return self._roots()
        self._check_entry(directory)
        known = self._known(directory)
        return list(known.entries.values())  # one step of the interpreter: another thread may add a name

    def stat(self, path: str) -> File | Directory:
        """Give what is at `path`; a file that was never measured is measured now.

        A name that its directory does not list is asked for: the servers sometimes leave one out.

        Raises:
            NotFound, Refused, Unavailable: as `empiarfs.errors` tells.
        """
        if not path:
            return Directory("")
        self._check_entry(path)
        match self._listed(path):
            case Stub():
                return self._together.call(("stat", path), lambda: self._found(path))
            case None:
                return self._together.call(("stat", path), lambda: self._asked(path))
            case known:
                return known

    def changed(self, file: File) -> None:
        """Take in that `file` is no longer what it was: it will be measured anew."""
        stub = self._index.unmeasure(file)
        known = self._recent.get(parent_of(file.path))
        if known is not None and known.entries.get(name_of(file.path)) == file:
            known.entries[name_of(file.path)] = stub

    def _check_entry(self, path: str) -> None:
        """Raise NotFound for what no archive holds, without asking: all that stands at the root is numbers."""
        entry = path.partition("/")[0]
        if not _is_number(entry) or (self._only and entry not in self._only):
            raise NotFound(path, "no such entry here")

    def _roots(self) -> list[Entry]:
        if self._only:
            return [Directory(entry) for entry in self._only]
        listed = self._known("").entries.values()
        return [entry for entry in list(listed) if isinstance(entry, Directory) and _is_number(entry.path)]

    def _listed(self, path: str) -> Entry | None:
        """Give what the listing of the parent says of `path`; None where it does not know."""
        parent = parent_of(path)
        if not parent:  # asking for one entry is cheaper than listing them all
            return self._index.entry(path)
        try:
            return self._known(parent).entries.get(name_of(path))
        except Refused:  # a directory may be closed to listings and its files open
            return None
        except NotADirectory as error:
            raise NotADirectory(path, error.reason) from error
        except NotFound as error:
            raise NotFound(path) from error

    def _remembered(self, directory: str) -> Known | None:
        known = self._recent.get(directory)
        if known is None:
            known = self._index.directory(directory)
            if known is not None:
                self._recent.put(directory, known)
        return known

    def _known(self, directory: str) -> Known:
        known = self._remembered(directory)
        if known is None:
            return self._together.call(("scan", directory), lambda: self._scanned(directory))
        now = self._clock()
        if now - known.scanned > self._fresh and now > self._next_refresh.get(directory, 0.0):
            self._next_refresh[directory] = now + REFRESH_PAUSE
            self._background(lambda: self._refreshed(directory))
        return known

    def _refreshed(self, directory: str) -> None:
        try:
            self._together.call(("scan", directory), lambda: self._scanned(directory))
        except ArchiveError as error:
            log.warning("%s; the listing of before is shown", error)
        else:
            self._next_refresh.pop(directory, None)

    def _scanned(self, directory: str) -> Known:
        try:
            found = self._listing.scan(directory)
        except NotFound as error:
            if directory and isinstance(self._listed(directory), File | Stub):
                raise NotADirectory(directory) from error
            raise
        known = self._index.replace(directory, found, self._clock())
        self._recent.put(directory, known)
        return known

    def _asked(self, path: str) -> File | Directory:
        since = self._index.absent_since(path)
        if since is not None and self._clock() - since < ABSENT_SECONDS:
            raise NotFound(path)
        return self._found(path)

    def _found(self, path: str) -> File | Directory:
        found: File | Directory
        try:
            found = self._origin.measure(path)
        except IsADirectory:
            found = Directory(path)
        except NotFound:
            self._gone(path)
            raise
        self._keep(found)
        return found

    def _keep(self, entry: File | Directory) -> None:
        self._index.add(entry)
        known = self._recent.get(parent_of(entry.path))
        if known is not None:
            known.entries[name_of(entry.path)] = entry

    def _gone(self, path: str) -> None:
        self._index.remove(path, self._clock())
        known = self._recent.get(parent_of(path))
        if known is not None:
            known.entries.pop(name_of(path), None)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()
