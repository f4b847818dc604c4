"""Reads of a file: from blocks in memory and on disk; missing blocks are fetched."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from empiarfs.engine import blocks
from empiarfs.engine.cache import Cache
from empiarfs.engine.fetcher import Fetcher
from empiarfs.engine.single_flight import Flight, SingleFlight
from empiarfs.model import Block, File, Span


class Reader:
    """Reads files by blocks.

    Args:
        cache: the blocks in memory and on disk.
        in_flight: the blocks in flight.
        fetcher: fetches missing blocks.
        block_bytes: the length of a block.
        prefetch_slot: holds a connection for prefetch.
    """

    def __init__(
        self,
        cache: Cache,
        in_flight: SingleFlight[Block, bytes],
        fetcher: Fetcher,
        *,
        block_bytes: int,
        prefetch_slot: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._cache = cache
        self._in_flight = in_flight
        self._fetcher = fetcher
        self._block_bytes = block_bytes
        self._prefetch_slot = prefetch_slot
        self.blocks_read = self.blocks_from_memory = 0

    def __repr__(self) -> str:
        return f"<Reader bytes_fetched={self._fetcher.bytes_fetched} {self._in_flight!r} {self._cache!r}>"

    def whole_blocks(self, size: int) -> int:
        """Return the bytes of the blocks that hold the first `size` bytes of a file; at least those of one."""
        return max(1, -(-size // self._block_bytes)) * self._block_bytes

    @property
    def in_flight(self) -> int:
        """The number of blocks in flight."""
        return self._in_flight.count

    def read(self, file: File, span: Span, *, beyond: int = 0) -> bytes:
        """Return all bytes of `span`, which lies in `file`.

        Args:
            file: the version that is read.
            span: the requested span.
            beyond: bytes behind it that a request for it fetches too, unless they are in flight: a sequential
                reader at the end of what was prefetched should not fetch block by block.

        Raises:
            ArchiveError: NotFound, Forbidden, Stale, Unavailable or Closed; see `empiarfs.errors`.
        """
        numbers = blocks.covering(span, self._block_bytes)
        # a sequential reader does not need a block any more after its end
        begin = numbers.start if beyond else -(-span.start // self._block_bytes)
        fully_read = range(begin, span.stop // self._block_bytes)
        got: dict[int, bytes] = {}
        for number in numbers:
            held = self._cache.in_memory(Block(file, number), fully_read=number in fully_read)
            if held is not None:
                got[number] = held
        self.blocks_read += len(numbers)
        self.blocks_from_memory += len(got)
        if len(got) < len(numbers):
            self._bring(file, numbers, got, span.stop + beyond if beyond else 0)
            self._cache.demote(Block(file, number) for number in fully_read)
        first = numbers.start * self._block_bytes
        data = got[numbers.start] if len(numbers) == 1 else b"".join(got[number] for number in numbers)
        return data[span.start - first : span.stop - first]

    def prefetch(self, file: File, span: Span) -> bool:
        """Load the missing blocks of `span` into memory: from disk, else from the server over a free connection.

        Returns:
            Whether there were missing blocks and the disk held all of them.

        Raises:
            ArchiveError: the fetch failed; a reader that waits for these blocks claims them.
        """
        numbers = blocks.covering(span, self._block_bytes)
        wanted = [number for number in numbers if Block(file, number) not in self._cache]
        missing = self._claim(file, wanted)[0]
        claimed = len(missing)
        try:
            self._fetcher.load(file, missing)
        finally:
            # a wait for a slot holds no claim
            self._in_flight.fail((Block(file, number) for number in missing), None)
        if not missing:
            return claimed > 0
        with self._cache.room(len(missing) * self._block_bytes), self._prefetch_slot():
            self._fetcher.prefetch(file, self._claim(file, missing)[0])
        return False

    def keep(self, file: File, data: bytes) -> None:
        """Cache the complete blocks of `data`, the first bytes of `file`."""
        for number in blocks.covering(Span(0, len(data)), self._block_bytes):
            span = blocks.span_of(range(number, number + 1), self._block_bytes, file.size)
            if span.stop <= len(data):
                self._cache.put(Block(file, number), data[span.start : span.stop])

    def _bring(self, file: File, numbers: range, got: dict[int, bytes], stop: int) -> None:
        """Add the missing blocks of `numbers` to `got`; begin to fetch those behind them up to byte `stop`."""
        while missing := [number for number in numbers if number not in got]:
            claimed, flights = self._claim(file, missing)
            if claimed and stop and numbers.stop - 1 in claimed:
                claimed |= self._claim_following(file, numbers.stop, stop)
                stop = 0
            if claimed:
                self._fetcher.start(file, claimed)
            for block, flight in flights.items():
                data = flight.wait()
                if data is not None:  # else its claim was given up, and the next iteration claims it
                    got[block.number] = data

    def _claim(
        self, file: File, numbers: Iterable[int]
    ) -> tuple[dict[int, Flight[bytes]], dict[Block, Flight[bytes]]]:
        """Claim `numbers`; return the flights that the caller is to complete, and the flights of all."""
        mine, theirs = self._in_flight.claim(Block(file, number) for number in numbers)
        claimed: dict[int, Flight[bytes]] = {}
        for block, flight in mine.items():
            data = self._cache.in_memory(block)  # it may have arrived between the caller's check and the claim
            if data is None:
                claimed[block.number] = flight
            else:
                self._in_flight.complete(block, data)
        return claimed, mine | theirs

    def _claim_following(self, file: File, start: int, stop: int) -> dict[int, Flight[bytes]]:
        """Claim the blocks from number `start` to byte `stop`, up to the first that is in memory or in flight."""
        claimed: dict[int, Flight[bytes]] = {}
        for number in range(start, -(-min(stop, file.size) // self._block_bytes)):
            claimed_now = {} if Block(file, number) in self._cache else self._claim(file, [number])[0]
            if not claimed_now:
                break
            claimed |= claimed_now
        return claimed
