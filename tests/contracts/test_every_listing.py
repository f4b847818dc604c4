"""What every listing must do: in memory, over HTTP, and behind the limiter."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from support.fakes import FakeClock, FakeListing, FakeStopping, at_once, directory, stub
from support.scripted import Client, ScriptedServer, Website

from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.engine.origins import LimitedListing, RetryPolicy
from empiarfs.errors import NotFound
from empiarfs.model import Directory, Node, Stub, parent_path
from empiarfs.ports import Listing

FILES = [b"10028/z.xml", b"10028/data/a b#.mrc", b"10028/data/\xff", b"10028/data/sub/x", b"10029/y"]
CHILDREN: dict[str, list[Node]] = {
    "": [directory("10028"), directory("10029")],
    "10028": [stub("10028/z.xml"), directory("10028/data")],
    "10028/data": [stub("10028/data/a b#.mrc"), stub("10028/data/\udcff"), directory("10028/data/sub")],
}


@pytest.fixture(params=["fake", "http", "fake, waited for", "http, waited for"])
def listing(request: pytest.FixtureRequest) -> Iterator[Listing]:
    """Each implementation, of the same tree."""
    with ExitStack() as stack:
        found: Listing = FakeListing(CHILDREN)
        if request.param.startswith("http"):
            server = stack.enter_context(ScriptedServer(Website(dict.fromkeys(FILES, b"1"))))
            found = stack.enter_context(Client(server.base_url)).listing
        if request.param.endswith("waited for"):
            clock = FakeClock()
            retry_policy = RetryPolicy(60.0, clock, lambda: 0.5, FakeStopping(clock))
            found = LimitedListing(found, ConnectionLimiter(2, 1).demand, retry_policy)
        yield found


@pytest.mark.parametrize("path", CHILDREN)
def test_the_children_come_in_the_servers_order(listing: Listing, path: str) -> None:
    """`scan` returns each child once, in the server's order, with its type and whole path."""
    found = listing.scan(path)
    assert [(type(node), node.path) for node in found] == [(type(node), node.path) for node in CHILDREN[path]]
    assert all(parent_path(node.path) == path for node in found)


def test_nothing_is_measured(listing: Listing) -> None:
    """`scan` returns stubs and directories, never exact sizes."""
    assert {type(node) for node in listing.scan("10028/data")} == {Directory, Stub}


def test_a_missing_file_is_not_found(listing: Listing) -> None:
    """`scan` of a missing directory raises NotFound with its path."""
    with pytest.raises(NotFound) as caught:
        listing.scan("10028/none")
    assert caught.value.path == "10028/none"


def test_many_threads_list_at_once(listing: Listing) -> None:
    """`scan` in many threads returns to each its own directory."""
    paths = list(CHILDREN) * 3

    def names(path: str) -> list[str]:
        return [one.path for one in listing.scan(path)]

    got = at_once([partial(names, path) for path in paths])
    assert got == [[one.path for one in CHILDREN[path]] for path in paths]
