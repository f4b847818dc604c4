"""Exact sizes of a directory by one FTP LIST. Never data: EBI's firewall bans addresses that read parts by FTP."""

import contextlib
import ftplib
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from empiarfs.empiar import pages
from empiarfs.errors import Unavailable
from empiarfs.model import File, Stub, name_of

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
SILENCE_SECONDS = 5.0
DAY = 86400.0
LONGEST_LINE = 4096
MOST_LINES = 1_000_000
# -rw-r--r--   1 ftp  anonymous  67109888 May 17  2024 name, which may hold spaces
_LINE = re.compile(r"-[rwxsStT-]{9}[.+@]?\s+\d+\s+\S+\s+\S+\s+(\d{1,18})\s+\S+\s+\S+\s+\S+ (.+)")


class FtpSizes:
    """Sizes from the FTP server that shows the same tree.

    Args:
        url: the same directory as the base URL, on FTP: `ftp://ftp.ebi.ac.uk/empiar/world_availability`. Where it
            has no user name and password the login is anonymous.
        note: a file that is there while the server is known not to answer; so nobody waits for it twice a day.
        slot: takes a slot of the machine's budget of connections, and gives what gives it back.
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

    def measured(self, directory: str, stubs: Sequence[Stub]) -> Sequence[File]:
        """See `Sizes.measured`. The whole list is dropped where a size is not what the HTML listing rounds."""
        if self._is_silent():
            raise Unavailable(directory, "FTP did not answer, and is asked once a day")
        try:
            release = self._slot()
        except OSError as error:  # our own programs use all connections: no word about the server
            raise Unavailable(directory, str(error)) from error
        try:
            lines = self._listed(directory)
        except (OSError, EOFError, ftplib.Error, ValueError) as error:
            if isinstance(error, TimeoutError | ConnectionRefusedError):
                with contextlib.suppress(OSError):
                    self._note.touch()
            raise Unavailable(directory, f"FTP gives no list: {error}") from error
        finally:
            release()
        return agreeing(sizes(lines), stubs)

    def _is_silent(self) -> bool:
        try:
            return 0 <= time.time() - self._note.stat().st_mtime < DAY  # the clock may have been set back
        except OSError:
            return False

    def _listed(self, directory: str) -> list[str]:
        lines: list[str] = []

        def take(line: str) -> None:
            if len(lines) >= MOST_LINES:
                raise ValueError("the list is too long")
            lines.append(line)

        with self._entered(directory) as ftp:
            ftp.retrlines("LIST", take)
        return lines

    @contextlib.contextmanager
    def _entered(self, directory: str) -> Iterator[ftplib.FTP]:
        """Connect, and go to `directory`."""
        with ftplib.FTP(timeout=CONNECT_SECONDS, encoding="latin-1") as ftp:  # noqa: S321 - public, and names only
            ftp.connect(self._host, self._port)
            assert ftp.sock is not None  # noqa: S101 - connected
            ftp.sock.settimeout(SILENCE_SECONDS)
            ftp.timeout = SILENCE_SECONDS
            ftp.login(*self._login)
            path = directory.encode("utf-8", "surrogateescape").decode("latin-1")
            ftp.cwd(f"{self._root}/{path}")
            yield ftp

    def check(self) -> None:
        """See that the server answers and has the directory; nothing is listed.

        Raises:
            Unavailable: it does not.
        """
        release = self._slot()
        try:
            with self._entered(""):
                pass
        except (OSError, EOFError, ftplib.Error) as error:
            raise Unavailable("", f"FTP does not answer: {error}") from error
        finally:
            release()


def sizes(lines: Sequence[str]) -> dict[str, int]:
    """Give the sizes of the plain files in a Unix-form LIST, by name; lines of another form are left out."""
    matches = (_LINE.fullmatch(line) for line in lines if len(line) <= LONGEST_LINE)
    return {_name(match[2]): int(match[1]) for match in matches if match}


def agreeing(found: dict[str, int], stubs: Sequence[Stub]) -> list[File]:
    """Give the stubs as files of the sizes `found`; none at all where one size is not what the listing rounds."""
    files = []
    for stub in stubs:
        size = found.get(name_of(stub.path))
        modified = pages.seconds(stub.listed_date)
        allowed = pages.size_range(stub.listed_size)
        if size is None or modified is None or allowed is None:
            continue  # in one list and not the other: a server behind the balance may lag; it is measured by itself
        if size not in allowed:
            log.warning("FTP and HTTPS disagree about %s; files are measured one by one", stub.path)
            return []
        files.append(File(stub.path, size, modified, listed=True))
    return files


def _name(text: str) -> str:
    return text.encode("latin-1").decode("utf-8", "surrogateescape")
