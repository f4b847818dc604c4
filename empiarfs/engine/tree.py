"""The tree of directories and files: names come from listings, and files are measured once, on demand or ahead."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from empiarfs.engine import sequence
from empiarfs.engine.bulk_sizes import BulkSizes
from empiarfs.engine.hedge import Hedgeable
from empiarfs.engine.listings import MOST_ENTRIES, Listings
from empiarfs.engine.single_flight import SingleFlight
from empiarfs.engine.size_batches import SizeBatches
from empiarfs.errors import ArchiveError, IsADirectory, NotFound, Throttled, Unavailable
from empiarfs.lru import LruCache
from empiarfs.model import Directory, File, Node, Stub, base_name, is_entry_number, parent_path
from empiarfs.ports import BatchedSizes, Known, Origin, Sizes

log = logging.getLogger(__name__)

_NO_NAMES = {"", ".", ".."}
BULK_STUBS = 16  # unmeasured files of a directory from which on its sizes are requested together
MOST_BULKS = 10_000  # directories whose bulk request is remembered; a forgotten one is requested again


class Tree:
    """The tree of directories and files.

    Args:
        listings: the names.
        origin: measures files that a program waits for.
        ahead: measures files that no program waits for yet.
        sizes: returns the sizes of a whole directory at once; None if there is no such source.
        batched: returns the sizes of some files at once; None if there is no such source.
        single_flight: the paths that are being measured.
        sizes_background: runs a task that requests sizes, soon.
        agrees: returns whether a listing may show the size of a measured file as it does.
        background: runs a task that measures ahead.
        prefetch_slot: holds a connection for prefetch.
        keep_head: caches the first bytes of a file, which came with its size.
        only: the entries shown at the root; empty for all that the server lists.
    """

    def __init__(  # noqa: PLR0913 - each is a part that wire puts in by name
        self,
        listings: Listings,
        origin: Origin,
        ahead: Origin,
        sizes: Sizes | None,
        batched: BatchedSizes | None = None,
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
        self._bulk: LruCache[str, BulkSizes] = LruCache(MOST_BULKS, lambda _: 1)
        self._batches = None
        if batched is not None:
            self._batches = SizeBatches(
                batched,
                listings=listings,
                single_flight=single_flight,
                background=background,
                prefetch_slot=prefetch_slot,
                measure_ahead=self.measure_ahead,
            )

    def listdir(self, directory: str) -> list[Node]:
        """Return the children of `directory` from memory, the index or the server, without measuring files.

        Raises:
            NotFound, NotADirectory, Forbidden, Unavailable: see `empiarfs.errors`.
        """
        if not directory:
            return self._roots()
        self._check_entry(directory)
        known = self._listings.known(directory)
        return list(known.nodes.values())  # atomic: another thread may add a name

    def known(self, stub: Stub) -> Node:
        """Return what is known in memory of a listed file, without a request."""
        return self._listings.cached_node(stub.path) or stub

    def stat(self, path: str, head: int = 0) -> File | Directory:
        """Return what is at `path`; measure a file that was never measured, and cache its first `head` bytes.

        A name that its directory does not list is requested: the servers sometimes leave one out. The entries of
        `only` are directories, as at the root, and are not requested.

        Raises:
            NotFound, Forbidden, Unavailable: see `empiarfs.errors`.
        """
        if not path:
            return Directory("")
        self._check_entry(path)
        bulk = self._bulk.get(parent_path(path))
        if bulk is None or not bulk.is_awaited():  # else the bulk request is faster
            self._measure_siblings(path, head)
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
        """Request `entry` to check that it exists, unless that is known.

        Raises:
            NotFound, Forbidden, Unavailable: see `empiarfs.errors`.
        """
        self._check_entry(entry)
        if self._listings.node(entry) is None:
            self._single_flight.call(entry, lambda request: self._ask(entry, request))

    def next_after(self, path: str, *, use: str, windows: sequence.Windows = sequence.SINGLE) -> list[str]:
        """Record that `path` is used; return the siblings that a sequential user needs next.

        Args:
            path: a file.
            use: the kind of use; each is tracked separately.
            windows: how many of them.
        """
        directory = parent_path(path)
        known = self._listings.cached(directory)
        if known is None:
            return []
        if use == "read":  # file by file: such a program needs few sizes ahead, and waits for none
            bulk, looked_up = self._bulk.get(directory), self._orders.get(f"stat {directory}")
            if bulk is not None:
                bulk.forgo()
            if looked_up is not None:
                looked_up.is_read = True
        key = f"{use} {directory}"
        detector = self._orders.get(key)
        if detector is None or detector.scanned != known.scanned:
            detector = sequence.SequenceDetector(known)
            self._orders.put(key, detector)
        return detector.after(base_name(path), windows)

    def measure_ahead(self, path: str, head: int = 0) -> Node | None:
        """Measure `path` ahead of use, and cache its first `head` bytes; return None if that fails.

        Lists nothing, and does not wait for another thread that measures `path`.

        Raises:
            Throttled: the server throttles.
        """
        node = self._listings.cached_node(path)
        if not isinstance(node, Stub):
            return node
        try:
            # the slot before the claim: a program that waits for `path` would also wait for the slot
            with self._prefetch_slot():
                return self._single_flight.try_run(path, lambda request: self._find_ahead(path, request, head))
        except Throttled:
            raise
        except ArchiveError:
            return None

    def mark_changed(self, file: File) -> None:
        """Record that `file` has changed: it will be measured again."""
        self._listings.mark_changed(file)

    def _check_entry(self, path: str) -> None:
        """Raise NotFound, without a request, for what no archive holds: the root holds only entry numbers.

        A path with `..` is not requested either: the HTTP library would request the path it resolves to.
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

    def _measure_siblings(self, path: str, head: int) -> None:
        """Measure the files that a program needs next if it needs `path` now: in batches, or with their heads.

        For a program that reads each file batches would hold the names whose heads are prefetched.
        """
        is_read = self._was_read(parent_path(path))
        if self._batches is not None and not head and not is_read and self._batches.is_usable():
            self._batches.start(self.next_after(path, use="stat", windows=sequence.BATCHED))
        else:
            for sibling in self.next_after(path, use="stat"):
                self._background(partial(self.measure_ahead, sibling, head))

    def _was_read(self, directory: str) -> bool:
        """Return whether a file in `directory` was read since the last was looked up."""
        detector = self._orders.get(f"stat {directory}")
        if detector is None or not detector.is_read:
            return False
        detector.is_read = False
        return True

    def _first_look(self, path: str, head: int) -> File | Directory:
        """Measure a file, and begin to measure its siblings in bulk."""
        known = self._known_sizes(parent_path(path))
        node = known.nodes.get(base_name(path))
        if isinstance(node, File | Directory):
            return node
        return self._single_flight.call(path, lambda request: self._find(path, request, head))

    def _known_sizes(self, directory: str) -> Known:
        """Return the directory, with all its sizes if they can be requested at once.

        The first caller starts that request and does not wait for it; later callers wait while it is in flight.
        """
        known = self._listings.known(directory)
        if self._sizes is None:
            return known
        mine = BulkSizes(known.scanned)
        bulk = self._bulk.setdefault(directory, mine)
        if bulk.scanned != known.scanned:  # listed again; two threads here at once both send the same request
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

    def _take_sizes(self, directory: str, known: Known, bulk: BulkSizes) -> None:
        try:
            assert self._sizes is not None  # noqa: S101 - the caller has checked
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
        """Measure `path` for a program that waits, unless it is known by now, and store the result."""
        node = self._listings.cached_node(path)
        if isinstance(node, File | Directory):
            return node
        found, data = self._measure(path, request, head, again=isinstance(node, Stub))
        if not self._is_plausible(found):
            self._listings.rescan(parent_path(path))
        if not self._is_plausible(found):  # then the listing was not outdated
            found, data = self._measure(path, request, head, again=False)
        if isinstance(found, File) and not self._is_plausible(found):
            stub = self._listings.cached_node(path)
            listed = f"~{stub.listed_size}" if isinstance(stub, Stub) else "another size"
            raise Unavailable(path, f"size mismatch: HEAD says {found.size} bytes, the listing says {listed}")
        return self._keep(found, data)

    def _find_ahead(self, path: str, request: Hedgeable, head: int) -> File | Directory:
        """Measure `path` ahead of use; an implausible result is left to the program that will need it."""
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
        """Measure `path`; once more if a server does not know a listed file: another server may."""
        try:
            return _measured(self._origin, path, request, head)
        except NotFound:
            if again:
                return self._measure(path, request, head, again=False)
            self._listings.mark_absent(path)
            raise

    def _is_plausible(self, found: File | Directory) -> bool:
        """Return whether a listing may show the size of what was measured as it does."""
        node = self._listings.cached_node(found.path)
        return not (isinstance(node, Stub) and isinstance(found, File)) or self._agrees(node, found)


def _measured(origin: Origin, path: str, request: Hedgeable, head: int) -> tuple[File | Directory, bytes]:
    """Measure `path` at `origin`; return it and its first `head` bytes."""
    try:
        return origin.open(path, head, token=request) if head else (origin.measure(path, token=request), b"")
    except IsADirectory:
        return Directory(path), b""
