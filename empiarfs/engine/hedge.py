"""A second asking where the first is silent for too long; the first answer wins, the other asking is broken."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Generic, Protocol, TypeVar, cast

from empiarfs.cancellation import remaining, wait
from empiarfs.engine.latency import LatencyEstimator
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.errors import Unavailable
from empiarfs.model import File, Span

T = TypeVar("T")

HEDGE_SHARE = 0.05  # of all requests that may be sent a second time
MAX_CREDIT = 8.0  # second askings that may be sent one right after the other
LAST_SECONDS = 30.0


class CancelToken:
    """Lets one thread break what another one waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._act: Callable[[], None] | None = None
        self._is_cancelled = False

    def on_cancel(self, act: Callable[[], None] | None) -> bool:
        """Say what breaks it: `act`, or nothing any more. Tell whether it may begin at all."""
        with self._lock:
            self._act = act
            return not self._is_cancelled

    def cancel(self) -> None:
        """Break it, or see to it that it does not begin."""
        with self._lock:
            self._is_cancelled = True
            if self._act is not None:
                self._act()


class CancellableOrigin(Protocol):
    """An origin whose requests another thread can break."""

    def measure(self, path: str, token: CancelToken | None = None) -> File:
        """See `Origin.measure`."""
        ...

    def fetch(self, file: File, span: Span, token: CancelToken | None = None) -> Iterator[bytes]:
        """See `Origin.fetch`."""
        ...


class _Race(Generic[T]):
    """The same question, asked once or twice: the first answer wins, the other asking is broken."""

    def __init__(self, ask: Callable[[CancelToken], T], discard: Callable[[T], None]) -> None:
        self._ask = ask
        self._discard = discard
        self._lock = threading.Lock()
        self._answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._over = False
        self._tokens: list[CancelToken] = []

    def start(self) -> bool:
        """Ask in a thread of its own; tell whether there was one to be had."""
        token = CancelToken()
        try:
            threading.Thread(target=self._run, args=(token,), name="request", daemon=True).start()
        except RuntimeError:
            return False
        self._tokens.append(token)
        return True

    def ask(self) -> None:
        """Ask in this thread."""
        self._run(CancelToken())

    def answer(self, seconds: float | None) -> tuple[T | None, BaseException | None] | None:
        """Return the next answer, or the error of one asking; None when `seconds` have passed."""
        come: list[tuple[T | None, BaseException | None]] = []

        def poll(most: float | None) -> bool:
            with suppress(queue.Empty):
                come.append(self._answers.get(timeout=most))
            return bool(come)

        return come[0] if wait(poll, seconds) else None

    def end(self) -> None:
        """Break every asking that has not answered."""
        with self._lock:
            self._over = True
        for token in self._tokens:
            token.cancel()

    def _run(self, token: CancelToken) -> None:
        try:
            answer = self._ask(token)
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            self._answers.put((None, error))
            return
        with self._lock:
            lost = self._over
            if not lost:
                self._over = True
                token.on_cancel(None)
                self._answers.put((answer, None))
        if lost:
            self._discard(answer)


class Hedged:
    """An origin for those who wait: it asks a second time when the first asking is silent for unusually long.

    Args:
        origin: who is asked.
        limiter: where both askings take their places.
        latency: what is usual.
    """

    def __init__(self, origin: CancellableOrigin, limiter: ConnectionLimiter, latency: LatencyEstimator) -> None:
        self._origin = origin
        self._limiter = limiter
        self._latency = latency
        self._credit = MAX_CREDIT
        self.hedged_requests = 0

    def __repr__(self) -> str:
        return f"<Hedged hedged_requests={self.hedged_requests}>"

    def measure(self, path: str) -> File:
        """See `Origin.measure`."""
        with (
            self._limiter.demand(path),
            self._answered(path, lambda cut: self._origin.measure(path, cut), lambda _: None) as file,
        ):
            return file

    def fetch(self, file: File, span: Span) -> Iterator[bytes]:
        """See `Origin.fetch`."""

        def ask(token: CancelToken) -> tuple[bytes, Generator[bytes]]:
            return start_fetch(file.path, self._origin.fetch(file, span, token))

        with (
            self._limiter.demand(file.path),
            self._answered(file.path, ask, lambda answer: answer[1].close()) as (first, pieces),
            closing(pieces),
        ):
            yield first
            yield from pieces

    @contextmanager
    def _answered(self, path: str, ask: Callable[[CancelToken], T], discard: Callable[[T], None]) -> Iterator[T]:
        race = _Race(ask, discard)
        self._credit = min(MAX_CREDIT, self._credit + HEDGE_SHARE)  # a lost update is a hedge more or less
        second_place = False
        try:
            if not race.start():
                race.ask()
            outcome = race.answer(self._latency.hedge_delay())
            if outcome is None and self._credit >= 1 and self._limiter.try_acquire():
                second_place = race.start()
                if second_place:
                    self._credit -= 1
                    self.hedged_requests += 1
                else:
                    self._limiter.release()
            # the lines have deadlines of their own; this one is for what slips through them, and for the impatient
            fair = self._latency.read_timeout()
            last = min(fair * 2 + LAST_SECONDS, max(fair, remaining()))
            late = (None, Unavailable(path, "the server does not answer"))
            answer, error = outcome or race.answer(last) or late
            if isinstance(error, Unavailable) and second_place:  # the other may yet answer
                answer, error = race.answer(last) or late
        finally:
            race.end()
            if second_place:
                self._limiter.release()
        if error is not None:
            raise error
        yield cast("T", answer)


def start_fetch(path: str, pieces: Iterator[bytes]) -> tuple[bytes, Generator[bytes]]:
    """Begin a fetch; give its first piece and the rest."""
    first = next(pieces, b"")
    if not first:
        raise Unavailable(path, "the reply is empty")
    return first, cast("Generator[bytes]", pieces)
