"""One server: its connections, their limit, its latency and the retries."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar
from urllib.parse import urlsplit

from empiarfs.cancellation import wait_future
from empiarfs.empiar.connection_pool import IDLE_SECONDS, ConnectionPool
from empiarfs.empiar.http import HttpClient
from empiarfs.empiar.http_origin import HttpOrigin
from empiarfs.empiar.listing import HtmlListing
from empiarfs.empiar.pipeline import PipelinedSizes
from empiarfs.engine.hedge import Hedged
from empiarfs.engine.latency import LatencyEstimator
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.engine.offline import OfflineListing, OfflineOrigin
from empiarfs.engine.origins import LimitedListing, Retrying, RetryPolicy
from empiarfs.model import File
from empiarfs.ports import Index
from empiarfs.private_dirs import runtime_folder
from empiarfs.process_semaphore import ProcessSemaphore
from empiarfs.settings import Settings
from empiarfs.threads import ThreadPool
from empiarfs.units import MIB
from empiarfs.urls import without_credentials

T = TypeVar("T")

RESERVED_FOR_DEMAND = 2  # connections that prefetch never uses
LONGEST_REQUEST = 16 * MIB
TIDY_SECONDS = 0.5


class Host:
    """The parts that belong to one server.

    Attributes:
        client: sends requests.
        latency: the latency and rate of the server.
        submit: runs a task in a thread of its own, and returns its future result.
        origin: the files for demand reads: limited, hedged, retried.
        prefetch_origin: the files for prefetch, whose caller already holds a `prefetch_slot`.
        listing: the directories, limited and retried.
        batched_sizes: the sizes of some files at once, for prefetch.
        prefetch_slot: holds a connection for prefetch.
        most_prefetches: the maximum number of connections for prefetch.
        served: the files without limit, hedge and retry.

    Args:
        url: the directory below which paths are requested.
        settings: patience, certificates, and the most connections.
        most: the most connections; None for that of the settings.
        interactive: whether a user waits: errors that rarely pass by themselves then fail at once.
    """

    def __init__(self, url: str, settings: Settings, *, most: int | None = None, interactive: bool = False) -> None:
        most = most or settings.max_connections
        plain = without_credentials(url)
        self._most = most
        self.most_prefetches = max(1, most - RESERVED_FOR_DEMAND)
        self._semaphore = process_semaphore(plain, most)
        bundle = None if settings.ca_bundle is None else os.fspath(settings.ca_bundle)
        self._threads = ThreadPool("request")
        self.submit = self._threads.submit
        self._pool = ConnectionPool(url, self._semaphore.acquire, bundle, self.submit)
        self.latency = LatencyEstimator(LONGEST_REQUEST)
        self.client = HttpClient(plain, self._pool, self.latency)
        self._limiter = ConnectionLimiter(most, RESERVED_FOR_DEMAND, on_throttle=lambda: self._pool.close_idle(0.0))
        self._stopping = threading.Event()
        self._retry_policy = RetryPolicy(
            settings.patience,
            time.monotonic,
            random.random,
            self._stopping,
            self._limiter.pause,
            interactive=interactive,
        )
        self.served = HttpOrigin(self.client)
        self._hedged = Hedged(self.served, self._limiter, self._limiter.demand, self.submit)
        self.origin = Retrying(self._hedged, self._retry_policy)
        self.prefetch_origin = Hedged(self.served, self._limiter, lambda _: nullcontext(), self.submit)
        self.batched_sizes = PipelinedSizes(
            self.client, self._pool, silence=self.latency.hedge_delay, record=self.latency.record
        )
        self.listing = LimitedListing(HtmlListing(self.client), self._limiter.demand, self._retry_policy)
        self.prefetch_slot = self._limiter.prefetch
        self.submit(self._watch)

    def __repr__(self) -> str:
        return f"<Host {self.client!r} {self._limiter!r}>"

    def has_answered(self) -> bool:
        """Return whether the server has answered since the host was opened."""
        return self.latency.has_samples

    def counters(self) -> dict[str, Any]:
        """Return the fields of `Counters` that concern the server."""
        latency, limiter = self.latency, self._limiter
        return {
            "requests": self.client.requests,
            "retries": self._retry_policy.retries,
            "hedged_requests": self._hedged.hedged_requests + self.prefetch_origin.hedged_requests,
            "stalls": self.client.stalls,
            "connections_busy": limiter.busy,
            "connections_open": self._pool.open,
            "connections_peak": limiter.peak,
            "connections_allowed": limiter.allowed,
            "connections_limit": self._most,
            "readers_waiting": limiter.waiting,
            "first_byte_seconds": latency.ttfb_median if latency.has_samples else 0.0,
            "slow_first_byte_seconds": latency.ttfb_p95 if latency.has_samples else 0.0,
            "connection_bytes_per_second": latency.rate,
        }

    def on_date(self, callback: Callable[[File, int], None]) -> None:
        """Call `callback` with a file and its exact date when a reply tells it; see `HttpOrigin.on_date`."""
        self.served.on_date = callback

    def get(self, path: str, query: str = "", *, slash: bool = False) -> bytes:
        """Fetch the body at `path`, limited and retried.

        Args:
            path: below the URL of the host.
            query: the escaped query of the URL.
            slash: whether `path` is a directory.

        Raises:
            NotFound, Forbidden, Unavailable.
        """

        def ask(deadline: float) -> bytes:
            with (
                self._limiter.demand(path),
                self.client.request("GET", path, slash=slash, query=query, deadline=deadline) as reply,
            ):
                return b"".join(self.client.body(reply, path))

        return self._retry_policy.call(path, ask)

    def run_all(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Run `calls` in parallel, as many at once as there may be connections; return their results in order.

        Raises:
            Exception: the first that one of them raises; calls that have not begun by then are dropped.
        """
        left = iter(enumerate(calls))
        lock = threading.Lock()
        results: dict[int, T] = {}

        def work() -> None:
            while True:
                with lock:
                    number, call = next(left, (0, None))
                if call is None:
                    return
                try:
                    results[number] = call()
                except BaseException:
                    with lock:
                        for _ in left:
                            pass
                    raise

        for future in [self.submit(work) for _ in range(min(self._most, len(calls)))]:
            wait_future(future)
            future.result()
        return [results[number] for number in range(len(calls))]

    def close(self) -> None:
        """Stop all retries, and close the connections; those in use are closed when their requests end."""
        self._stopping.set()
        self._pool.close()
        self._threads.close()

    def _watch(self) -> None:
        """Abort overdue reads; close connections that are idle for long, or that another process waits for."""
        while not self._stopping.wait(TIDY_SECONDS):
            self._pool.close_idle(0.0 if self._semaphore.has_waiters() else IDLE_SECONDS)


