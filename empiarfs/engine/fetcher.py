"""Fetches blocks into the cache, one ranged GET for each run; a block is complete with its last byte."""

import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import cast

from empiarfs.engine import blocks
from empiarfs.engine.cache import Cache
from empiarfs.engine.hedge import Hedgeable
from empiarfs.engine.latency import LatencyEstimator
from empiarfs.engine.single_flight import Flight, SingleFlight
from empiarfs.errors import ArchiveError, Cancelled, Unavailable
from empiarfs.model import Block, File, Span
from empiarfs.ports import Origin

log = logging.getLogger(__name__)

MOST_SPLIT = 4  # the most blocks of a run that are fetched over one connection each

Flights = Mapping[int, Flight[bytes]]  # of claimed blocks of one file, by number, ascending
_Method = Callable[[File, Flights, Origin], Iterator[tuple[int, bytes]]]


class Fetcher:
    """Fetches claimed blocks.

    Args:
        origin: the server, for demand reads.
        prefetch_origin: the server, for prefetch.
        cache: takes the blocks.
        in_flight: the claims.
        submit: runs a task in a thread of its own.
        latency: the server's latency and rate.
        block_bytes: the length of a block.
        longest_run: the most bytes of one request.
    """

    def __init__(  # noqa: PLR0913 - each is a part that wire puts in by name
        self,
        origin: Origin,
        prefetch_origin: Origin,
        cache: Cache,
        in_flight: SingleFlight[Block, bytes],
        submit: Callable[[Callable[[], bytes | None]], Future[bytes | None]],
        *,
        latency: LatencyEstimator,
        block_bytes: int,
        longest_run: int,
    ) -> None:
        self._origin = origin
        self._prefetch_origin = prefetch_origin
        self._cache = cache
        self._in_flight = in_flight
        self._submit = submit
        self._latency = latency
        self._block_bytes = block_bytes
        self._longest = max(1, longest_run // block_bytes)
        self.bytes_fetched = self.blocks_fetched = 0

    def start(self, file: File, flights: Flights, method: _Method | None = None) -> None:
        """Bring claimed blocks for a demand read, in another thread: the caller's may be cancelled.

        Args:
            file: the version that is read.
            flights: the claims.
            method: how to fetch them; None to look on disk first.
        """
        try:
            self._submit(partial(self._bring, file, dict(flights), method))
        except BaseException:
            self._fail(file, flights, None)
            raise

    def load(self, file: File, claimed: dict[int, Flight[bytes]]) -> None:
        """Complete those of `claimed` that are on disk, and remove them from it."""
        for number, data in self._cache.load(file, list(claimed)):
            self._in_flight.complete(Block(file, number), data)
            del claimed[number]

    def prefetch(self, file: File, flights: Flights) -> None:
        """Fetch claimed blocks that no reader waits for yet, in this thread.

        Raises:
            ArchiveError: the fetch failed; a reader that waits for these blocks claims them.
        """
        left = dict(flights)
        try:
            for run in blocks.runs(flights, self._longest):
                part = {number: flights[number] for number in run}
                self._complete(file, left, self._stream(file, part, self._prefetch_origin))
        finally:
            self._fail(file, left, None)

    def _bring(self, file: File, left: dict[int, Flight[bytes]], method: _Method | None) -> None:
        """Load or fetch the claimed blocks `left`; an error is raised in the waiting threads."""
        try:
            if method is None:
                self.load(file, left)
                for run, another in self._parts(left):
                    if run.start == next(iter(left)):
                        method = another
                    else:
                        self.start(file, {number: left.pop(number) for number in run}, another)
            if method is not None:
                self._complete(file, left, method(file, dict(left), self._origin))
        except Cancelled:
            self._fail(file, left, None)
        except ArchiveError as error:
            self._fail(file, left, error)
        except BaseException as error:
            log.exception("%s", file.path)
            self._fail(file, left, Unavailable(file.path, f"{type(error).__name__}: {error}"))

    def _parts(self, flights: Flights) -> list[tuple[range, _Method]]:
        """Return the parts of `flights` and how to fetch each: over several connections where that is faster."""
        parts: list[tuple[range, _Method]] = []
        for run in blocks.runs(flights, self._longest):
            if len(run) > MOST_SPLIT or not self._latency.worth_splitting(len(run) * self._block_bytes):
                parts.append((run, self._stream))
            elif len(run) == 1:
                parts.append((run, self._in_halves))
            else:
                parts += ((range(number, number + 1), self._stream) for number in run)
        return parts

    def _complete(self, file: File, left: dict[int, Flight[bytes]], fetched: Iterator[tuple[int, bytes]]) -> None:
        for number, data in fetched:
            block = Block(file, number)
            self.blocks_fetched += 1
            self._cache.put(block, data)
            self._in_flight.complete(block, data)
            del left[number]

    def _fail(self, file: File, left: Flights, error: ArchiveError | None) -> None:
        self._in_flight.fail((Block(file, number) for number in left), error)

    def _stream(self, file: File, flights: Flights, origin: Origin) -> Iterator[tuple[int, bytes]]:
        """Fetch a run with one request; yield each block as soon as its last byte has arrived."""
        run = range(next(iter(flights)), next(iter(flights)) + len(flights))
        span = blocks.span_of(run, self._block_bytes, file.size)
        request = Hedgeable()
        for flight in flights.values():
            flight.requests = (request,)
        number = run.start
        pieces: list[bytes] = []
        held = received = 0
        wanted = min(self._block_bytes, span.size)
        with closing(cast("Generator[bytes]", origin.fetch(file, span, token=request))) as stream:
            for piece in stream:
                self.bytes_fetched += len(piece)
                received += len(piece)
                rest = piece
                while wanted > 0 and held + len(rest) >= wanted:
                    cut = wanted - held
                    yield number, b"".join((*pieces, rest[:cut]))
                    rest = rest[cut:]
                    pieces, held = [], 0
                    number += 1
                    wanted = min(self._block_bytes, span.stop - number * self._block_bytes)
                if rest:
                    pieces.append(rest)
                    held += len(rest)
        if number != run.stop or held:
            raise Unavailable(file.path, f"expected {span.size} bytes, got {received}")

    def _in_halves(self, file: File, flights: Flights, origin: Origin) -> Iterator[tuple[int, bytes]]:
        """Fetch one block over two connections; if one fails, cancel the other."""
        ((number, flight),) = flights.items()
        span = blocks.span_of(range(number, number + 1), self._block_bytes, file.size)
        halves = blocks.cut(span, -(-span.size // 2))
        requests = [Hedgeable() for _ in halves]
        flight.requests = tuple(requests)
        others = [
            self._submit(partial(self._part, file, half, origin, request))
            for half, request in zip(halves[1:], requests[1:], strict=True)
        ]
        try:
            first = self._part(file, halves[0], origin, requests[0])
            data = b"".join((first, *(other.result() or b"" for other in others)))
        except BaseException:
            for request in requests:
                request.cancel()
            raise
        yield number, data

    def _part(self, file: File, span: Span, origin: Origin, request: Hedgeable) -> bytes:
        """Fetch exactly the bytes of `span`."""
        data = b"".join(origin.fetch(file, span, token=request))
        self.bytes_fetched += len(data)
        if len(data) != span.size:
            raise Unavailable(file.path, f"expected {span.size} bytes, got {len(data)}")
        return data
