"""A server that sends no Last-Modified: every file was as old as the mount, though the listing has a date.

The kind: a reply leaves out what a listing tells. The listed date is better than none, and the same at every mount.
"""

import time
from pathlib import Path

import pytest
from support.archives import archive_of
from support.mounting import Mounts
from support.scripted import Reply, Request, ScriptedServer, Website

from empiarfs.model import File

LISTED = 1_738_957_740  # 2025-02-07 19:49, which a `Website` lists
A = "10028/data/a.mrc"


class Undated(Website):
    """A site that sends no dates with its files."""

    def _file(self, content: bytes, request: Request) -> Reply:
        reply = super()._file(content, request)
        reply.headers.pop("Last-Modified", None)
        return reply


@pytest.fixture
def website() -> Website:
    """A site without dates."""
    return Undated({A.encode(): b"abc", b"10028/data/b.mrc": b""})


@pytest.mark.promise(
    "If a server sends no dates with its files it is the listed date, and without one the time of the mount."
)
def test_a_file_without_a_date_has_the_listed_one(server: ScriptedServer, tmp_path: Path) -> None:
    """The date of a file is the listed one, where its reply has none, and the file can be read."""
    with archive_of(server.base_url, tmp_path) as archive:
        found = archive.stat(A)
        assert found == File(A, 3, LISTED, coarse_mtime=True)
        assert archive.stat("10028/data/b.mrc") == File("10028/data/b.mrc", 0, LISTED, coarse_mtime=True)
        assert archive.open(A).read() == b"abc"
    with archive_of(server.base_url, tmp_path, offline=True) as archive:
        assert archive.stat(A) == found
        assert archive.open(A).read() == b"abc"


def test_a_file_without_any_date_can_be_read(server: ScriptedServer, website: Website, tmp_path: Path) -> None:
    """A file that neither its reply nor a listing dates has no date, and can be read."""
    website.closed = (b"10028/data",)
    with archive_of(server.base_url, tmp_path) as archive:
        assert archive.stat(A) == File(A, 3, None)
        assert archive.open(A).read() == b"abc"


def dates(path: str) -> list[int]:
    """Return when a file was changed, and the seconds since 1970."""
    return [int(Path(path).stat().st_mtime), int(time.time())]


@pytest.mark.promise(
    "If a server sends no dates with its files it is the listed date, and without one the time of the mount."
)
@pytest.mark.parametrize("closed", [(), (b"10028/data",)], ids=["listed", "not listed"])
def test_the_date_in_a_mount(
    mount: Mounts, server: ScriptedServer, website: Website, closed: tuple[bytes, ...]
) -> None:
    """A mount shows the listed date, and the time of the mount where there is none."""
    website.closed = closed
    made = mount("10028", base_url=server.base_url)
    modified, now = made.call(dates, made / A)
    assert modified == LISTED if not closed else now - 60 < modified <= now
