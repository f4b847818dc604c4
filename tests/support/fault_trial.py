"""A trial: a small archive behind a faulty server, a fault, what readers see, and whether anything is left over.

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
from empiarfs.engine.hedge import Hedged
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.engine.origins import Retrying
from empiarfs.errors import ArchiveError
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
BRIEFLY = 0.5  # for which a trouble that passes lasts
PROMPT = 10.0  # seconds within which others are answered, on any machine
LONGEST = 20.0  # seconds after which a reader who got neither bytes nor an error hangs
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
class Sight:
    """What one reader saw: an errno, or 0 for the right bytes; and after how many seconds."""

    number: int
    seconds: float


class Wrong(AssertionError):
    """Bytes, names or leftovers that may not be, whatever the fault."""


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


class Trial:
    """One archive in a cache of its own.

    Args:
        truth: what is served.
        faulty: the server.
        cache_dir: a new folder.
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
        """Take in what is known before the fault begins."""
        for directory in ("10028", "10028/data", "10077", "10077/data"):
            self.archive.listdir(directory)
        self.data = self.archive.open(HITS[DATA])
        self.archive.stat(OTHER)
        self.archive.stat(HITS[LISTING])
        self.check(KEPT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check(self, path: str) -> None:
        """Open and read a whole file, and see that its bytes are right."""
        opened = self.archive.open(path)
        self.compare(path, opened.read_at(0, opened.file.size + 1))

    def compare(self, path: str, data: bytes) -> None:
        """Check that `data` are the bytes of the file."""
        truth = self.truth.content(path)
        if data != truth:
            raise Wrong(f"{path}: {len(data)} bytes that are not its {len(truth)}")

    def read_open(self) -> None:
        """Read the file that was open before the fault."""
        self.compare(HITS[DATA], self.data.read_at(0, SIZES[HITS[DATA]]))

    def list(self, directory: str = HITS[LISTING]) -> None:
        """List a directory, and see that all names are there."""
        names = {base_name(one.path) for one in self.archive.listdir(directory)}
        if not names >= self.truth.names(directory):
            raise Wrong(f"{directory} shows {names}")

    def user_of(self, what: str) -> Callable[[], None]:
        """Return what somebody does who is hit by a fault of `what`."""
        if what == DATA:
            return self.read_open
        return self.list if what == LISTING else lambda: self.check(HITS[what])

    def seen(self, work: Callable[[], None]) -> Sight:
        """Do it; give what was seen."""
        begun = time.monotonic()
        number = 0
        try:
            work()
        except ArchiveError as error:
            number = error.errno or -1
        return Sight(number, time.monotonic() - begun)

    def seen_together(self, hit: tuple[str, ...], *, others: bool) -> dict[str, Sight]:
        """Let one reader for each of `hit` go at once; see that those whom nothing hits are answered meanwhile.

        Args:
            hit: what the fault is about.
            others: whether what was never fetched can be had of the server meanwhile.
        """
        under_way = {what: self.begun(self.user_of(what)) for what in hit}
        unhurt = [lambda: self.check(KEPT), lambda: self.list("10077/data")]
        if others:
            unhurt.append(lambda: self.check(OTHER))
        for work in unhurt:
            sight = self.seen(work)
            if sight.number or sight.seconds > PROMPT:
                raise Wrong(f"one whom nothing hits saw {sight}")
        return {what: one.result(LONGEST) for what, one in under_way.items()}

    def begun(self, work: Callable[[], None]) -> Future[Sight]:
        """Let somebody do it."""
        future: Future[Sight] = Future()

        def run() -> None:
            try:
                future.set_result(self.seen(work))
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    def recovers(self, hit: tuple[str, ...]) -> None:
        """Check that all is well again, in the same archive; a file that had changed is opened anew."""
        for what in hit:
            if what == DATA:
                self.data = self.archive.open(HITS[DATA])
            eventually(partial(self._is_right, what), f"{what} is right again")

    def _is_right(self, what: str) -> bool:
        return not self.seen(self.user_of(what)).number

    def gate(self) -> ConnectionLimiter:
        """Return the gate of the archive."""
        origin = self.archive._reader._fetcher._origin
        assert isinstance(origin, Retrying)
        assert isinstance(origin._origin, Hedged)
        return origin._origin._limiter

    def close(self) -> None:
        """Close the archive; see that nothing is left over, and that nothing wrong is kept.

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


def check_blocks(folder: Path, archive: str, block_bytes: int, content: Callable[[File], bytes]) -> int:
    """Check that every block that is kept on disk is right; give how many there are.

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
    """Return the threads of this process, but for the one that lets connections into the server."""
    return {thread for thread in threading.enumerate() if thread.name != "faulty"}


def descriptors() -> set[str]:
    """Return what this process has open."""
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


def hitting(fault_proxy: FaultProxy, fault: Fault, *, once: bool) -> AbstractContextManager[object]:
    """Let the fault happen to all that it can hit, once to each or for as long as the block lasts."""
    with ExitStack() as stack:
        for what in fault.seen:
            method = "HEAD" if what in {HEAD, NAME} else "GET"
            stack.enter_context(
                fault_proxy.rule(pattern(what), fault.act, method=method, times=1 if once else None)
            )
        return stack.pop_all()


def tried(truth: Truth, fault_proxy: FaultProxy, folder: Path, fault: Fault, *, once: bool) -> dict[str, Sight]:
    """Try a fault; give what was seen, by what was hit.

    Raises:
        Wrong: something was seen, is kept or is left over that may not be, whatever the fault.
    """
    trial = Trial(truth, fault_proxy, folder, patience=MUCH_PATIENCE if once else PATIENCE)
    hit = tuple(what for what in ALL if what in fault.seen)
    with trial:
        with hitting(fault_proxy, fault, once=once):
            seen = trial.seen_together(hit, others=not fault.pause)
        trial.recovers(tuple(what for what in hit if what not in fault.kept or not seen[what].number))
    return seen


def tried_on_all(
    trial: Trial, begin: Callable[[], AbstractContextManager[None]], *, passes: bool
) -> dict[str, Sight]:
    """Let everybody meet a trouble of the whole line, which passes soon or lasts; give what was seen.

    Raises:
        Wrong: as `tried`.
    """
    with trial:
        with ExitStack() as over:
            over.enter_context(begin())
            if passes:
                threading.Timer(BRIEFLY, over.close).start()
            seen = trial.seen_together(ALL, others=False)
        trial.recovers(ALL)
    return seen
