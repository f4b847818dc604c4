"""A read: which blocks cover it, which of them are here, and one ranged request for each run that is not."""

import logging
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from typing import cast

from empiarfs.cancellation import is_cancellable, run_in_thread
from empiarfs.engine import blocks
from empiarfs.engine.cache import Cache
from empiarfs.engine.latency import LatencyEstimator
from empiarfs.engine.single_flight import InFlightBlock, InFlightBlocks
from empiarfs.errors import ArchiveError, Cancelled, Unavailable
from empiarfs.model import Block, File, Span
from empiarfs.ports import Origin

log = logging.getLogger(__name__)

MOST_SPLIT = 4  # blocks of a read that come over as many lines; a longer one is a stream


class Reader:
    """Reads files by blocks.

    Args:
        origin: where the bytes come from when a reader waits for them.
        ahead: the same for bytes that nobody waits for yet.
        cache: where blocks are looked for and kept.
        latency: what is usual of the server.
        block_bytes: the length of a block.
        longest_run: the most bytes of one request.
    """

    def __init__(
        self,
        origin: Origin,
        ahead: Origin,
        cache: Cache,
        *,
        latency: LatencyEstimator,
        block_bytes: int,
        longest_run: int,
    ) -> None:
        self._origin = origin
        self._ahead = ahead
        self._cache = cache
        self._latency = latency
        self._block_bytes = block_bytes
        self._longest = max(1, longest_run // block_bytes)
        self._in_flight = InFlightBlocks()
        self.bytes_fetched = self.blocks_fetched = 0
        self.blocks_read = self.blocks_from_memory = self.hedged_requests = 0

    def __repr__(self) -> str:
        return f"<Reader bytes_fetched={self.bytes_fetched} {self._in_flight!r} {self._cache!r}>"

    @property
    def in_flight(self) -> int:
        """How many blocks are on their way."""
        return self._in_flight.count

    def read(self, file: File, span: Span, *, beyond: int = 0) -> bytes:
        """Return the bytes of `span`, which lies in `file`; all of them, or an error.

        Args:
            file: the version that is read.
            span: what is asked for.
            beyond: bytes behind it that the same request brings, if one is needed and nobody fetches them yet: a
                reader in line who has come to the end of what was fetched ahead should not ask block by block.

        Raises:
            ArchiveError: NotFound, Forbidden, Stale, Unavailable or Closed, as `empiarfs.errors` tells.
        """
        numbers = blocks.covering(span, self._block_bytes)
        got: dict[int, bytes] = {}
        # who reads in line comes to the end of a block by and by, and then needs it no more
        begin = numbers.start if beyond else -(-span.start // self._block_bytes)
        fully_read = range(begin, span.stop // self._block_bytes)
        for number in numbers:
            held = self._cache.in_memory(Block(file, number), fully_read=number in fully_read)
            if held is not None:
                got[number] = held
        fetched = [number for number in numbers if number not in got]
        self.blocks_read += len(numbers)
        self.blocks_from_memory += len(got)
        while any(number not in got for number in numbers):
            mine, theirs = self._in_flight.claim(Block(file, n) for n in numbers if n not in got)
            missing: list[Block] = []
            got.update(self._cached(mine, missing))
            is_last = bool(missing) and missing[-1].number == numbers.stop - 1
            further = self._following(file, span.stop, beyond) if beyond and is_last else []
            if further or (missing and is_cancellable()):  # the reader need not wait for those, or may be ended
                theirs |= self._start_fetch(file, missing, further)
            else:
                got.update(self._fetch(file, missing))
            for block, flight in theirs.items():
                data = self._wait_for(block, flight)
                if data is not None:  # else it was given up, and is claimed in the next turn
                    got[block.number] = data
        self._cache.demote(Block(file, number) for number in fetched if number in fully_read)
        first = numbers.start * self._block_bytes
        if len(numbers) == 1:
            return got[numbers.start][span.start - first : span.stop - first]
        data = b"".join(got[number] for number in numbers)
        return data[span.start - first : span.stop - first]

    def _following(self, file: File, start: int, size: int) -> list[Block]:
        """Claim the blocks behind `start`, up to the first one that is here or on its way."""
        rest = blocks.covering(blocks.clamped(start, size, file.size), self._block_bytes)
        claimed: list[Block] = []
        for number in rest:
            block = Block(file, number)
            if number * self._block_bytes < start:
                continue
            if block in self._cache:
                break
            mine, _ = self._in_flight.claim([block])
            if not mine:
                break
            claimed += mine
        return claimed

    def _start_fetch(self, file: File, missing: list[Block], further: list[Block]) -> dict[Block, InFlightBlock]:
        """Fetch claimed blocks in a thread of its own; give the flights of `missing`."""
        in_flight = self._in_flight.of(missing)

        def fetch() -> None:
            try:
                # not looked for on disk: a thread that lives for one request would open the database for it
                for _ in self._fetch(file, [*missing, *further]):
                    pass
            except ArchiveError as error:
                log.debug("%s", error)  # told to those who wait
            except Exception:
                log.exception("%s", file.path)

        run_in_thread(fetch)
        return in_flight

    def _wait_for(self, block: Block, flight: InFlightBlock) -> bytes | None:
        """Return a block that another thread fetches; ask for it too where that request is silent for too long."""
        if not flight.is_late(self._latency.hedge_delay()):
            return flight.wait()
        self.hedged_requests += 1
        run = range(block.number, block.number + 1)
        ((_, data),) = self._stream(block.file, run)
        self.blocks_fetched += 1
        self._cache.put(block, data)
        flight.finish(data, None)
        return data

    def fetch_ahead(self, file: File, span: Span) -> None:
        """Bring what is missing of `span` into the cache.

        Raises:
            ArchiveError: it did not work out; who waits for these blocks claims them himself.
        """
        wanted = (Block(file, n) for n in blocks.covering(span, self._block_bytes))
        mine, _ = self._in_flight.claim(block for block in wanted if self._cache.in_memory(block) is None)
        missing: list[Block] = []
        for _ in self._cached(mine, missing):
            pass
        for _ in self._fetch(file, missing, is_ahead=True):
            pass

    def _cached(self, claimed: list[Block], missing: list[Block]) -> Iterator[tuple[int, bytes]]:
        """Land each claimed block that the cache holds, and give it; add the others to `missing`."""
        left = list(reversed(claimed))
        try:
            while left:  # another thread may have stored it between the look and the claim
                data = self._cache.get(left[-1])
                block = left.pop()
                if data is None:
                    missing.append(block)
                    continue
                self._in_flight.complete(block, data)
                yield block.number, data
        except BaseException:
            self._in_flight.fail([*left, *missing], None)
            raise

    def _fetch(self, file: File, missing: list[Block], *, is_ahead: bool = False) -> Iterator[tuple[int, bytes]]:
        """Land each claimed block, fetched, and give it; what cannot be landed is failed."""
        left = {block.number: block for block in missing}
        try:
            for run in blocks.runs(list(left), self._longest):
                for number, data in self._fetch_run(file, run, is_ahead=is_ahead):
                    self.blocks_fetched += 1
                    self._cache.put(left[number], data)
                    self._in_flight.complete(left[number], data)
                    del left[number]
                    yield number, data
        except ArchiveError as error:
            # what prefetch met is no verdict: a reader who waits asks again, with more patience
            is_his_alone = is_ahead or isinstance(error, Cancelled)
            self._in_flight.fail(left.values(), None if is_his_alone else error)
            left.clear()
            raise
        except Exception as error:  # who waits would ask for it for ever
            surprise = None if is_ahead else Unavailable(file.path, f"{type(error).__name__}: {error}")
            self._in_flight.fail(left.values(), surprise)
            left.clear()
            raise
        finally:
            self._in_flight.fail(left.values(), None)

    def _fetch_run(self, file: File, run: range, *, is_ahead: bool) -> Iterator[tuple[int, bytes]]:
        """Fetch `run`, and give its blocks; in halves where a reader waits and the line is slow."""
        if len(run) > MOST_SPLIT or is_ahead or not self._latency.worth_splitting(len(run) * self._block_bytes):
            yield from self._stream(file, run, is_ahead=is_ahead)
            return
        span = blocks.span_of(run, self._block_bytes, file.size)
        data = self._fetch_in_parts(
            file, blocks.cut(span, self._block_bytes if len(run) > 1 else -(-span.size // 2))
        )
        for number in run:
            part = blocks.span_of(range(number, number + 1), self._block_bytes, file.size)
            yield number, data[part.start - span.start : part.stop - span.start]

    def _fetch_in_parts(self, file: File, parts: list[Span]) -> bytes:
        """Fetch parts that follow each other, each over a line of its own; where one fails the others end soon."""
        over = threading.Event()
        others = [
            run_in_thread(partial(self._fetch_part, file, part, over), "part of a read") for part in parts[1:]
        ]
        try:
            return b"".join((self._fetch_part(file, parts[0], over), *(other.result() for other in others)))
        finally:
            over.set()

    def _fetch_part(self, file: File, span: Span, over: threading.Event) -> bytes:
        """Return exactly the bytes of `span`; those that came so far where it is `over` for all parts."""
        pieces = []
        with closing(cast("Generator[bytes]", self._origin.fetch(file, span))) as stream:
            for piece in stream:
                pieces.append(piece)
                if over.is_set():  # nobody waits any more, and others want the place at the gate
                    break
        data = b"".join(pieces)
        self.bytes_fetched += len(data)
        if len(data) != span.size:
            raise Unavailable(file.path, f"{span.size} bytes were asked for and {len(data)} came")
        return data

    def _stream(self, file: File, run: range, *, is_ahead: bool = False) -> Iterator[tuple[int, bytes]]:
        """Fetch `run` with one request, and give each block as soon as its last byte is here."""
        span = blocks.span_of(run, self._block_bytes, file.size)
        number = run.start
        pieces: list[bytes] = []
        held = 0
        wanted = min(self._block_bytes, span.size)
        # who waits for a reader's request need not ask beside it: that one is asked twice already, if it is late
        silent = self._in_flight.mark_sent(Block(file, n) for n in run) if is_ahead else []
        origin = self._ahead if is_ahead else self._origin
        with closing(cast("Generator[bytes]", origin.fetch(file, span))) as stream:
            for piece in stream:
                for flight in silent:
                    flight.has_started = True
                silent = []
                self.bytes_fetched += len(piece)
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
            raise Unavailable(file.path, f"{span.size} bytes were asked for and another number came")
