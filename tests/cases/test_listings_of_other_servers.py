"""Other servers write their listings in other ways: lighttpd truncates sizes where Apache rounds them.

The kind: a mirror, or the server of a group, is not Apache. A listing in a known form is read, whatever its server
does with the last digit; one in an unknown form is one clear error at once, and not after the patience.
"""

import html
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.archives import archive_of
from support.commands import isolated, run
from support.fakes import SOON, noise
from support.mounting import Mounts
from support.scripted import MODIFIED, Reply, Request, ScriptedServer, Website

from empiarfs.empiar.autoindex_fields import seconds, size_range
from empiarfs.errors import UnknownListing

SIZES = st.integers(min_value=0, max_value=60).flatmap(
    lambda bits: st.integers(min_value=0, max_value=(1 << bits) - 1)
)


def lighttpd_size(size: int) -> str:
    """Write `size` as lighttpd does: cut to tenths, which it takes from hundreds of 1024."""
    unit = -1
    while unit < 0 or size >= 1024:
        size, rest = divmod(size, 1024)
        unit += 1
    tenth = rest // 100
    return f"{size + 1}.0{'KMGTPE'[unit]}" if tenth > 9 else f"{size}.{tenth}{'KMGTPE'[unit]}"


def nginx_size(size: int) -> str:
    """Write `size` as nginx does with `autoindex_exact_size off`: rounded to a whole number."""
    for unit, most in (("G", 1 << 30), ("M", 1 << 20), ("K", 9999)):
        scale = {"G": 1 << 30, "M": 1 << 20, "K": 1 << 10}[unit]
        if size >= most:
            return f"{size // scale + (size % scale > scale // 2 - 1)}{unit}"
    return str(size)


@pytest.mark.parametrize("written", [lighttpd_size, nginx_size], ids=["lighttpd", "nginx"])
@given(data=st.data())
def test_a_size_may_be_truncated_or_rounded(written: "type[str]", data: st.DataObject) -> None:
    """A size is plausible for the text that lighttpd or nginx writes for it."""
    size = data.draw(SIZES)
    found = size_range(written(size))
    assert found is not None
    assert found.start <= size < found.stop


@pytest.mark.parametrize(
    ("listed", "below", "above"),
    [("543M", 542 << 20, 544 << 20), ("1.4K", 1331, 1536), ("0.0K", -1, 103), ("1.0G", 966367641, 1181116007)],
)
def test_a_size_a_unit_away_is_not_plausible(listed: str, below: int, above: int) -> None:
    """A size that lies a whole unit of the last digit or more from the listed text is not plausible."""
    assert size_range(listed) == range(below + 1, above)


def test_a_date_of_lighttpd_is_read() -> None:
    """A date with the year first and the name of the month is read as UTC."""
    assert seconds("2025-Feb-07 19:49:30") == 1_738_957_770


class Lighttpd(Website):
    """A site that lists as lighttpd does, and sends no Last-Modified, as it does without types of files."""

    def _listing(self, name: bytes) -> bytes:
        path = html.escape(name.decode())
        children = sorted({one.removeprefix(name + b"/").split(b"/")[0].decode() for one in self._below(name)})
        rows = "".join(self._row(name, child) for child in children)
        return (
            f"<!DOCTYPE html>\n<html><head><title>Index of /{path}/</title></head><body><h2>Index of /{path}/</h2>"
            '<div class="list"><table><thead><tr><th class="n">Name</th></tr></thead><tbody>'
            '<tr class="d"><td class="n"><a href="../">..</a>/</td><td class="m">&nbsp;</td>'
            f'<td class="s">- &nbsp;</td><td class="t">Directory</td></tr>{rows}</tbody></table></div>'
            '<div class="foot">lighttpd</div></body></html>'
        ).encode()

    def _below(self, name: bytes) -> list[bytes]:
        return [path for path in self.files if path.startswith(name + b"/")]

    def _row(self, name: bytes, child: str) -> str:
        content = self.files.get(name + b"/" + child.encode())
        slash, size = ("/", "- &nbsp;") if content is None else ("", lighttpd_size(len(content)))
        return (
            f'<tr><td class="n"><a href="{child}{slash}">{child}</a>{slash}</td>'
            f'<td class="m">2025-Feb-07 19:49:30</td><td class="s">{size}</td><td class="t">a file</td></tr>'
        )

    def _file(self, content: bytes, request: Request) -> Reply:
        reply = super()._file(content, request)
        reply.headers.pop("Last-Modified", None)
        return reply


