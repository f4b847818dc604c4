"""A server on loopback whose tree changes and which causes faults, with a diary of what it sent."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import unquote_to_bytes

from empiarfs.model import base_name, join, parent_path
from empiarfs.sample import index_page
from support.scripted import ROOT, Reply, Request, ScriptedServer

BEGUN = 1_700_000_040  # a whole minute
APART = 420  # seconds between the dates of two versions: each change shows in a listing, which knows minutes
MISFORTUNES = (
    "503",
    "500",
    "nothing",
    "reset",
    "cut",
    "cut and reset",
    "another part",
    "the start",
    "a page",
    "404",
)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a file."""

    content: bytes
    modified: int

    @property
    def stamp(self) -> str:
        """What a listing shows of it: its rounded size, and its date."""
        return f"{index_page.listed_size(len(self.content)).strip()} {self.modified // 60}"


@dataclass(frozen=True, slots=True)
class Listed:
    """A listing was sent: by name what it showed of a file, None for a directory."""

    directory: str
    rows: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Measured:
    """The size and date of a file were sent; `version` is None for a directory."""

    path: str
    version: Version | None


@dataclass(frozen=True, slots=True)
class Missed:
    """It was said of `path` that it is not there."""

    path: str


@dataclass(frozen=True, slots=True)
class Begun:
    """The first bytes of a file were sent with its size and date; whoever did not know these knows them now."""

    path: str
    version: Version


Event = Listed | Measured | Missed | Begun


@dataclass
class Served:
    """The tree, and how it is served.

    Attributes:
        files: the version of each file that is there now.
        directories: all that there are.
        diary: what was said, in order.
        misfortunes: what goes wrong with the next requests, one each.
        is_down: whether every request is refused.
        before_next_part: called once, before the next part of a file is sent.
        sent: bytes of the parts of files that were sent.
        complaints: what no good client does.
    """

    files: dict[str, Version] = field(default_factory=dict)
    directories: set[str] = field(default_factory=lambda: {""})
    diary: list[Event] = field(default_factory=list)
    misfortunes: deque[str] = field(default_factory=deque)
    is_down: bool = False
    before_next_part: Callable[[], object] | None = None
    sent: int = 0
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._versions = 0
        self.server = ScriptedServer(self._answer)

    @property
    def url(self) -> str:
        """Where it is."""
        return self.server.base_url

    def make(self, directory: str) -> None:
        """Make a directory, and those above it."""
        while directory:
            self.directories.add(directory)
            directory = parent_path(directory)

    def write(self, path: str, content: bytes) -> None:
        """Let a file hold `content`, with a date of its own."""
        with self._lock:
            self._versions += 1
            self.make(parent_path(path))
            self.files[path] = Version(content, BEGUN + APART * self._versions)

    def remove(self, path: str) -> None:
        """Take a file away."""
        with self._lock:
            del self.files[path]

    def rows(self, directory: str) -> dict[str, Version | None]:
        """Return what stands in `directory`, by name."""
        below: dict[str, Version | None] = {
            base_name(one): None for one in self.directories if one and parent_path(one) == directory
        }
        return below | {base_name(path): one for path, one in self.files.items() if parent_path(path) == directory}

    def _answer(self, request: Request) -> Reply | None:
        with self._lock:
            if self.is_down:
                return Reply("503 Service Unavailable", {"Content-Length": "0"})
            path = unquote_to_bytes(request.target).decode().removeprefix(ROOT).removeprefix("/")
            said = len(self.diary)
            reply = self._good(request, path)
            misfortune = self.misfortunes.popleft() if self.misfortunes else ""
            content = self.files[path].content if path in self.files else b""
            broken = self._broken(misfortune, request, reply, content)
            if broken is not reply:
                del self.diary[said:]  # the reply is not to be believed
                if misfortune == "404" and broken is not None and broken.status.startswith("404"):
                    self.diary.append(Missed(path))
            elif reply.status.startswith("206"):
                self.sent += len(reply.body)
            return broken

    def _good(self, request: Request, path: str) -> Reply:
        if request.method == "GET" and path in self.files and self.before_next_part is not None:
            change, self.before_next_part = self.before_next_part, None
            self._lock.release()
            try:
                change()
            finally:
                self._lock.acquire()
        if path in self.files:
            return self._file(request, path, self.files[path])
        directory = path.rstrip("/")
        if directory not in self.directories:
            self.diary.append(Missed(path))
            return Reply("404 Not Found", {"Content-Length": "0"})
        if path and not path.endswith("/"):
            self.diary.append(Measured(directory, None))
            return Reply("301 Moved", {"Location": f"{request.target}/", "Content-Length": "0"})
        return self._listing(directory)

    def _listing(self, directory: str) -> Reply:
        rows = self.rows(directory)
        self.diary.append(Listed(directory, {name: one.stamp if one else None for name, one in rows.items()}))
        page = index_page.page(
            join(ROOT.removeprefix("/"), directory).encode(),
            (
                index_page.Row(f"{name}/".encode(), None, BEGUN)
                if one is None
                else index_page.Row(name.encode(), len(one.content), one.modified)
                for name, one in rows.items()
            ),
        )
        return Reply("200 OK", {"Content-Type": "text/html", "Content-Length": str(len(page))}, page)

    def _file(self, request: Request, path: str, version: Version) -> Reply:
        size = len(version.content)
        headers = {"Last-Modified": formatdate(version.modified, usegmt=True)}
        wanted = request.headers.get("range", "")
        if not wanted:
            if request.method != "HEAD":
                self.complaints.append(f"{path}: asked for as a whole")
            self.diary.append(Measured(path, version))
            return Reply("200 OK", {**headers, "Content-Length": str(size)})
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1, size)
        if start >= size:
            return Reply("416 Range Not Satisfiable", {"Content-Length": "0"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        if not start:
            self.diary.append(Begun(path, version))
        return Reply(
            "206 Partial Content", {**headers, "Content-Length": str(stop - start)}, version.content[start:stop]
        )

    def _broken(self, misfortune: str, request: Request, reply: Reply, content: bytes) -> Reply | None:
        """Return what comes in place of `reply`; itself where the misfortune does not fit it."""
        headers, body = reply.headers, reply.body
        if misfortune in {"503", "500"}:
            return Reply(f"{misfortune} Sorry", {"Content-Length": "0"})
        if misfortune == "404" and request.method == "HEAD" and reply.status.startswith("200"):
            return Reply("404 Not Found", {"Content-Length": "0"})
        if misfortune == "nothing" or (misfortune == "reset" and not body):
            return None
        if request.method == "HEAD" or not body:
            return reply
        page = b"<html><body>Sorry, we are having a bad day</body></html>"
        broken = {
            "reset": Reply(reply.status, headers, b"", "reset"),
            "cut": Reply(reply.status, headers, body[: len(body) // 2], "close"),
            "cut and reset": Reply(reply.status, headers, body[: len(body) // 2], "reset"),
            "a page": Reply("200 OK", {"Content-Type": "text/html", "Content-Length": str(len(page))}, page),
        }
        if "Content-Range" in headers:
            start, _, rest = headers["Content-Range"].removeprefix("bytes ").partition("-")
            other = {**headers, "Content-Range": f"bytes {int(start) + 1}-{rest}"}
            broken |= {
                "another part": Reply(reply.status, other, bytes(len(body))),
                "the start": Reply("200 OK", headers, content[: len(body)]),
            }
        return broken.get(misfortune, reply)
