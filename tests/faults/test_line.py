"""Faults of the whole line: nothing can be reached, or nobody can be believed; and then it is over."""

import datetime as dt
import errno
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from support.fault_proxy import FaultProxy
from support.fault_table import ALL, DATA, FAULTS, HEAD, LISTING, NAME, Plan, status
from support.fault_trial import (
    HITS,
    KEPT,
    MUCH_PATIENCE,
    OTHER,
    PATIENCE,
    Sight,
    Trial,
    Truth,
    hitting,
    pattern,
    tried_on_all,
)
from support.mounting import eventually
from support.scripted import Client

from empiarfs.cancellation import CancelToken
from empiarfs.errors import Unavailable

NAMED = "archive.test"


class Names:
    """A resolver that knows one name more, until it fails."""

    def __init__(self) -> None:
        self.fails = False
        self._others = socket.getaddrinfo

    def __call__(self, host: str, *arguments: Any, **options: Any) -> Any:
        if host == NAMED and self.fails:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self._others("127.0.0.1" if host == NAMED else host, *arguments, **options)

    @contextmanager
    def lost(self, server: FaultProxy) -> Iterator[None]:
        """Know the name no more; lines that are open are lost as well, as when a laptop is carried away."""
        self.fails = True
        server.hang_up()
        try:
            yield
        finally:
            self.fails = False


class How(NamedTuple):
    """How a trouble goes: whether it passes, and how patient the archive is with it."""

    passes: bool
    patience: float


def expect(seen: dict[str, Sight], how: How) -> None:
    """Check that a trouble that passes is seen by nobody, and one that lasts is EIO for all."""
    assert {what: sight.number for what, sight in seen.items()} == dict.fromkeys(
        ALL, 0 if how.passes else errno.EIO
    )


@pytest.fixture(params=[How(True, MUCH_PATIENCE), How(False, PATIENCE)], ids=["passes", "lasts"])
def how(request: pytest.FixtureRequest) -> How:
    """A trouble that passes, and one that lasts."""
    how: How = request.param
    return how


@pytest.mark.parametrize("kind", ["refusing", "gone"])
def test_a_server_that_cannot_be_reached_is_waited_for(
    kind: str, truth: Truth, server: FaultProxy, tmp_path: Path, how: How
) -> None:
    """It refuses connections, or is not heard of: EIO at the end of patience, and what is known is served."""
    trial = Trial(truth, server, tmp_path / "cache", patience=how.patience)
    expect(tried_on_all(trial, getattr(server, kind), passes=how.passes), how)


