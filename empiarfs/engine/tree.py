"""The tree: names as they are listed, files measured once, when a program asks or a little before."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from empiarfs.cancellation import wait
from empiarfs.engine import sequence
from empiarfs.engine.hedge import Hedgeable
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
        origin: measures files that a program waits for.
        ahead: measures files that no program waits for yet.
        sizes: the sizes of a whole directory at once; None where there is no such source.
        single_flight: the paths that are measured now.
        sizes_background: runs a task that asks for sizes soon.
        agrees: returns whether a measured file is one that the listing may round like this.
        background: runs a task that measures ahead.
        prefetch_slot: holds a connection for what no program waits for yet.
        keep_head: caches the first bytes of a file, which came with its size.
        only: the entries shown at the root; all that the server lists where it is empty.
    """

    def __init__(  # noqa: PLR0913 - each is a part that wire puts in by name
        self,
        listings: Listings,
        origin: Origin,
        ahead: Origin,
        sizes: Sizes | None,
        *,
        single_flight: SingleFlight[str, File | Directory],
        sizes_background: Callable[[Callable[[], object]], None] = lambda _: None,
        agrees: Callable[[Stub, File], bool] = lambda _stub, _file: True,
        background: Callable[[Callable[[], object]], None] = lambda _: None,
        prefetch_slot: Callable[[], AbstractContextManager[None]] = nullcontext,
        keep_head: Callable[[File, bytes], None] = lambda _file, _data: None,
        only: Sequence[str] = (),
    ) -> None:
        self._listings = listings
        self._origin = origin
        self._ahead = ahead
        self._sizes = sizes
        self._sizes_background = sizes_background
        self._agrees = agrees
        self._background = background
        self._prefetch_slot = prefetch_slot
        self._keep_head = keep_head
        self._only = tuple(only)
        self._single_flight = single_flight
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

    def stat(self, path: str, head: int = 0) -> File | Directory:
        """Return what is at `path`; a file that was never measured is measured now, and its `head` bytes cached.

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
                return self._first_look(path, head)
            case None if path in self._only and not self._listings.is_absent(path):
                return Directory(path)
            case None:
                return self._single_flight.call(path, lambda request: self._ask(path, request, head))
            case known:
                return known

    def check(self, entry: str) -> None:
        """Ask whether there is `entry`, unless that is known.

        Raises:
            NotFound, Forbidden, Unavailable: as `empiarfs.errors` tells.
        """
        self._check_entry(entry)
        if self._listings.node(entry) is None:
            self._single_flight.call(entry, lambda request: self._ask(entry, request))

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

    def measure_ahead(self, path: str, head: int = 0) -> Node | None:
        """Return what is at `path`, measured before a program asks, its `head` bytes cached; None where that fails.

        Nothing is listed for it, and what is measured already by another thread is not waited for.

        Raises:
            Throttled: the server is to be asked less.
        """
        node = self._listings.cached_node(path)
        if not isinstance(node, Stub):
            return node
        try:
            with (
                self._prefetch_slot()
            ):  # before the claim: a program that waits for it would wait for the slot, too
                return self._single_flight.try_run(path, lambda request: self._find_ahead(path, request, head))
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

    def _first_look(self, path: str, head: int) -> File | Directory:
        """Measure a file, and begin to measure its siblings."""
        known = self._known_sizes(parent_path(path))
        node = known.nodes.get(base_name(path))
        if isinstance(node, File | Directory):
            return node
        return self._single_flight.call(path, lambda request: self._find(path, request, head))

    def _known_sizes(self, directory: str) -> Known:
        """Return the directory, with all its sizes where they can be had at once.

        The first caller starts the request for them and does not wait; later callers wait while it is under way.
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

    def _ask(self, path: str, request: Hedgeable, head: int = 0) -> File | Directory:
        if self._listings.is_absent(path):
            raise NotFound(path)
        return self._find(path, request, head)

    def _find(self, path: str, request: Hedgeable, head: int) -> File | Directory:
        """Measure what is at `path` for a program that waits, unless it is known by now; keep what comes of it."""
        node = self._listings.cached_node(path)
        if isinstance(node, File | Directory):
            return node
        found, data = self._measure(path, request, head, again=isinstance(node, Stub))
        if not self._is_plausible(found):
            self._listings.rescan(parent_path(path))
        if not self._is_plausible(found):  # then it was not the listing that was wrong
            found, data = self._measure(path, request, head, again=False)
        if isinstance(found, File) and not self._is_plausible(found):
            stub = self._listings.cached_node(path)
            listed = f"~{stub.listed_size}" if isinstance(stub, Stub) else "another size"
            raise Unavailable(path, f"size mismatch: HEAD says {found.size} bytes, the listing says {listed}")
        return self._keep(found, data)

    def _find_ahead(self, path: str, request: Hedgeable, head: int) -> File | Directory:
        """Measure what is at `path`; what is odd is left to the program that will ask."""
        node = self._listings.cached_node(path)
        if isinstance(node, File | Directory):
            return node
        found, data = _measured(self._ahead, path, request, head)
        if not self._is_plausible(found):
            raise Unavailable(path, "the server contradicts its listing")
        return self._keep(found, data)

    def _keep(self, found: File | Directory, data: bytes) -> File | Directory:
        known = self._listings.keep(found)
        if data and isinstance(known, File):
            self._keep_head(known, data)
        return known

    def _measure(self, path: str, request: Hedgeable, head: int, *, again: bool) -> tuple[File | Directory, bytes]:
        """Ask for `path`; once more for a listed file that a server did not know: another one may."""
        try:
            return _measured(self._origin, path, request, head)
        except NotFound:
            if again:
                return self._measure(path, request, head, again=False)
            self._listings.mark_absent(path)
            raise

    def _is_plausible(self, found: File | Directory) -> bool:
        """Return whether the listing may have rounded the length of what was measured."""
        node = self._listings.cached_node(found.path)
        return not (isinstance(node, Stub) and isinstance(found, File)) or self._agrees(node, found)


def _measured(origin: Origin, path: str, request: Hedgeable, head: int) -> tuple[File | Directory, bytes]:
    """Return what `origin` says is at `path`, and its first `head` bytes."""
    try:
        return origin.open(path, head, token=request) if head else (origin.measure(path, token=request), b"")
    except IsADirectory:
        return Directory(path), b""
