"""A small archive behind a faulty server, a fault, what readers get, and whether anything leaks.

Apache serves 10028, which the faults hit, and 10077, which they do not.
"""

import gc
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from empiarfs import wire
from empiarfs.archive import Archive
from empiarfs.engine.hedge import Hedged
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.engine.origins import Retrying
from empiarfs.errors import ArchiveError
from empiarfs.files import ArchiveFile
from empiarfs.model import Directory, File, Stub, base_name
from empiarfs.settings import Settings
from empiarfs.storage.chunks import parse_key
from empiarfs.storage.disk import DiskStore
from empiarfs.storage.index import SqliteIndex
from empiarfs.units import MIB
from support.apache import Apache
from support.fault_proxy import FaultProxy
from support.fault_table import ALL, DATA, HEAD, LISTING, NAME, Fault
from support.mounting import eventually

MODIFIED = 1_700_000_000
PATIENCE = 0.3  # seconds; where the fault lasts
MUCH_PATIENCE = 30.0  # where it passes
BRIEFLY = 0.5  # for which an outage that passes lasts
PROMPT = 10.0  # seconds within which others are answered, on any machine
LONGEST = 20.0  # seconds after which a reader without bytes or an error hangs
HITS = {
    DATA: "10028/data/data.mrc",
    HEAD: "10028/data/head.mrc",
    NAME: "10028/data/README.mrc",
    LISTING: "10028/listed",
}
KEPT, OTHER = "10077/data/kept.mrc", "10077/data/other.mrc"
SIZES = {
    HITS[DATA]: 400_001,
    HITS[HEAD]: 300_001,
    HITS[NAME]: 200_001,
    "10028/listed/a.mrc": 5_000,
    "10028/listed/b.mrc": 0,
    KEPT: 300_002,
    OTHER: 300_003,
}


@dataclass(frozen=True)
class Outcome:
    """The result of one reader: an errno, or 0 for the right bytes, and the seconds it took."""

    number: int
    seconds: float


class Wrong(AssertionError):
    """Wrong bytes or names, or a leak, whatever the fault."""


