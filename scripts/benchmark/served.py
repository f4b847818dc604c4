"""The tree that is served, and the ways to it: Apache and an FTP server, each behind a line."""

import random
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.apache import BASE, Apache
from support.ftp_server import FtpServer
from support.relay import Counts, Line, Relay

from benchmark.jobs import (
    BIG,
    EIGHTH,
    HEAD,
    MANY,
    MB,
    MEMBER,
    MEMBERS,
    MIB,
    PAGE,
    PARTICLE,
    PARTICLES,
    ROW,
    ROWS,
    SECTIONS,
    STACK,
)

LINES = {
    "near": Line(round_trip=0.020, connection_rate=40 * MB, total_rate=118 * MB),
    "far": Line(round_trip=0.100, connection_rate=10 * MB, total_rate=118 * MB),
    "ebi": Line(
        round_trip=0.120, connection_rate=1.5 * MB, total_rate=20 * MB, silent_share=0.03, most_connections=16
    ),
    "lan": Line(),
}
DATA = "99101/data"
EXTRA = "MaxKeepAliveRequests 100"  # as Apache comes
LOOK_SECONDS = 0.02  # between two looks at the connections of a server that stands behind no relay
ESTABLISHED = "01"


@dataclass(frozen=True, slots=True)
class Way:
    """How a mount comes to the servers.

    Attributes:
        url: of the numbered entries.
        ftp_url: the same by FTP.
        counts: returns what went this way since the last call.
    """

    url: str
    ftp_url: str
    counts: Callable[[], Counts]


class Served:
    """The servers, for as long as they run."""

    def __init__(self, apache: Apache, ftp_port: int) -> None:
        self._apache = apache
        self._ftp_port = ftp_port

    @contextmanager
    def way(self, profile: str, seed: int) -> Iterator[Way]:
        """Yield a way of its own over a line of this profile; `seed` decides which requests get no answer."""
        line = LINES[profile]
        lists = Relay(("127.0.0.1", self._ftp_port), Line(round_trip=line.round_trip))
        with closing(lists):
            ftp_url = f"ftp://127.0.0.1:{lists.port}/"
            if line == Line():  # nothing in between, or that is what would be measured
                with _looked_at(self._apache.port) as looks:
                    yield Way(self._apache.url, ftp_url, lambda: self._counts(looks))
                return
            relay = Relay(("127.0.0.1", self._apache.port), line, seed)
            with closing(relay):
                yield Way(f"http://127.0.0.1:{relay.port}{BASE}", ftp_url, relay.reset_counts)

    def _counts(self, looks: list[int]) -> Counts:
        requests = self._apache.requests()
        self._apache.clear()
        highest = max(looks, default=0)
        looks.clear()
        return Counts(len(requests), sum(one.sent for one in requests), highest)


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """Make the tree in `folder`, and serve it."""
    _make(folder)
    with ExitStack() as stack:
        apache = stack.enter_context(closing(Apache(folder, extra=EXTRA)))
        yield Served(apache, stack.enter_context(closing(FtpServer(folder))).port)


def _make(folder: Path) -> None:
    """Make the files that are served. Those that are alike are one file: the server is to be no part of it."""
    data = folder / DATA
    for name in ("many", "eight", "movies"):
        (data / name).mkdir(parents=True)
    noise = random.Random(3).randbytes(MB)
    for number in range(MANY):
        (data / f"many/mic_{number:05d}.mrc").write_bytes(noise[: 1000 + number])
    for name, megabytes in (("big.bin", BIG // MB), ("eight/f0.bin", EIGHTH // MB), ("movies/movie_0000.mrc", 4)):
        with (data / name).open("wb") as file:
            for _ in range(megabytes):
                file.write(noise)
    for number in range(1, 8):
        (data / f"eight/f{number}.bin").hardlink_to(data / "eight/f0.bin")
    for number in range(1, 100):
        (data / f"movies/movie_{number:04d}.mrc").hardlink_to(data / "movies/movie_0000.mrc")
    _make_skipped(data)
    for name in ("stack1.mrcs", "stack2.mrcs"):
        with (data / name).open("wb") as file:
            file.truncate(STACK)
            for place in range(0, STACK, 16 * MIB):
                file.seek(place)
                file.write(noise[:PAGE])


def _make_skipped(data: Path) -> None:
    """Make the files of which programs read parts."""
    for name, size in (("particles.mrcs", PARTICLES * PARTICLE), ("tomogram.mrc", SECTIONS * ROWS * ROW)):
        with (data / name).open("wb") as file:
            file.truncate(HEAD + size)
    with tarfile.open(data / "movies.tar", "w") as tar, (data / "big.bin").open("rb") as content:
        for number in range(MEMBERS):
            member = tarfile.TarInfo(f"movie_{number:04d}.mrc")
            member.size = MEMBER
            content.seek(0)
            tar.addfile(member, content)


@contextmanager
def _looked_at(port: int) -> Iterator[list[int]]:
    """Poll the number of connections of the server on `port`; yield the counts."""
    looks: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            looks.append(_connections(port))

    looking = threading.Thread(target=look, name="looks")
    looking.start()
    try:
        yield looks
    finally:
        over.set()
        looking.join()


def _connections(port: int) -> int:
    """Return how many connections the kernel holds for the server on `port` of this machine."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum(field[1].endswith(f":{port:04X}") and field[3] == ESTABLISHED for field in fields)
