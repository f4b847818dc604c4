"""The pool of connections to one server.

A connection is used by one thread at a time, the most recently used first. Each holds a slot of the machine's limit
until it is closed.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from empiarfs.empiar.connection import Connection, ConnectionFactory
from empiarfs.empiar.transport_errors import Kind, TransportError
from empiarfs.urls import without_credentials

SLOT_SECONDS = 15.0  # how long to wait for a slot when other processes hold all
IDLE_SECONDS = 60.0  # after which an unused connection is closed and its slot released


class ConnectionPool:
    """Pools the connections to one server.

    Args:
        url: a URL of the server, with the login; selects the proxy.
        slot: acquires a slot of the machine's limit within the given seconds, and returns what releases it.
        ca_bundle: the file of the authorities to trust; None for that of the environment or the default.
        submit: runs a task in another thread.
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
        """The number of open connections, in use or idle."""
        return self._open

    @property
    def is_direct(self) -> bool:
        """Whether the connections are to the server itself, not to a proxy."""
        return self._factory.is_direct

    def acquire(self) -> Connection:
        """Return a connection, which the caller releases.

        Raises:
            TransportError: no connection is available.
        """
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._new(SLOT_SECONDS)
        self._in_use.add(connection)
        return connection

    def release(self, connection: Connection, *, is_reusable: bool) -> None:
        """Return `connection` to the pool, or close it if it cannot be used again."""
        self._in_use.discard(connection)
        connection.last_used = time.monotonic()
        if is_reusable and not connection.was_aborted:  # an abort may come just after the last use
            with self._lock:
                if not self._closed:
                    self._idle.append(connection)
                    return
        self._close(connection)
        if connection.was_aborted and not self._closed:
            self._submit(self._replace)

    @contextmanager
    def held(self) -> Iterator[Connection]:
        """Hold a connection; after an error in the block it is closed.

        Raises:
            TransportError: no connection is available.
        """
        connection = self.acquire()
        is_reusable = False
        try:
            yield connection
            is_reusable = True
        finally:
            self.release(connection, is_reusable=is_reusable)

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they are returned."""
        with self._lock:
            self._closed = True
        self.close_idle(0.0)

    def close_idle(self, idle: float = IDLE_SECONDS) -> None:
        """Close the connections that were not used for `idle` seconds; abort those past their deadline."""
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
        """Connect in place of an aborted connection, so that the next reader need not wait for that."""
        try:
            connection = self._new(0.0)
        except TransportError:
            return
        try:
            connection.connect(self._url)
        except TransportError:
            self._close(connection)
            return
        with self._lock:
            is_closed = self._closed
            if not is_closed:
                self._idle.insert(0, connection)  # the last to be used
        if is_closed:
            self._close(connection)

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
