"""Gets the exact sizes of a directory by one FTP LIST; never data: EBI bans addresses that read parts by FTP."""

import contextlib
import ftplib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from empiarfs.empiar import autoindex_fields
from empiarfs.errors import Unavailable
from empiarfs.model import File, Stub, base_name
from empiarfs.units import MIB

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
SILENCE_SECONDS = 5.0
LONGEST_SECONDS = 120.0  # for a whole list: 100,000 names over a slow connection; no reader waits so long
DAY = 86400.0
LONGEST_LINE = 4096
MOST_LINES = 1_000_000  # as for an index page
MOST_BYTES = 512 * MIB  # of a list, as for an index page
MOST_REPLY_LINES = 1000  # of all replies together; a welcome has some tens
LONGEST_WORDS = 200  # characters of a message of the server
TROUBLES = (OSError, EOFError, ftplib.Error, ValueError, OverflowError)
# -rw-r--r--   1 ftp  anonymous  67109888 May 17  2024 name, which may hold spaces
_LINE = re.compile(r"-[rwxsStT-]{9}[.+@]?\s+\d+\s+\S+\s+\S+\s+(\d{1,18})\s+\S+\s+\S+\s+\S+ (.+)")


class FtpSizes:
    """Sizes from the FTP server that serves the same tree.

    Args:
        url: the same directory as the base URL, on FTP: `ftp://ftp.ebi.ac.uk/empiar/world_availability`. Without
            user name and password the login is anonymous.
        note: a file that records that the server did not answer; it is then not tried again for a day.
        slot: acquires a slot of the machine's limit on connections, and returns what releases it.
    """

    def __init__(self, url: str, note: Path, slot: Callable[[], Callable[[], None]]) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or ftplib.FTP_PORT
        self._root = unquote(parts.path, "latin-1").rstrip("/")
        self._login = [unquote(part) for part in (parts.username, parts.password) if part is not None]
        self._note = note
        self._slot = slot

    def __repr__(self) -> str:
        return f"<FtpSizes {self._host}:{self._port}>"

    def measure_all(self, directory: str, stubs: Sequence[Stub]) -> Sequence[File]:
        """See `Sizes.measure_all`; drop the whole list if a size does not round to that of the HTML listing."""
        if self._is_silent():
            raise Unavailable(directory, "FTP did not answer, and is tried once a day")
        try:
            release = self._slot()
        except OSError as error:  # the user's own programs use all connections; the server may be well
            raise Unavailable(directory, str(error)) from error
        try:
            found = self._list(directory, {base_name(stub.path) for stub in stubs})
        except TROUBLES as error:
            if isinstance(error, TimeoutError | ConnectionRefusedError):
                with contextlib.suppress(OSError):
                    self._note.touch()
            raise Unavailable(directory, f"no list over FTP: {_words(error)}") from error
        finally:
            release()
        return agreeing(found, stubs)

    def _is_silent(self) -> bool:
        try:
            return 0 <= time.time() - self._note.stat().st_mtime < DAY  # the clock may have been set back
        except OSError:
            return False

    def _list(self, directory: str, wanted: set[str]) -> dict[str, int]:
        """Return the sizes of those names of `wanted` that are listed, without storing the list itself."""
        found: dict[str, int] = {}
        count = heard = 0

        def take(line: str) -> None:
            nonlocal count, heard
            count += 1
            heard += len(line)
            if count > MOST_LINES or heard > MOST_BYTES:
                raise ValueError("the list is too long")
            found.update((name, size) for name, size in sizes([line]).items() if name in wanted)

        with self._entered(directory) as ftp:
            ftp.retrlines("LIST", take)
        return found

    @contextlib.contextmanager
    def _entered(self, directory: str) -> Iterator[ftplib.FTP]:
        """Connect, and change to `directory`; end after `LONGEST_SECONDS`, whatever the server does."""
        ftp = _Connection()
        end = threading.Timer(LONGEST_SECONDS, ftp.shut_down)
        end.daemon = True
        end.start()
        try:
            with ftp:
                ftp.connect(self._host, self._port)
                assert ftp.sock is not None  # noqa: S101 - connected
                ftp.sock.settimeout(SILENCE_SECONDS)
                ftp.timeout = SILENCE_SECONDS
                ftp.login(*self._login)
                path = directory.encode("utf-8", "surrogateescape").decode("latin-1")
                ftp.cwd(f"{self._root}/{path}")  # a name with a newline would be two commands; ftplib refuses it
                yield ftp
        finally:
            end.cancel()

    def check(self) -> None:
        """Check that the server answers and has the directory, without listing it.

        Raises:
            Unavailable: it does not answer.
        """
        release = self._slot()
        try:
            with self._entered(""):
                pass
        except TROUBLES as error:
            raise Unavailable("", f"FTP does not answer: {_words(error)}") from error
        finally:
            release()


class _Connection(ftplib.FTP):
    """A connection with bounded replies, which another thread can shut down."""

    def __init__(self) -> None:
        super().__init__(timeout=CONNECT_SECONDS, encoding="latin-1")
        self._heard = 0
        self._data: socket.socket | None = None

    def getline(self) -> str:
        """Return the next line of a reply; raise ValueError beyond `MOST_REPLY_LINES`, as ftplib has no limit."""
        self._heard += 1
        if self._heard > MOST_REPLY_LINES:
            raise ValueError("the reply is too long")
        line: str = super().getline()
        return line

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        """Begin a transfer, and record its connection."""
        self._data, size = super().ntransfercmd(cmd, rest)
        return self._data, size

    def shut_down(self) -> None:
        """Shut both connections down, that of the replies first, so that reads from them end."""
        for one in (self.sock, self._data):
            if one is not None:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)


def sizes(lines: Iterable[str]) -> dict[str, int]:
    """Return the sizes of the regular files in a Unix-style LIST, by name; other lines are ignored."""
    matches = (_LINE.fullmatch(line) for line in lines if len(line) <= LONGEST_LINE)
    return {_name(match[2]): int(match[1]) for match in matches if match}


def agreeing(found: dict[str, int], stubs: Sequence[Stub]) -> list[File]:
    """Return the stubs as files of the sizes `found`; none if any size does not round to that of the listing."""
    files = []
    for stub in stubs:
        size = found.get(base_name(stub.path))
        modified = autoindex_fields.seconds(stub.listed_date)
        allowed = autoindex_fields.size_range(stub.listed_size)
        if size is None or modified is None or allowed is None:
            continue  # in one list only, as a server behind the balancer may lag: measured by a request of its own
        if size not in allowed:
            log.warning("FTP and HTTPS disagree about %s; files are measured one by one", stub.path)
            return []
        files.append(File(stub.path, size, modified, coarse_mtime=True))
    return files


def _name(text: str) -> str:
    return text.encode("latin-1").decode("utf-8", "surrogateescape")


def _words(error: Exception) -> str:
    """Return the message of `error`, which may be the server's, on one line without control characters."""
    text = " ".join(str(error).split())[:LONGEST_WORDS]
    return text if text.isprintable() else type(error).__name__
