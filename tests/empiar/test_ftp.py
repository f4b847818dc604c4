"""Exact sizes by FTP: right, or none; and a server that does not answer is left alone for a day."""

import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.fakes import SOON, stub

from empiarfs.empiar.ftp import DAY, FtpSizes, agreeing, sizes
from empiarfs.errors import Unavailable
from empiarfs.model import File

with warnings.catch_warnings():  # it is written on what Python has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from pyftpdlib.authorizers import DummyAuthorizer  # type: ignore[import-untyped] # it ships no types
    from pyftpdlib.handlers import FTPHandler  # type: ignore[import-untyped] # it ships no types
    from pyftpdlib.servers import FTPServer  # type: ignore[import-untyped] # it ships no types

DATE = "2024-05-17 10:20"
SECONDS = 1_715_941_200
DATA = "10028/d\u00e4ta"


def line(name: str, size: int = 1200, mode: str = "-rw-r--r--") -> str:
    """Return one line of a LIST."""
    return f"{mode}   1 ftp      anonymous {size:>12} May 17  2024 {name}"


def test_sizes_are_read_by_name() -> None:
    """Spaces within and around a name belong to it, and sizes may be large."""
    names = ["a.mrc", "a b  c.mrc", " first", "last ", "-rw", "a -> b"]
    found = sizes([line(name, 10**12 + number) for number, name in enumerate(names)])
    assert found == {name: 10**12 + number for number, name in enumerate(names)}


def test_names_of_any_bytes_come_back_as_they_are() -> None:
    """Names are decoded as UTF-8 with surrogate escapes."""
    assert list(sizes([line("\u00e4.mrc".encode().decode("latin-1"))])) == ["\u00e4.mrc"]
    assert list(sizes([line("\xff.mrc")])) == ["\udcff.mrc"]


@pytest.mark.parametrize(
    "text",
    [
        line("data", mode="drwxr-xr-x"),
        line("link -> a.mrc", mode="lrwxrwxrwx"),
        "total 17",
        "",
        "05-17-24  10:20AM        1200 a.mrc",
        line("a.mrc").replace("1200", "1e3"),
        line("a.mrc", 10**18),
        line("a" * 5000),
    ],
)
def test_what_is_no_plain_file_is_left_out(text: str) -> None:
    """Directories, links and malformed lines are ignored."""
    assert sizes([text, line("b.mrc", 7)]) == {"b.mrc": 7}


def test_sizes_that_the_listing_rounds_make_files() -> None:
    """Sizes that agree with the listing become files with the listed date, marked as coarse."""
    stubs = [stub("10028/a", "1.2K", DATE), stub("10028/b", "17", DATE)]
    assert agreeing({"a": 1200, "b": 17, "other": 1}, stubs) == [
        File("10028/a", 1200, SECONDS, coarse_mtime=True),
        File("10028/b", 17, SECONDS, coarse_mtime=True),
    ]


def test_one_size_that_the_listing_cannot_round_drops_all(caplog: pytest.LogCaptureFixture) -> None:
    """One size that contradicts the listing rejects all sizes of the directory."""
    stubs = [stub(f"10028/{name}", "1.2K", DATE) for name in "abc"]
    assert agreeing({"a": 1200, "b": 1000, "c": 1200}, stubs) == []
    assert "10028/b" in caplog.text


