"""A hostile FTP server: no wrong size is accepted, nothing is endless, and no command is injected."""

import itertools
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.fakes import SOON, stub

from empiarfs.empiar import ftp
from empiarfs.empiar.autoindex_fields import size_range
from empiarfs.empiar.ftp import FtpSizes, agreeing, sizes
from empiarfs.errors import Unavailable
from empiarfs.model import File

DATE = "2024-05-17 10:20"
STUBS = [stub("10028/a", "1.2K", DATE)]
LINE = b"-rw-r--r--   1 ftp      anonymous         1200 May 17  2024 "
FOUND = [File("10028/a", 1200, 1_715_941_200, coarse_mtime=True)]
LITTLE = 3_000_000  # bytes of Python's memory

Said = bytes | Iterable[bytes]


class FtpScript:
    """An FTP server on loopback that lists `lines`.

    Args:
        lines: what a LIST sends.
        replies: what is said to a command instead of the usual; by the command's first word, `""` for the welcome.
    """

    def __init__(self, lines: Iterable[bytes], replies: Mapping[str, Said] | None = None) -> None:
        self._lines = lines
        self._replies = replies or {}
        self.commands: list[str] = []
        self._control = socket.create_server(("127.0.0.1", 0))
        self._data = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._control.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._control, self._data):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._thread.join(SOON)

    def _serve(self) -> None:
        with suppress(OSError):
            line, _ = self._control.accept()
            line.settimeout(SOON)
            with line, line.makefile("rb") as heard:
                self._say(line, "", b"220 welcome\r\n")
                for command in heard:
                    text = command.decode("latin-1").rstrip("\r\n")
                    self.commands.append(text)
                    self._obey(line, text.partition(" ")[0])

    def _obey(self, line: socket.socket, word: str) -> None:
        port = self._data.getsockname()[1]
        usual = {
            "USER": b"230 in\r\n",
            "CWD": b"250 there\r\n",
            "TYPE": b"200 text\r\n",
            "PASV": f"227 here (127,0,0,1,{port >> 8},{port & 255})\r\n".encode(),
            "LIST": b"150 now\r\n",
        }
        self._say(line, word, usual.get(word, b"221 bye\r\n"))
        if word == "LIST":
            with closing(self._data.accept()[0]) as data, suppress(OSError):
                for said in self._lines:
                    data.sendall(said)
            self._say(line, "226", b"226 done\r\n")

    def _say(self, line: socket.socket, word: str, usual: bytes) -> None:
        said = self._replies.get(word, usual)
        for piece in (said,) if isinstance(said, bytes) else said:
            line.sendall(piece)


def asked(server: FtpScript, folder: Path, directory: str = "10028", root: str = "/empiar") -> list[File]:
    """Request the sizes of `directory`."""
    one = FtpSizes(f"ftp://127.0.0.1:{server.port}{root}", folder / "note", lambda: lambda: None)
    return list(one.measure_all(directory, STUBS))


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ftp, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(ftp, "LONGEST_SECONDS", 2.0)


def test_the_usual_list_of_this_server_is_taken(tmp_path: Path) -> None:
    """The list that the tests below change is accepted without changes."""
    with FtpScript([LINE + b"a\r\n"]) as server:
        assert asked(server, tmp_path) == FOUND


def test_names_that_are_not_in_the_listing_take_no_memory(tmp_path: Path) -> None:
    """A hundred megabytes of names that are not in the listing take no memory."""
    lines = (b"".join(LINE + b"%d%s\r\n" % (number, b"x" * 3000) for _ in range(20)) for number in range(1500))
    with FtpScript(itertools.chain(lines, [LINE + b"a\r\n"])) as server:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ftp, "LONGEST_SECONDS", SOON)
                assert asked(server, tmp_path) == FOUND
            assert tracemalloc.get_traced_memory()[1] - before < LITTLE
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(("limit", "value"), [("MOST_LINES", 100), ("MOST_BYTES", 10_000)])
def test_a_list_that_is_too_long_is_no_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    """A list with too many lines or bytes is refused."""
    monkeypatch.setattr(ftp, limit, value)
    with FtpScript([LINE + b"a\r\n"] * 1000) as server, pytest.raises(Unavailable, match="too long"):
        asked(server, tmp_path)


def drip(text: bytes) -> Iterator[bytes]:
    """Yield a byte of `text` each tenth of a second, over and over."""
    for byte in itertools.cycle(text):
        time.sleep(0.1)
        yield bytes([byte])


ENDLESS: dict[str, tuple[Iterable[bytes], dict[str, Callable[[], Said]]]] = {
    "a list that drips": (drip(LINE + b"a\r\n"), {}),
    "a line without end": (itertools.repeat(b"x" * 65536), {}),
    "a welcome without end": ((), {"": lambda: itertools.repeat(b"220-hello\r\n" * 1000)}),
    "a line of a welcome without end": ((), {"": lambda: itertools.repeat(b"220-" + b"x" * 65536)}),
    "a welcome that drips": ((), {"": lambda: drip(b"220-hello\r\n")}),
    "a reply that drips": ((), {"CWD": lambda: drip(b"250-hello\r\n")}),
    "a farewell that drips": ((), {"CWD": lambda: b"550 no\r\n", "QUIT": lambda: drip(b"221-bye")}),
    "preliminary replies without end": (
        (LINE + b"a\r\n",),
        {"LIST": lambda: itertools.repeat(b"150 now\r\n" * 99)},
    ),
    "silence": ((), {"CWD": lambda: b""}),
    "a port that is none": ((), {"PASV": lambda: b"227 (127,0,0,1,999,999)\r\n"}),
    "a port of many digits": ((), {"PASV": lambda: b"227 (127,0,0,1," + b"9" * 5000 + b",1)\r\n"}),
    "no address": ((), {"PASV": lambda: b"227 entering\r\n"}),
    "a status that is none": ((), {"CWD": lambda: b"\xff\xfe\r\n"}),
    "an empty reply": ((), {"CWD": lambda: b"\r\n"}),
}


