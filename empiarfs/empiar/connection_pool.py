"""The connections to one server: lent, kept, replaced and closed.

A line is lent to one thread at a time, the one used last first. Each holds a slot of the machine's budget from its
first request until it is closed.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from empiarfs.empiar.connection import Connection, ConnectionFactory
from empiarfs.empiar.transport_errors import Kind, TransportError
from empiarfs.urls import without_credentials

SLOT_SECONDS = 15.0  # how long a connection is waited for when other processes hold them all
IDLE_SECONDS = 60.0  # after which an unused connection is closed and its slot given back


class ConnectionPool:
    """All lines to one server.

    Args:
        url: an address there; decides which proxy is used, and who logs in.
        slot: takes a slot of the machine's budget, waiting for so many seconds, and gives what gives it back.
        ca_bundle: the file of the authorities to trust; the environment's, or the machine's, where it is None.
    """

    def __init__(
        self,
        url: str,
        slot: Callable[[float], Callable[[], None]],
        ca_bundle: str | None,
        submit: Callable[[Callable[[], None]], object],
    ) -> None:
        self._url = without_credentials(url)
        self._slot = slot
        self._submit = submit
        self._factory = ConnectionFactory(url, ca_bundle)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._in_use: set[Connection] = set()
        self._open = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<ConnectionPool open={self._open} idle={len(self._idle)}>"

    @property
    def open(self) -> int:
        """How many lines are open, lent or not."""
        return self._open

    @contextmanager
    def acquire(self) -> Iterator[Connection]:
        """Lend a line to one thread. One that was lost in its hands, or left with a reply unread, is closed.

        Raises:
            Lost: there is none to be had.
        """
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._new(SLOT_SECONDS)
        sound = False
        self._in_use.add(connection)
        try:
            yield connection
            sound = True
        finally:
            self._in_use.discard(connection)
            connection.last_used = time.monotonic()
            # one that was cut may be shut under who has just finished with it
            if not (sound and not connection.was_aborted and self._put_back(connection, last=True)):
                self._close(connection)
                if connection.was_aborted and not self._closed:
                    self._submit(self._replace)

    def close(self) -> None:
        """Close the lines; those that are lent when they come back."""
        with self._lock:
            self._closed = True
        self.close_idle(0.0)

    def close_idle(self, idle: float = IDLE_SECONDS) -> None:
        """Close the lines that were not used for `idle` seconds; cut those that wait for too long."""
        for connection in tuple(self._in_use):
            if time.monotonic() > connection.deadline:
                connection.abort()
        oldest = time.monotonic() - idle
        with self._lock:
            shed = [connection for connection in self._idle if connection.last_used <= oldest]
            self._idle = [connection for connection in self._idle if connection.last_used > oldest]
        for connection in shed:
            self._close(connection)

    def _replace(self) -> None:
        """Connect anew in the stead of a line that was cut, so that the next reader need not wait for it."""
        try:
            connection = self._new(0.0)
        except TransportError:
            return
        try:
            connection.connect(self._url)
            sound = True
        except TransportError:
            sound = False
        if not (sound and self._put_back(connection, last=False)):
            self._close(connection)

    def _put_back(self, connection: Connection, *, last: bool) -> bool:
        """Keep `connection` for the next one, before or behind all others; tell whether that may still be."""
        with self._lock:
            if not self._closed:
                self._idle.insert(len(self._idle) if last else 0, connection)
            return not self._closed

    def _new(self, patience: float) -> Connection:
        if self._closed:
            raise TransportError(Kind.BROKEN, "the connections were closed")
        try:
            release = self._slot(patience)
        except OSError as error:
            raise TransportError(Kind.BROKEN, str(error)) from error
        with self._lock:
            self._open += 1
        return self._factory.create(release)

    def _close(self, connection: Connection) -> None:
        with self._lock:
            self._open -= 1
        connection.close()
