"""Builds an archive from its parts; the only module that selects the implementations.

Threads are started here, or by the parts created here, so open an archive after any fork.
"""

import hashlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from empiarfs.archive import Archive
from empiarfs.counters import Counters
from empiarfs.empiar.connection_pool import SLOT_SECONDS
from empiarfs.empiar.ftp import FtpSizes
from empiarfs.empiar.listing import agrees, listed_mtime
from empiarfs.engine.background import BackgroundWorkers, PolledValue
from empiarfs.engine.cache import Cache
from empiarfs.engine.fetcher import Fetcher
from empiarfs.engine.listings import ABSENT_SECONDS, Listings
from empiarfs.engine.prefetch import Prefetcher
from empiarfs.engine.reader import Reader
from empiarfs.engine.single_flight import SingleFlight
from empiarfs.engine.tree import Tree
from empiarfs.host import LONGEST_REQUEST, Host, OfflineHost, process_semaphore
from empiarfs.model import Block, File
from empiarfs.private_dirs import FOLDER, UnsafePath, prepare_cache_dir
from empiarfs.settings import Settings, archive_name
from empiarfs.storage.chunks import blocks_in_chunk
from empiarfs.storage.disk import DiskStore
from empiarfs.storage.index import SqliteIndex, index_file
from empiarfs.urls import without_credentials

log = logging.getLogger(__name__)

CLOSE_SECONDS = 3.0  # how long closing waits for the write queue


class _NoStore:
    """A store that stores nothing, for a cache of size 0 or a folder that cannot be used."""

    broken = 0

    def get(self, file: File, numbers: range) -> dict[int, bytes]:  # noqa: ARG002 - as every store
        """Return nothing."""
        return {}

    def put(self, file: File, blocks: Mapping[int, bytes]) -> None:
        """Drop `blocks`."""

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
        raise  # the user must choose another folder
    except OSError as error:
        log.warning("%s: %s; nothing is cached on disk until the next mount", folder, error)
        return _NoStore()


def archive(settings: Settings, only: Sequence[str] = (), name: str = "", *, interactive: bool = False) -> Archive:
    """Open the archive of `settings`.

    Args:
        settings: its address and its limits.
        only: the entries to show; empty for all.
        name: its name in the cache; derived from the base URL if empty.
        interactive: whether a user waits: errors that rarely pass by themselves then fail at once.

    Raises:
        OSError: the cache folder cannot be trusted, or is not a folder.
    """
    kept = prepare_cache_dir(settings.cache_dir)
    archive_id = name or archive_name(settings.base_url)
    store = _store(settings, archive_id, kept)
    try:
        index = SqliteIndex(kept and index_file(settings.cache_dir, archive_id))
    except OSError:
        store.close()
        raise
    host = OfflineHost(index) if settings.offline else Host(settings.base_url, settings, interactive=interactive)
    workers = [BackgroundWorkers(host.submit, most) for most in (host.most_prefetches, 1, 1, 1)]
    background, refreshing, sizing, looking = workers
    cache = Cache(settings.memory_cache_size, store, blocks_in_chunk(settings.block_size))
    in_flight: SingleFlight[Block, bytes] = SingleFlight(host.latency.hedge_delay, host.submit)
    fetcher = Fetcher(
        host.origin,
        host.prefetch_origin,
        cache,
        in_flight,
        host.submit,
        latency=host.latency,
        block_bytes=settings.block_size,
        longest_run=LONGEST_REQUEST,
    )
    reader = Reader(cache, in_flight, fetcher, block_bytes=settings.block_size, prefetch_slot=host.prefetch_slot)
    listings = Listings(
        host.listing,
        index,
        listing_ttl=math.inf if settings.offline else settings.listing_ttl,
        clock=time.time,
        background=refreshing,
        scans=SingleFlight(host.latency.hedge_delay, host.submit),
        absent=math.inf if settings.offline else ABSENT_SECONDS,
        listed_mtime=listed_mtime,
    )
    host.on_date(listings.record_date)
    tree = Tree(
        listings,
        host.origin,
        host.prefetch_origin,
        None if settings.offline else ftp_of(settings),
        host.batched_sizes,
        single_flight=SingleFlight(host.latency.hedge_delay, host.submit),
        sizes_background=sizing,
        agrees=agrees,
        background=background,
        prefetch_slot=host.prefetch_slot,
        keep_head=reader.keep,
        only=only,
    )
    prefetcher = Prefetcher(
        reader,
        tree,
        background,
        # offline there is no prefetch: it would fail for missing blocks that the reader may not request
        most_ahead=0 if settings.offline else settings.memory_cache_size * 5 // 8,
        request_size_bounds=host.latency.request_size_bounds,
    )
    disk_bytes = PolledValue(store.kept, looking)

    def counters() -> Counters:
        return Counters(
            base_url=without_credentials(settings.base_url),
            blocks_read=reader.blocks_read,
            blocks_from_memory=reader.blocks_from_memory,
            blocks_from_disk=cache.store_hits,
            blocks_fetched=fetcher.blocks_fetched,
            fetched_bytes=fetcher.bytes_fetched,
            dropped_writes=cache.dropped_writes,
            corrupt_blocks=store.broken,
            memory_bytes=cache.size,
            memory_limit_bytes=settings.memory_cache_size,
            disk_bytes=disk_bytes(),
            disk_limit_bytes=settings.cache_size,
            blocks_in_flight=in_flight.count,
            write_queue_bytes=cache.write_queue_bytes,
            background_queue_length=background.waiting + refreshing.waiting + sizing.waiting,
            **host.counters(),
        )

    def close() -> None:
        for one in workers:
            one.close()
        host.close()
        cache.close(CLOSE_SECONDS)
        store.close()
        index.close()

    return Archive(tree, reader, prefetcher, host.run_all, close, counters=counters, has_answered=host.has_answered)


def ftp_of(settings: Settings) -> FtpSizes | None:
    """Return the FTP server beside the base URL; None if there is none."""
    url = ftp_url(settings)
    if not url:
        return None
    digest = hashlib.blake2b(without_credentials(url).encode(), digest_size=8).hexdigest()
    slots = process_semaphore(settings.base_url, settings.max_connections)
    note = settings.cache_dir / FOLDER / f"ftp-silent-{digest}"
    return FtpSizes(url, note, lambda: slots.acquire(SLOT_SECONDS))


def ftp_url(settings: Settings) -> str:
    """Return the FTP URL of the settings, else one derived from a host that begins with `ftp.`, else empty."""
    base = urlsplit(settings.base_url)
    if settings.no_ftp:
        return ""
    if not settings.ftp_url and (base.hostname or "").startswith("ftp."):
        return f"ftp://{base.hostname}{base.path}"
    return settings.ftp_url
