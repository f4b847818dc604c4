"""Puts the parts together; the only module that knows which is which.

Threads are made here, or by the parts made here, so an archive is opened after any fork.
"""

import hashlib
import logging
import math
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import urlsplit

from empiarfs.archive import Archive
from empiarfs.empiar.ftp import FtpSizes
from empiarfs.empiar.http import HttpClient, HttpOrigin
from empiarfs.empiar.lines import IDLE_SECONDS, Lines
from empiarfs.empiar.listing import HtmlListing, agrees
from empiarfs.engine.cache import Cache
from empiarfs.engine.gate import Gate
from empiarfs.engine.hedge import Hedged
from empiarfs.engine.listings import Listings
from empiarfs.engine.offline import OfflineListing, OfflineOrigin
from empiarfs.engine.origins import Enter, Patience, Retrying, WaitedFor
from empiarfs.engine.pace import Pace
from empiarfs.engine.reader import Reader
from empiarfs.engine.tree import Tree
from empiarfs.errors import ArchiveError
from empiarfs.model import Block
from empiarfs.ports import Origin
from empiarfs.settings import MIB, Settings, without_credentials
from empiarfs.storage.disk import DiskStore
from empiarfs.storage.folders import VERSION, NotSafe, kept_folder, runtime_folder
from empiarfs.storage.index import SqliteIndex
from empiarfs.storage.slots import Slots

log = logging.getLogger(__name__)

KEPT_FOR_DEMAND = 2  # connections that prefetch never gets
RUN = 16 * MIB  # the most bytes of one request
SLOT_SECONDS = 15.0  # how long a connection is waited for when other processes hold them all
MOST_TASKS = 2000  # waiting ahead of the readers; those beyond are dropped
TIDY_SECONDS = 0.5
CLOSE_SECONDS = 3.0  # how long closing waits for blocks on their way to the disk


class _NoStore:
    """A store that keeps nothing, for a cache of size 0 or a folder that cannot be used."""

    def get(self, block: Block) -> bytes | None:  # noqa: ARG002
        """Give nothing."""
        return None

    def put(self, first: Block, *data: bytes) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Do nothing."""


class Later:
    """Threads for requests that nobody waits for yet. Too many tasks are dropped.

    Those at the gate hold their place before they claim anything; else a reader would wait for a block whose owner
    waits behind all readers.
    """

    def __init__(self, threads: int, enter: Enter = nullcontext) -> None:
        self._enter = enter
        self._tasks: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._threads = threads
        for number in range(threads):
            threading.Thread(target=self._work, name=f"later {number}", daemon=True).start()

    def __call__(self, task: Callable[[], object]) -> None:
        """Run `task` soon, or never."""
        if self._tasks.qsize() < MOST_TASKS:
            self._tasks.put(task)

    def close(self) -> None:
        """Let the threads end; what still waits is dropped."""
        with suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in range(self._threads):
            self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                with self._enter():
                    task()
            except ArchiveError as error:
                log.debug("%s", error)  # left to the reader who will need it
            except Exception:
                log.exception("a task ahead of the reader")


def identity(settings: Settings, name: str = "") -> str:
    """Give what the cache knows an archive by: its `name`, or what is made of its URL, whoever logs in there."""
    return name or hashlib.blake2b(without_credentials(settings.base_url).encode(), digest_size=8).hexdigest()


def _store(settings: Settings, archive: str, kept: Path | None) -> "DiskStore | _NoStore":
    if not settings.cache_size or kept is None:
        return _NoStore()
    folder = kept / "blocks"
    try:
        return DiskStore(folder, settings.cache_size, archive=archive, block_bytes=settings.block)
    except NotSafe:
        raise  # to be chosen otherwise, not to be done without
    except OSError as error:
        log.warning("%s: %s; nothing is kept on disk", folder, error)
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
    archive_id = identity(settings, name)
    store = _store(settings, archive_id, kept)
    index = SqliteIndex(kept and kept / f"tree-{archive_id}.sqlite")
    if settings.offline:
        return _offline(settings, only, store, index)
    stopping = threading.Event()
    slots = _slots(settings, settings.base_url)
    lines = _lines(settings, settings.base_url, slots)
    pace = Pace(RUN)
    client = HttpClient(without_credentials(settings.base_url), lines, pace)
    gate = Gate(settings.connections, KEPT_FOR_DEMAND, shrunk=lambda: lines.shed(0.0))
    patience = Patience(settings.patience, time.monotonic, random.random, stopping, at_prompt=at_prompt)
    origin = Retrying(Hedged(HttpOrigin(client), gate, pace), patience)
    cache = Cache(settings.memory, store)
    ahead = HttpOrigin(client)
    later = Later(max(1, settings.connections - KEPT_FOR_DEMAND), gate.ahead)
    refreshing, sizing = Later(1), Later(1)
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

    def close() -> None:
        stopping.set()
        for threads in (later, refreshing, sizing):
            threads.close()
        cache.close(CLOSE_SECONDS)
        store.close()
        lines.shed(0.0)
        index.close()

    return Archive(tree, reader, later, close, most_ahead=settings.memory // 2, longest=pace.longest_run)


def _offline(settings: Settings, only: Sequence[str], store: "DiskStore | _NoStore", index: SqliteIndex) -> Archive:
    """Open what is kept alone: no part is made that could open a connection, and nothing is done ahead."""
    origin, pace = OfflineOrigin(index), Pace(RUN)
    cache = Cache(settings.memory, store)
    reader = Reader(origin, origin, cache, block_bytes=settings.block, longest_run=RUN, pace=pace)
    listings = Listings(
        OfflineListing(), index, fresh=math.inf, clock=time.time, background=_never, absent=math.inf
    )
    tree = Tree(listings, origin, origin, None, only=only)

    def close() -> None:
        store.close()
        index.close()

    # what is ahead of a reader may be missing where what he asks for is here
    return Archive(tree, reader, _never, close, most_ahead=0, longest=pace.longest_run)


def _never(_: Callable[[], object]) -> None:
    """Drop a task."""


def _slots(settings: Settings, url: str) -> Slots:
    return Slots(runtime_folder(), urlsplit(without_credentials(url)).netloc, settings.connections)


def _lines(settings: Settings, url: str, slots: Slots) -> Lines:
    bundle = None if settings.ca_bundle is None else os.fspath(settings.ca_bundle)
    return Lines(url, lambda: slots.take(SLOT_SECONDS), ca_bundle=bundle)


@contextmanager
def client_of(settings: Settings, url: str) -> Iterator[HttpClient]:
    """Lend what asks the server of `url`, a directory, by itself: over connections of the budget, and once."""
    lines = _lines(settings, url, _slots(settings, url))
    try:
        yield HttpClient(without_credentials(url), lines, Pace(RUN))
    finally:
        lines.shed(0.0)


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
    return FtpSizes(url, settings.cache_dir / VERSION / f"ftp-silent-{digest}", slot)


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
