"""Faults of FTP: sizes that do not come, or are wrong, cost requests and nothing else."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.apache import Apache
from support.fault_proxy import FaultProxy
from support.fault_trial import threads
from support.mounting import eventually

from empiarfs import wire
from empiarfs.archive import Archive
from empiarfs.empiar import ftp
from empiarfs.model import base_name
from empiarfs.settings import Settings
from empiarfs.units import MIB

COUNT = 24  # files; enough for their sizes to be asked for together
SIZES = {f"{number:03}.mrc": 5_000 + number for number in range(COUNT)}
PROMPT = 8.0  # seconds for all of them, whatever FTP does

REPLIES = {"USER": "331 who", "PASS": "230 in", "TYPE": "200 yes", "CWD": "250 there", "QUIT": "221 bye"}
FAULTS = (
    "none",
    "refused",
    "a silent greeting",
    "421 at the greeting",
    "garbage at the greeting",
    "530 at PASS",
    "550 at CWD",
    "reset at LIST",
    "silence at LIST",
    "silence in the list",
    "a list that is cut",
    "a list that is cut, and 226",
    "a list of other sizes",
    "a page in place of the list",
    "one byte a second",
)


class FtpServer:
    """An FTP server that lists a directory, with one fault."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.asked = 0
        self._over = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._open: list[socket.socket] = []
        if fault == "refused":
            self._socket.close()
        else:
            threading.Thread(target=self._accept, name="ftp", daemon=True).start()

    def close(self) -> None:
        """Close all connections."""
        self._over.set()
        for line in (self._socket, *self._open):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._socket.accept()
                self.asked += 1
                self._open.append(line)
                threading.Thread(target=self._serve, args=(line,), name="ftp", daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with line, suppress(OSError), socket.create_server(("127.0.0.1", 0)) as data:
            if self.fault == "a silent greeting":
                self._over.wait()
                return
            greetings = {"421 at the greeting": "421 full", "garbage at the greeting": "\x16\x03\x01"}
            self._say(line, greetings.get(self.fault, "220 ready"))
            for command in line.makefile(encoding="latin-1"):
                word = command.split()[0].upper()
                if word in {"PASV", "EPSV"}:
                    port = data.getsockname()[1]
                    self._say(
                        line, f"229 (|||{port}|)" if word == "EPSV" else f"227 (127,0,0,1,{port >> 8},{port & 255})"
                    )
                elif word == "LIST":
                    self._list(line, data)
                elif self.fault.endswith(f"at {word}"):
                    self._say(line, f"{self.fault[:3]} no")
                else:
                    self._say(line, REPLIES.get(word, "502 what"))

    def _say(self, line: socket.socket, text: str) -> None:
        line.sendall(f"{text}\r\n".encode("latin-1"))

    def _list(self, line: socket.socket, data: socket.socket) -> None:
        if self.fault == "reset at LIST":
            line.close()
            return
        if self.fault == "silence at LIST":
            self._over.wait()
            return
        self._say(line, "150 here")
        sent, _ = data.accept()
        self._open.append(sent)
        with sent:
            sent.sendall(self._begin())
            if self.fault == "silence in the list":
                self._over.wait()
            for byte in self._drip():
                sent.sendall(byte)
                if self._over.wait(1):
                    break
        self._say(line, "426 cut" if self.fault == "a list that is cut" else "226 done")

    def _begin(self) -> bytes:
        wrong = 1_000_000 if self.fault == "a list of other sizes" else 0
        lines = [f"-rw-r--r-- 1 ftp ftp {size + wrong} May 17 2024 {name}\r\n" for name, size in SIZES.items()]
        page = "<html><body>Forbidden</body></html>\r\n"
        whole = (page if self.fault == "a page in place of the list" else "".join(lines)).encode()
        if self.fault == "one byte a second":
            return b""
        return whole[: len(whole) // 2 - 3] if "cut" in self.fault or "silence" in self.fault else whole

    def _drip(self) -> Iterator[bytes]:
        while self.fault == "one byte a second":
            yield b"-"


@pytest.fixture
def listed(open_folder: Path) -> Iterator[FaultProxy]:
    """A server of many small files."""
    folder = open_folder / "10028" / "data"
    folder.mkdir(parents=True)
    for name, size in SIZES.items():
        (folder / name).write_bytes(bytes(size))
    apache = Apache(open_folder)
    server = FaultProxy(apache.url)
    yield server
    server.close()
    apache.close()


def measured(archive: Archive) -> dict[str, int]:
    """Return the sizes of all files, as 8 threads of `ls -l` get them."""
    found: dict[str, int] = {}

    def walk(first: int) -> None:
        for node in archive.listdir("10028/data")[first::8]:
            found[base_name(node.path)] = archive.open(node.path).file.size

    walks = [threading.Thread(target=walk, args=(first,)) for first in range(8)]
    for one in walks:
        one.start()
    for one in walks:
        one.join(PROMPT)
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_sizes_are_right_whatever_ftp_does(
    fault: str, listed: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file has its own size soon, and no thread of FTP is left when the archive is closed."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(ftp, "LONGEST_SECONDS", 3.0)
    before = threads()
    server = FtpServer(fault)
    archive = wire.archive(
        Settings(
            base_url=listed.url,
            ftp_url=f"ftp://127.0.0.1:{server.port}/empiar",
            cache_dir=tmp_path / "cache",
            memory_cache_size=64 * MIB,
        )
    )
    assert measured(archive) == SIZES
    asked_one_by_one = listed.count("HEAD", "10028/data/.*")
    if fault == "none":
        assert asked_one_by_one < COUNT
    archive.close()
    eventually(lambda: {one for one in threads() - before if one.name != "ftp"} == set(), "all threads have ended")
    server.close()
    assert server.asked == (fault != "refused")
