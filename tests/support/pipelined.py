"""A server that gets many HEADs at once, and answers some of them as no server should."""

import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from email.utils import formatdate
from types import TracebackType
from typing import Self

from empiarfs.empiar.pipeline import PipelinedSizes
from empiarfs.model import File, Stub
from empiarfs.sample.index_page import listed_size
from support.fakes import SOON, FakeClock
from support.mounting import eventually
from support.raw_server import RawServer
from support.scripted import Client, Hasty

DIRECTORY = "10028/data"
MODIFIED = 1_700_000_000
LISTED_DATE = "2023-11-14 22:13"  # of it
SILENCE = 0.1  # seconds after which a batch is given up

Pieces = Iterable[bytes | None]  # what is said; a None hangs up
Act = Callable[["Shelf", str], Pieces]  # what is said to the HEAD of a path


def path_of(number: int) -> str:
    """Return the path of a file."""
    return f"{DIRECTORY}/m{number:03}.mrc"


def head(size: int, *, status: str = "200 OK", version: str = "HTTP/1.1", **fields: str) -> bytes:
    """Return the reply to a HEAD; a field of an empty text is left out, `_` stands for `-`."""
    merged = {"Last-Modified": formatdate(MODIFIED, usegmt=True), "Content-Length": str(size)}
    merged |= {name.replace("_", "-"): text for name, text in fields.items()}
    lines = [f"{version} {status}", *(f"{name}: {text}" for name, text in merged.items() if text)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Shelf:
    """Answers HEADs; what is planned for a path happens once.

    Args:
        sizes: of the files, by path.
    """

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes
        self.plan: dict[str, Act] = {}
        self.late: list[bytes] = []  # replies that are sent after the next one
        self.pause = 0.0  # seconds before each reply
        self.over = threading.Event()

    def right(self, path: str) -> bytes:
        """Return the right reply."""
        return head(self.sizes[path])

    def __call__(self, request: bytes) -> Pieces:
        """Answer one request."""
        path = request.split(b" ")[1].decode().removeprefix("/")
        act = self.plan.pop(path, None)
        self.over.wait(self.pause)
        yield from act(self, path) if act is not None else [self.right(path)]
        while act is None and self.late:
            yield self.late.pop()


def answering(change: Callable[[int], bytes]) -> Act:
    """Return the act that answers with what `change` makes of the size."""
    return lambda shelf, path: [change(shelf.sizes[path])]


def with_fields(status: str = "200 OK", **fields: str) -> Act:
    """Return the act that answers with this status and other fields."""
    return answering(lambda size: head(size, status=status, **fields))


def later(shelf: Shelf, path: str) -> Pieces:
    """Answer after the next request."""
    shelf.late.append(shelf.right(path))
    return []


def never(_shelf: Shelf, _path: str) -> Pieces:
    """Leave one request out, and go on with the next one."""
    return []


def twice(shelf: Shelf, path: str) -> Pieces:
    """Answer twice."""
    return [2 * shelf.right(path)]


def with_a_body(shelf: Shelf, path: str) -> Pieces:
    """Answer as to a GET."""
    return [shelf.right(path) + bytes(shelf.sizes[path])]


def in_chunks(shelf: Shelf, path: str) -> Pieces:
    """Answer as to a GET, in chunks."""
    return [head(0, Content_Length="", Transfer_Encoding="chunked"), b"3\r\nabc\r\n0\r\n\r\n"]


def half_and_close(shelf: Shelf, path: str) -> Pieces:
    """Hang up in the middle of the head."""
    return [shelf.right(path)[:40], None]


def close_before(_shelf: Shelf, _path: str) -> Pieces:
    """Hang up in place of a reply."""
    return [None]


def close_after(shelf: Shelf, path: str) -> Pieces:
    """Hang up after the reply, without a word of it."""
    return [shelf.right(path), None]


def announce_and_close(shelf: Shelf, path: str) -> Pieces:
    """Hang up after the reply that announces it, as Apache does after its hundredth."""
    return [head(shelf.sizes[path], Connection="close"), None]


def stall(shelf: Shelf, path: str) -> Pieces:
    """Send a half, and then nothing."""
    yield shelf.right(path)[:40]
    shelf.over.wait(SOON)
    yield None


class Pipelining:
    """A client that measures the files of a shelf in batches.

    Args:
        sizes: of the files, in the order of their listing.
        tls: the certificate of the server, if it is to have one.
        login: the user name and password in the URL, and an at sign.
        silence: the seconds after which a batch is given up.
        clock: monotonic seconds; None for `clock`, which a test moves.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        tls: ssl.SSLContext | None = None,
        login: str = "",
        silence: float = SILENCE,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._tls = tls
        self._login = login
        self._silence = silence
        self._clock = clock
        self.shelf = Shelf({path_of(number): size for number, size in enumerate(sizes)})
        self.stubs = [Stub(path, listed_size(size).strip(), LISTED_DATE) for path, size in self.shelf.sizes.items()]
        self.clock = FakeClock()
        self.times: list[float] = []  # to the first byte of each batch
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.server = self._stack.enter_context(RawServer(self.shelf, tls=self._tls))
        self.client = self._stack.enter_context(
            Client(self.server.url.replace("://", f"://{self._login}"), Hasty())
        )
        self._stack.callback(self.shelf.over.set)
        self.sizes = PipelinedSizes(
            self.client.http,
            self.client.pool,
            silence=lambda: self._silence,
            record=self.times.append,
            clock=self._clock or self.clock,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        # one that is made in place of a broken one is released when it is made
        eventually(lambda: self.client.slots == 0, "all connections are released")

    def measure_one(self) -> None:
        """Measure the first file alone, by which the server shows that it keeps connections."""
        self.client.origin.measure(path_of(0))

    def measured(self) -> list[File]:
        """Measure all files in one batch."""
        return [file for part in self.sizes.measure_batch(DIRECTORY, self.stubs) for file in part]

    def file(self, number: int) -> File:
        """Return a file as it must be measured."""
        return File(path_of(number), self.shelf.sizes[path_of(number)], MODIFIED)

    def files(self) -> list[File]:
        """Return all of them."""
        return [self.file(number) for number in range(len(self.stubs))]

    def requested(self) -> list[str]:
        """Return the paths of the requests so far, in order."""
        return [request.split(b" ")[1].decode().removeprefix("/") for request in self.server.heads]
