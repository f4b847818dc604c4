"""The connections to one server: each is acquired, released or closed, and its slot with it."""

import socket
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from support.fakes import in_threads

from empiarfs.empiar.connection import Connection, _Watched, transport_error
from empiarfs.empiar.connection_pool import ConnectionPool
from empiarfs.empiar.transport_errors import Kind, TransportError


class Slots:
    """Counts the slots that are held."""

    def __init__(self) -> None:
        self.held = 0

    def __call__(self, _patience: float) -> Callable[[], None]:
        """Take a slot."""
        self.held += 1
        return self._freed

    def _freed(self) -> None:
        self.held -= 1


@pytest.fixture
def slots() -> Slots:
    """Slots of which none is held."""
    return Slots()


@pytest.fixture
def pool(slots: Slots) -> ConnectionPool:
    """A pool for a port on which nothing listens; none of its connections is established."""
    return ConnectionPool("http://127.0.0.1:9", slots, None, in_threads)


def used(pool: ConnectionPool) -> Connection:
    """Acquire a connection and release it."""
    with pool.held() as connection:
        return connection


def test_the_connection_used_last_is_acquired_first(pool: ConnectionPool) -> None:
    """The connection used last is acquired first, and another one only while that is in use."""
    with pool.held() as first:
        second = used(pool)
        assert second is not first
    assert used(pool) is first
    with pool.held() as again, pool.held() as other:
        assert (again, other) == (first, second)


def test_a_connection_released_after_close_is_closed(pool: ConnectionPool, slots: Slots) -> None:
    """A connection that is released after the pool was closed is closed, and its slot is free."""
    with pool.held():
        pool.close()
        assert slots.held == 1
    assert (slots.held, pool.open) == (0, 0)


def test_a_closed_pool_gives_no_connection(pool: ConnectionPool, slots: Slots) -> None:
    """`acquire` of a closed pool raises TransportError and holds no slot."""
    used(pool)
    pool.close()
    with pytest.raises(TransportError, match="closed"):
        used(pool)
    assert (slots.held, pool.open) == (0, 0)


def test_an_aborted_connection_is_not_reused(pool: ConnectionPool) -> None:
    """A connection that was aborted as its reader finished is not acquired again."""
    with pool.held() as connection:
        connection.abort()
    assert used(pool) is not connection


def test_a_connection_is_closed_after_an_error(pool: ConnectionPool, slots: Slots) -> None:
    """A connection during whose use an exception was raised is closed."""
    with pytest.raises(KeyError), pool.held():
        raise KeyError
    assert (slots.held, pool.open) == (0, 0)


def test_only_connections_idle_for_long_are_closed(pool: ConnectionPool, slots: Slots) -> None:
    """`close_idle` closes the connections that were idle for long, wherever they stand in the pool."""
    with pool.held() as old, pool.held() as new:
        pass
    pool._idle.reverse()
    old.last_used -= 100
    pool.close_idle(50)
    assert slots.held == 1
    assert used(pool) is new


@pytest.mark.parametrize(
    ("error", "fate"),
    [
        (ConnectionRefusedError(111, "Connection refused"), Kind.REFUSED),
        (TimeoutError("timed out"), Kind.SILENT),
        (ConnectionResetError("reset by peer"), Kind.BROKEN),
        (OSError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired"), Kind.UNTRUSTED),
        (OSError("[SSL: WRONG_VERSION_NUMBER] wrong version number"), Kind.UNTRUSTED),
        (OSError("[SSL: RECORD_LAYER_FAILURE] record layer failure"), Kind.UNTRUSTED),
        (ValueError("10028/data"), Kind.BROKEN),
    ],
)
def test_errors_are_classified(error: Exception, fate: Kind) -> None:
    """The kind of a transport error follows from the type and message of the exception."""
    assert transport_error(error).kind is fate


def test_words_in_a_name_do_not_classify_an_error(pool: ConnectionPool) -> None:
    """A file name with the words of an error does not change the kind of an error."""
    with pool.held() as connection, pytest.raises(TransportError) as caught:
        connection.send("GET", "http://127.0.0.1:9/10028/Timeout%20CERTIFICATE.mrc", {}, 2.0)
    assert caught.value.kind is Kind.REFUSED


def test_tls_within_the_tls_of_a_proxy_can_be_aborted() -> None:
    """`abort` shuts the socket inside urllib3's wrapper for TLS within TLS."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watched = _Watched(connected=lambda: None)
        watched._record_connection(SimpleNamespace(sock=SimpleNamespace(socket=ours), connect=bool))
        watched.abort()
        assert theirs.recv(1) == b""
