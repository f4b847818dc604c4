"""Sizes from pipelined HEAD requests: many are sent over one connection before the first reply comes.

HTTP/1.1 promises replies in the order of the requests (RFC 9112, 9.3.2), but some intermediaries break it: sizes of
a batch are used only if each of them agrees with the listing.
"""

import logging
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from empiarfs.empiar import autoindex_fields, validation
from empiarfs.empiar.connection_pool import ConnectionPool
from empiarfs.empiar.http import HttpClient
from empiarfs.empiar.listing import agrees
from empiarfs.empiar.transport_errors import Kind, TransportError
from empiarfs.errors import ArchiveError, Throttled, Unavailable
from empiarfs.model import File, Stub

log = logging.getLogger(__name__)

LONGEST_HEAD = 64 * 1024  # bytes of the head of one reply; Apache's has 250
RECEIVED_AT_ONCE = 64 * 1024
GAP_SHARE = 0.25  # of the silence before the first reply, between two: no round trip is between them
MOST_SILENCES = 4.0  # times the silence that ends a batch, for all of its replies
MOST_FRUITLESS = 3  # connections in a row that have answered nothing of a batch
MOST_FAILURES = 6  # batches in a row with at most one size; where 3 % of the requests hang, three are not rare
REST_SECONDS = 60.0  # for which it is not sent pipelined requests then
FEW_REQUESTS = 10  # over one connection; a server that closes it after fewer is no use
_STATUS = re.compile(r"HTTP/1\.1 ([2-5]\d\d)(?: ([^\r\n]*))?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_THROTTLED = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}


class MixedUp(Exception):
    """The replies of a batch are not the replies to its requests, in their order."""


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """The head of one reply; `headers` has names like `Content-Length`."""

    status: int
    reason: str
    headers: Mapping[str, str]

    @property
    def is_last(self) -> bool:
        """Whether nothing more is to be read from this connection."""
        return self.status in _THROTTLED or "close" in self.headers.get("Connection", "").lower()


class PipelinedSizes:
    """Sizes of some files of a directory, by one round trip.

    Several threads measure batches at once; a count that two of them overwrite matters little.

    Args:
        client: knows the URLs of the files, and what the server has shown so far.
        pool: the connections.
        silence: returns the seconds without a byte after which a batch is given up.
        record: records the seconds to the first byte of a batch.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client: HttpClient,
        pool: ConnectionPool,
        *,
        silence: Callable[[], float],
        record: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._pool = pool
        self._silence = silence
        self._record = record
        self._clock = clock
        self._is_mixed_up = False
        self._failures = 0
        self._most_requests = 0  # after how many the server has closed a connection
        self._rests_until = float("-inf")

    def __repr__(self) -> str:
        return f"<PipelinedSizes usable={self.is_usable()} failures={self._failures}>"

    def is_usable(self) -> bool:
        """Return whether the server keeps connections by HTTP/1.1, and has not mixed up or ignored requests."""
        is_trusted = not self._is_mixed_up and self._clock() >= self._rests_until
        return is_trusted and self._client.is_persistent and self._pool.is_direct

    def measure_batch(self, directory: str, stubs: Sequence[Stub]) -> Iterator[Sequence[File]]:
        """See `BatchedSizes.measure_batch`.

        What a connection that breaks off has not answered is requested over another one. What it has answered is
        used only if the last file is measured the same there: had a reply been missing, it would be another's.
        """
        left = [stub for stub in stubs if autoindex_fields.size_range(stub.listed_size) is not None]
        by_path = {stub.path: stub for stub in left}
        held: list[File] = []  # answered, and not confirmed yet
        fruitless = 0
        while left and fruitless < MOST_FRUITLESS:
            check = [by_path[file.path] for file in held[-1:]]
            try:
                heads, count = self._request([*check, *left])
                found = [_file(stub, head) for stub, head in zip([*check, *left], heads, strict=False)]
                _check_same(held[-1:], found)
            except MixedUp as error:
                self._is_mixed_up = True
                log.warning("%s: pipelined requests: %s; files are measured one by one", directory, error)
                raise Unavailable(directory, "the server mixes up its replies") from error
            is_last = any(head.is_last for head in heads[-1:])
            is_sound = is_last or len(heads) == count
            self._note_use(
                sum(file is not None for file in found), count, is_expected=is_last and self._most_requests > 0
            )
            answered = max(0, len(heads) - len(check))
            left = left[answered:]
            fruitless = 0 if answered else fruitless + 1
            if not heads:
                yield []
                continue
            files = [file for file in found[len(check) :] if file is not None]
            yield [*held, *files] if is_sound else held
            held = [] if is_sound else files
        if left:
            raise Unavailable(directory, "the server leaves requests without replies")

    def _request(self, stubs: Sequence[Stub]) -> tuple[list[ReplyHead], int]:
        """Request the heads of `stubs`, or of the first of them.

        Returns:
            The replies that came, and the number of the requests.

        Raises:
            Throttled: the server refuses connections.
            MixedUp: the server sends something else.
        """
        heads: list[ReplyHead] = []
        count = len(stubs)
        try:
            with self._pool.held() as connection, connection.raw(self._client.url("")) as (sock, fields):
                room = self._most_requests - connection.requests
                count = min(count, room) if room > 0 else count
                targets = [urlsplit(self._client.url(stub.path)).path.encode("ascii") for stub in stubs[:count]]
                log.debug("%d pipelined HEADs from %s", count, stubs[0].path)
                self._client.requests += count
                try:
                    sock.settimeout(self._silence())
                    sock.sendall(b"".join(b"HEAD %b HTTP/1.1\r\n%b" % (target, fields) for target in targets))
                    for head in self._replies(sock, count):
                        heads.append(head)
                        if head.is_last:
                            served = connection.requests + len(heads)
                            self._most_requests = served if served >= FEW_REQUESTS else 0
                            connection.abort()
                            break
                except (OSError, MixedUp):
                    connection.abort()  # another one is made in its place, in the background
                    raise
                connection.requests += count
        except TransportError as error:
            self._client.stalls += error.kind is Kind.SILENT
            if error.kind is Kind.REFUSED:
                raise Throttled(stubs[0].path, str(error)) from error
        return heads, count

    def _note_use(self, measured: int, requests: int, *, is_expected: bool) -> None:
        """Count the batches in a row that were of no use, unless the end of their connection was expected."""
        is_useless = measured <= 1 < requests and not is_expected
        self._failures = self._failures + 1 if is_useless else 0
        if self._failures >= MOST_FAILURES:
            log.info("the server does not answer pipelined requests; files are measured one by one for a while")
            self._rests_until = self._clock() + REST_SECONDS
            self._failures = 0

    def _replies(self, sock: socket.socket, count: int) -> Iterator[ReplyHead]:
        """Yield the heads of `count` replies to what was just sent.

        Raises:
            MixedUp: what comes is something else, or more.
            OSError: the connection ended, was silent, or too slow.
        """
        begun = self._clock()
        silence = self._silence()
        buffer = bytearray()
        for number in range(count):
            while (end := buffer.find(b"\r\n\r\n")) < 0:
                if len(buffer) > LONGEST_HEAD:
                    raise MixedUp("the head of a reply is too long")
                if self._clock() - begun > MOST_SILENCES * silence:
                    raise TimeoutError("timed out")
                piece = sock.recv(RECEIVED_AT_ONCE)
                if not piece:
                    raise ConnectionResetError("connection reset before all replies")
                buffer += piece
            if not number:
                self._record(self._clock() - begun)
                sock.settimeout(silence * GAP_SHARE)
            yield parsed(buffer[:end].decode("latin-1"))
            del buffer[: end + 4]
        if buffer:
            raise MixedUp("there are more replies than requests")


def _check_same(held: Sequence[File], found: Sequence[File | None]) -> None:
    """Raise MixedUp if the first of `found` is not the one of `held`, which was requested again."""
    if held and found and found[0] != held[0]:
        raise MixedUp(f"two replies for {held[0].path} differ")


def _file(stub: Stub, head: ReplyHead) -> File | None:
    """Return the file that `head` is about; None if an ordinary request is to be sent for it.

    Raises:
        Throttled: the server throttles.
        MixedUp: the reply contradicts the listing, in the size or the date.
    """
    try:
        validation.check_status(head, stub.path, is_part=False)
        validation.check_is_file(head, stub.path)
        size = validation.length(head.headers.get("Content-Length", ""), stub.path)
    except Throttled:
        raise
    except ArchiveError:
        return None
    if not size:
        return None  # some servers send zero for any file
    file = File(stub.path, size, validation.modified(head, size))
    listed = autoindex_fields.seconds(stub.listed_date)
    is_dated = (
        listed is None or file.modified is None or File(stub.path, size, listed, True).is_dated(file.modified)
    )
    if not is_dated or not agrees(stub, file):
        raise MixedUp(f"the reply for {stub.path} is not that of its listing")
    return file


def parsed(text: str) -> ReplyHead:
    """Parse the head of a reply.

    Raises:
        MixedUp: it is none, or not of HTTP/1.1.
    """
    first, *lines = text.split("\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise MixedUp(f"a reply begins with {first[:40]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise MixedUp(f"the head of a reply contains {line[:40]!r}")
        name, value = name.title(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value  # two lengths are no length
    return ReplyHead(int(status[1]), status[2] or "", headers)
