"""A real Apache on loopback that serves a directory as EBI serves EMPIAR."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

BASE = "/empiar/world_availability"
DEADLINE = 20.0  # seconds for whatever takes a tenth of one

_STATIC = {"log_config", "unixd"}  # built in on Debian and Ubuntu, modules elsewhere
_MODULES = ("mpm_event", "authz_core", "dir", "mime", "autoindex", "alias", "log_config", "log_forensic", "unixd")
_MODULE_FOLDERS = ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/etc/httpd/modules")
_PROGRAMS = ("apache2", "httpd")
_IGNORED = "IndexIgnore .??* *~ *# HEADER* README* RCS CVS *,v *,t"  # mod_autoindex as Debian and Fedora ship it

# the shape of EBI's pages (a table, ISO dates, cut texts), and that of an Apache without HTMLTable
_TABLE = "IndexOptions FancyIndexing HTMLTable NameWidth=40"
_PRE = "IndexOptions FancyIndexing VersionSort NameWidth=23"
_ICONS = """\
DefaultIcon /icons/unknown.gif
AddIcon /icons/back.gif ..
AddIcon /icons/folder.gif ^^DIRECTORY^^
AddIconByType (TXT,/icons/text.gif) text/*
AddIconByType (IMG,/icons/image2.gif) image/*"""


@dataclass(frozen=True, slots=True)
class Request:
    """One request that reached the server.

    Attributes:
        method: as `"GET"`.
        path: below the numbered entries, unescaped; a directory's ends in a slash.
        range: the header's value; empty where there was none.
        status: of the reply; 0 where it is not finished.
        sent: bytes of the reply's body.
    """

    method: str
    path: str
    range: str
    status: int
    sent: int


class Apache:
    """An Apache of its own: its own root, port, process and log.

    Args:
        tree: served under `BASE`.
        pre: lists as preformatted text, not as a table.
        closed: directories below `tree` that are served without a listing (403).
        extra: further lines of configuration.

    Raises:
        RuntimeError: it does not start; with its own words.
    """

    def __init__(self, tree: Path, *, pre: bool = False, closed: Sequence[str] = (), extra: str = "") -> None:
        self._tree = tree
        self._pre = pre
        self._closed = closed
        self._extra = extra
        self._begun = 0
        self._root = Path(tempfile.mkdtemp(prefix="empiarfs-apache-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        """The URL of the numbered entries."""
        return f"http://127.0.0.1:{self.port}{BASE}"

    def start(self) -> None:
        """Start it, on the port it had before or on a free one."""
        for _ in range(5):  # another program may take the port between the look and the start
            self.port = self.port or _free_port()
            (self._root / "conf").write_text(self._configuration())
            with (self._root / "stderr").open("wb") as words:
                self._process = subprocess.Popen(
                    [_program(), "-DFOREGROUND", "-d", str(self._root), "-f", str(self._root / "conf")],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=words,
                )
            if _before_deadline(lambda: self._answers() or self._ended()) and self._answers():
                return
            self.stop()
            self.port = 0
        said = self._words()
        self.close()
        raise RuntimeError(f"Apache does not start:\n{said}")

    def stop(self) -> None:
        """Stop it; its port refuses connections from then on. Its log stays."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def close(self) -> None:
        """Stop it and take its files away."""
        self.stop()
        shutil.rmtree(self._root, ignore_errors=True)

    def clear(self) -> None:
        """Forget the requests so far."""
        self._begun = len(self._lines("begun"))

    def requests(self, method: str = "", path: str = "") -> list[Request]:
        """Return the requests since the last `clear`, in the order of their arrival.

        Each stands in the log from the moment it arrives, so none is missed; those under way are waited for.

        Args:
            method: only these.
            path: only these; a pattern that must match the whole path.
        """
        _before_deadline(lambda: not [one for one in self._all() if not one.status], seconds=2.0)
        return [
            one
            for one in self._all()
            if (not method or one.method == method) and (not path or re.fullmatch(path, one.path))
        ]

    def _all(self) -> list[Request]:
        arrived = self._lines("begun")
        ended = dict(line.split(" ", 1) for line in self._lines("ended"))
        return [_request(line, ended) for line in arrived[self._begun :]]

    def _lines(self, log: str) -> list[str]:
        text = (self._root / log).read_text(encoding="latin-1") if (self._root / log).exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        if log == "begun":  # what starts with a minus is the end of a request, without its status
            return [line for line in lines if line.startswith("+") and BASE in line]
        return lines

    def _answers(self) -> bool:
        with socket.socket() as line:
            line.settimeout(1)
            return not self._ended() and line.connect_ex(("127.0.0.1", self.port)) == 0

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _words(self) -> str:
        files = [self._root / "stderr", self._root / "error"]
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def _configuration(self) -> str:
        modules = next((folder for folder in _MODULE_FOLDERS if Path(folder).is_dir()), "modules")
        load = [
            f"<IfModule !{name}_module>\nLoadModule {name}_module {modules}/mod_{name}.so\n</IfModule>"
            if name in _STATIC
            else f"LoadModule {name}_module {modules}/mod_{name}.so"
            for name in _MODULES
        ]
        closed = [f'<Directory "{self._tree}/{one}">\nOptions -Indexes\n</Directory>' for one in self._closed]
        # as root, Apache serves as another user, and wants one that is not root
        user = ["User nobody", f"Group #{_nobody_group()}"] if os.geteuid() == 0 else []
        (self._root / "types").write_text("text/plain txt star mdoc\ntext/xml xml\nimage/tiff tif tiff\n")
        return "\n".join(
            [
                f'ServerRoot "{self._root}"',
                f'PidFile "{self._root}/pid"',
                f"Listen 127.0.0.1:{self.port}",
                "ServerName localhost",
                *load,
                *user,
                "StartServers 1\nThreadsPerChild 64\nMaxRequestWorkers 64\nMinSpareThreads 1",
                "GracefulShutdownTimeout 1",
                "LimitRequestLine 65536",  # 8 names of 255 bytes, each of them escaped
                "MaxKeepAliveRequests 0",
                "KeepAliveTimeout 30",
                f'TypesConfig "{self._root}/types"',
                f'ErrorLog "{self._root}/error"',
                f'ForensicLog "{self._root}/begun"',
                r'LogFormat "%{forensic-id}n %>s %B" short',
                f'CustomLog "{self._root}/ended" short',
                f'DocumentRoot "{self._tree}"',
                f'Alias "{BASE}" "{self._tree}"',
                "DirectoryIndex disabled",
                f'<Directory "{self._tree}">',
                "Options Indexes FollowSymLinks",
                "AllowOverride None",
                "Require all granted",
                _PRE if self._pre else _TABLE,
                _IGNORED,
                _ICONS,
                "</Directory>",
                *closed,
                self._extra,
                "",
            ]
        )


def _request(line: str, ended: dict[str, str]) -> Request:
    """Read a line of the forensic log, whose fields are escaped: +id|GET /path HTTP/1.1|Header:value|..."""
    name, request, *headers = (unquote(field, "latin-1") for field in line[1:].split("|"))
    method, _, rest = request.partition(" ")
    escaped = rest.rpartition(" ")[0].removeprefix(BASE).removeprefix("/")
    path = unquote_to_bytes(escaped).decode("utf-8", "surrogateescape")
    wanted = [header[6:] for header in headers if header.lower().startswith("range:")]
    status, sent = ended.get(name, "0 0").split()
    return Request(method, path, wanted[0] if wanted else "", int(status), int(sent))


def _program() -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    for name in _PROGRAMS:
        found = shutil.which(name, path=path)
        if found:
            return found
    raise RuntimeError(f"there is no Apache ({shlex.join(_PROGRAMS)}); apt install apache2-bin")


def _nobody_group() -> int:
    import pwd  # noqa: PLC0415 - not on every system that imports this module

    return pwd.getpwnam("nobody").pw_gid


def _free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        port: int = line.getsockname()[1]
        return port


def _before_deadline(done: Callable[[], object], seconds: float = DEADLINE) -> bool:
    """Return whether `done` came true in time."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
