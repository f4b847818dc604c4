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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from empiarfs.archive import Archive
from empiarfs.counters import Counters
from empiarfs.empiar.connection_pool import IDLE_SECONDS, SLOT_SECONDS, ConnectionPool
from empiarfs.empiar.ftp import FtpSizes
from empiarfs.empiar.http import HttpClient, HttpOrigin
from empiarfs.empiar.listing import HtmlListing, agrees
from empiarfs.engine.background import BackgroundWorkers, PolledValue
from empiarfs.engine.cache import Cache
from empiarfs.engine.hedge import Hedged
from empiarfs.engine.latency import LatencyEstimator
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.engine.listings import Listings
from empiarfs.engine.offline import OfflineListing, OfflineOrigin
from empiarfs.engine.origins import LimitedListing, Retrying, RetryPolicy
from empiarfs.engine.reader import Reader
from empiarfs.engine.tree import Tree
from empiarfs.model import File
from empiarfs.ports import Origin
from empiarfs.private_dirs import FOLDER, UnsafePath, prepare_cache_dir, runtime_folder
from empiarfs.settings import Settings, archive_name
from empiarfs.storage.disk import DiskStore
from empiarfs.storage.index import SqliteIndex, index_file
from empiarfs.storage.process_semaphore import ProcessSemaphore
from empiarfs.units import MIB
from empiarfs.urls import without_credentials

log = logging.getLogger(__name__)

RESERVED_FOR_DEMAND = 2  # connections that prefetch never gets
RUN = 16 * MIB  # the most bytes of one request
TIDY_SECONDS = 0.5
CLOSE_SECONDS = 3.0  # how long closing waits for blocks on their way to the disk


class _NoStore:
    """A store that keeps nothing, for a cache of size 0 or a folder that cannot be used."""

    broken = 0

    def get(self, file: File, numbers: range) -> dict[int, bytes]:  # noqa: ARG002 - as every store
        """Return nothing."""
        return {}

    def put(self, file: File, blocks: Mapping[int, bytes]) -> None:
        """Store nothing."""

    def kept(self) -> int:
        """Return 0."""
        return 0

    def close(self) -> None:
        """Do nothing."""


def _store(settings: Settings, archive: str, kept: Path | None) -> "DiskStore | _NoStore":
    if not settings.cache_size or kept is None:
        return _NoStore()
    folder = kept / "blocks"
    try:
        return DiskStore(folder, settings.cache_size, archive=archive, block_bytes=settings.block_size)
    except UnsafePath:
        raise  # to be chosen otherwise, not to be done without
    except OSError as error:
        log.warning("%s: %s; nothing is kept on disk until the next mount", folder, error)
        return _NoStore()


def archive(settings: Settings, only: Sequence[str] = (), name: str = "", *, interactive: bool = False) -> Archive:
    """Open the archive that `settings` tell of.

    Args:
        settings: where it is and what it may use.
        only: the entries to show; all where it is empty.
        name: what the cache knows it by; from the base URL where it is empty.
        interactive: whether somebody sits and waits: what waiting seldom heals is then told at once.

    Raises:
        OSError: the cache folder may not be trusted, or is none.
    """
    kept = prepare_cache_dir(settings.cache_dir)
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
    semaphore = _semaphore(settings, settings.base_url)
    pool = _pool(settings, settings.base_url, semaphore)
    latency = LatencyEstimator(RUN)
    client = HttpClient(without_credentials(settings.base_url), pool, latency)
    limiter = ConnectionLimiter(
        settings.max_connections, RESERVED_FOR_DEMAND, on_throttle=lambda: pool.close_idle(0.0)
    )
    retry_policy = RetryPolicy(
        settings.patience, time.monotonic, random.random, stopping, limiter.pause, interactive=interactive
    )
    hedged = Hedged(HttpOrigin(client), limiter, latency)
    origin = Retrying(hedged, retry_policy)
    cache = Cache(settings.memory_cache_size, store)
    ahead = HttpOrigin(client)
    background = BackgroundWorkers(
        max(1, settings.max_connections - RESERVED_FOR_DEMAND), "ahead", limiter.prefetch
    )
    refreshing, sizing, looking = (
        BackgroundWorkers(1, "refresh"),
        BackgroundWorkers(1, "sizes"),
        BackgroundWorkers(1, "look"),
    )
    reader = Reader(
        origin,
        ahead,
        cache,
        block_bytes=settings.block_size,
        longest_run=RUN,
        latency=latency,
    )
    listings = Listings(
        LimitedListing(HtmlListing(client), limiter.demand, retry_policy),
        index,
        listing_ttl=settings.listing_ttl,
        clock=time.time,
        background=refreshing,
    )
    tree = Tree(
        listings,
        origin,
        ahead,
        _sizes(settings, lambda: semaphore.acquire(SLOT_SECONDS)),
        sizes_background=sizing,
        hedge_delay=latency.hedge_delay,
        agrees=agrees,
        background=background,
        only=only,
    )
    threading.Thread(target=_tidy, args=(pool, semaphore, stopping), name="tidy", daemon=True).start()

    of_the_cache = _counters(settings, reader, cache, store, looking)

    def counters() -> Counters:
        return dataclasses.replace(
            of_the_cache(),
            requests=client.requests,
            retries=retry_policy.retries,
            hedged_requests=hedged.hedged_requests + reader.hedged_requests,
            stalls=client.stalls,
            connections_busy=limiter.busy,
            connections_open=pool.open,
            connections_peak=limiter.peak,
            connections_allowed=limiter.allowed,
            connections_limit=settings.max_connections,
            readers_waiting=limiter.waiting,
            background_queue_length=background.waiting + refreshing.waiting + sizing.waiting,
            first_byte_seconds=latency.ttfb_median if latency.has_samples else 0.0,
            slow_first_byte_seconds=latency.ttfb_p95 if latency.has_samples else 0.0,
            connection_bytes_per_second=latency.rate,
        )

    def close() -> None:
        stopping.set()
        for threads in (background, refreshing, sizing, looking):
            threads.close()
        cache.close(CLOSE_SECONDS)
        store.close()
        pool.close()
        index.close()

    return Archive(
        tree,
        reader,
        background,
        close,
        most_ahead=settings.memory_cache_size * 5 // 8,
        request_size_bounds=latency.request_size_bounds,
        counters=counters,
        has_answered=lambda: latency.has_samples,
    )


