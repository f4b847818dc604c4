"""A tree over fakes, for the tests of listings and of measuring."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from support.fakes import (
    SOON,
    Barrier,
    FakeClock,
    FakeListing,
    FakeOrigin,
    directory,
    in_threads,
    noise,
    single_flight,
    stub,
)

from empiarfs.engine.hedge import Hedged
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.engine.listings import Listings
from empiarfs.engine.tree import Tree
from empiarfs.errors import ArchiveError
from empiarfs.model import File, Stub, base_name, parent_path
from empiarfs.storage.index import SqliteIndex

FRESH = 86_400.0
DATA = "10028/data"
A, B = f"{DATA}/a.mrc", f"{DATA}/b.mrc"


class FakeSizes:
    """Exact sizes of whole directories, as from an FTP list."""

    def __init__(self, origin: FakeOrigin) -> None:
        self.origin = origin
        self.diary: list[str] = []
        self.refusal: ArchiveError | None = None
        self.meanwhile: Callable[[], object] = bool

    def measure_all(self, directory: str, stubs: Sequence[Stub]) -> Sequence[File]:
        """See `Sizes.measure_all`."""
        self.diary.append(directory)
        self.meanwhile()
        if self.refusal is not None:
            raise self.refusal
        return [
            replace(self.origin.file(one.path), coarse_mtime=True) for one in stubs if one.path in self.origin.files
        ]


class FakeBatches:
    """Exact sizes of some files at once, as from pipelined requests."""

    def __init__(self, origin: FakeOrigin) -> None:
        self.origin = origin
        self.is_in_use = True
        self.diary: list[list[str]] = []
        self.unanswered: set[str] = set()
        self.error: ArchiveError | None = None  # raised after the files
        self.meanwhile: Callable[[], object] = bool
        self.barrier: Barrier | None = None

    def is_usable(self) -> bool:
        """See `BatchedSizes.is_usable`."""
        return self.is_in_use

    def measure_batch(self, directory: str, stubs: Sequence[Stub]) -> Iterator[Sequence[File]]:
        """See `BatchedSizes.measure_batch`."""
        assert {parent_path(one.path) for one in stubs} == {directory}
        self.diary.append([one.path for one in stubs])
        if self.barrier is not None:
            self.barrier.passed()
        self.meanwhile()
        yield [self.origin.file(one.path) for one in stubs if one.path not in self.unanswered]
        if self.error is not None:
            raise self.error


class World:
    """A tree over fakes, with all of them accessible."""

    def __init__(self, index: SqliteIndex) -> None:
        self.listing = FakeListing(
            {
                "": [directory("10028"), directory("10934")],
                "10028": [directory(DATA), stub("10028/10028.xml")],
                DATA: [stub(A), stub(B)],
                "10934": [],
            }
        )
        self.origin = FakeOrigin({A: noise(1000), B: noise(2000), "10028/10028.xml": noise(30)})
        self.origin.directories = {"10028", "10934", DATA}
        self.ahead = FakeOrigin(self.origin.files)
        self.limiter = ConnectionLimiter(10, 2)
        self.hedged = Hedged(self.ahead, self.limiter, lambda _: nullcontext(), in_threads)
        self.ahead_tasks: list[Callable[[], object]] = []
        self.sizes: FakeSizes | None = None
        self.batched: FakeBatches | None = None
        self.clock = FakeClock()
        self.later: list[Callable[[], object]] = []
        self.second = SOON
        self.waits = 0  # how often a caller has begun to wait for a file in flight, or looked at it again
        self.agrees: Callable[[Stub, File], bool] = lambda _stub, _file: True
        self.index = index
        self.tree = self.opened()

    def opened(self, *only: str) -> Tree:
        """Open the tree again on the same index, as the next run of the program does."""
        self.listings = Listings(
            self.listing,
            self.index,
            listing_ttl=FRESH,
            clock=self.clock,
            background=self.later.append,
            scans=single_flight(),
        )
        return Tree(
            self.listings,
            self.origin,
            self.hedged,
            self.sizes,
            self.batched,
            sizes_background=self.later.append,
            single_flight=single_flight(self._hedge_delay),
            agrees=self._agrees,
            background=self.ahead_tasks.append,
            prefetch_slot=self.limiter.prefetch,
            only=only,
        )

    def _hedge_delay(self) -> float:
        self.waits += 1
        return self.second

    def _agrees(self, stub: Stub, file: File) -> bool:
        return self.agrees(stub, file)  # as the test has set it meanwhile

    def names(self, path: str) -> list[str]:
        """Return the names in the directory `path`."""
        return [base_name(node.path) for node in self.tree.listdir(path)]

    def listed(self, path: str = DATA) -> list[str]:
        """Return the names of the listing of `path`."""
        return list(self.listings.known(path).nodes)

    def run_later(self) -> int:
        """Run the queued tasks, and return how many there were."""
        tasks, self.later[:] = list(self.later), []
        for task in tasks:
            task()
        return len(tasks)


@contextmanager
def opened_world(folder: Path) -> Iterator[World]:
    """Yield a world without any request so far, whose index is in `folder`."""
    index = SqliteIndex(folder / "tree.sqlite")
    yield World(index)
    index.close()
