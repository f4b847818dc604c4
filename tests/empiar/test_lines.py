"""The connections to one server: each is lent, kept or closed, and its slot given back."""

import socket
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from empiarfs.empiar.line import Line, _Watched, lost
from empiarfs.empiar.lines import Lines
from empiarfs.empiar.lost import Fate, Lost


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
def lines(slots: Slots) -> Lines:
    """Lines to where nobody listens; none of them is connected."""
    return Lines("http://127.0.0.1:9", slots)


def used(lines: Lines) -> Line:
    """Lend a line and give it back."""
    with lines.lent() as line:
        return line


def test_the_line_used_last_is_lent_first(lines: Lines) -> None:
    """And a second one only while the first is lent."""
    with lines.lent() as first:
        second = used(lines)
        assert second is not first
    assert used(lines) is first
    with lines.lent() as again, lines.lent() as other:
        assert (again, other) == (first, second)


def test_a_line_that_comes_back_after_the_end_is_closed(lines: Lines, slots: Slots) -> None:
    """Its slot is given back."""
    with lines.lent():
        lines.close()
        assert slots.held == 1
    assert (slots.held, lines.open) == (0, 0)


def test_nothing_is_lent_after_the_end(lines: Lines, slots: Slots) -> None:
    """Who asks for a line then is told, and holds no slot."""
    used(lines)
    lines.close()
    with pytest.raises(Lost, match="closed"):
        used(lines)
    assert (slots.held, lines.open) == (0, 0)


def test_a_line_that_was_cut_as_its_reader_had_finished_is_not_lent_again(lines: Lines) -> None:
    """Its next reader would find it shut."""
    with lines.lent() as line:
        line.cut()
    assert used(lines) is not line


def test_a_line_in_whose_hands_something_went_wrong_is_closed(lines: Lines, slots: Slots) -> None:
    """What is left unread on it is not the next reader's."""
    with pytest.raises(KeyError), lines.lent():
        raise KeyError
    assert (slots.held, lines.open) == (0, 0)


def test_only_what_was_idle_for_long_is_shed(lines: Lines, slots: Slots) -> None:
    """Wherever it stands among the others."""
    with lines.lent() as old, lines.lent() as new:
        pass
    lines._idle.reverse()
    old.used -= 100
    lines.shed(50)
    assert slots.held == 1
    assert used(lines) is new


@pytest.mark.parametrize(
    ("error", "fate"),
    [
        (ConnectionRefusedError(111, "Connection refused"), Fate.REFUSED),
        (TimeoutError("timed out"), Fate.SILENT),
        (ConnectionResetError("reset by peer"), Fate.BROKEN),
        (OSError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired"), Fate.UNTRUSTED),
        (OSError("[SSL: WRONG_VERSION_NUMBER] wrong version number"), Fate.UNTRUSTED),
        (OSError("[SSL: RECORD_LAYER_FAILURE] record layer failure"), Fate.UNTRUSTED),
        (ValueError("10028/data"), Fate.BROKEN),
    ],
)
def test_what_became_of_a_line_is_told_from_the_error(error: Exception, fate: Fate) -> None:
    """By its kind and its words."""
    assert lost(error).fate is fate


def test_words_in_a_name_are_no_sign(lines: Lines) -> None:
    """A file may be called after an error."""
    with lines.lent() as line, pytest.raises(Lost) as caught:
        line.send("GET", "http://127.0.0.1:9/10028/Timeout%20CERTIFICATE.mrc", {}, 2.0)
    assert caught.value.fate is Fate.REFUSED


def test_tls_within_the_tls_of_a_proxy_can_be_cut() -> None:
    """The library's stand-in for a socket is none, and holds one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watched = _Watched()
        watched._noted(SimpleNamespace(sock=SimpleNamespace(socket=ours), connect=bool))
        watched.cut()
        assert theirs.recv(1) == b""