def test_what_is_not_known_of_both_is_skipped() -> None:
    """A file that FTP or the listing does not describe is skipped."""
    stubs = [
        stub("10028/missing", "1.2K", DATE),
        stub("10028/a", "-", DATE),
        stub("10028/b", "1.2K", "yesterday"),
        stub("10028/c", "1.2K", DATE),
    ]
    assert [file.path for file in agreeing(dict.fromkeys("abc", 1200), stubs)] == ["10028/c"]


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of an FTP server with a small tree."""
    folder = tmp_path / "tree" / "empiar" / DATA
    folder.mkdir(parents=True)
    (folder / "sub").mkdir()
    for name, size in {"a b.mrc": 1200, "c.mrc": 17, "\u00e9.mrc": 1300}.items():
        (folder / name).write_bytes(bytes(size))
    authorizer = DummyAuthorizer()
    authorizer.add_anonymous(str(tmp_path / "tree"))
    authorizer.add_user("me", "p@ss", str(tmp_path / "tree" / "empiar"))
    handler = type("Handler", (FTPHandler,), {"authorizer": authorizer, "auth_failed_timeout": 0})
    server = FTPServer(("127.0.0.1", 0), handler)
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            server.serve_forever(timeout=0.02, blocking=False)
        server.close_all()

    thread = threading.Thread(target=serve)
    thread.start()
    yield int(server.socket.getsockname()[1])
    stopping.set()
    thread.join(SOON)


class Slots:
    """Slots that are counted."""

    def __init__(self) -> None:
        self.held = self.taken = 0
        self.busy = False

    def __call__(self) -> Callable[[], None]:
        """Take a slot."""
        if self.busy:
            raise TimeoutError("all in use")
        self.held += 1
        self.taken += 1
        return self._given_back

    def _given_back(self) -> None:
        self.held -= 1


STUBS = [
    stub(f"{DATA}/a b.mrc", "1.2K", DATE),
    stub(f"{DATA}/c.mrc", "17", DATE),
    stub(f"{DATA}/\u00e9.mrc", "1.3K", DATE),
    stub(f"{DATA}/none.mrc", "1.2K", DATE),
]


@pytest.mark.promise(
    "If the sizes of a directory came from one FTP list it is the listed date, in whole minutes and the "
    "server's time zone; the reply to every read is then checked against it as closely as that allows."
)
@pytest.mark.promise("Data never come over FTP; one list of a directory may.")
def test_sizes_of_a_directory_come_in_one_list(port: int, tmp_path: Path) -> None:
    """The sizes of a directory come over one connection, whose slot is released."""
    slots = Slots()
    ftp = FtpSizes(f"ftp://127.0.0.1:{port}/empiar", tmp_path / "note", slots)
    assert list(ftp.measure_all(DATA, STUBS)) == [
        File(f"{DATA}/a b.mrc", 1200, SECONDS, coarse_mtime=True),
        File(f"{DATA}/c.mrc", 17, SECONDS, coarse_mtime=True),
        File(f"{DATA}/\u00e9.mrc", 1300, SECONDS, coarse_mtime=True),
    ]
    assert (slots.taken, slots.held) == (1, 0)
    assert not (tmp_path / "note").exists()


def test_credentials_of_the_address_are_used(port: int, tmp_path: Path) -> None:
    """The credentials of the address are used, and a rejected password is not in the error."""
    ftp = FtpSizes(f"ftp://me:p%40ss@127.0.0.1:{port}", tmp_path / "note", Slots())
    ftp.check()
    assert ftp.measure_all(DATA, STUBS)
    with pytest.raises(Unavailable) as caught:
        FtpSizes(f"ftp://me:secret@127.0.0.1:{port}", tmp_path / "note", Slots()).check()
    assert "secret" not in str(caught.value)
    with pytest.raises(Unavailable):
        FtpSizes(f"ftp://127.0.0.1:{port}/none", tmp_path / "note", Slots()).check()


def test_a_missing_directory_does_not_disable_ftp(port: int, tmp_path: Path) -> None:
    """A missing directory raises Unavailable, and the next directory is requested."""
    slots = Slots()
    ftp = FtpSizes(f"ftp://127.0.0.1:{port}/empiar", tmp_path / "note", slots)
    with pytest.raises(Unavailable):
        ftp.measure_all("10028/none", STUBS)
    assert len(ftp.measure_all(DATA, STUBS)) == 3
    assert slots.held == 0


def test_a_server_that_refuses_is_not_contacted_for_a_day(tmp_path: Path) -> None:
    """A server that refused is not contacted for a day, in later runs neither."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    slots = Slots()
    for _ in range(2):
        ftp = FtpSizes(f"ftp://127.0.0.1:{port}/empiar", tmp_path / "note", slots)
        with pytest.raises(Unavailable):
            ftp.measure_all(DATA, STUBS)
    assert (slots.taken, slots.held) == (1, 0)
    a_day_ago, ahead = time.time() - DAY - 1, time.time() + 3600  # noted before the clock was set back
    for turn, noted in enumerate((a_day_ago, ahead), 2):
        os.utime(tmp_path / "note", (noted, noted))
        with pytest.raises(Unavailable):
            ftp.measure_all(DATA, STUBS)
        assert slots.taken == turn


def test_busy_slots_do_not_disable_ftp(port: int, tmp_path: Path) -> None:
    """A lack of slots raises Unavailable and does not disable FTP."""
    slots = Slots()
    slots.busy = True
    ftp = FtpSizes(f"ftp://127.0.0.1:{port}/empiar", tmp_path / "note", slots)
    with pytest.raises(Unavailable):
        ftp.measure_all(DATA, STUBS)
    assert not (tmp_path / "note").exists()
    slots.busy = False
    assert len(ftp.measure_all(DATA, STUBS)) == 3