class OfflineHost:
    """A host without connections: none of its parts could open one.

    Args:
        index: the index of the known files.
    """

    most_prefetches = 1

    def __init__(self, index: Index) -> None:
        self.origin = self.prefetch_origin = OfflineOrigin(index)
        self.listing = OfflineListing()
        self.batched_sizes = None
        self.latency = LatencyEstimator(LONGEST_REQUEST)
        self.prefetch_slot = nullcontext
        self._threads = ThreadPool("offline")
        self.submit = self._threads.submit

    def run_all(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Run `calls` one after another; return their results in order."""
        return [call() for call in calls]

    def on_date(self, callback: Callable[[File, int], None]) -> None:
        """Do nothing: no reply tells a date."""

    def has_answered(self) -> bool:
        """Return True: no answer is needed."""
        return True

    def counters(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def close(self) -> None:
        """End the threads."""
        self._threads.close()


def process_semaphore(url: str, most: int) -> ProcessSemaphore:
    """Return the limit on the connections of all processes of the user to the server of `url`."""
    return ProcessSemaphore(runtime_folder(), urlsplit(without_credentials(url)).netloc, most)


@contextmanager
def open_host(url: str, settings: Settings, *, most: int | None = None) -> Iterator[Host]:
    """Yield an interactive host, and close it at the end."""
    host = Host(url, settings, most=most, interactive=True)
    try:
        yield host
    finally:
        host.close()
