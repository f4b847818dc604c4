"""Puts the parts together; the only module that knows which is which.

Threads are made here, or by the parts made here, so an archive is opened after any fork.
"""

import dataclasses
import hashlib
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
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
from empiarfs.engine.offline import OfflineListing, OfflineOrigin
from empiarfs.engine.origins import Patience, Retrying, WaitedFor
from empiarfs.engine.pace import Pace
from empiarfs.engine.reader import Reader
from empiarfs.engine.tree import Tree
from empiarfs.model import Block
from empiarfs.ports import Origin
from empiarfs.settings import MIB, Settings, archive_name, without_credentials
from empiarfs.storage.disk import DiskStore
from empiarfs.storage.folders import FOLDER, NotSafe, kept_folder, runtime_folder
from empiarfs.storage.index import SqliteIndex, index_file
from empiarfs.storage.slots import Slots

log = logging.getLogger(__name__)

KEPT_FOR_DEMAND = 2  # connections that prefetch never gets
RUN = 16 * MIB  # the most bytes of one request
SEGMENT = MIB  # the most bytes of neighbouring blocks that are stored as one
TIDY_SECONDS = 0.5
CLOSE_SECONDS = 3.0  # how long closing waits for blocks on their way to the disk


class _NoStore:
    """A store that keeps nothing, for a cache of size 0 or a folder that cannot be used."""

    broken = 0

    def get(self, block: Block) -> bytes | None:  # noqa: ARG002 - as every store
        """Give nothing."""
        return None

    def put(self, first: Block, *data: bytes) -> None:
        """Keep nothing."""

    def kept(self) -> int:
        """Give 0."""
        return 0

    def close(self) -> None:
        """Do nothing."""


def _store(settings: Settings, archive: str, kept: Path | None) -> "DiskStore | _NoStore":
    if not settings.cache_size or kept is None:
        return _NoStore()
    folder = kept / "blocks"
    try:
        return DiskStore(folder, settings.cache_size, archive=archive, block_bytes=settings.block)
    except NotSafe:
        raise  # to be chosen otherwise, not to be done without
    except OSError as error:
        log.warning("%s: %s; nothing is kept on disk until the next mount", folder, error)
        return _NoStore()