class Truth:
    """The files that Apache serves."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.others: dict[File, bytes] = {}  # versions that a test makes up
        chance = random.Random(4)
        for number, (path, size) in enumerate(SIZES.items()):
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(chance.randbytes(size))
            os.utime(file, (MODIFIED + number, MODIFIED + number))

    def content(self, path: str) -> bytes:
        """Return the bytes of a file."""
        return (self.root / path).read_bytes()

    def version(self, file: File) -> bytes:
        """Return the bytes of a version of a file."""
        return self.others.get(file) or self.content(file.path)

    def file(self, path: str) -> File:
        """Return a file as it must be known."""
        status = (self.root / path).stat()
        return File(path, status.st_size, int(status.st_mtime))

    def names(self, directory: str) -> set[str]:
        """Return the names that a directory lists."""
        return {one.name for one in (self.root / directory).iterdir() if not one.name.startswith("README")}


class FaultTrial:
    """An archive with its own cache behind a server that causes faults.

    Args:
        truth: what is served.
        fault_proxy: the server.
        cache_dir: a new directory.
        patience: see `Settings`.
        base_url: the archive; that of the server where it is empty.
        fresh: see `Settings`.
    """

    def __init__(
        self,
        truth: Truth,
        fault_proxy: FaultProxy,
        cache_dir: Path,
        *,
        patience: float,
        base_url: str = "",
        fresh: float = 86_400.0,
    ) -> None:
        self.truth = truth
        self.fault_proxy = fault_proxy
        self.settings = Settings(
            base_url=base_url or fault_proxy.url,
            cache_dir=cache_dir,
            memory_cache_size=64 * MIB,
            cache_size=1024 * MIB,
            patience=patience,
            listing_ttl=fresh,
        )
        self._threads = threads()
        self._descriptors = descriptors()
        self.archive = wire.archive(self.settings, name="trial")

    def __enter__(self) -> Self:
        """Fetch what is cached before the fault begins."""
        for directory in ("10028", "10028/data", "10077", "10077/data"):
            self.archive.listdir(directory)
        self.data = opened(self.archive, HITS[DATA])
        self.archive.stat(OTHER)
        self.archive.stat(HITS[LISTING])
        self.check(KEPT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check(self, path: str) -> None:
        """Open and read a whole file, and check its bytes."""
        file = opened(self.archive, path)
        self.compare(path, file.read_at(0, file.size + 1))

    def compare(self, path: str, data: bytes) -> None:
        """Check that `data` are the bytes of the file."""
        truth = self.truth.content(path)
        if data != truth:
            raise Wrong(f"{path}: {len(data)} bytes that are not its {len(truth)}")

    def read_open(self) -> None:
        """Read the file that was open before the fault."""
        self.compare(HITS[DATA], self.data.read_at(0, SIZES[HITS[DATA]]))

    def list(self, directory: str = HITS[LISTING]) -> None:
        """List a directory, and check that all names are there."""
        names = {base_name(one.path) for one in self.archive.listdir(directory)}
        if not names >= self.truth.names(directory):
            raise Wrong(f"{directory} shows {names}")

    def work_on(self, what: str) -> Callable[[], None]:
        """Return the call that a fault of `what` affects."""
        if what == DATA:
            return self.read_open
        return self.list if what == LISTING else lambda: self.check(HITS[what])

    def observe(self, work: Callable[[], None]) -> Outcome:
        """Call `work`; return its outcome."""
        begun = time.monotonic()
        number = 0
        try:
            work()
        except ArchiveError as error:
            number = error.errno or -1
        return Outcome(number, time.monotonic() - begun)

    def observe_all(self, hit: tuple[str, ...], *, others: bool) -> dict[str, Outcome]:
        """Call the work on each of `hit` at once; check that unaffected calls succeed meanwhile.

        Args:
            hit: what the fault affects.
            others: whether the server serves unaffected files meanwhile.
        """
        under_way = {what: self.start(self.work_on(what)) for what in hit}
        unhurt = [lambda: self.check(KEPT), lambda: self.list("10077/data")]
        if others:
            unhurt.append(lambda: self.check(OTHER))
        for work in unhurt:
            sight = self.observe(work)
            if sight.number or sight.seconds > PROMPT:
                raise Wrong(f"an unaffected call gave {sight}")
        return {what: one.result(LONGEST) for what, one in under_way.items()}

    def start(self, work: Callable[[], None]) -> Future[Outcome]:
        """Start `work` in a thread; return its future outcome."""
        future: Future[Outcome] = Future()

        def run() -> None:
            try:
                future.set_result(self.observe(work))
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    def check_recovered(self, hit: tuple[str, ...]) -> None:
        """Check that the same archive works again; a file that has changed is reopened."""
        for what in hit:
            if what == DATA:
                self.data = opened(self.archive, HITS[DATA])
            eventually(partial(self._is_right, what), f"{what} is right again")

    def _is_right(self, what: str) -> bool:
        return not self.observe(self.work_on(what)).number

    def limiter(self) -> ConnectionLimiter:
        """Return the connection limiter of the archive."""
        origin = self.archive._reader._fetcher._origin
        assert isinstance(origin, Retrying)
        assert isinstance(origin._origin, Hedged)
        return origin._origin._limiter

    def close(self) -> None:
        """Close the archive; check that nothing leaks and that nothing wrong is stored.

        Raises:
            Wrong: something is.
        """
        self.archive.close()
        eventually(lambda: not self.fault_proxy.connections, "all connections are closed")
        eventually(lambda: threads() <= self._threads, "all threads have ended")
        gc.collect()  # connections of sqlite3 are rings
        eventually(
            lambda: len(descriptors()) <= len(self._descriptors),
            f"closed are all of {descriptors() - self._descriptors}",
        )
        self._check_store()
        self._check_index()

    def _check_store(self) -> None:
        folder = self.settings.cache_dir / "v1" / "blocks"
        check_blocks(folder, "trial", self.settings.block_size, self.truth.version)

    def _check_index(self) -> None:
        index = SqliteIndex(self.settings.cache_dir / "v1" / "tree-trial.sqlite")
        for directory in {path.rpartition("/")[0] for path in SIZES}:
            known = index.directory(directory)
            for node in known.nodes.values() if known else ():
                match node:
                    case File(path, size) if size != len(self.truth.version(node)):
                        raise Wrong(f"the index holds {node}")
                    case Directory(path) if not (self.truth.root / path).is_dir():
                        raise Wrong(f"the index holds {node}")
                    case Stub() | File() | Directory():
                        pass
        index.close()


def opened(archive: Archive, path: str) -> ArchiveFile:
    """Open a file as the kernel does: HEAD measures it, and the ranged GETs of its reads come after that."""
    found = archive.stat(path)
    assert isinstance(found, File)
    return ArchiveFile(archive, found)


def check_blocks(folder: Path, archive: str, block_bytes: int, content: Callable[[File], bytes]) -> int:
    """Check every block on disk; return their number.

    Raises:
        Wrong: one is not.
    """
    count = 0
    with closing(sqlite3.connect(folder / "cache.db")) as database:
        chunks = [parse_key(key) for (key,) in database.execute("SELECT key FROM Cache")]
    store = DiskStore(folder, 1024 * MIB, archive=archive, block_bytes=block_bytes)
    for chunk in chunks:
        if chunk is None or (chunk.archive, chunk.block_bytes) != (archive, block_bytes):
            raise Wrong(f"the cache holds {chunk}")
        found = store.get(chunk.file, chunk.numbers)
        for number, data in found.items():
            if data != content(chunk.file)[number * block_bytes : (number + 1) * block_bytes]:
                raise Wrong(f"the cache holds other bytes as block {number} of {chunk.file}")
        if not found:
            raise Wrong(f"{chunk} cannot be read")
        count += len(found)
    store.close()
    return count


def threads() -> set[threading.Thread]:
    """Return the threads of this process, without the one that accepts the server's connections."""
    return {thread for thread in threading.enumerate() if thread.name != "faulty"}


