"""Stand-ins for the world that behave: an origin, listings, stores, clocks."""

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from empiarfs.cancellation import CancelToken
from empiarfs.engine.latency import LatencyEstimator
from empiarfs.engine.single_flight import SingleFlight
from empiarfs.errors import ArchiveError, IsADirectory, NotFound, Unavailable
from empiarfs.model import Block, Directory, File, Node, Span, Stub
from empiarfs.ports import NEVER
from empiarfs.threads import ThreadPool

T = TypeVar("T")

SOON = 20.0  # seconds after which something that must happen counts as not happening
MOST = 5_000  # requests after which a test is taken to go on for ever
MODIFIED = 1_700_000_000  # when the files of a `FakeOrigin` were changed, unless it is told otherwise


def noise(size: int, seed: int = 0) -> bytes:
    """Return `size` bytes of which no two stretches are alike, so that a misplaced byte shows."""
    words = (size + 7) // 8
    return b"".join((index * 0x9E3779B97F4A7C15 + seed & (1 << 64) - 1).to_bytes(8) for index in range(words))[
        :size
    ]


class Content(Protocol):
    """The bytes of a file that is too large to be made whole."""

    @property
    def size(self) -> int:
        """How many bytes it has."""
        ...

    def part(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`."""
        ...


@dataclass(frozen=True, slots=True)
class Made:
    """A file of `size` bytes in which the byte at `offset` is `offset % 251`."""

    size: int

    def part(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`."""
        stop = min(stop, self.size)
        turns = (stop - start) // 251 + 2
        return (bytes(range(251)) * turns)[start % 251 :][: max(0, stop - start)]


@dataclass(frozen=True, slots=True)
class Asked:
    """One line of the diary: what was asked of an origin. `span` is None where it was a measuring."""

    path: str
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Break:
    """What goes wrong in one fetch.

    Attributes:
        after: how many bytes come before it.
        error: what is raised then; None to end there without a word, as no origin may.
        extra: bytes that follow a whole span, as no origin may send them.
    """

    after: int = 0
    error: BaseException | None = None
    extra: bytes = b""


class Barrier:
    """A place where a fetch stops until the test lets it go on.

    Args:
        after: how many bytes come before it.
        times: how many of those who come stop here; None for all.
    """

    def __init__(self, after: int, times: int | None = None) -> None:
        self.after = after
        self._left = times
        self._reached = threading.Semaphore(0)
        self._gone = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._standing: list[threading.Event] = []
        self._is_open = False

    def wait_reached(self, times: int = 1) -> None:
        """Wait until `times` more fetches stand here."""
        for _ in range(times):
            assert self._reached.acquire(timeout=SOON), "no fetch came to the barrier"

    def wait_gone(self) -> None:
        """Wait until one more has gone on from here, or was cut."""
        assert self._gone.acquire(timeout=SOON), "it still stands at the barrier"

    def stops(self) -> bool:
        """Return whether the next caller is to stop here."""
        with self._lock:
            if self._left is None:
                return True
            self._left -= 1
            return self._left >= 0

    def lift(self) -> None:
        """Let every caller pass, now and later."""
        with self._lock:
            self._is_open = True
            for one in self._standing:
                one.set()

    def passed(self, token: CancelToken | None = None) -> bool:
        """Wait until the test lifts the barrier, or `token` is cancelled; return whether it was lifted."""
        go_on = threading.Event()
        broken = threading.Event()

        def act() -> None:
            broken.set()
            go_on.set()

        with self._lock:
            self._standing.append(go_on)
            if self._is_open:
                go_on.set()
        if token is not None and not token.on_cancel(act):
            act()
        self._reached.release()
        assert go_on.wait(SOON), "nobody lifted the barrier"
        self._gone.release()
        if token is not None:
            token.on_cancel(None)
        return not broken.is_set()


class FakeOrigin:
    """An origin in memory, with a diary.

    Args:
        files: the content of each path, as bytes or made when asked.
        modified: the date of every file.
        piece: how many bytes come at once.
    """

    def __init__(
        self, files: Mapping[str, bytes | Content], *, modified: int | None = MODIFIED, piece: int = 7
    ) -> None:
        self.files = dict(files)
        self.directories: set[str] = set()
        self.modified = modified
        self.piece = piece
        self.diary: list[Asked] = []
        self.deadlines: list[float] = []  # of all requests, in order
        self.plan: dict[int, Break] = {}
        self.refusals: dict[str, ArchiveError] = {}
        self.barrier: Barrier | None = None
        self.highest = self._inside = self._fetched = 0
        self._lock = threading.Lock()

    @property
    def fetches(self) -> list[Span]:
        """The spans fetched, in order."""
        return [asked.span for asked in self.diary if asked.span is not None]

    @property
    def measured(self) -> list[str]:
        """The paths measured, in order."""
        return [asked.path for asked in self.diary if asked.span is None]

    def file(self, path: str) -> File:
        """Return `path` as it is now, without a line in the diary."""
        content = self.files[path]
        size = len(content) if isinstance(content, bytes) else content.size
        return File(path, size, self.modified)

    def held(self, after: int = 0, times: int | None = None) -> Barrier:
        """Stop the next `times` requests, or all, once `after` bytes of each have come."""
        self.barrier = Barrier(after, times)
        return self.barrier

    def break_next(self, *breaks: Break) -> None:
        """Let the next fetches go wrong so, one after the other."""
        begun = self._fetched
        self.plan.update({begun + number: one for number, one in enumerate(breaks)})

    def measure(self, path: str, *, deadline: float = NEVER, token: CancelToken | None = None) -> File:
        """See `Origin.measure`."""
        self.deadlines.append(deadline)
        with self._noted(Asked(path)):
            barrier = self._barrier_now()
            if barrier is not None and not barrier.passed(token):
                raise Unavailable(path, "cut")
            self._check(path)
            return self.file(path)

    def open(
        self, path: str, size: int, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> tuple[File, bytes]:
        """See `Origin.open`."""
        file = self.measure(path, deadline=deadline, token=token)
        return file, self._part(path, 0, min(size, file.size))

    def fetch(
        self, file: File, span: Span, *, deadline: float = NEVER, token: CancelToken | None = None
    ) -> Iterator[bytes]:
        """See `Origin.fetch`."""
        self.deadlines.append(deadline)
        with self._lock:
            number = self._fetched
            self._fetched += 1
        with self._noted(Asked(file.path, span)):
            self._check(file.path)
            wrong = self.plan.get(number)
            barrier = self._barrier_now()
            sent = 0
            while True:
                if barrier is not None and sent >= barrier.after:
                    if not barrier.passed(token):
                        raise Unavailable(file.path, "cut")
                    barrier = None
                if wrong is not None and not wrong.extra and sent >= wrong.after:
                    if wrong.error is not None:
                        raise wrong.error
                    return
                if sent == span.size:
                    break
                stops = [sent + self.piece, span.size]
                stops += [barrier.after] if barrier is not None else []
                stops += [wrong.after] if wrong is not None and not wrong.extra else []
                stop = min(stops)
                yield self._part(file.path, span.start + sent, span.start + stop)
                sent = stop
            if wrong is not None and wrong.extra:
                yield wrong.extra

    def _barrier_now(self) -> Barrier | None:
        return self.barrier if self.barrier is not None and self.barrier.stops() else None

    def _part(self, path: str, start: int, stop: int) -> bytes:
        content = self.files[path]
        return content[start:stop] if isinstance(content, bytes) else content.part(start, stop)

    def _check(self, path: str) -> None:
        if path in self.refusals:
            error = self.refusals[path]
            raise type(error)(error.path, error.reason)
        if path in self.directories:
            raise IsADirectory(path)
        if path not in self.files:
            raise NotFound(path)

    def _noted(self, asked: Asked) -> "_Inside":
        assert len(self.diary) < MOST, "this asks for ever"
        with self._lock:
            self.diary.append(asked)
        return _Inside(self)

    def _entered(self, change: int) -> None:
        with self._lock:
            self._inside += change
            self.highest = max(self.highest, self._inside)


class _Inside:
    """Counts the calls that are being served."""

    def __init__(self, origin: FakeOrigin) -> None:
        self._origin = origin

    def __enter__(self) -> None:
        self._origin._entered(1)

    def __exit__(self, *_: object) -> None:
        self._origin._entered(-1)


class FakeListing:
    """Listings in memory: children by directory. A directory it does not hold is not there."""

    def __init__(self, children: Mapping[str, Sequence[Node]]) -> None:
        self.children = {directory: list(entries) for directory, entries in children.items()}
        self.diary: list[str] = []
        self.refusals: dict[str, ArchiveError] = {}
        self.barrier: Barrier | None = None

    def scan(self, directory: str) -> Sequence[Node]:
        """See `Listing.scan`."""
        self.diary.append(directory)
        if self.barrier is not None:
            self.barrier.passed()
        if directory in self.refusals:
            error = self.refusals[directory]
            raise type(error)(error.path, error.reason)
        if directory not in self.children:
            raise NotFound(directory)
        return list(self.children[directory])


def stub(path: str, size: str = "1.0K", date: str = "2024-01-02 03:04") -> Stub:
    """Return `path` as a listing shows a file."""
    return Stub(path, size, date)


def directory(path: str, modified: int | None = MODIFIED) -> Directory:
    """Return `path` as a listing shows a directory."""
    return Directory(path, modified)


class MemoryStore:
    """Blocks in a dict; may forget any of them at will."""

    def __init__(self, forgets: Callable[[Block], bool] = lambda _: False) -> None:
        self.blocks: dict[Block, bytes] = {}
        self.asked: list[Block] = []
        self.puts: list[list[int]] = []  # the numbers of the blocks of each call
        self._forgets = forgets

    def get(self, file: File, numbers: range) -> dict[int, bytes]:
        """See `BlockStore.get`."""
        wanted = [Block(file, number) for number in numbers]
        self.asked += wanted
        held = [block for block in wanted if block in self.blocks and not self._forgets(block)]
        return {block.number: self.blocks[block] for block in held}

    def put(self, file: File, blocks: Mapping[int, bytes]) -> None:
        """See `BlockStore.put`."""
        self.puts.append(list(blocks))
        self.blocks.update((Block(file, number), data) for number, data in blocks.items())


class SlowStore(MemoryStore):
    """A store whose writes wait until the test lets them go on."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = Barrier(0)

    def put(self, file: File, blocks: Mapping[int, bytes]) -> None:
        """See `BlockStore.put`."""
        self.barrier.passed()
        super().put(file, blocks)


class BrokenStore:
    """A store that is broken, which is a store that holds nothing."""

    def __init__(self) -> None:
        self.puts = 0

    def get(self, file: File, numbers: range) -> dict[int, bytes]:
        """Return nothing."""
        return {}

    def put(self, file: File, blocks: Mapping[int, bytes]) -> None:
        """Lose `blocks`."""
        self.puts += 1


in_threads = ThreadPool("fake").submit


def single_flight(hedge_delay: Callable[[], float] = lambda: SOON) -> SingleFlight[Any, Any]:
    """Return what brings callers of the same thing together, with nothing under way."""
    return SingleFlight(hedge_delay, in_threads)


class FixedLatency(LatencyEstimator):
    """A latency estimate at which no request is ever late, and no read is worth two connections."""

    def __init__(self) -> None:
        super().__init__(1 << 21)

    def hedge_delay(self) -> float:
        """Return after how many seconds of silence a request is sent a second time."""
        return SOON

    def worth_splitting(self, count: int) -> bool:
        """Return whether `count` bytes come sooner over two connections than over one."""
        return False


class QueuedTasks(list[Callable[[], object]]):
    """Background tasks that wait until a test runs them."""

    def __init__(self) -> None:
        super().__init__()
        self._about: dict[Callable[[], object], Hashable] = {}

    def __call__(self, task: Callable[[], object], about: Hashable = None) -> None:
        """Queue `task`."""
        self.append(task)
        self._about[task] = about

    def drop(self, about: Hashable) -> None:
        """Drop the tasks for `about`."""
        self[:] = [task for task in self if self._about[task] != about]


class FakeClock:
    """A clock that a test advances."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def go_on(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds


class FakeStopping(threading.Event):
    """An event whose wait takes no time: it advances a clock and records each pause.

    Args:
        clock: what a pause moves.
        stop_at: the number of the pause in which it gets set; None for never.
    """

    def __init__(self, clock: FakeClock, stop_at: int | None = None) -> None:
        super().__init__()
        self._clock = clock
        self._stop_at = stop_at
        self.pauses: list[float] = []
        self.while_pausing: Callable[[], object] = bool

    def wait(self, timeout: float | None = None) -> bool:
        """Let `timeout` seconds pass at once."""
        assert timeout is not None, "nothing may wait for ever"
        assert len(self.pauses) < 300, "this waits for ever"
        if self._stop_at is not None and len(self.pauses) >= self._stop_at:
            self.set()
        if not self.is_set():
            self.pauses.append(timeout)
            self.while_pausing()
            self._clock.go_on(timeout)
        return self.is_set()


def at_once(tasks: Sequence[Callable[[], T]]) -> list[T | BaseException]:
    """Run `tasks` at once, each in its own thread; return their results or exceptions."""
    start = threading.Barrier(len(tasks))

    def run(task: Callable[[], T]) -> T:
        start.wait(SOON)
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        futures = [pool.submit(run, task) for task in tasks]
        return [future.exception(SOON) or future.result() for future in futures]
