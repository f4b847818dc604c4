"""Processes that hold an archive and execute calls from a socket; they can be killed at any moment.

The first one imports everything, makes no thread, and is forked for each archive: that takes no time.
"""

import dataclasses
import itertools
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from empiarfs import host, wire
from empiarfs.archive import Archive
from empiarfs.engine import cache, latency, limiter, origins
from empiarfs.engine.background import BackgroundWorkers
from empiarfs.errors import ArchiveError
from empiarfs.files import ArchiveFile
from empiarfs.lru import LruCache
from empiarfs.model import File, Node
from empiarfs.settings import Settings

KEY = b"empiarfs tests"
DEADLINE = 60.0  # seconds for whatever takes one at most


class Dead(Exception):
    """The process was killed while it was asked."""


class Forks:
    """Makes hosts."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="empiarfs-hosts-")
        self._listener = Listener(f"{self._folder.name}/socket", "AF_UNIX", authkey=KEY)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._listener.address)],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_RUNTIME_DIR": self._folder.name},
        )

    def host(self, settings: Settings, ahead: float) -> "Host":
        """Return a new process with an archive open, whose clock is `ahead` seconds ahead."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        line = self._listener.accept()
        line.send((settings, ahead))
        return Host(line, line.recv())

    def close(self) -> None:
        """End all."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(DEADLINE)
        self._listener.close()
        self._folder.cleanup()


class Host:
    """One process with one archive; every method of `_Held` can be called."""

    def __init__(self, line: "Connection[Any, Any]", process: int) -> None:
        self._line = line
        self._process = process

    def begin(self, command: str, *arguments: Any) -> None:
        """Ask for something, and go on."""
        self._line.send((command, arguments))

    def answer(self) -> Any:
        """Wait for the result of a call.

        Raises:
            ArchiveError: the archive did.
            AssertionError: it raised an unexpected exception, or hangs.
            Dead: it was killed.
        """
        if not self._line.poll(DEADLINE):
            os.kill(self._process, signal.SIGABRT)  # faulthandler tells where it hangs
            raise AssertionError("the archive hangs")
        try:
            kind, value = self._line.recv()
        except (EOFError, ConnectionError) as error:
            raise Dead from error
        if kind == "raised":
            raise value
        assert kind == "gave", value
        return value

    def call(self, command: str, *arguments: Any) -> Any:
        """Ask for something, and wait for it."""
        self.begin(command, *arguments)
        return self.answer()

    def kill(self) -> None:
        """End it as a crash does."""
        os.kill(self._process, signal.SIGKILL)
        with suppress(Dead, ArchiveError):
            while True:
                self.answer()
        self._line.close()

    def close(self) -> None:
        """Close the archive, and end the process."""
        self.call("close")
        self._line.close()


class _Background(BackgroundWorkers):
    """Counts the tasks that are not done yet."""

    def __init__(self, *arguments: Any) -> None:
        self._left = 0
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def __call__(self, task: Callable[[], object], about: Hashable = None) -> None:
        def counted() -> None:
            try:
                task()
            finally:
                with self._lock:
                    self._left -= 1

        with self._lock:
            self._left += 1
        super().__call__(counted, about)

    def is_idle(self) -> bool:
        """Return whether nothing is left to do."""
        return not self._left


class _Held:
    """An archive, its parts in reach, and what can be asked of it."""

    def __init__(self, settings: Settings, ahead: float) -> None:
        self._ahead = ahead
        self._made: dict[str, list[Any]] = {}
        parts: Any = wire
        parts.time = SimpleNamespace(**vars(time) | {"time": lambda: time.time() + self._ahead})
        parts.BackgroundWorkers = self._noting("BackgroundWorkers", _Background)
        of_a_server: Any = host
        for name in ("RetryPolicy", "ConnectionLimiter", "ConnectionPool"):
            setattr(of_a_server, name, self._noting(name, getattr(of_a_server, name)))
        limiter.QUIET_SECONDS = limiter.GROW_SECONDS = limiter.CALM_SECONDS = origins.FIRST_PAUSE = 0.01
        cache.GATHER_SECONDS = 0.0
        # nothing is asked twice for being late: a machine under load is no story
        latency.MIN_READ_TIMEOUT = latency.MAX_READ_TIMEOUT = latency.MIN_HEDGE_DELAY = 25.0
        self._surprises = _Surprises()
        logging.getLogger("empiarfs").addHandler(self._surprises)
        self._archive: Archive = wire.archive(settings)
        self._handles: dict[int, ArchiveFile] = {}
        self._numbers = itertools.count()

    def _noting(self, name: str, kind: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **options: Any) -> Any:
            one = kind(*arguments, **options)
            self._made.setdefault(name, []).append(one)
            return one

        return made

    def entries(self, directory: str) -> list[Node]:
        """List a directory."""
        return self._archive.listdir(directory)

    def stat(self, path: str) -> Any:
        """Look at one name."""
        return self._archive.stat(path)

    def open(self, path: str) -> tuple[int, File]:
        """Open a file; return a handle, and its version."""
        number = next(self._numbers)
        self._handles[number] = self._archive.open(path)
        return number, self._handles[number].file

    def read(self, handle: int, offset: int, size: int) -> bytes:
        """Read from an open file."""
        return self._handles[handle].read_at(offset, size)

    def read_at_once(self, reads: list[tuple[int, int, int]]) -> list[bytes | ArchiveError]:
        """Read with as many threads as there are reads."""

        def one(read: tuple[int, int, int]) -> bytes | ArchiveError:
            try:
                return self.read(*read)
            except ArchiveError as error:
                return error

        with ThreadPoolExecutor(len(reads)) as pool:
            return list(pool.map(one, reads))

    def release(self, handle: int) -> None:
        """Forget a handle."""
        del self._handles[handle]

    def set_ahead(self, seconds: float) -> None:
        """Set the clock of the wall."""
        self._ahead = seconds

    def set_patience(self, seconds: float) -> None:
        """Set how long a server that does not answer is waited for."""
        for policy in self._made["RetryPolicy"]:
            policy._seconds = seconds

    def forget(self) -> None:
        """Let nothing be in memory."""
        held = self._archive._reader._cache
        held._lru = LruCache(int(held._lru._values.maxsize), held._lru._weight)

    def shrink(self, most: int) -> None:
        """Let the store on disk hold `most` bytes now."""
        store: Any = self._archive._reader._cache._store
        database = store._database("writing")
        database.limit(most, -1)
        database.limit(store._most, store._most)

    def settle(self) -> None:
        """Wait until no background work is left."""
        end = time.monotonic() + DEADLINE / 2
        reader: Any = self._archive._reader
        while not (
            all(one.is_idle() for one in self._made["BackgroundWorkers"])
            and not reader.in_flight
            and not reader._cache.write_queue_bytes
        ):
            assert time.monotonic() < end, f"still busy: {self._archive!r}"
            time.sleep(0.001)

    def counters(self) -> dict[str, Any]:
        """Return the counters, when all is still."""
        reader = self._archive._reader
        (limits,) = self._made["ConnectionLimiter"]
        (pool,) = self._made["ConnectionPool"]
        return {
            "flights": reader.in_flight,
            "in use": limits._demand + limits._ahead,
            "peak": limits.peak,
            "open": pool._open,
            "idle": len(pool._idle),
            "waiting": reader._cache.write_queue_bytes,
            "in memory": reader._cache._lru.size,
            "fetched": reader._fetcher.bytes_fetched,
            "looks": reader._cache.store_hits + reader._cache.misses,
            "surprises": list(self._surprises.texts),
        }

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()


class _Surprises(logging.Handler):
    """Keeps what was logged with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        if record.exc_info:
            self.texts.append(record.getMessage() + "".join(traceback.format_exception(*record.exc_info)))


def _serve(address: str) -> None:
    """Be a host."""
    line = Client(address, "AF_UNIX", authkey=KEY)
    held = _Held(*line.recv())
    line.send(os.getpid())
    command = ""
    while command != "close":
        command, arguments = line.recv()
        try:
            line.send(("gave", getattr(held, command)(*arguments)))
        except ArchiveError as error:
            line.send(("raised", error))
        except BaseException:  # noqa: BLE001 - it is told to whom it concerns
            line.send(("surprise", traceback.format_exc()))


def main(address: str) -> None:
    """Fork a host for each line that comes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in sys.stdin:
        if os.fork() == 0:
            with suppress(EOFError, BrokenPipeError, ConnectionResetError):
                _serve(address)
            os._exit(0)


def settings_of(url: str, folder: Path, **chosen: Any) -> Settings:
    """Return small settings, so that every limit is met."""
    small = Settings(
        base_url=url,
        cache_dir=folder,
        cache_size=400_000,
        memory_cache_size=64 * 1024,
        max_connections=4,
        patience=30.0,
        block_size=4096,
        no_ftp=True,
    )
    return dataclasses.replace(small, **chosen)


if __name__ == "__main__":
    main(sys.argv[1])
