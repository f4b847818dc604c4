"""Puts the parts together; the only module that knows which is which.

Threads are made here, or by the parts made here, so an archive is opened after any fork.
"""

import dataclasses
import hashlib
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from empiarfs.archive import Archive
from empiarfs.counters import Counters
from empiarfs.empiar.ftp import FtpSizes
from empiarfs.empiar.http import HttpClient, HttpOrigin
from empiarfs.empiar.lines import IDLE_SECONDS, SLOT_SECONDS, Lines
from empiarfs.empiar.listing import HtmlListing, agrees
from empiarfs.engine.cache import Cache
from empiarfs.engine.gate import Gate
from empiarfs.engine.hedge import Hedged
from empiarfs.engine.later import LastSeen, Later
from empiarfs.engine.listings import Listings
from empiarfs.engine.origins import Patience, Retrying, WaitedFor
from empiarfs.engine.pace import Pace
from empiarfs.engine.reader import Reader
from empiarfs.engine.tree import Tree
from empiarfs.model import Block
from empiarfs.settings import MIB, Settings, archive_name, without_credentials
from empiarfs.storage.disk import DiskStore
from empiarfs.storage.folders import runtime_folder, secure
from empiarfs.storage.index import SqliteIndex, index_file
from empiarfs.storage.slots import Slots

log = logging.getLogger(__name__)

KEPT_FOR_DEMAND = 2  # connections that prefetch never gets
RUN = 16 * MIB  # the most bytes of one request
TIDY_SECONDS = 0.5
CLOSE_SECONDS = 3.0  # how long closing waits for blocks on their way to the disk


class _NoStore:
    """A store that keeps nothing, for a cache of size 0 or a folder that cannot be used."""

    broken = 0

    def get(self, block: Block) -> bytes | None:  # noqa: ARG002
        """Give nothing."""
        return None

    def put(self, first: Block, *data: bytes) -> None:
        """Keep nothing."""

    def kept(self) -> int:
        """Give 0."""
        return 0

    def close(self) -> None:
        """Do nothing."""


def _store(settings: Settings, archive: str) -> "DiskStore | _NoStore":
    if not settings.cache_size:
        return _NoStore()
    folder = settings.cache_dir / "v1" / "blocks"
    try:
        return DiskStore(folder, settings.cache_size, archive=archive, block_bytes=settings.block)
    except PermissionError:
        raise  # someone else's: to be chosen otherwise, not to be done without
    except OSError as error:
        log.warning("%s: %s; nothing is kept on disk until the next mount", folder, error)
        return _NoStore()


def archive(settings: Settings, only: Sequence[str] = (), name: str = "") -> Archive:
    """Open the archive that `settings` tell of.

    Args:
        settings: where it is and what it may use.
        only: the entries to show; all where it is empty.
        name: what the cache knows it by; from the base URL where it is empty.

    Raises:
        OSError: the cache folder cannot be used.
    """
    identity = name or archive_name(settings.base_url)
    settings.cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    secure(settings.cache_dir / "v1")
    stopping = threading.Event()
    slots = Slots(runtime_folder(), urlsplit(settings.base_url).netloc, settings.connections)
    lines = Lines(settings.base_url, slots.take)
    pace = Pace(RUN)
    client = HttpClient(settings.base_url, lines, pace)
    gate = Gate(settings.connections, KEPT_FOR_DEMAND, shrunk=lambda: lines.shed(0.0))
    patience = Patience(settings.patience, time.monotonic, random.random, stopping)
    hedged = Hedged(HttpOrigin(client), gate, pace)
    origin = Retrying(hedged, patience)
    store = _store(settings, identity)
    cache = Cache(settings.memory, store)
    ahead = HttpOrigin(client)
    later = Later(max(1, settings.connections - KEPT_FOR_DEMAND), "ahead", gate.ahead)
    refreshing, sizing, looking = Later(1, "refresh"), Later(1, "sizes"), Later(1, "look")
    reader = Reader(
        origin,
        ahead,
        cache,
        block_bytes=settings.block,
        longest_run=RUN,
        pace=pace,
    )
    index = SqliteIndex(index_file(settings.cache_dir, identity))
    listings = Listings(
        WaitedFor(HtmlListing(client), gate.demand, patience),
        index,
        fresh=settings.fresh,
        clock=time.time,
        background=refreshing,
    )
    tree = Tree(
        listings,
        origin,
        ahead,
        _sizes(settings, lambda: slots.take(SLOT_SECONDS)),
        sizes_later=sizing,
        second=pace.second,
        agrees=agrees,
        later=later,
        only=only,
    )
    threading.Thread(target=_tidy, args=(lines, slots, stopping), name="tidy", daemon=True).start()

    of_the_cache = _counters(settings, reader, cache, store, looking)

    def counters() -> Counters:
        return dataclasses.replace(
            of_the_cache(),
            requests=client.requests,
            retries=patience.retries,
            second_askings=hedged.seconds + reader.asked_beside,
            stalls=client.stalls,
            connections_busy=gate.busy,
            connections_open=lines.open,
            connections_highest=gate.highest,
            connections_allowed=gate.allowed,
            connections_limit=settings.connections,
            readers_waiting=gate.waiting,
            tasks_waiting=later.waiting + refreshing.waiting + sizing.waiting,
            first_byte_seconds=pace.usual,
            slow_first_byte_seconds=pace.slow,
            connection_bytes_per_second=pace.rate,
        )

    def close() -> None:
        stopping.set()
        for threads in (later, refreshing, sizing, looking):
            threads.close()
        cache.close(CLOSE_SECONDS)
        store.close()
        lines.close()
        index.close()

    return Archive(
        tree,
        reader,
        later,
        close,
        most_ahead=settings.memory * 5 // 8,
        run_lengths=pace.run_lengths,
        counters=counters,
    )


def _counters(
    settings: Settings, reader: Reader, cache: Cache, store: "DiskStore | _NoStore", looking: Later
) -> Callable[[], Counters]:
    """Give what tells how much was read, and whence; it needs no server, and a disk that hangs does not hold it."""
    disk_bytes = LastSeen(store.kept, looking)
    return lambda: Counters(
        base_url=without_credentials(settings.base_url),
        blocks_read=reader.blocks_read,
        blocks_from_memory=reader.blocks_from_memory,
        blocks_from_disk=cache.store_hits,
        blocks_fetched=cache.misses,
        fetched_bytes=reader.bytes_fetched,
        dropped_writes=cache.dropped_writes,
        broken_blocks=store.broken,
        memory_bytes=cache.held,
        memory_limit_bytes=settings.memory,
        disk_bytes=disk_bytes(),
        disk_limit_bytes=settings.cache_size,
        blocks_under_way=reader.under_way,
        unwritten_bytes=cache.unwritten,
    )


def _sizes(settings: Settings, slot: Callable[[], Callable[[], None]]) -> FtpSizes | None:
    """Give the FTP server beside the base URL: the one named, or the same host where it is named for it."""
    base = urlsplit(settings.base_url)
    url = settings.ftp_url
    if not url and (base.hostname or "").startswith("ftp."):
        url = f"ftp://{base.hostname}{base.path}"
    if settings.no_ftp or not url:
        return None
    digest = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
    return FtpSizes(url, settings.cache_dir / "v1" / f"ftp-silent-{digest}", slot)


def _tidy(lines: Lines, slots: Slots, stopping: threading.Event) -> None:
    """Close connections that are idle for long, or that another process waits for."""
    while not stopping.wait(TIDY_SECONDS):
        lines.shed(0.0 if slots.wanted() else IDLE_SECONDS)
