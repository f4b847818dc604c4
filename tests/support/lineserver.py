"""A server on loopback, a thread for each connection; what it says is its kinds' to write."""

import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

LONGEST_LIFE = 60.0  # seconds that a connection may be silent, so that no thread outlives its test for long


class LineServer(ABC):
    """Accepts every connection until it is stopped.

    Args:
        listening: the socket; another thread lets people in as soon as this is made.
    """

    def __init__(self, listening: socket.socket) -> None:
        self._socket = listening
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    def stop(self) -> None:
        """Close every connection, and stop."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(LONGEST_LIFE)  # from here on nobody is let in
        self._socket.close()
        for line in list(self._open):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LONGEST_LIFE)

    @abstractmethod
    def _talk(self, line: socket.socket, number: int) -> None:
        """Talk over one connection, the `number`th; it is closed at the end."""

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._socket.accept()
            except OSError:
                return
            self._open.add(line)
            self._threads.append(threading.Thread(target=self._serve, args=(line, self.connections), daemon=True))
            self.connections += 1
            self._threads[-1].start()

    def _serve(self, line: socket.socket, number: int) -> None:
        line.settimeout(LONGEST_LIFE)
        with line, suppress(OSError):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._talk(line, number)
        self._open.discard(line)


def heads(line: socket.socket, end: bytes = b"\r\n\r\n") -> Iterator[bytes]:
    """Yield what is asked over a connection, each without its `end`, until the other side hangs up."""
    unread = b""
    while True:
        while end not in unread:
            more = line.recv(65536)
            if not more:
                return
            unread += more
        head, _, unread = unread.partition(end)
        yield head
