"""The limit on concurrent requests, and their priority."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from empiarfs.cancellation import wait
from empiarfs.errors import Throttled

log = logging.getLogger(__name__)

CALM_SECONDS = 30.0  # how long a reduced limit stays as it is
QUIET_SECONDS = 1.0  # how long there is no prefetch after the server throttled
GROW_SECONDS = 5.0  # between two steps of a limit that grows again


class ConnectionLimiter:
    """Limits the connections in use at once; demand requests go before any prefetch.

    A server that throttles halves the limit for a while. If it says how long to wait (`Retry-After`), the queued
    requests fail with `Throttled`, and their callers wait elsewhere (`pause`).

    Args:
        most: the maximum number of connections.
        reserved_for_demand: how many of them are never used by prefetch.
        clock: monotonic seconds.
        on_throttle: called when the server throttles.
    """

    def __init__(
        self,
        most: int,
        reserved_for_demand: int,
        clock: Callable[[], float] = time.monotonic,
        on_throttle: Callable[[], None] = lambda: None,
    ) -> None:
        self._most = self._allowed = most
        self._reserved_for_demand = reserved_for_demand
        self._clock = clock
        self._on_throttle = on_throttle
        self._grow_at = 0.0
        self._lock = threading.Lock()
        self._quiet_until = 0.0  # the end of the time without prefetch
        self._paused_at = self._paused_until = float("-inf")  # when the server requested a pause, and its end
        self._waiting: deque[threading.Event] = deque()  # an event is set when its request is to look
        self._waiting_ahead: deque[threading.Event] = deque()
        self._demand = self._ahead = 0
        self.peak = 0

    def __repr__(self) -> str:
        return (
            f"<ConnectionLimiter demand={self._demand} prefetch={self._ahead} peak={self.peak} "
            f"allowed={self._allowed} of {self._most}>"
        )

    @property
    def busy(self) -> int:
        """The number of connections in use."""
        return self._demand + self._ahead

    @property
    def allowed(self) -> int:
        """The number of connections that may be in use now."""
        return self._allowed

    @property
    def waiting(self) -> int:
        """The number of queued demand requests."""
        return len(self._waiting)

    def pause(self) -> float:
        """Return the seconds that remain of the pause that the server requested; 0 if there is none."""
        return max(0.0, self._paused_until - self._clock())

    @contextmanager
    def demand(self, path: str = "") -> Iterator[None]:
        """Hold a connection for a demand request, first come, first served.

        Raises:
            Throttled: the server has requested a pause while the request was queued. A request that comes during
                the pause is admitted: its caller has waited already, or has no patience left.
            Cancelled: the caller is to stop waiting.
        """
        came = self._clock()
        self._queue(self._waiting, ahead=False)
        if came < self._paused_at and self.pause():
            self._leave(ahead=False)
            raise Throttled(path, "the server requested a pause", self.pause())
        with self._held(ahead=False):
            yield

    @contextmanager
    def prefetch(self) -> Iterator[None]:
        """Hold a connection for prefetch."""
        self._queue(self._waiting_ahead, ahead=True)
        with self._held(ahead=True):
            yield

    def _queue(self, queue: "deque[threading.Event]", *, ahead: bool) -> None:
        """Wait in `queue` until `_admit` lets this request pass: it alone is woken, however many wait."""
        ticket = threading.Event()
        with self._lock:
            queue.append(ticket)
        try:
            while True:
                with self._lock:
                    self._admit()
                    if ticket not in queue:
                        return
                    ticket.clear()
                # nothing notifies of a limit that grows, or of the end of a quiet time
                by_itself = self._allowed < self._most or self._clock() < self._quiet_until
                wait(ticket.wait, QUIET_SECONDS if by_itself else None, ticket.set)
        except BaseException:
            with self._lock:
                is_admitted = ticket not in queue
                if not is_admitted:
                    queue.remove(ticket)
                    self._admit()
            if is_admitted:
                self._leave(ahead=ahead)
            raise

    def _admit(self) -> None:
        """Let those pass that may; the lock is held."""
        while self._waiting and self._free() > 0:
            self._demand += 1
            self._waiting.popleft().set()
        while self._waiting_ahead and self._may_prefetch():
            self._ahead += 1
            self._waiting_ahead.popleft().set()
        self.peak = max(self.peak, self._demand + self._ahead)

    def _leave(self, *, ahead: bool) -> None:
        """Return a connection to those that wait."""
        with self._lock:
            if ahead:
                self._ahead -= 1
            else:
                self._demand -= 1
            self._admit()

    def _may_prefetch(self) -> bool:
        most = max(1, self._allowed - self._reserved_for_demand)
        is_open = self._clock() >= self._quiet_until
        return self._free() > 0 and not self._waiting and self._ahead < most and is_open

    def try_acquire(self) -> bool:
        """Acquire a connection for a hedged request if one is free now; `release` returns it."""
        with self._lock:
            if self._free() <= 0 or self._waiting or self.pause():
                return False
            self._demand += 1
            self.peak = max(self.peak, self._demand + self._ahead)
            return True

    def release(self) -> None:
        """Return a connection that `try_acquire` acquired."""
        self._leave(ahead=False)

    @contextmanager
    def _held(self, *, ahead: bool) -> Iterator[None]:
        begun = self._clock()
        try:
            yield
        except Throttled as error:
            self._shrink(error)
            raise
        else:
            if begun >= self._paused_at and self.pause():
                self._on_recovery()
        finally:
            self._leave(ahead=ahead)

    def _free(self) -> int:
        if self._allowed < self._most and self._clock() >= self._grow_at:
            self._allowed += 1
            self._grow_at = self._clock() + GROW_SECONDS
        return self._allowed - self._demand - self._ahead

    def _on_recovery(self) -> None:
        """Record that the server has answered a request before its pause was over."""
        with self._lock:
            now = self._clock()
            self._paused_until = self._quiet_until = now
            self._grow_at = now + CALM_SECONDS
            self._admit()

    def _shrink(self, error: Throttled) -> None:
        with self._lock:
            was_whole = self._allowed == self._most
            is_news = error.pause > self.pause()
            recent = self._clock() < self._grow_at - CALM_SECONDS + GROW_SECONDS
            if not recent:  # requests that were throttled together count once
                self._allowed = max(1, self._allowed // 2)
            calm = max(CALM_SECONDS, error.pause)
            self._grow_at = self._clock() + calm
            if is_news:
                log.warning("%s; it requests a pause of %.0f s", error, error.pause)
            elif was_whole:
                log.warning(
                    "%s; using at most %d connections for %.0f s, then one more every %.0f s",
                    error,
                    self._allowed,
                    calm,
                    GROW_SECONDS,
                )
            self._quiet_until = max(self._quiet_until, self._clock() + max(QUIET_SECONDS, error.pause))
            for ticket in (*self._waiting, *self._waiting_ahead):
                ticket.set()  # from now on each waits with a timeout
            if error.pause:
                self._paused_at = self._clock()
                self._paused_until = max(self._paused_until, self._clock() + error.pause)
        self._on_throttle()