def test_every_file_of_lighttpd_can_be_read(server: ScriptedServer, tmp_path: Path) -> None:
    """All files of a listing by lighttpd are measured and read, of whatever size."""
    sizes = [0, 1, 102, 103, 204, 972, 973, 1023, 1024, 1500, 9999, 10_239, 99_999, 523_400, 1_048_575, 1_048_576]
    files = {f"10028/data/{size}.mrc".encode(): noise(size) for size in sizes}
    server.answer = Lighttpd(files)
    with archive_of(server.base_url, tmp_path) as archive:
        for node in archive.listdir("10028/data"):
            with archive.open(node.path) as file:
                assert file.read() == files[node.path.encode()]


PAGES = {
    "nginx, autoindex_format json": b'[\n{ "name":"a.mrc", "type":"file", "mtime":"x", "size":1500 }\n]',
    "nginx, autoindex_format xml": b'<?xml version="1.0"?><list><file size="1500">a.mrc</file>\n</list>',
    "caddy": b"<!DOCTYPE html><html><head><title>data</title></head><body><h1><a href='/'>/</a>data</h1>"
    b"<table><tbody><tr><td><a href='./a.mrc'>a.mrc</a></td><td>1.5 KiB</td></tr></tbody></table></body></html>",
    "python -m http.server": b"<!DOCTYPE HTML><html><head><title>Directory listing for /10028/</title></head><body>"
    b"<h1>Directory listing for /10028/</h1><ul><li><a href='a.mrc'>a.mrc</a></li></ul></body></html>",
    "no listing": b"<html><body><h1>It works!</h1></body></html>",
}


def page(body: bytes) -> Reply:
    """Return a reply with `body`."""
    modified = formatdate(MODIFIED, usegmt=True)
    return Reply("200 OK", {"Content-Length": str(len(body)), "Last-Modified": modified}, body)


@pytest.mark.promise(
    "A server whose listings are in no known form is `EIO` at once; one that has listed since the mount is waited "
    "for."
)
@pytest.mark.parametrize("body", PAGES.values(), ids=PAGES)
def test_an_unknown_listing_is_an_error_at_once(server: ScriptedServer, tmp_path: Path, body: bytes) -> None:
    """A listing in an unknown form is one error after one request, and names the servers that are known."""
    server.answer = lambda _: page(body)
    begun = time.monotonic()
    with archive_of(server.base_url, tmp_path) as archive:
        with pytest.raises(UnknownListing, match="Apache, nginx and lighttpd"):
            archive.listdir("10028")
        assert len(server.requests) == 1
    assert time.monotonic() - begun < SOON


@pytest.mark.promise(
    "A server whose listings are in no known form is `EIO` at once; one that has listed since the mount is waited "
    "for."
)
def test_a_page_in_place_of_a_listing_is_waited_for_where_there_were_listings(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """A server that has listed a directory before, and sends another page once, is asked again."""
    site = Website({b"10028/data/a.mrc": b"a"})
    server.answer = site
    with archive_of(server.base_url, tmp_path) as archive:
        archive.listdir("10028")
        pages = [page(PAGES["no listing"])]
        server.answer = lambda request: pages.pop() if pages else site(request)
        assert [node.path for node in archive.listdir("10028/data")] == ["10028/data/a.mrc"]
        assert not pages


def test_a_mount_of_an_unknown_listing_promises_no_wait(mount: Mounts, server: ScriptedServer) -> None:
    """A mount of the whole archive of an unknown server says that its root fails, and not that reads will wait."""
    server.answer = lambda _: page(PAGES["caddy"])
    made = mount(base_url=server.base_url)
    made.expect("not an index page")
    assert made.started is not None
    assert made.started.stderr.decode().endswith("mounted anyway: it fails with 'Input/output error'\n")


def test_doctor_names_the_servers_that_are_known(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`doctor` says of a root in an unknown form that it is no listing, and which servers are known."""
    isolated(tmp_path, monkeypatch)
    monkeypatch.setenv("EMPIARFS_BASE_URL", server.base_url)
    server.answer = lambda _: page(PAGES["caddy"])
    said = run("doctor").stdout
    assert "is not a listing of entries" in said
    assert "Apache, nginx and lighttpd are known" in said
