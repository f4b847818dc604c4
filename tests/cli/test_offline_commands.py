"""`ls`, `stat` and `cat` offline: what is kept, or one line that says why not."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import run
from support.scripted import ScriptedServer, Website

FILES = {b"10028/10028.xml": b"<entry/>", b"10028/data/a.mrc": b"bytes", b"10029/x": b"x"}


@pytest.fixture
def website() -> Website:
    """A site of two entries."""
    return Website(FILES)


@pytest.fixture
def server(server: ScriptedServer) -> Iterator[ScriptedServer]:
    """A server of which one listing and one file were read, and that gets no request from then on."""
    assert run("ls", "10028").exit_code == 0
    assert run("cat", "10028/10028.xml").exit_code == 0
    assert run("stat", "10028/none").exit_code == 1
    before = len(server.requests)
    yield server
    assert len(server.requests) == before


def test_what_is_cached_is_shown(server: ScriptedServer) -> None:
    """Names, sizes and bytes in the cache are shown offline."""
    assert run("ls", "10028", "--offline").stdout == "10028.xml\ndata/\n"
    assert "8 bytes" in run("stat", "10028/10028.xml", "--offline").stdout
    assert run("cat", "10028/10028.xml", "--offline").stdout == "<entry/>"
    assert run("ls", "10028/10028.xml", "--offline").stdout == "10028.xml\n"


@pytest.mark.parametrize(
    "words",
    [("ls",), ("ls", "10028/data"), ("stat", "10029"), ("stat", "10028/unlisted"), ("cat", "10028/data/a.mrc")],
)
def test_what_is_not_cached_is_one_line(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """What is not in the cache is one error line, with the flag and with the environment variable."""
    monkeypatch.setenv("EMPIARFS_OFFLINE", "1")
    result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.endswith("not in the cache, and empiarfs is offline")


def test_what_was_not_there_is_not_there(server: ScriptedServer) -> None:
    """A name that the server has denied is reported as missing."""
    assert "No such file" in run("stat", "10028/none", "--offline").stderr


def test_the_sample_is_neither_made_nor_served(tmp_path: Path) -> None:
    """`--sample` together with `--offline` is refused, and no sample is made."""
    assert "offline" in run("ls", "--sample", "--offline").stderr
    assert not (tmp_path / "cache" / "sample").exists()


def test_the_server_cannot_be_compared_with(server: ScriptedServer) -> None:
    """`cache verify` works offline; with `--against-origin` it is a usage error."""
    assert run("cache", "verify", "--offline").exit_code == 0
    assert run("cache", "verify", "--offline", "--against-origin=1").exit_code == 2