@pytest.mark.promise(
    "Every reply is bounded: headers, bodies, chunks, trailers and FTP lists that are endless or too slow are "
    "given up in bounded time and memory."
)
@pytest.mark.parametrize("what", ENDLESS)
def test_an_endless_or_invalid_reply_is_unavailable_soon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    """An endless, slow or invalid reply raises Unavailable soon."""
    monkeypatch.setattr(ftp, "LONGEST_SECONDS", 0.7)
    lines, replies = ENDLESS[what]
    with FtpScript(lines, {word: make() for word, make in replies.items()}) as server:
        begun = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            asked(server, tmp_path)
        assert time.monotonic() - begun < SOON / 2
    assert caught.value.reason.isprintable()


def test_a_passive_address_elsewhere_is_not_called(tmp_path: Path) -> None:
    """Data connections go to the host of the server, whatever address a reply names."""
    with closing(socket.create_server(("127.0.0.2", 0))) as victim:
        victim.setblocking(False)
        port = victim.getsockname()[1]
        reply = f"227 there (127,0,0,2,{port >> 8},{port & 255})\r\n".encode()
        with FtpScript([LINE + b"a\r\n"], {"PASV": reply}) as server, pytest.raises(Unavailable):
            asked(server, tmp_path)
        with pytest.raises(BlockingIOError):
            victim.accept()


@pytest.mark.parametrize("name", ["a\r\nDELE b", "a\nDELE b", "a\rDELE b", "\n", "a\n"])
@pytest.mark.parametrize("place", ["directory", "root"])
def test_a_name_is_no_command(tmp_path: Path, name: str, place: str) -> None:
    """A line end in a name or in the address never starts another command."""
    escaped = name.replace("\r", "%0d").replace("\n", "%0a")
    directory, root = (f"10028/{name}", "/empiar") if place == "directory" else ("10028", f"/{escaped}")
    with FtpScript([LINE + b"a\r\n"]) as server, pytest.raises(Unavailable):
        asked(server, tmp_path, directory, root)
    assert {command.partition(" ")[0] for command in server.commands} <= {"USER", "PASS", "QUIT"}


def test_a_whole_list_whose_end_drips_is_right_soon(tmp_path: Path) -> None:
    """A whole list whose final reply trickles is accepted soon."""
    with FtpScript([LINE + b"a\r\n"], {"226": drip(b"2")}) as server:
        begun = time.monotonic()
        assert asked(server, tmp_path) == FOUND
        assert time.monotonic() - begun < SOON / 2


def test_the_words_of_a_server_do_not_reach_the_terminal(tmp_path: Path) -> None:
    """The text of a server's error becomes one printable line."""
    reply = b"550-\x1b[2J\r\n" + b"550-" + b"x" * 5000 + b"\r\n550 \x07no\r\n"
    with FtpScript([], {"CWD": reply}) as server, pytest.raises(Unavailable) as caught:
        asked(server, tmp_path)
    assert caught.value.reason.isprintable()
    assert len(caught.value.reason) < 300


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=300))
@example("-rw-r--r-- 1 a b " + "9" * 19 + " May 17 2024 a")
@example("-rw-r--r-- 1 a b \xb2 May 17 2024 a")
@example("-rw-r--r-- 1 a b 5 May 17 2024 a -> /etc/passwd")
@example("-rw-r--r-- " + "1 " * 5000)
def test_any_line_gives_a_size_that_a_file_can_have_or_nothing(text: str) -> None:
    """Any line gives a name with a valid size, or nothing."""
    for line in (text, LINE.decode() + text, text + " 5 May 17 2024 a"):
        for name, size in sizes([line]).items():
            assert name
            assert 0 <= size < 10**18


NUMBERS = st.one_of(st.integers(min_value=-5, max_value=10**19), st.sampled_from([0, 650, 1200, 10**18]))


@given(
    found=st.dictionaries(st.sampled_from("abcd"), NUMBERS),
    listed=st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["1.2K", "17", "-", "", "9E", "650", "x"])),
    date=st.sampled_from([DATE, "", "29-Nov-2005 16:27", "0000-00-00 00:00"]),
)
def test_a_size_that_the_listing_cannot_round_is_never_a_files(
    found: dict[str, int], listed: dict[str, str], date: str
) -> None:
    """Every accepted size is one that the listing may show as it does."""
    stubs = [stub(f"10028/{name}", size, date) for name, size in listed.items()]
    for file in agreeing(found, stubs):
        listed_size = listed[file.path.rpartition("/")[2]]
        rounded = size_range(listed_size)
        assert rounded is not None
        assert file.size in rounded


@given(text=st.text(alphabet="-rwx 19amp\t>", max_size=4000))
def test_no_line_takes_long(text: str) -> None:
    """Any line is parsed in less than a second."""
    begun = time.process_time()
    sizes([LINE.decode()[:-1] + text])
    assert time.process_time() - begun < 1
