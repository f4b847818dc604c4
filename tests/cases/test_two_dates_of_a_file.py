"""One file, two dates: whole minutes from an FTP list, exact ones from the web server; `rsync -a` copied all again.

The kind: what is known of a file depends on which server has told it first. The exact date is shown as soon as any
reply tells it, and the version stays the same, so that what is cached of the file stays.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archives import archive_of
from support.fakes import noise
from support.ftp_server import FtpServer
from support.mounting import eventually
from support.scripted import Client, Reply, Request, ScriptedServer, Website

from empiarfs.archive import Archive
from empiarfs.model import File, Span
from empiarfs.mount.view import Owner, attributes
from empiarfs.units import KIB

LISTED = 1_738_957_740  # 2025-02-07 19:49, which a `Website` lists
EXACT = LISTED + 37
FILES = {f"10028/data/{number:02}.mrc".encode(): noise(KIB, number) for number in range(40)}
LAST = "10028/data/39.mrc"


@pytest.fixture
def website() -> Website:
    """A site with files enough for one FTP list."""
    site = Website(FILES)
    site.modified = EXACT
    return site


@pytest.fixture
def ftp(tmp_path: Path) -> Iterator[FtpServer]:
    """An FTP server of the same files."""
    for path, content in FILES.items():
        file = tmp_path / "ftp" / path.decode()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    server = FtpServer(tmp_path / "ftp")
    yield server
    server.close()


def listed_over_ftp(archive: Archive) -> File:
    """Return the last file, whose size and date came from the FTP list."""
    archive.stat("10028/data/00.mrc")
    file = archive.stat(LAST)
    assert isinstance(file, File)
    assert (file.coarse_mtime, file.mtime) == (True, LISTED)
    return file


def mtime(archive: Archive) -> int | None:
    """Return the date of the last file."""
    file = archive.stat(LAST)
    assert isinstance(file, File)
    return file.mtime


@pytest.mark.promise(
    "From the first reply that tells the exact date on, it is that; the kernel may show the other for up to "
    "an hour."
)
def test_the_date_is_exact_once_a_reply_has_told_it(server: ScriptedServer, ftp: FtpServer, tmp_path: Path) -> None:
    """A file from an FTP list has its exact date after its first read, in the next run too, and stays cached."""
    with archive_of(server.base_url, tmp_path, no_ftp=False, ftp_url=ftp.url) as archive:
        file = listed_over_ftp(archive)
        archive.read(file, 0, 10)
        eventually(lambda: mtime(archive) == EXACT, "the date is exact")
        assert archive.stat(LAST) == file
        count = len(server.requests)
        archive.open(LAST).read_at(0, KIB)
    with archive_of(server.base_url, tmp_path, no_ftp=False, ftp_url=ftp.url) as archive:
        assert mtime(archive) == EXACT
        assert archive.open(LAST).read_at(0, KIB) == FILES[LAST.encode()]
    assert len(server.requests) == count


def test_the_kernel_gets_the_exact_date() -> None:
    """The attributes of a file hold its exact date where it is known."""
    file = File("10028/a", 1, LISTED, coarse_mtime=True, exact_mtime=EXACT)
    assert attributes(file, Owner(0, 0), 0)["st_mtime"] == EXACT * 10**9


def test_a_file_with_an_exact_date_is_no_other_file_of_the_same_minute() -> None:
    """Once its exact date is known, a file is not taken for another one of the same minute."""
    file = File("10028/a", 1, LISTED, coarse_mtime=True)
    assert file.is_dated(EXACT)
    assert file.is_dated(EXACT + 1)
    dated = File("10028/a", 1, LISTED, coarse_mtime=True, exact_mtime=EXACT)
    assert dated == file
    assert dated.is_dated(EXACT)
    assert not dated.is_dated(EXACT + 1)


@pytest.mark.parametrize(
    ("etag", "date"),
    [
        (f'"{KIB:x}-{EXACT * 10**6 + 5:x}"', EXACT),
        (f'"{KIB + 1:x}-{EXACT * 10**6:x}"', None),  # another size
        (f'"{EXACT:x}-{KIB:x}"', None),  # as nginx writes it
        (f'W/"{KIB:x}-{EXACT * 10**6:x}"', None),
        ('"400-ffffffffffffffff"', None),
        ("", None),
    ],
)
def test_an_etag_of_apache_tells_the_date(
    server: ScriptedServer, website: Website, etag: str, date: int | None
) -> None:
    """Without Last-Modified the date is that of an ETag of Apache, the size and the microseconds since 1970."""

    def answer(request: Request) -> Reply:
        reply = website(request)
        del reply.headers["Last-Modified"]
        reply.headers["ETag"] = etag
        return reply

    server.answer = answer
    with Client(server.base_url) as client:
        assert client.origin.measure(LAST).modified == date
        file, _ = client.origin.open(LAST, 10)
        assert file.modified == date
        told: list[int] = []
        client.origin.on_date = lambda _, told_date: told.append(told_date)
        list(client.origin.fetch(File(LAST, KIB, LISTED, coarse_mtime=True), Span(0, 10)))
        assert told == [date] * (date is not None)