def _counters(
    settings: Settings, reader: Reader, cache: Cache, store: "DiskStore | _NoStore", looking: BackgroundWorkers
) -> Callable[[], Counters]:
    """Give what tells how much was read, and whence; it needs no server, and a disk that hangs does not hold it."""
    disk_bytes = PolledValue(store.kept, looking)
    return lambda: Counters(
        base_url=without_credentials(settings.base_url),
        blocks_read=reader.blocks_read,
        blocks_from_memory=reader.blocks_from_memory,
        blocks_from_disk=cache.store_hits,
        blocks_fetched=reader.blocks_fetched,
        fetched_bytes=reader.bytes_fetched,
        dropped_writes=cache.dropped_writes,
        corrupt_blocks=store.broken,
        memory_bytes=cache.size,
        memory_limit_bytes=settings.memory_cache_size,
        disk_bytes=disk_bytes(),
        disk_limit_bytes=settings.cache_size,
        blocks_in_flight=reader.in_flight,
        write_queue_bytes=cache.write_queue_bytes,
    )


def _offline(settings: Settings, only: Sequence[str], store: "DiskStore | _NoStore", index: SqliteIndex) -> Archive:
    """Open what is kept alone: no part is made that could open a connection, and nothing is done ahead."""
    origin, latency = OfflineOrigin(index), LatencyEstimator(RUN)
    cache = Cache(settings.memory_cache_size, store)
    reader = Reader(origin, origin, cache, block_bytes=settings.block_size, longest_run=RUN, latency=latency)
    listings = Listings(
        OfflineListing(), index, listing_ttl=math.inf, clock=time.time, background=_never, absent=math.inf
    )
    tree = Tree(listings, origin, origin, None, only=only)

    looking = BackgroundWorkers(1, "look")

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
        request_size_bounds=latency.request_size_bounds,
        counters=_counters(settings, reader, cache, store, looking),
    )


def _never(_: Callable[[], object]) -> None:
    """Drop a task."""


def _semaphore(settings: Settings, url: str) -> ProcessSemaphore:
    return ProcessSemaphore(runtime_folder(), urlsplit(without_credentials(url)).netloc, settings.max_connections)


def _pool(settings: Settings, url: str, semaphore: ProcessSemaphore) -> ConnectionPool:
    bundle = None if settings.ca_bundle is None else os.fspath(settings.ca_bundle)
    return ConnectionPool(url, semaphore.acquire, ca_bundle=bundle)


@contextmanager
def client_of(settings: Settings, url: str) -> Iterator[HttpClient]:
    """Lend what asks the server of `url`, a directory, by itself: over connections of the budget, and once."""
    pool = _pool(settings, url, _semaphore(settings, url))
    try:
        yield HttpClient(without_credentials(url), pool, LatencyEstimator(RUN))
    finally:
        pool.close()


@contextmanager
def origin_of(settings: Settings) -> Iterator[Origin]:
    """Lend the archive's origin by itself: nothing cached, one request after the other over one connection."""
    with client_of(settings, settings.base_url) as asking:
        retry_policy = RetryPolicy(
            settings.patience, time.monotonic, random.random, threading.Event(), interactive=True
        )
        yield Retrying(HttpOrigin(asking), retry_policy)


def _sizes(settings: Settings, slot: Callable[[], Callable[[], None]]) -> FtpSizes | None:
    url = ftp_url(settings)
    if not url:
        return None
    digest = hashlib.blake2b(without_credentials(url).encode(), digest_size=8).hexdigest()
    return FtpSizes(url, settings.cache_dir / FOLDER / f"ftp-silent-{digest}", slot)


def ftp_of(settings: Settings) -> FtpSizes | None:
    """Return the FTP server beside the base URL by itself; None where there is none."""
    return _sizes(settings, lambda: _semaphore(settings, settings.base_url).acquire(SLOT_SECONDS))


def ftp_url(settings: Settings) -> str:
    """Return the FTP server beside the base URL: the one named, or its host where that is named for it; or none."""
    base = urlsplit(settings.base_url)
    if settings.no_ftp:
        return ""
    if not settings.ftp_url and (base.hostname or "").startswith("ftp."):
        return f"ftp://{base.hostname}{base.path}"
    return settings.ftp_url


def _tidy(pool: ConnectionPool, semaphore: ProcessSemaphore, stopping: threading.Event) -> None:
    """Close connections that are idle for long, or that another process waits for."""
    while not stopping.wait(TIDY_SECONDS):
        pool.close_idle(0.0 if semaphore.has_waiters() else IDLE_SECONDS)
