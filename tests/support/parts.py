"""Parts of the engine over fakes, put together as `wire` does it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from empiarfs.archive import Archive
from empiarfs.cancellation import CancelToken
from empiarfs.engine.cache import Cache
from empiarfs.engine.fetcher import Fetcher
from empiarfs.engine.hedge import Hedgeable, Hedged
from empiarfs.engine.latency import LatencyEstimator
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.engine.prefetch import Background, Prefetcher
from empiarfs.engine.reader import Reader
from empiarfs.engine.single_flight import SingleFlight
from empiarfs.engine.tree import Tree
from empiarfs.model import Block, File, Span
from empiarfs.ports import NEVER, Origin
from support.fakes import FixedLatency, in_threads

T = TypeVar("T")


class Reading:
    """A reader and all that it stands on.

    Args:
        origin: the server, for readers.
        ahead: the same for prefetch.
        cache: memory and store.
        latency: what is usual of the server.
        block_bytes: the length of a block.
        longest_run: the most bytes of one request.
        prefetch_slot: holds a connection for prefetch.
    """

    def __init__(
        self,
        origin: Origin,
        ahead: Origin,
        cache: Cache,
        *,
        latency: LatencyEstimator | None = None,
        block_bytes: int,
        longest_run: int,
        prefetch_slot: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.latency = latency or FixedLatency()
        self.in_flight: SingleFlight[Block, bytes] = SingleFlight(self.latency.hedge_delay, in_threads)
        self.fetcher = Fetcher(
            origin,
            ahead,
            cache,
            self.in_flight,
            in_threads,
            latency=self.latency,
            block_bytes=block_bytes,
            longest_run=longest_run,
        )
        self.reader = Reader(
            cache, self.in_flight, self.fetcher, block_bytes=block_bytes, prefetch_slot=prefetch_slot
        )

    def archive(
        self,
        tree: Tree,
        background: Background,
        close: Callable[[], None],
        *,
        most_ahead: int,
        request_size_bounds: Callable[[], tuple[int, int]],
        **options: Any,
    ) -> Archive:
        """Return an archive of it."""
        prefetcher = Prefetcher(
            self.reader,
            tree,
            background,
            most_ahead=most_ahead,
            request_size_bounds=request_size_bounds,
            **options,
        )
        return Archive(tree, self.reader, prefetcher, in_order, close)


def in_order(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run `calls` one after the other."""
    return [call() for call in calls]


class AtOnce(Hedgeable):
    """A request that is sent a second time as soon as it is sent."""

    def sent(self, hedge: Callable[[], None]) -> None:
        """Hedge it."""
        super().sent(hedge)
        self.hedge_if_silent(0.0)


class HedgedAtOnce:
    """An origin that sends every request a second time, as far as may be."""

    def __init__(self, origin: Origin, limiter: ConnectionLimiter) -> None:
        self.hedged = Hedged(origin, limiter, limiter.demand, in_threads)

    def measure(self, path: str, *, deadline: float = NEVER, token: CancelToken | None = None) -> File:
        """See `Origin.measure`."""
        return self.hedged.measure(path, deadline=deadline, token=AtOnce())

    def open(
        self, path: str, size: int, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> tuple[File, bytes]:
        """See `Origin.open`."""
        return self.hedged.open(path, size, deadline=deadline, token=AtOnce())

    def fetch(
        self, file: File, span: Span, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> Iterator[bytes]:
        """See `Origin.fetch`."""
        return self.hedged.fetch(file, span, deadline=deadline, token=AtOnce())