def archive(settings: Settings, only: Sequence[str] = (), name: str = "", *, at_prompt: bool = False) -> Archive:
    """Open the archive that `settings` tell of.

    Args:
        settings: where it is and what it may use.
        only: the entries to show; all where it is empty.
        name: what the cache knows it by; from the base URL where it is empty.
        at_prompt: whether somebody sits and waits: what waiting seldom heals is then told at once.

    Raises:
        OSError: the cache folder may not be trusted, or is none.
    """
    kept = kept_folder(settings.cache_dir)
    archive_id = name or archive_name(settings.base_url)
    store = _store(settings, archive_id, kept)
    try:
        index = SqliteIndex(kept and index_file(settings.cache_dir, archive_id))
    except OSError:
        store.close()
        raise
    if settings.offline:
        return _offline(settings, only, store, index)
    stopping = threading.Event()
    slots = _slots(settings, settings.base_url)
    lines = _lines(settings, settings.base_url, slots)
    pace = Pace(RUN)
    client = HttpClient(without_credentials(settings.base_url), lines, pace)
    gate = Gate(settings.connections, KEPT_FOR_DEMAND, shrunk=lambda: lines.shed(0.0))
    patience = Patience(settings.patience, time.monotonic, random.random, stopping, gate.pause, at_prompt=at_prompt)
    hedged = Hedged(HttpOrigin(client), gate, pace)
    origin = Retrying(hedged, patience)
    cache = Cache(settings.memory, store, min(SEGMENT, settings.cache_size // 100))  # ten of them go at once
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
            second_askings=hedged.second_askings + reader.asked_beside,
            stalls=client.stalls,
            connections_busy=gate.busy,
            connections_open=lines.open,
            connections_highest=gate.highest,
            connections_allowed=gate.allowed,
            connections_limit=settings.connections,
            readers_waiting=gate.waiting,
            tasks_waiting=later.waiting + refreshing.waiting + sizing.waiting,
            first_byte_seconds=pace.usual if pace.is_learnt else 0.0,
            slow_first_byte_seconds=pace.slow if pace.is_learnt else 0.0,
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
        has_answered=lambda: pace.is_learnt,
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
        blocks_fetched=reader.blocks_fetched,
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


def _offline(settings: Settings, only: Sequence[str], store: "DiskStore | _NoStore", index: SqliteIndex) -> Archive:
    """Open what is kept alone: no part is made that could open a connection, and nothing is done ahead."""
    origin, pace = OfflineOrigin(index), Pace(RUN)
    cache = Cache(settings.memory, store)
    reader = Reader(origin, origin, cache, block_bytes=settings.block, longest_run=RUN, pace=pace)
    listings = Listings(
        OfflineListing(), index, fresh=math.inf, clock=time.time, background=_never, absent=math.inf
    )
    tree = Tree(listings, origin, origin, None, only=only)

    looking = Later(1, "look")

    def close() -> None:
        looking.close()
        store.close()
        index.close()

    return Archive(
        tree,
        reader,
        _never,
        close,
        most_ahead=0,  # what is ahead of a reader may be missing where what he asks for is here
        run_lengths=pace.run_lengths,
        counters=_counters(settings, reader, cache, store, looking),
    )


def _never(_: Callable[[], object]) -> None:
    """Drop a task."""


def _slots(settings: Settings, url: str) -> Slots:
    return Slots(runtime_folder(), urlsplit(without_credentials(url)).netloc, settings.connections)


def _lines(settings: Settings, url: str, slots: Slots) -> Lines:
    bundle = None if settings.ca_bundle is None else os.fspath(settings.ca_bundle)
    return Lines(url, slots.take, ca_bundle=bundle)


@contextmanager
def client_of(settings: Settings, url: str) -> Iterator[HttpClient]:
    """Lend what asks the server of `url`, a directory, by itself: over connections of the budget, and once."""
    lines = _lines(settings, url, _slots(settings, url))
    try:
        yield HttpClient(without_credentials(url), lines, Pace(RUN))
    finally:
        lines.close()


@contextmanager
def origin_of(settings: Settings) -> Iterator[Origin]:
    """Lend the archive's origin by itself: nothing cached, one request after the other over one connection."""
    with client_of(settings, settings.base_url) as asking:
        patience = Patience(settings.patience, time.monotonic, random.random, threading.Event(), at_prompt=True)
        yield Retrying(HttpOrigin(asking), patience)


def _sizes(settings: Settings, slot: Callable[[], Callable[[], None]]) -> FtpSizes | None:
    url = ftp_url(settings)
    if not url:
        return None
    digest = hashlib.blake2b(without_credentials(url).encode(), digest_size=8).hexdigest()
    return FtpSizes(url, settings.cache_dir / FOLDER / f"ftp-silent-{digest}", slot)


def ftp_of(settings: Settings) -> FtpSizes | None:
    """Give the FTP server beside the base URL by itself; None where there is none."""
    return _sizes(settings, lambda: _slots(settings, settings.base_url).take(SLOT_SECONDS))


def ftp_url(settings: Settings) -> str:
    """Give the FTP server beside the base URL: the one named, or its host where that is named for it; or none."""
    base = urlsplit(settings.base_url)
    if settings.no_ftp:
        return ""
    if not settings.ftp_url and (base.hostname or "").startswith("ftp."):
        return f"ftp://{base.hostname}{base.path}"
    return settings.ftp_url


def _tidy(lines: Lines, slots: Slots, stopping: threading.Event) -> None:
    """Close connections that are idle for long, or that another process waits for."""
    while not stopping.wait(TIDY_SECONDS):
        lines.shed(0.0 if slots.wanted() else IDLE_SECONDS)
