"""Servers that speak raw bytes without end or sense, and a child process that meets them and is measured."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from support.lineserver import LineServer, heads

TESTS = Path(__file__).resolve().parent.parent
DEADLINE = 50.0  # seconds for a child; it needs two

Speak = Callable[[bytes], Iterable[bytes | None]]


class RawServer(LineServer):
    """A server on loopback.

    Args:
        speak: gives what is said to one request, whose head it is given; a None hangs up.
        welcome: what is said before the first request.
        end: what ends the head of a request.
    """

    def __init__(self, speak: Speak, *, welcome: Iterable[bytes] = (), end: bytes = b"\r\n\r\n") -> None:
        self._speak = speak
        self._welcome = welcome
        self._end = end
        self.heads: list[bytes] = []
        super().__init__(socket.create_server(("127.0.0.1", 0)))

    @property
    def url(self) -> str:
        """The URL of its root."""
        return f"http://127.0.0.1:{self.port}"

    def _talk(self, line: socket.socket, number: int) -> None:
        for said in self._welcome:
            line.sendall(said)
        for head in heads(line, self._end):
            self.heads.append(head)
            for piece in self._speak(head):
                if piece is None:
                    return
                line.sendall(piece)


@dataclass(frozen=True, slots=True)
class Met:
    """What a child process measured of a server.

    Attributes:
        outcome: the kind of error, or what was given.
        seconds: how long it took.
        kib: by how much the memory of the child grew at most.
    """

    outcome: str
    seconds: float
    kib: int


_CHILD = """
import sys, threading, time
from pathlib import Path
from empiarfs.empiar import connection
from empiarfs.model import File, Span
from support.scripted import Client, Hasty

connection.CONNECT_SECONDS = 0.5  # with the half second of silence that is borne, a drip is cut after 1.5
client = Client(sys.argv[1], Hasty())
file = File("10028/a", 1000, None)
asks = {
    "measure": lambda: client.origin.measure(file.path).size,
    "fetch": lambda: len(b"".join(client.origin.fetch(file, Span(100, 300)))),
    "scan": lambda: len(client.listing.scan("10028")),
}

def tidy():
    while True:
        time.sleep(0.05)
        client.pool.close_idle()

def peak():  # not getrusage, which counts what the parent held before this program was started
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

threading.Thread(target=tidy, daemon=True).start()
before, begun = peak(), time.monotonic()
try:
    outcome = asks[sys.argv[2]]()
except Exception as error:
    outcome = type(error).__name__
print(outcome, time.monotonic() - begun, peak() - before)
"""


def met(speak: Speak, ask: str) -> Met:
    """Return how a client of its own process fares that asks this server to `"measure"`, `"fetch"` or `"scan"`.

    It fetches the bytes 100 to 300 of a file of 1000, and scans 10028.

    Raises:
        subprocess.TimeoutExpired: it hangs.
    """
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), *sys.path])
    with RawServer(speak) as server:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, server.url, ask],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            check=True,
            text=True,
            timeout=DEADLINE,
        )
    outcome, seconds, kib = done.stdout.split()
    return Met(outcome, float(seconds), int(kib))
