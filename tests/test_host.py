"""A host owns the parts of one server, and closing it leaves nothing."""

import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.fakes import SOON, at_once
from support.lineserver import LineServer, heads
from support.scripted import ROOT, Reply, Request, ScriptedServer

from empiarfs.errors import Closed, NotFound, Unavailable
from empiarfs.host import Host, open_host
from empiarfs.model import File, Span
from empiarfs.settings import Settings

PAGE = Reply("200 OK", {"Content-Length": "5"}, b"hello")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server that answers every request with five bytes."""
    server = ScriptedServer(lambda _: PAGE)
    yield server
    server.stop()


@pytest.fixture
def settings(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a user that waits for three seconds."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return Settings(base_url=server.base_url, patience=3.0)


def test_a_body_is_fetched_with_its_query(server: ScriptedServer, settings: Settings) -> None:
    """`get` requests a path below the host with an escaped query."""
    with open_host(settings.base_url, settings) as host:
        assert host.get("10028", "rows=1&q=a:b", slash=True) == b"hello"
    assert server.requests[0].target == f"{ROOT}/10028/?rows=1&q=a:b"


def test_a_body_is_retried(server: ScriptedServer, settings: Settings) -> None:
    """A server that answers the second time gets two requests, and one that answers 404 gets one."""
    answers = iter([Reply("500 Broken", {"Content-Length": "0"}), PAGE, Reply("404 No", {"Content-Length": "0"})])
    server.answer = lambda _: next(answers)
    with open_host(settings.base_url, settings) as host:
        assert host.get("10028") == b"hello"
        with pytest.raises(NotFound):
            host.get("10029")
    assert len(server.requests) == 3


def test_a_host_has_its_own_limit_of_connections(server: ScriptedServer, settings: Settings) -> None:
    """No more requests than `most` are in flight, however many threads send them."""
    inside, seen, lock = [0], [0], threading.Lock()

    def answer(_: Request) -> Reply:
        with lock:
            inside[0] += 1
            seen[0] = max(seen[0], inside[0])
        time.sleep(0.02)
        with lock:
            inside[0] -= 1
        return PAGE

    server.answer = answer
    with open_host(settings.base_url, settings, most=2) as host:
        assert at_once([lambda: host.get("10028")] * 8) == [b"hello"] * 8
    assert seen[0] <= 2


class Trickle(LineServer):
    """A server that answers with an endless header, a byte at a time, so that no socket times out."""

    def __init__(self) -> None:
        super().__init__(socket.create_server(("127.0.0.1", 0)))
        self.over = threading.Event()

    def _talk(self, line: socket.socket, number: int) -> None:
        for _ in heads(line):
            line.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not self.over.wait(0.2):
                line.sendall(b"x")


@pytest.mark.slow
def test_a_server_that_trickles_does_not_hold_a_user_for_long(settings: Settings) -> None:
    """A header that comes byte by byte is aborted by the host."""
    with Trickle() as server, open_host(f"http://127.0.0.1:{server.port}", settings) as host:
        begun = time.monotonic()
        with pytest.raises(Unavailable):
            b"".join(host.origin.fetch(File("10028/a", 10, None), Span(0, 10)))
        assert time.monotonic() - begun < SOON
        server.over.set()


def test_calls_run_in_parallel_and_their_results_come_in_order(settings: Settings) -> None:
    """`run_all` is limited to `most` calls at once; the first error is raised, and no further call begins."""
    with open_host(settings.base_url, settings, most=3) as host:
        meeting = threading.Barrier(3)

        def meet(number: int) -> int:
            meeting.wait(SOON)
            return number

        assert host.run_all([partial(meet, number) for number in range(3)]) == [0, 1, 2]
        assert host.run_all([]) == []
        begun: list[int] = []

        def fail() -> None:
            begun.append(1)
            raise NotFound("10028/a")

        with pytest.raises(NotFound):
            host.run_all([fail] * 100)
        assert len(begun) < 100


def test_nothing_is_left_of_a_closed_host(settings: Settings) -> None:
    """Its threads end, its connections are closed, and a later request raises an ArchiveError."""
    before = set(threading.enumerate())
    host = Host(settings.base_url, settings)
    assert host.get("10028") == b"hello"
    host.close()
    with pytest.raises(Closed):
        host.get("10028")
    with pytest.raises(Closed):
        host.submit(lambda: None)
    end = time.monotonic() + SOON
    while {one for one in threading.enumerate() if one.name.startswith("request")} - before:
        assert time.monotonic() < end, "a thread is left"
        time.sleep(0.01)
    assert host.counters()["connections_open"] == 0
