"""Measures the next files of a directory in batches, ahead of the program that steps through them."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

from empiarfs.engine.hedge import Hedgeable
from empiarfs.engine.listings import Listings
from empiarfs.engine.single_flight import SingleFlight
from empiarfs.model import Directory, File, Node, Stub, base_name, parent_path
from empiarfs.ports import BatchedSizes

SHARES = 8  # batches at least, one for each connection: a server may take long for each reply
FEWEST = 6  # files of a batch, unless there are no more: a connection costs a round trip
BATCH = 50  # files at most; Apache closes a connection after its 100th request, unless it is configured otherwise


class SizeBatches:
    """Batches of files that are measured ahead of use.

    A batch claims its files, so that a program that needs one of them waits for the batch, and asks by itself when
    the batch is silent. It holds a connection for prefetch.

    Args:
        sizes: measures a batch.
        listings: stores what was measured.
        single_flight: the paths that are being measured.
        background: runs a batch, soon.
        prefetch_slot: holds a connection for prefetch.
        measure_ahead: measures one file; for those that no batch has measured.
    """

    def __init__(
        self,
        sizes: BatchedSizes,
        *,
        listings: Listings,
        single_flight: SingleFlight[str, File | Directory],
        background: Callable[[Callable[[], object]], None],
        prefetch_slot: Callable[[], AbstractContextManager[None]],
        measure_ahead: Callable[[str], object],
    ) -> None:
        self._sizes = sizes
        self._listings = listings
        self._single_flight = single_flight
        self._background = background
        self._prefetch_slot = prefetch_slot
        self._measure_ahead = measure_ahead

    def is_usable(self) -> bool:
        """Return whether batches are faster than single requests now."""
        return self._sizes.is_usable()

    def start(self, paths: Sequence[str]) -> None:
        """Measure `paths`, files of one directory, in the background."""
        size = min(max(-(-len(paths) // SHARES), FEWEST), BATCH)
        for first in range(0, len(paths), size):
            self._background(partial(self._measure, paths[first : first + size]))

    def _measure(self, paths: Sequence[str]) -> None:
        try:
            if self.is_usable():
                # the slot before the claims: a program that waits for a file would also wait for the slot
                with self._prefetch_slot():
                    self._measure_now(paths)
        finally:
            for path in paths:
                if isinstance(self._listings.cached_node(path), Stub):
                    self._background(partial(self._measure_ahead, path))

    def _measure_now(self, paths: Sequence[str]) -> None:
        directory = parent_path(paths[0])
        claims = _Claims(self._single_flight)
        try:
            nodes = map(self._listings.cached_node, claims.take(paths))
            stubs = {node.path: node for node in nodes if isinstance(node, Stub)}
            for files in self._sizes.measure_batch(directory, list(stubs.values())):
                self._keep(directory, files, stubs)
                for path in stubs:
                    claims.complete(path, self._listings.cached_node(path))
                claims.take([path for path in stubs if isinstance(self._listings.cached_node(path), Stub)])
        finally:
            claims.release()

    def _keep(self, directory: str, files: Sequence[File], stubs: Mapping[str, Stub]) -> None:
        """Store `files`, but for those that were listed otherwise meanwhile."""
        known = self._listings.cached(directory)
        if known is not None and files:
            same = [file for file in files if known.nodes.get(base_name(file.path)) == stubs[file.path]]
            self._listings.keep_all(known, same)


class _Claims:
    """The paths of one batch that other threads wait for; one that has waited for long releases them all."""

    def __init__(self, single_flight: SingleFlight[str, File | Directory]) -> None:
        self._single_flight = single_flight
        self._lock = threading.Lock()
        self._claimed: set[str] = set()
        self._request = Hedgeable()

    def take(self, paths: Sequence[str]) -> list[str]:
        """Claim those of `paths` that are not in flight, and return them; all claims are new from now on."""
        mine, _ = self._single_flight.claim(paths)
        with self._lock:
            self._claimed.update(mine)
        self._request.sent(self.release)
        for flight in mine.values():
            flight.requests = (self._request,)
        return list(mine)

    def complete(self, path: str, node: Node | None) -> None:
        """Return `node` to the threads that wait for `path`, if it is measured."""
        with self._lock:
            if path in self._claimed and isinstance(node, File | Directory):
                self._claimed.remove(path)
                self._single_flight.complete(path, node)

    def release(self) -> None:
        """Let the threads that wait measure their files by themselves."""
        with self._lock:
            self._single_flight.fail(self._claimed, None)
            self._claimed.clear()
