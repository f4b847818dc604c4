"""The tree: names as they are listed, files measured once, when someone looks or a little before."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from empiarfs.cancellation import wait
from empiarfs.engine import sequence
from empiarfs.engine.listings import MOST_ENTRIES, Listings
from empiarfs.engine.single_flight import SingleFlight
from empiarfs.errors import ArchiveError, IsADirectory, NotFound, Throttled, Unavailable
from empiarfs.lru import LruCache
from empiarfs.model import Directory, File, Node, Stub, base_name, is_entry_number, parent_path
from empiarfs.ports import Known, Origin, Sizes

log = logging.getLogger(__name__)

_NO_NAMES = {"", ".", ".."}
BULK_STUBS = 16  # files not measured in a directory, from which on its sizes are asked for together
MOST_BULKS = 10_000  # directories whose sizes were asked for; of one that was forgotten they are asked for again
BULK_SECONDS = 5.0  # how long readers wait for sizes that are on their way


class _Bulk:
    """The sizes of one listing of a directory, asked for together.

    Args:
        scanned: when it was listed.
    """

    def __init__(self, scanned: float) -> None:
        self.scanned = scanned
        self._until = time.monotonic() + BULK_SECONDS
        self._unheeded = threading.Event()

    def is_awaited(self) -> bool:
        """Return whether they are worth waiting for."""
        return not self._unheeded.is_set() and time.monotonic() < self._until

    def wait(self) -> None:
        """Wait for them, but all who wait together no longer than `BULK_SECONDS`."""
        wait(self._unheeded.wait, max(0.0, self._until - time.monotonic()))

    def forgo(self) -> None:
        """Have nobody wait for them any more: they are here, or others will be here sooner."""
        self._unheeded.set()


class Tree:
    """What is where.

    Args:
        listings: the names.
        origin: who measures files that someone waits for.
        ahead: who measures files that nobody waits for yet.
        sizes: who knows the sizes of a whole directory; None where nobody does.
        sizes_background: runs a task that asks for sizes soon.
        agrees: tells whether a measured file is one that the listing may round like this.
        hedge_delay: gives how long to wait for a request of somebody else.
        background: runs a task that asks the server for something that nobody waits for yet.
        only: the entries shown at the root; all that the server lists where it is empty.
    """

    def __init__(  # noqa: PLR0913 - each is a part that wire puts in by name
        self,
        listings: Listings,
        origin: Origin,
        ahead: Origin,
        sizes: Sizes | None,
        *,
        sizes_background: Callable[[Callable[[], object]], None] = lambda _: None,
        hedge_delay: Callable[[], float] = lambda: 1.0,
        agrees: Callable[[Stub, File], bool] = lambda _stub, _file: True,
        background: Callable[[Callable[[], object]], None] = lambda _: None,
        only: Sequence[str] = (),
    ) -> None:
        self._listings = listings
        self._origin = origin
        self._ahead = ahead
        self._sizes = sizes
        self._sizes_background = sizes_background
        self._hedge_delay = hedge_delay
        self._agrees = agrees
        self._background = background
        self._only = tuple(only)
        self._single_flight = SingleFlight()
        self._orders: LruCache[str, sequence.SequenceDetector] = LruCache(
            2 * MOST_ENTRIES, lambda order: min(len(order.places) + 1, MOST_ENTRIES)
        )
        self._bulk: LruCache[str, _Bulk] = LruCache(MOST_BULKS, lambda _: 1)

    def listdir(self, directory: str) -> list[Node]:
        """Return the children of `directory`: from memory, the index or the server. No file is measured.

        Raises:
            NotFound, NotADirectory, Forbidden, Unavailable: as `empiarfs.errors` tells.
        """
        if not directory:
            return self._roots()
        self._check_entry(directory)
        known = self._listings.known(directory)
        return list(known.nodes.values())  # one step of the interpreter: another thread may add a name

    def stat(self, path: str) -> File | Directory:
        """Return what is at `path`; a file that was never measured is measured now.

        A name that its directory does not list is asked for: the servers sometimes leave one out. An entry that was
        named is a directory, as the root shows it, and is not asked for.

        Raises:
            NotFound, Forbidden, Unavailable: as `empiarfs.errors` tells.
        """
        if not path:
            return Directory("")
        self._check_entry(path)
        bulk = self._bulk.get(parent_path(path))
        if bulk is None or not bulk.is_awaited():  # else the sizes will be here sooner than one by one
            for sibling in self.next_after(path, use="stat"):
                self._background(partial(self.measure_ahead, sibling))
        match self._listings.node(path):
            case Stub():
                return self._first_look(path)
            case None if path in self._only and not self._listings.is_absent(path):
                return Directory(path)
            case None:
                return self._single_flight.call(("stat", path), lambda: self._ask(path))
            case known:
                return known

    def check(self, entry: str) -> None:
        """Ask whether there is `entry`, unless that is known.

        Raises:
            NotFound, Forbidden, Unavailable: as `empiarfs.errors` tells.
        """
        self._check_entry(entry)
        if self._listings.node(entry) is None:
            self._single_flight.call(("stat", entry), lambda: self._ask(entry))

    def next_after(self, path: str, *, use: str) -> list[str]:
        """Record that `path` is used, and give the siblings that its user will want next; none unless he walks.

        Args:
            path: a file.
            use: what it is used for; each use is followed by itself.
        """
        directory = parent_path(path)
        known = self._listings.cached(directory)
        if known is None:
            return []
        bulk = self._bulk.get(directory)
        if use == "read" and bulk is not None:
            bulk.forgo()  # who opens file by file is served sooner one by one than by waiting for all sizes
        key = f"{use} {directory}"
        detector = self._orders.get(key)
        if detector is None or detector.scanned != known.scanned:
            detector = sequence.SequenceDetector(known)
            self._orders.put(key, detector)
        return detector.after(base_name(path))

    def measure_ahead(self, path: str) -> File | Directory | None:
        """Return what is at `path`, measured while nobody waits; None if that does not work out now.

        Nobody's asking is joined, and nothing is listed: this runs while it holds a place at the gate.

        Raises:
            Throttled: the server wants to be asked less.
        """
        node = self._listings.cached_node(path)
        if not isinstance(node, Stub):
            return node
        try:
            return self._single_flight.try_run(
                ("ahead", path), lambda: self._known_or_found(path, self._ahead), unless=("stat", path)
            )
        except Throttled:
            raise
        except ArchiveError:
            return None

    def mark_changed(self, file: File) -> None:
        """Record that `file` is no longer what it was: it will be measured anew."""
        self._listings.mark_changed(file)

    def _check_entry(self, path: str) -> None:
        """Raise NotFound for what no archive holds, without asking: all that stands at the root is numbers.

        Nor is a path that climbs asked for: the library that sends the request would ask for what it leads to.
        """
        entry, *below = path.split("/")
        if any(name in _NO_NAMES or "\0" in name for name in below):
            raise NotFound(path, "no such name")
        if not is_entry_number(entry) or (self._only and entry not in self._only):
            raise NotFound(path, "no such entry here")

    def _roots(self) -> list[Node]:
        if self._only:
            return [Directory(entry) for entry in self._only]
        listed = self._listings.known("").nodes.values()
        return [node for node in list(listed) if isinstance(node, Directory) and is_entry_number(node.path)]

    def _first_look(self, path: str) -> File | Directory:
        """Measure a file, and see to it that its siblings are measured when they are wanted."""
        known = self._known_sizes(parent_path(path))
        node = known.nodes.get(base_name(path))
        if isinstance(node, File | Directory):
            return node
        return self._single_flight.call(("stat", path), lambda: self._look(path))

    def _look(self, path: str) -> File | Directory:
        """Measure a file, unless the measuring ahead of us, which may be under way, comes soon."""
        self._single_flight.wait(("ahead", path), self._hedge_delay())
        return self._known_or_found(path)

    def _known_or_found(self, path: str, ahead: Origin | None = None) -> File | Directory:
        """Look once more, now that nobody else asks; then ask."""
        node = self._listings.cached_node(path)
        if isinstance(node, File | Directory):
            return node
        return self._find(path) if ahead is None else self._find_ahead(path, ahead)

    def _known_sizes(self, directory: str) -> Known:
        """Return the directory, with all its sizes where they can be had at once.

        The first to look asks for them and does not wait; who comes while they are on their way does.
        """
        known = self._listings.known(directory)
        if self._sizes is None:
            return known
        mine = _Bulk(known.scanned)
        bulk = self._bulk.setdefault(directory, mine)
        if bulk.scanned != known.scanned:  # listed anew; two threads here at once ask twice, and know the same
            bulk = mine
            self._bulk.put(directory, mine)
        if bulk is not mine:
            bulk.wait()
            return known
        if sum(isinstance(node, Stub) for node in list(known.nodes.values())) < BULK_STUBS:
            bulk.forgo()
        else:
            self._sizes_background(lambda: self._take_sizes(directory, known, bulk))
        return known

    def _take_sizes(self, directory: str, known: Known, bulk: _Bulk) -> None:
        try:
            assert self._sizes is not None  # noqa: S101 - the caller has looked
            stubs = [node for node in list(known.nodes.values()) if isinstance(node, Stub)]
            self._listings.keep_all(known, self._sizes.measure_all(directory, stubs))
        except ArchiveError as error:
            log.info("%s; files are measured one by one", error)
        finally:
            bulk.forgo()

    def _ask(self, path: str) -> File | Directory:
        if self._listings.is_absent(path):
            raise NotFound(path)
        return self._find(path)

    def _find(self, path: str) -> File | Directory:
        """Measure what is at `path` for someone who waits, and keep what comes of it."""
        found = self._measure(path, self._origin, again=isinstance(self._listings.cached_node(path), Stub))
        if not self._is_plausible(found):
            self._listings.rescan(parent_path(path))
        if not self._is_plausible(found):  # then it was not the listing that was wrong
            found = self._measure(path, self._origin, again=False)
        if isinstance(found, File) and not self._is_plausible(found):
            stub = self._listings.cached_node(path)
            listed = f"~{stub.listed_size}" if isinstance(stub, Stub) else "another size"
            raise Unavailable(path, f"size mismatch: HEAD says {found.size} bytes, the listing says {listed}")
        return self._listings.keep(found)

    def _find_ahead(self, path: str, origin: Origin) -> File | Directory:
        """The same for nobody yet: what is odd is left to the one who will look."""
        found = self._measure(path, origin, again=True)
        if not self._is_plausible(found):
            raise Unavailable(path, "the server contradicts its listing")
        return self._listings.keep(found)

    def _measure(self, path: str, origin: Origin, *, again: bool) -> File | Directory:
        """Ask for `path`; once more for a listed file that a server did not know: another one may."""
        try:
            return origin.measure(path)
        except IsADirectory:
            return Directory(path)
        except NotFound:
            if again and origin is self._origin:
                return self._measure(path, origin, again=False)
            if origin is self._origin:
                self._listings.mark_absent(path)
            raise

    def _is_plausible(self, found: File | Directory) -> bool:
        """Return whether the listing may have rounded the length of what was measured."""
        node = self._listings.cached_node(found.path)
        return not (isinstance(node, Stub) and isinstance(found, File)) or self._agrees(node, found)
