"""Outages of the whole server: it cannot be reached or trusted, and then it can."""

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
    FaultTrial,
    Outcome,
    Truth,
    causing,
    pattern,
    try_outage,
)
from support.mounting import eventually
from support.scripted import Client

from empiarfs.cancellation import CancelToken
from empiarfs.errors import Unavailable

NAMED = "archive.test"


class Names:
    """A resolver that knows one more name, until it fails."""

    def __init__(self) -> None:
        self.fails = False
        self._others = socket.getaddrinfo

    def __call__(self, host: str, *arguments: Any, **options: Any) -> Any:
        if host == NAMED and self.fails:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self._others("127.0.0.1" if host == NAMED else host, *arguments, **options)

    @contextmanager
    def lost(self, server: FaultProxy) -> Iterator[None]:
        """Forget the name and drop the open connections, as when a laptop changes its network."""
        self.fails = True
        server.hang_up()
        try:
            yield
        finally:
            self.fails = False


class How(NamedTuple):
    """The course of an outage: whether it passes, and the patience of the archive."""

    passes: bool
    patience: float


def expect(seen: dict[str, Outcome], how: How) -> None:
    """Check that an outage that passes is not seen, and one that lasts is EIO for all."""
    assert {what: sight.number for what, sight in seen.items()} == dict.fromkeys(
        ALL, 0 if how.passes else errno.EIO
    )


@pytest.fixture(params=[How(True, MUCH_PATIENCE), How(False, PATIENCE)], ids=["passes", "lasts"])
def how(request: pytest.FixtureRequest) -> How:
    """An outage that passes, and one that lasts."""
    how: How = request.param
    return how


@pytest.mark.parametrize("kind", ["refusing", "gone"])
def test_a_server_that_cannot_be_reached_is_waited_for(
    kind: str, truth: Truth, server: FaultProxy, tmp_path: Path, how: How
) -> None:
    """An unreachable server is EIO after the patience, and cached data are served."""
    trial = FaultTrial(truth, server, tmp_path / "cache", patience=how.patience)
    expect(try_outage(trial, getattr(server, kind), passes=how.passes), how)


def test_a_name_that_is_not_found_is_waited_for(
    truth: Truth, server: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: How
) -> None:
    """A host name that cannot be resolved is EIO after the patience, never ENOENT."""
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    url = f"http://{NAMED}:{server.port}{server.base}"
    trial = FaultTrial(truth, server, tmp_path / "cache", patience=how.patience, base_url=url)
    expect(try_outage(trial, lambda: names.lost(server), passes=how.passes), how)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The authority that the archive trusts."""
    return trustme.CA()


def shown(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """Return the TLS context of a server with a certificate."""
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
def test_a_bad_certificate_is_rejected(
    wrong: str, authority: trustme.CA, truth: Truth, secure: FaultProxy, tmp_path: Path, how: How
) -> None:
    """Nothing is read from a server with a bad certificate, and everything works when it is good."""
    last_year = dt.datetime.now(dt.UTC) - dt.timedelta(days=365)
    certificates = {
        "of another authority": trustme.CA().issue_cert("127.0.0.1"),
        "of another host": authority.issue_cert("other.example"),
        "of last year": authority.issue_cert("127.0.0.1", not_before=last_year, not_after=last_year),
    }
    trial = FaultTrial(truth, secure, tmp_path / "cache", patience=how.patience)
    expect(try_outage(trial, lambda: secure.showing(shown(certificates[wrong])), passes=how.passes), how)


def test_what_is_cached_is_served_without_a_network(truth: Truth, server: FaultProxy, tmp_path: Path) -> None:
    """A new archive on an old cache serves what is cached without a network, and an error for the rest."""
    with FaultTrial(truth, server, tmp_path / "cache", patience=MUCH_PATIENCE):
        pass
    trial = FaultTrial(truth, server, tmp_path / "cache", patience=PATIENCE, fresh=0.0)
    with server.refusing():
        trial.check(KEPT)
        trial.list("10077/data")
        trial.list("10028/data")
        assert trial.observe(lambda: trial.check(OTHER)).number == errno.EIO
        assert trial.observe(trial.list).number == errno.EIO
    trial.list()
    trial.close()


def test_retry_after_holds_for_all_readers(truth: Truth, server: FaultProxy, tmp_path: Path) -> None:
    """During the pause of a Retry-After no request is sent; SEMANTICS.md, Manners."""
    with (
        FaultTrial(truth, server, tmp_path / "cache", patience=MUCH_PATIENCE) as trial,
        server.rule(pattern(HEAD), status(429, retry_after="2"), times=1) as rule,
    ):
        first = trial.start(trial.work_on(HEAD))
        eventually(lambda: rule.met, "the server asks for a pause")
        eventually(lambda: trial.limiter().pause(), "the pause has begun")
        asked = len(server.seen)
        others = [trial.start(trial.work_on(what)) for what in (DATA, NAME, LISTING)]
        trial.check(KEPT)  # what is here needs no server
        while True:
            seen = len(server.seen)
            if not trial.limiter().pause():  # looked at last: what was seen before was seen in the pause
                break
            assert seen == asked
            time.sleep(0.02)
        assert [one.result(MUCH_PATIENCE).number for one in (first, *others)] == [0] * 4


def test_a_pause_longer_than_patience_ends_with_it(truth: Truth, server: FaultProxy, tmp_path: Path) -> None:
    """A pause longer than the patience ends with it, and the answer to the next request ends the pause."""
    with FaultTrial(truth, server, tmp_path / "cache", patience=1.0) as trial:
        with server.rule(pattern(HEAD), status(503, retry_after="3600"), times=1):
            sight = trial.observe(trial.work_on(HEAD))
        assert sight.number == 0
        assert 0.9 < sight.seconds < 20
        assert trial.limiter().pause() == 0
        trial.read_open()


def test_no_patience_is_an_error_at_once(truth: Truth, server: FaultProxy, tmp_path: Path) -> None:
    """With `--patience 0` the first failure of a request of any kind is an error, and the next one succeeds."""
    with (
        FaultTrial(truth, server, tmp_path / "cache", patience=0.0) as trial,
        causing(server, FAULTS["500"], once=True),
    ):
        for what in ALL:
            sight = trial.observe(trial.work_on(what))
            assert sight.number == errno.EIO
            assert sight.seconds < 5
            assert trial.observe(trial.work_on(what)).number == 0


def test_a_failure_that_repeats_is_one_warning(
    truth: Truth, server: FaultProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure that repeats is one warning with its path, reason and time left; the first one is none."""
    with FaultTrial(truth, server, tmp_path / "cache", patience=MUCH_PATIENCE) as trial:
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
    assert re.search(r"; retrying for up to (2\d|30) s$", line)


def test_a_request_cancelled_during_its_connect_is_not_sent(server: FaultProxy) -> None:
    """A request that is cancelled while its connection is made is not sent, and the connection is closed."""
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
