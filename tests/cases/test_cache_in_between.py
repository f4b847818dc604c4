"""A cache in between answers every range of a URL with the first one that it has seen.

The kind: a proxy of a site, which nobody can switch off, breaks ranged requests. Wrong bytes are never used; the
request is sent again past the cache, in two ways, and what has helped is kept up. If nothing helps the error says
so.
"""

from pathlib import Path

import pytest
from support.archives import archive_of
from support.commands import isolated, run
from support.fakes import noise
from support.scripted import Client, Reply, Request, ScriptedServer, Website

from empiarfs.errors import Unavailable, WrongRange
from empiarfs.units import KIB

PATH = "10028/data/a.mrc"
CONTENT = noise(2048 * KIB)


class RangeCache:
    """A cache before a site: it answers each URL with the first part of it that was requested.

    Args:
        obeys: whether it passes requests with `Cache-Control: no-cache` on.
        keys_by_query: whether URLs with another query are others.
    """

    def __init__(self, *, obeys: bool, keys_by_query: bool) -> None:
        self._site = Website({PATH.encode(): CONTENT})
        self._obeys = obeys
        self._keys_by_query = keys_by_query
        self._kept: dict[str, Reply] = {}

    def __call__(self, request: Request) -> Reply:
        """Answer one request."""
        plain = request.target.partition("?")[0]
        key = request.target if self._keys_by_query else plain
        if key in self._kept and not (self._obeys and request.headers.get("cache-control") == "no-cache"):
            return self._kept[key]
        reply = self._site(Request(request.method, plain, request.headers, request.connection))
        if reply.status.startswith("206"):
            self._kept[key] = reply
        return reply


def parts(server: ScriptedServer) -> list[tuple[str, str, str]]:
    """Return the range, the query and the Cache-Control of each request for a part."""
    return [
        (one.headers["range"], one.target.partition("?")[2], one.headers.get("cache-control", ""))
        for one in server.requests
        if "range" in one.headers
    ]


@pytest.mark.promise(
    "A reply that is another part than was requested, as a broken cache on the way sends it, is requested again "
    "past the cache: with `Cache-Control: no-cache`, then with a URL of its own."
)
@pytest.mark.parametrize("obeys", [True, False])
def test_a_cache_is_passed(server: ScriptedServer, tmp_path: Path, *, obeys: bool) -> None:
    """A file is read whole through a cache that obeys no-cache, or that knows a URL by its query."""
    server.answer = RangeCache(obeys=obeys, keys_by_query=not obeys)
    with archive_of(server.base_url, tmp_path) as archive:
        file = archive.open(PATH)
        assert file.read_at(1024 * KIB, 128 * KIB) == CONTENT[1024 * KIB :][: 128 * KIB]
        assert file.read() == CONTENT
    wrong = [one for one in parts(server) if not one[1] and not one[2]]
    assert len(wrong) <= 10  # those in flight when the cache was noticed
    assert all(control == "no-cache" for part, _, control in parts(server)[-2:])


def test_a_server_that_refuses_queries_hides_no_file(server: ScriptedServer) -> None:
    """A file is there, though the part is wrong and the server knows no URL with a query."""
    site = Website({PATH.encode(): CONTENT})

    def answer(request: Request) -> Reply:
        if "?" in request.target:
            return Reply("404 Not Found")
        return site(Request(request.method, request.target, {"range": "bytes=0-99"}, request.connection))

    server.answer = answer
    with Client(server.base_url) as client:
        for _ in range(2):
            with pytest.raises(WrongRange, match="got 'bytes 0-99"):
                client.origin.open(PATH, 200)
    assert [query != "" for _, query, _ in parts(server)] == [False, False, True] * 2


def test_the_requests_past_a_cache(server: ScriptedServer) -> None:
    """After a wrong range no-cache is tried, then a URL of its own; from then on each part has its own URL."""
    server.answer = RangeCache(obeys=False, keys_by_query=True)
    with Client(server.base_url) as client:
        assert client.origin.open(PATH, 100)[1] == CONTENT[:100]
        for _ in range(2):
            assert client.origin.open(PATH, 200)[1] == CONTENT[:200]
    assert parts(server) == [
        ("bytes=0-99", "", ""),
        ("bytes=0-199", "", ""),
        ("bytes=0-199", "", "no-cache"),
        ("bytes=0-199", "bytes=0-199", "no-cache"),
        ("bytes=0-199", "bytes=0-199", "no-cache"),
    ]


def test_a_cache_that_cannot_be_passed_is_named(server: ScriptedServer, tmp_path: Path) -> None:
    """Behind a cache that nothing passes, a read fails after the patience, and the error names the cache."""
    server.answer = RangeCache(obeys=False, keys_by_query=False)
    with archive_of(server.base_url, tmp_path, patience=0.0) as archive:
        file = archive.open(PATH)
        with pytest.raises(Unavailable, match="a cache between here and the server"):
            file.read_at(1024 * KIB, 128 * KIB)


def test_doctor_names_the_cache(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` reports a cache that breaks requests for parts of files, and what to do."""
    isolated(tmp_path, monkeypatch)
    monkeypatch.setenv("EMPIARFS_BASE_URL", server.base_url)
    server.answer = RangeCache(obeys=False, keys_by_query=False)
    said = run("doctor").stdout
    assert "a cache between here and the server" in said
    assert "have it exempt this server" in said
