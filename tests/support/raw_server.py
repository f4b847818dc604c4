"""Servers that speak raw bytes without end or sense, and a child process that meets them and is measured."""

import os
import select
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
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
        tls: the certificate that it shows; it talks in the clear where there is None.
    """

    def __init__(
        self,
        speak: Speak,
        *,
        welcome: Iterable[bytes] = (),
        end: bytes = b"\r\n\r\n",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._speak = speak
        self._welcome = welcome
        self._end = end
        self.heads: list[bytes] = []
        self._scheme = "http"
        listening = socket.create_server(("127.0.0.1", 0))
        if tls is not None:
            self._scheme = "https"
            listening = tls.wrap_socket(listening, server_side=True, do_handshake_on_connect=False)
        super().__init__(listening)

    @property
    def url(self) -> str:
        """The URL of its root."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

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


# forks a process for each meeting, so that what all need is imported once
_CHILD = """
import os, sys, threading, time, traceback
from pathlib import Path
from empiarfs.empiar import connection
from empiarfs.model import File, Span
from support.scripted import Client, Hasty

connection.CONNECT_SECONDS = 0.5  # with a read timeout of half a second a trickle ends after 1.5

def peak():  # a fork begins with what it has, not with the peak of its parent
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

def meet(url, ask):
    client = Client(url, Hasty())
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

    threading.Thread(target=tidy, daemon=True).start()
    before, begun = peak(), time.monotonic()
    try:
        outcome = asks[ask]()
    except Exception as error:
        outcome = type(error).__name__
    print(outcome, time.monotonic() - begun, peak() - before, flush=True)

for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            meet(*line.split())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(flush=True)
"""


class Meetings:
    """Lets clients, each in its own process, meet servers that speak raw bytes."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(TESTS), str(TESTS.parent), *sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, speak: Speak, ask: str) -> Met:
        """Let a client `"measure"`, `"fetch"` or `"scan"` at a server that speaks; return what it measured.

        It fetches the bytes 100 to 300 of a file of 1000, and scans 10028.

        Raises:
            TimeoutError: it hangs; no further meeting is possible.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with RawServer(speak) as server:
            self._process.stdin.write(f"{server.url} {ask}\n")
            self._process.stdin.flush()
            if not select.select([self._process.stdout], [], [], DEADLINE)[0]:
                self._kill()
                raise TimeoutError(f"{ask} hangs")
            said = self._process.stdout.readline()
        assert said.strip(), f"{ask} died"
        outcome, seconds, kib = said.split()
        return Met(outcome, float(seconds), int(kib))

    def close(self) -> None:
        """End the process and its children."""
        self._kill()
        self._process.communicate()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
