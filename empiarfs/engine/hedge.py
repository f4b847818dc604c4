"""Hedged requests: a request that is silent for too long is sent again, and the first response wins.

The threads that wait for a response decide when it is late (`Hedgeable.hedge_if_silent`): a request that no thread
waits for is never hedged, and one that is answered in time takes no second thread.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing
from typing import Generic, TypeVar, cast

from empiarfs.cancellation import CancelToken
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.errors import ArchiveError, Unavailable
from empiarfs.model import File, Span
from empiarfs.ports import NEVER, Origin

T = TypeVar("T")

HEDGE_SHARE = 0.05  # the share of requests that may be hedged
MAX_CREDIT = 8.0  # the most hedged requests in a burst


class Hedgeable(CancelToken):
    """A request that the threads waiting for its response can hedge."""

    def __init__(self) -> None:
        super().__init__()
        self._hedge: Callable[[], None] | None = None
        self._sent_at = 0.0

    def sent(self, hedge: Callable[[], None]) -> None:
        """Record that the request is sent now; `hedge` sends it again, unless a response has begun."""
        self._sent_at = time.monotonic()
        self._hedge = hedge

    def hedge_if_silent(self, seconds: float) -> None:
        """Hedge the request, once, if it was sent `seconds` ago, and no response has begun; if it can be now."""
        hedge = self._hedge
        if hedge is not None and time.monotonic() - self._sent_at >= seconds:
            hedge()


class _Race(Generic[T]):
    """A request and its hedge: the first response wins, and the other request is cancelled.

    Args:
        ask: sends the request and returns the response.
        discard: disposes of a response that came too late.
        admit: acquires a connection for a second request; returns what releases it, None if it may not be sent.
        submit: runs a task in another thread.
    """

    def __init__(
        self,
        ask: Callable[[CancelToken], T],
        discard: Callable[[T], None],
        admit: Callable[[], Callable[[], None] | None],
        submit: Callable[[Callable[[], object]], object],
    ) -> None:
        self._ask = ask
        self._discard = discard
        self._admit = admit
        self._submit = submit
        self._lock = threading.Lock()
        self._is_over = False
        self._first = CancelToken()
        self._second: CancelToken | None = None
        self._second_ended = threading.Event()
        self._second_outcome: tuple[T | None, ArchiveError | None] | None = None

    def run(self, token: CancelToken | None) -> T:
        """Send the request in this thread; return the first response of the two.

        Args:
            token: cancels both requests; if it is `Hedgeable`, it sends the second one.
        """
        if token is not None and not token.on_cancel(self.abort):
            self.abort()
        if isinstance(token, Hedgeable):
            token.sent(self.hedge)
        try:
            answer = self._ask(self._first)
        except Unavailable as error:
            return self._rescue(error)
        except BaseException:
            self._end()
            raise
        if self._end():
            return answer
        self._discard(answer)
        return self._answer_of_second()

    def hedge(self) -> None:
        """Send the request a second time, once, in another thread."""
        with self._lock:
            release = None if self._is_over or self._second is not None else self._admit()
            if release is None:
                return
            self._second = token = CancelToken()
        try:
            self._submit(lambda: self._run_second(token, release))
        except BaseException:
            release()
            self._second_ended.set()
            raise

    def abort(self) -> None:
        """Cancel both requests."""
        self._first.cancel()
        if self._second is not None:
            self._second.cancel()

    def _run_second(self, token: CancelToken, release: Callable[[], None]) -> None:
        outcome: tuple[T | None, ArchiveError | None]
        try:
            try:
                outcome = self._ask(token), None
            except ArchiveError as error:
                outcome = None, error
            with self._lock:
                # after Unavailable from the second request, the first may still succeed
                is_first = not self._is_over and not isinstance(outcome[1], Unavailable)
                if is_first:
                    self._is_over, self._second_outcome = True, outcome
            if is_first:
                self._first.cancel()
            elif outcome[1] is None:
                self._discard(outcome[0])
        finally:
            release()
            self._second_ended.set()

    def _end(self) -> bool:
        """End the race for the first request and cancel the second; return False if the second has won."""
        with self._lock:
            if self._is_over:
                return False
            self._is_over = True
        if self._second is not None:
            self._second.cancel()
        return True

    def _rescue(self, error: Unavailable) -> T:
        """Return the response to the second request; raise `error` if there is none."""
        with self._lock:
            if self._second is None:
                self._is_over = True
                raise error
        self._second_ended.wait()
        if self._second_outcome is None:
            raise error
        return self._answer_of_second()

    def _answer_of_second(self) -> T:
        assert self._second_outcome is not None  # noqa: S101 - the second request has won
        answer, error = self._second_outcome
        if error is not None:
            raise error
        return cast("T", answer)


class Hedged:
    """An origin that can hedge its requests; see `Hedgeable`.

    Args:
        origin: sends the requests.
        limiter: limits the second requests.
        enter: holds a connection for the first request.
        submit: runs a task in another thread.
    """

    def __init__(
        self,
        origin: Origin,
        limiter: ConnectionLimiter,
        enter: Callable[[str], AbstractContextManager[None]],
        submit: Callable[[Callable[[], object]], object],
    ) -> None:
        self._origin = origin
        self._limiter = limiter
        self._enter = enter
        self._submit = submit
        self._credit = MAX_CREDIT
        self.hedged_requests = 0

    def __repr__(self) -> str:
        return f"<Hedged hedged_requests={self.hedged_requests}>"

    def measure(self, path: str, *, deadline: float = NEVER, token: CancelToken | None = None) -> File:
        """See `Origin.measure`."""
        with self._enter(path):
            return self._race(lambda one: self._origin.measure(path, deadline=deadline, token=one)).run(token)

    def open(
        self, path: str, size: int, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> tuple[File, bytes]:
        """See `Origin.open`."""
        with self._enter(path):
            return self._race(lambda one: self._origin.open(path, size, deadline=deadline, token=one)).run(token)

    def fetch(
        self, file: File, span: Span, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> Iterator[bytes]:
        """See `Origin.fetch`."""

        def ask(one: CancelToken) -> tuple[bytes, Generator[bytes]]:
            pieces = self._origin.fetch(file, span, deadline=deadline, token=one)
            first = next(pieces, b"")
            if not first:
                raise Unavailable(file.path, "the reply is empty")
            return first, cast("Generator[bytes]", pieces)

        with self._enter(file.path):
            first, pieces = self._race(ask, lambda answer: answer[1].close()).run(token)
            with closing(pieces):
                yield first
                yield from pieces

    def _race(self, ask: Callable[[CancelToken], T], discard: Callable[[T], None] = lambda _: None) -> _Race[T]:
        self._credit = min(MAX_CREDIT, self._credit + HEDGE_SHARE)  # without a lock: a lost update matters little
        return _Race(ask, discard, self._admit, self._submit)

    def _admit(self) -> Callable[[], None] | None:
        """Acquire a connection for a second request; return what releases it, None if it may not be sent."""
        if self._credit < 1 or not self._limiter.try_acquire():
            return None
        self._credit -= 1
        self.hedged_requests += 1
        return self._limiter.release
