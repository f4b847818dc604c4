"""Directories as the server's pages show them, one request each."""

import gzip

import pytest
from support.scripted import ROOT, Client, Reply, ScriptedServer, Website, always

from empiarfs.errors import Forbidden, IsADirectory, NotFound, Unavailable
from empiarfs.model import Directory, Stub

FILES = {
    b"10028/10028.xml": b"1",
    b"10028/data/a b.mrc": b"1",
    b"10028/data/#%+=&[x].mrc": b"1",
    b"10028/data/\xff.mrc": b"1",
    b"10028/data/sub/deep.tif": b"1",
    b"10028/closed/x": b"1",
}


@pytest.fixture
def website() -> Website:
    """A good site with one directory that may not be listed."""
    return Website(FILES, closed=(b"10028/closed",))


def test_a_directory_is_one_request(client: Client, server: ScriptedServer) -> None:
    """`scan` sends one GET of the URL with a slash at the end."""
    client.listing.scan("10028/data")
    assert [(one.method, one.target) for one in server.requests] == [("GET", f"{ROOT}/10028/data/")]


def test_children_come_with_kind_rounded_size_and_date(client: Client) -> None:
    """Children have their type, rounded size and date, in the server's order."""
    xml, *directories = client.listing.scan("10028")
    assert xml == Stub("10028/10028.xml", "1", "2025-02-07 19:49")
    assert [(type(one), one.path) for one in directories] == [
        (Directory, "10028/data"),
        (Directory, "10028/closed"),
    ]


def test_names_of_any_bytes_come_back_as_they_are(client: Client) -> None:
    """Names are decoded once, with surrogate escapes for bytes that are not UTF-8."""
    assert [node.path for node in client.listing.scan("10028/data")] == [
        "10028/data/a b.mrc",
        "10028/data/#%+=&[x].mrc",
        "10028/data/\udcff.mrc",
        "10028/data/sub",
    ]


def test_the_root_is_listed(client: Client) -> None:
    """The children of the root have no slash in front."""
    assert [node.path for node in client.listing.scan("")] == ["10028"]


def test_a_file_is_no_directory_to_list(client: Client) -> None:
    """`scan` of a file raises NotFound."""
    with pytest.raises(NotFound):
        client.listing.scan("10028/10028.xml")


def test_a_missing_file_is_not_found(client: Client) -> None:
    """`scan` of a missing directory raises NotFound."""
    with pytest.raises(NotFound):
        client.listing.scan("10029")


def test_a_directory_that_is_closed_is_refused(client: Client) -> None:
    """`scan` of a directory with status 403 raises Forbidden."""
    with pytest.raises(Forbidden):
        client.listing.scan("10028/closed")


@pytest.mark.parametrize(
    "body",
    [b"", b"<html><body>Welcome</body></html>", b"\xff\xd8\xff", b"{}", b"<title>Index of /</title><table>"],
)
def test_a_page_that_is_no_listing_is_unavailable(client: Client, server: ScriptedServer, body: bytes) -> None:
    """`scan` of a page that is no listing raises Unavailable, where the server has listed a directory before."""
    client.listing.scan("10028")
    server.answer = lambda _: Reply("200 OK", {"Content-Length": str(len(body))}, body)
    with pytest.raises(Unavailable):
        client.listing.scan("10028")


def test_a_listing_that_was_cut_is_unavailable(client: Client, server: ScriptedServer) -> None:
    """`scan` of a truncated page raises Unavailable."""
    page = Website(FILES)._listing(b"10028/data")
    for cut in (0, 10, len(page) // 2, len(page) - 1):
        server.answer = always(Reply("200 OK", {"Content-Length": str(len(page))}, page[:cut], "close"))
        with pytest.raises(Unavailable):
            client.listing.scan("10028/data")


def test_a_compressed_listing_is_unavailable(client: Client, server: ScriptedServer) -> None:
    """`scan` of a compressed page raises Unavailable, where the server has listed a directory before."""
    client.listing.scan("10028")
    page = gzip.compress(Website(FILES)._listing(b"10028/data"))
    server.answer = lambda _: Reply("200 OK", {"Content-Length": str(len(page)), "Content-Encoding": "gzip"}, page)
    with pytest.raises(Unavailable):
        client.listing.scan("10028/data")


def test_a_redirect_to_another_slash_is_no_listing(client: Client, server: ScriptedServer) -> None:
    """A server that adds slashes for ever is given up after a few requests."""
    server.answer = lambda request: Reply("301 Moved", {"Location": request.target + "/", "Content-Length": "0"})
    with pytest.raises((Unavailable, IsADirectory)):
        client.listing.scan("10028")
    assert len(server.requests) <= 10
