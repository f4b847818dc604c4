"""The connections to one server: each is lent, kept or closed, and its slot given back."""

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
        """Take one."""
        self.held += 1
        return self._freed

    def _freed(self) -> None:
        self.held -= 1


@pytest.fixture
def slots() -> Slots:
    """No slot is held."""
    return Slots()


@pytest.fixture
def pool(slots: Slots) -> ConnectionPool:
    """Lines to where nobody listens; none of them is connected."""
    return ConnectionPool("http://127.0.0.1:9", slots, None, in_threads)


def used(pool: ConnectionPool) -> Connection:
    """Lend a line and give it back."""
    with pool.acquire() as connection:
        return connection


def test_the_line_used_last_is_lent_first(pool: ConnectionPool) -> None:
    """And a second one only while the first is lent."""
    with pool.acquire() as first:
        second = used(pool)
        assert second is not first
    assert used(pool) is first
    with pool.acquire() as again, pool.acquire() as other:
        assert (again, other) == (first, second)


def test_a_line_that_comes_back_after_the_end_is_closed(pool: ConnectionPool, slots: Slots) -> None:
    """Its slot is given back."""
    with pool.acquire():
        pool.close()
        assert slots.held == 1
    assert (slots.held, pool.open) == (0, 0)


def test_nothing_is_lent_after_the_end(pool: ConnectionPool, slots: Slots) -> None:
    """Who asks for a line then is told, and holds no slot."""
    used(pool)
    pool.close()
    with pytest.raises(TransportError, match="closed"):
        used(pool)
    assert (slots.held, pool.open) == (0, 0)


def test_a_line_that_was_cut_as_its_reader_had_finished_is_not_lent_again(pool: ConnectionPool) -> None:
    """Its next reader would find it shut."""
    with pool.acquire() as connection:
        connection.abort()
    assert used(pool) is not connection


def test_a_line_in_whose_hands_something_went_wrong_is_closed(pool: ConnectionPool, slots: Slots) -> None:
    """What is left unread on it is not the next reader's."""
    with pytest.raises(KeyError), pool.acquire():
        raise KeyError
    assert (slots.held, pool.open) == (0, 0)


def test_only_what_was_idle_for_long_is_shed(pool: ConnectionPool, slots: Slots) -> None:
    """Wherever it stands among the others."""
    with pool.acquire() as old, pool.acquire() as new:
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
def test_what_became_of_a_line_is_told_from_the_error(error: Exception, fate: Kind) -> None:
    """By its kind and its words."""
    assert transport_error(error).kind is fate


def test_words_in_a_name_are_no_sign(pool: ConnectionPool) -> None:
    """A file may be called after an error."""
    with pool.acquire() as connection, pytest.raises(TransportError) as caught:
        connection.send("GET", "http://127.0.0.1:9/10028/Timeout%20CERTIFICATE.mrc", {}, 2.0)
    assert caught.value.kind is Kind.REFUSED


def test_tls_within_the_tls_of_a_proxy_can_be_cut() -> None:
    """The library's stand-in for a socket is none, and holds one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watched = _Watched()
        watched._record_connection(SimpleNamespace(sock=SimpleNamespace(socket=ours), connect=bool))
        watched.abort()
        assert theirs.recv(1) == b""