def test_a_name_that_is_not_found_is_waited_for(
    truth: Truth, server: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: How
) -> None:
    """A server whose name cannot be found is one that cannot be reached; never ENOENT."""
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    url = f"http://{NAMED}:{server.port}{server.base}"
    trial = Trial(truth, server, tmp_path / "cache", patience=how.patience, base_url=url)
    expect(tried_on_all(trial, lambda: names.lost(server), passes=how.passes), how)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Whom the archive trusts."""
    return trustme.CA()


def shown(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """Return what a server needs to show a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture
def secure(
    authority: trustme.CA, server: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """The faulty server over TLS."""
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    secure = FaultProxy(f"http://{server.upstream}{server.base}", shown(authority.issue_cert("127.0.0.1")))
    yield secure
    secure.close()


@pytest.mark.parametrize("wrong", ["of another authority", "of another host", "of last year"])
def test_a_wrong_certificate_is_not_believed(
    wrong: str, authority: trustme.CA, truth: Truth, secure: FaultProxy, tmp_path: Path, how: How
) -> None:
    """Nothing is taken from a server that cannot prove who it is; when it can, all goes on."""
    last_year = dt.datetime.now(dt.UTC) - dt.timedelta(days=365)
    certificates = {
        "of another authority": trustme.CA().issue_cert("127.0.0.1"),
        "of another host": authority.issue_cert("other.example"),
        "of last year": authority.issue_cert("127.0.0.1", not_before=last_year, not_after=last_year),
    }
    trial = Trial(truth, secure, tmp_path / "cache", patience=how.patience)
    expect(tried_on_all(trial, lambda: secure.showing(shown(certificates[wrong])), passes=how.passes), how)


def test_what_is_kept_is_served_without_a_network(truth: Truth, server: FaultProxy, tmp_path: Path) -> None:
    """A new archive with an old cache shows what was listed and gives what was read; no more, and says so."""
    with Trial(truth, server, tmp_path / "cache", patience=MUCH_PATIENCE):
        pass
    trial = Trial(truth, server, tmp_path / "cache", patience=PATIENCE, fresh=0.0)
    with server.refusing():
        trial.check(KEPT)
        trial.list("10077/data")
        trial.list("10028/data")
        assert trial.seen(lambda: trial.check(OTHER)).number == errno.EIO
        assert trial.seen(trial.list).number == errno.EIO
    trial.list()
    trial.close()


def test_a_pause_that_one_reader_is_asked_for_is_kept_by_all(
    truth: Truth, server: FaultProxy, tmp_path: Path
) -> None:
    """Where a server says for how long, nobody asks it for anything until then; SEMANTICS.md, Manners."""
    with (
        Trial(truth, server, tmp_path / "cache", patience=MUCH_PATIENCE) as trial,
        server.rule(pattern(HEAD), status(429, retry_after="2"), times=1) as rule,
    ):
        first = trial.begun(trial.user_of(HEAD))
        eventually(lambda: rule.met, "the server asks for a pause")
        eventually(lambda: trial.gate().pause(), "the pause has begun")
        asked = len(server.seen)
        others = [trial.begun(trial.user_of(what)) for what in (DATA, NAME, LISTING)]
        trial.check(KEPT)  # what is here needs no server
        while True:
            seen = len(server.seen)
            if not trial.gate().pause():  # looked at last: what was seen before was seen in the pause
                break
            assert seen == asked
            time.sleep(0.02)
        assert [one.result(MUCH_PATIENCE).number for one in (first, *others)] == [0] * 4


def test_a_pause_longer_than_patience_ends_with_it(truth: Truth, server: FaultProxy, tmp_path: Path) -> None:
    """A server that asks for an hour is asked once more at the end of patience; its answer ends the hour."""
    with Trial(truth, server, tmp_path / "cache", patience=1.0) as trial:
        with server.rule(pattern(HEAD), status(503, retry_after="3600"), times=1):
            sight = trial.seen(trial.user_of(HEAD))
        assert sight.number == 0
        assert 0.9 < sight.seconds < 20
        assert trial.gate().pause() == 0
        trial.read_open()


def test_no_patience_is_an_error_at_once(truth: Truth, server: FaultProxy, tmp_path: Path) -> None:
    """With `--patience 0` the first failure is the answer, for each kind of request; and asked again, it works."""
    with Trial(truth, server, tmp_path / "cache", patience=0.0) as trial, hitting(server, FAULTS["500"], once=True):
        for what in ALL:
            sight = trial.seen(trial.user_of(what))
            assert sight.number == errno.EIO
            assert sight.seconds < 5
            assert trial.seen(trial.user_of(what)).number == 0


def test_a_trouble_that_goes_on_is_one_line(
    truth: Truth, server: FaultProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what, where, and for how long it will be tried; the first failure of a request is everyday."""
    with Trial(truth, server, tmp_path / "cache", patience=MUCH_PATIENCE) as trial:
        for times in (1, 4):
            with server.rule(pattern(HEAD), Plan([FAULTS["500"].act] * times)):
                caplog.clear()
                trial.check(HITS[HEAD])
                trial.archive._tree.mark_changed(truth.file(HITS[HEAD]))
            lines = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
            if times == 1:
                assert lines == []
    (line,) = lines
    assert line.startswith(f"{HITS[HEAD]}: the server answers HTTP 500")
    assert re.search(r"; asking again for up to (2\d|30) s$", line)


def test_a_request_that_is_given_up_while_its_line_is_made_is_never_sent(server: FaultProxy) -> None:
    """Its line may come about seconds later; then it asks nothing, and is closed."""
    token = CancelToken()
    errors: list[Unavailable] = []

    def measure() -> None:
        with pytest.raises(Unavailable) as caught:
            client.origin.measure(HITS[HEAD], token=token)
        errors.append(caught.value)

    before = server.count("HEAD", pattern(HEAD))
    with Client(server.url) as client:
        with server.gone():
            asking = threading.Thread(target=measure)
            asking.start()
            eventually(
                lambda: any(connection.deadline < float("inf") for connection in tuple(client.pool._in_use)),
                "it is asked",
            )
            time.sleep(0.1)  # it connects, which nobody can see
            token.cancel()
        asking.join(MUCH_PATIENCE)
    assert len(errors) == 1
    eventually(lambda: not server.connections, "the line is closed")
    assert server.count("HEAD", pattern(HEAD)) == before