def descriptors() -> set[str]:
    """Return the open files of this process."""
    found = set()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names alone
        with suppress(OSError):
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")  # noqa: PTH115 - it may be no path
    return found


@contextmanager
def served(folder: Path) -> Iterator[tuple[Truth, FaultProxy]]:
    """Yield the archive and the faulty server before it."""
    folder.chmod(0o755)
    truth = Truth(folder)
    apache = Apache(folder)
    fault_proxy = FaultProxy(apache.url)
    try:
        yield truth, fault_proxy
    finally:
        fault_proxy.close()
        apache.close()


def pattern(what: str) -> str:
    """Return the pattern of the requests that concern `what`."""
    return HITS[what].replace(".", r"\.") + ("/" if what == LISTING else "") + r"(\?.*)?"


def causing(fault_proxy: FaultProxy, fault: Fault, *, once: bool) -> AbstractContextManager[object]:
    """Cause the fault on everything it affects, once each or while the block lasts."""
    with ExitStack() as stack:
        for what in fault.seen:
            method = "HEAD" if what in {HEAD, NAME} else "GET"
            stack.enter_context(
                fault_proxy.rule(pattern(what), fault.act, method=method, times=1 if once else None)
            )
        return stack.pop_all()


def try_fault(
    truth: Truth, fault_proxy: FaultProxy, folder: Path, fault: Fault, *, once: bool
) -> dict[str, Outcome]:
    """Cause a fault; return the outcome of each call that it affects.

    Raises:
        Wrong: wrong bytes or names were returned or stored, or something leaks.
    """
    trial = FaultTrial(truth, fault_proxy, folder, patience=MUCH_PATIENCE if once else PATIENCE)
    hit = tuple(what for what in ALL if what in fault.seen)
    with trial:
        with causing(fault_proxy, fault, once=once):
            seen = trial.observe_all(hit, others=not fault.pause)
        trial.check_recovered(tuple(what for what in hit if what not in fault.kept or not seen[what].number))
    return seen


def try_outage(
    trial: FaultTrial, begin: Callable[[], AbstractContextManager[None]], *, passes: bool
) -> dict[str, Outcome]:
    """Cause an outage of the whole server, which passes soon or lasts; return the outcomes.

    Raises:
        Wrong: as `tried`.
    """
    with trial:
        with ExitStack() as over:
            over.enter_context(begin())
            if passes:
                threading.Timer(BRIEFLY, over.close).start()
            seen = trial.observe_all(ALL, others=False)
        trial.check_recovered(ALL)
    return seen
