"""The tree: what is listed, what was measured, what was asked for; remembered, and refreshed behind the user."""

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial

from empiarfs.engine import siblings
from empiarfs.engine.cache import Recent
from empiarfs.engine.flights import Together
from empiarfs.errors import (
    ArchiveError,
    Closed,
    IsADirectory,
    NotADirectory,
    NotFound,
    Overloaded,
    Refused,
    Unavailable,
)
from empiarfs.model import Directory, Entry, File, Stub, name_of, parent_of
from empiarfs.ports import Index, Known, Listing, Origin, Sizes

log = logging.getLogger(__name__)

BULK_STUBS = 16  # files not measured in a directory, from which on its sizes are asked for together
BULK_SECONDS = 5.0  # how long a reader waits for sizes that are on their way
ABSENT_SECONDS = 3600.0  # how long a name that was not there is not asked for again; the kernel keeps it as long
REFUSED_SECONDS = 60.0  # how long a directory that the server does not list is not tried again
REFRESH_PAUSE = 60.0  # between two tries to refresh a listing, when the first fails
MOST_ENTRIES = 300_000  # entries of directories kept in memory, about 100 MB; the rest is read from the index


class Tree:
    """What is where.

    Args:
        listing: where listings come from.
        origin: who measures files that someone waits for.
        ahead: who measures files that nobody waits for yet.
        sizes: who knows the sizes of a whole directory; None where nobody does.
        index: where all is kept.
        fresh: seconds for which a listing is not asked for again.
        clock: seconds since 1970.
        background: runs a task that lists soon, behind the caller's back.
        sizes_later: runs a task that asks for sizes soon.
        agrees: tells whether a measured file is one that the listing may round like this.
        second: gives how long to wait for a request of somebody else.
        later: runs a task that asks the server for something that nobody waits for yet.
        only: the entries shown at the root; all that the server lists where it is empty.
    """

    def __init__(  # noqa: PLR0913 - each is a part that wire puts in by name
        self,
        listing: Listing,
        origin: Origin,
        ahead: Origin,
        sizes: Sizes | None,
        index: Index,
        *,
        fresh: float,
        clock: Callable[[], float],
        background: Callable[[Callable[[], object]], None],
        sizes_later: Callable[[Callable[[], object]], None] = lambda _: None,
        second: Callable[[], float] = lambda: 1.0,
        agrees: Callable[[Stub, File], bool] = lambda _stub, _file: True,
        later: Callable[[Callable[[], object]], None] = lambda _: None,
        only: Sequence[str] = (),
    ) -> None:
        self._listing = listing
        self._origin = origin
        self._ahead = ahead
        self._sizes = sizes
        self._index = index
        self._fresh = fresh
        self._clock = clock
        self._background = background
        self._sizes_later = sizes_later
        self._second = second
        self._agrees = agrees
        self._later = later
        self._only = tuple(only)
        self._together = Together()
        self._next_refresh: dict[str, float] = {}
        self._refused_until: dict[str, float] = {}
        self._orders: Recent[str, siblings.Order] = Recent(
            2 * MOST_ENTRIES, lambda order: min(len(order.places) + 1, MOST_ENTRIES)
        )
        self._bulk: dict[str, threading.Event] = {}  # directories whose sizes were asked for, and whether they came
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
        sizes = self._bulk.get(parent_of(path))
        if sizes is None or sizes.is_set():  # else they will be here sooner than one by one
            for sibling in self.next_after(path, use="stat"):
                self._later(partial(self.measured_ahead, sibling))
        match self._listed(path):
            case Stub():
                return self._first_look(path)
            case None:
                return self._together.call(("stat", path), lambda: self._asked(path))
            case known:
                return known

    def next_after(self, path: str, *, use: str) -> list[str]:
        """Take in that `path` is used, and give the siblings that its user will want next; none unless he walks.

        Args:
            path: a file.
            use: what it is used for; each use is followed by itself.
        """
        directory = parent_of(path)
        known = self._recent.get(directory)
        if known is None:
            return []
        sizes = self._bulk.get(directory)
        if use == "read" and sizes is not None:
            sizes.set()  # who opens file by file is served sooner one by one than by waiting for all sizes
        key = f"{use} {directory}"
        order = self._orders.get(key)
        if order is None or order.scanned != known.scanned:
            order = siblings.Order(known)
            self._orders.put(key, order)
        return order.after(name_of(path))

    def measured_ahead(self, path: str) -> File | Directory | None:
        """Give what is at `path`, measured while nobody waits; None if that does not work out now.

        Nobody's asking is joined, and nothing is listed: this runs while it holds a place at the gate.

        Raises:
            Overloaded: the server wants to be asked less.
        """
        entry = self._noted(path)
        if not isinstance(entry, Stub):
            return entry
        try:
            return self._together.alone(
                ("ahead", path), lambda: self._known_or_found(path, self._ahead), unless=("stat", path)
            )
        except Overloaded:
            raise
        except ArchiveError:
            return None

    def _noted(self, path: str) -> Entry | None:
        known = self._recent.get(parent_of(path))
        return None if known is None else known.entries.get(name_of(path))

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
            return self._index.entry(path)
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
            if self._clock() < self._refused_until.get(directory, 0.0):
                raise Refused(directory, "the server does not list it")
            return self._together.call(("scan", directory), lambda: self._scanned(directory))
        now = self._clock()
        if now - known.scanned > self._fresh and now > self._next_refresh.get(directory, 0.0):
            self._next_refresh[directory] = now + REFRESH_PAUSE
            self._background(lambda: self._refreshed(directory))
        return known

    def _refreshed(self, directory: str) -> None:
        try:
            self._together.call(("scan", directory), lambda: self._scanned(directory))
        except Closed:
            return
        except ArchiveError as error:
            log.warning("%s; the listing of before is shown", error)
        else:
            self._next_refresh.pop(directory, None)

    def _scanned(self, directory: str) -> Known:
        try:
            found = self._listing.scan(directory)
        except Refused:
            self._refused_until[directory] = self._clock() + REFUSED_SECONDS
            raise
        except NotFound as error:
            if directory and isinstance(self._listed(directory), File | Stub):
                raise NotADirectory(directory) from error
            raise
        known = self._index.replace(directory, found, self._clock())
        self._bulk.pop(directory, None)
        self._recent.put(directory, known)
        return known

    def _first_look(self, path: str) -> File | Directory:
        """Measure a file, and see to it that its siblings are measured when they are wanted."""
        known = self._known_sizes(parent_of(path))
        entry = known.entries.get(name_of(path))
        if isinstance(entry, File | Directory):
            return entry
        return self._together.call(("stat", path), lambda: self._looked(path))

    def _looked(self, path: str) -> File | Directory:
        """Measure a file, unless the measuring ahead of us, which may be under way, comes soon."""
        self._together.settled(("ahead", path), self._second())
        return self._known_or_found(path)

    def _known_or_found(self, path: str, ahead: Origin | None = None) -> File | Directory:
        """Look once more, now that nobody else asks; then ask."""
        entry = self._noted(path)
        if isinstance(entry, File | Directory):
            return entry
        return self._found(path) if ahead is None else self._found_ahead(path, ahead)

    def _known_sizes(self, directory: str) -> Known:
        """Give the directory, with all its sizes where they can be had at once.

        The first to look asks for them and does not wait; who comes while they are on their way does.
        """
        known = self._known(directory)
        if self._sizes is None:
            return known
        mine = threading.Event()
        arrived = self._bulk.setdefault(directory, mine)
        if arrived is not mine:
            arrived.wait(BULK_SECONDS)
            return known
        if sum(isinstance(entry, Stub) for entry in list(known.entries.values())) < BULK_STUBS:
            arrived.set()
        else:
            self._sizes_later(lambda: self._take_sizes(directory, known, arrived))
        return known

    def _take_sizes(self, directory: str, known: Known, arrived: threading.Event) -> None:
        try:
            assert self._sizes is not None  # noqa: S101 - the caller has looked
            stubs = [entry for entry in list(known.entries.values()) if isinstance(entry, Stub)]
            files = [
                file
                for file in self._sizes.measured(directory, stubs)
                if isinstance(known.entries.get(name_of(file.path)), Stub)  # else it was measured meanwhile, better
            ]
            for file in files:
                known.entries[name_of(file.path)] = file
            self._index.add_all(files)
        except ArchiveError as error:
            log.info("%s; files are measured one by one", error)
        finally:
            arrived.set()

    def _asked(self, path: str) -> File | Directory:
        since = self._index.absent_since(path)
        if since is not None and self._clock() - since < ABSENT_SECONDS:
            raise NotFound(path)
        return self._found(path)

    def _found(self, path: str) -> File | Directory:
        """Measure what is at `path` for someone who waits, and keep what comes of it."""
        found = self._measured(path, self._origin, again=isinstance(self._noted(path), Stub))
        if isinstance(found, File) and not self._is_plausible(found):
            self._together.call(("scan", parent_of(path)), lambda: self._scanned(parent_of(path)))
            if not self._is_plausible(found):
                raise Unavailable(path, f"the server tells {found.size} bytes, and its listing another length")
        self._keep(found)
        return found

    def _found_ahead(self, path: str, origin: Origin) -> File | Directory:
        """The same for nobody yet: what is odd is left to the one who will look."""
        found = self._measured(path, origin, again=True)
        if isinstance(found, File) and not self._is_plausible(found):
            raise Unavailable(path, "the server contradicts its listing")
        self._keep(found)
        return found

    def _measured(self, path: str, origin: Origin, *, again: bool) -> File | Directory:
        """Ask for `path`; once more for a listed file that a server did not know: another one may."""
        try:
            return origin.measure(path)
        except IsADirectory:
            return Directory(path)
        except NotFound:
            if again and origin is self._origin:
                return self._measured(path, origin, again=False)
            if origin is self._origin:
                self._gone(path)
            raise

    def _is_plausible(self, file: File) -> bool:
        """Tell whether the listing may have rounded the length of `file`."""
        entry = self._noted(file.path)
        return not isinstance(entry, Stub) or self._agrees(entry, file)

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
