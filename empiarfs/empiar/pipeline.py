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
MIN_GAP_SECONDS = 0.3  # TCP sends a lost packet again after 0.2 s, and a busy server reads its disk for each file
MIN_SILENCES = 4  # times the silence that ends a batch, for all of its replies, however few they are
MOST_CONNECTIONS = 4  # for one batch: EBI blocks addresses that connect too often
MOST_FAILURES = 6  # connections in a row with at most one size; where 3 % of requests hang, three are not rare
SUSPENDED_SECONDS = 60.0  # for which the server is not sent pipelined requests then
DOUBTED_SECONDS = 3600.0  # the same after a reply that contradicts the listing, which may be outdated
FEW_REQUESTS = 10  # over one connection; a server that closes it after fewer is no use
_STATUS = re.compile(r"HTTP/1\.1 ([2-5]\d\d)(?: ([^\r\n]*))?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class ReplyMismatch(Exception):
    """The replies of a batch are not the replies to its requests, in their order."""


class ListingMismatch(Exception):
    """A reply contradicts the listing: it is another file's, or the file was replaced after it was listed."""


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """The head of one reply; `headers` has names like `Content-Length`."""

    status: int
    reason: str
    headers: Mapping[str, str]


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
        self._failures = 0
        self._most_requests = 0  # after how many the server has closed a connection
        self._suspended_until = float("-inf")

    def __repr__(self) -> str:
        return f"<PipelinedSizes usable={self.is_usable()} failures={self._failures}>"

    def is_usable(self) -> bool:
        """Return whether the server keeps connections by HTTP/1.1, and is not suspected or of no use now."""
        is_trusted = self._clock() >= self._suspended_until
        return is_trusted and self._client.is_persistent and self._pool.is_direct

    def measure_batch(self, directory: str, stubs: Sequence[Stub]) -> Iterator[Sequence[File]]:
        """See `BatchedSizes.measure_batch`.

        What a connection that breaks off has not answered is requested over another one. What it has answered is
        used only if the last file is measured the same there: had a reply been missing, it would be another's.
        """
        remaining = [stub for stub in stubs if autoindex_fields.size_range(stub.listed_size) is not None]
        by_path = {stub.path: stub for stub in remaining}
        unconfirmed: list[File] = []  # answered before a break
        for _ in range(MOST_CONNECTIONS):
            if not remaining:
                return
            check = [by_path[file.path] for file in unconfirmed[-1:]]
            try:
                found, count, is_ended = self._request([*check, *remaining])
                _check_same(unconfirmed[-1:], found)
            except ListingMismatch as error:
                self._suspend(DOUBTED_SECONDS)
                log.info("%s: %s; files are measured one by one for a while", directory, error)
                raise Unavailable(directory, "its listing is not that of its files") from error
            except ReplyMismatch as error:
                self._suspend(float("inf"))
                log.warning("%s: pipelined requests: %s; files are measured one by one", directory, error)
                raise Unavailable(directory, "the server mixes up its replies") from error
            files = [file for file in found[len(check) :] if file is not None]
            self._note_use(len(files), count - len(check), is_expected=is_ended and self._most_requests > 0)
            remaining = remaining[max(0, len(found) - len(check)) :]
            if not found:
                yield []
                continue
            is_sound = is_ended or len(found) == count
            yield [*unconfirmed, *files] if is_sound else unconfirmed
            unconfirmed = [] if is_sound else files
        if remaining:
            raise Unavailable(directory, "the server leaves requests without replies")

    def _request(self, stubs: Sequence[Stub]) -> tuple[list[File | None], int, bool]:
        """Request the heads of `stubs`, or of the first of them.

        Returns:
            The files that the replies are about, None for one that is to be requested by itself; the number of the
            requests; and whether the server has announced the end of the connection.

        Raises:
            Throttled: the server throttles, or refuses connections.
            ReplyMismatch: the server sends something else.
            ListingMismatch: a reply contradicts the listing.
        """
        heads: list[ReplyHead] = []
        count = len(stubs)
        try:
            with self._pool.held() as connection:  # after an error it is closed
                with connection.raw(self._client.url("")) as (sock, fields):
                    room = self._most_requests - connection.requests
                    count = min(count, room) if room > 0 else count
                    targets = [urlsplit(self._client.url(stub.path)).path.encode("ascii") for stub in stubs[:count]]
                    log.debug("%d pipelined HEADs from %s", count, stubs[0].path)
                    self._client.requests += count
                    sock.settimeout(self._silence())
                    sock.sendall(b"".join(b"HEAD %b HTTP/1.1\r\n%b" % (target, fields) for target in targets))
                    try:
                        for head in self._replies(sock, count):
                            heads.append(head)
                            if validation.is_throttled(head) or validation.closes(head):
                                break
                    except OSError:
                        connection.abort()  # another one is made in its place, in the background
                        raise
                connection.requests += len(heads)
                found = _files(stubs, heads)
                is_ended = validation.closes(heads[-1])
                if is_ended:
                    self._most_requests = connection.requests if connection.requests >= FEW_REQUESTS else 0
                    connection.abort()
                return found, count, is_ended
        except TransportError as error:
            self._client.stalls += error.kind is Kind.SILENT
            if error.kind is Kind.REFUSED:
                raise Throttled(stubs[0].path, str(error)) from error
        return _files(stubs, heads), count, False

    def _note_use(self, measured: int, requests: int, *, is_expected: bool) -> None:
        """Count the connections in a row that were of no use, unless their end was expected."""
        is_useless = measured <= 1 < requests and not is_expected
        self._failures = self._failures + 1 if is_useless else 0
        if self._failures >= MOST_FAILURES:
            log.info("the server does not answer pipelined requests; files are measured one by one for a while")
            self._suspend(SUSPENDED_SECONDS)
            self._failures = 0

    def _suspend(self, seconds: float) -> None:
        self._suspended_until = max(self._suspended_until, self._clock() + seconds)

    def _replies(self, sock: socket.socket, count: int) -> Iterator[ReplyHead]:
        """Yield the heads of `count` replies to what was just sent.

        Raises:
            ReplyMismatch: what comes is something else, or more.
            OSError: the connection ended, was silent, or too slow.
        """
        begun = self._clock()
        silence = self._silence()
        buffer = bytearray()
        for number in range(count):
            while (end := buffer.find(b"\r\n\r\n")) < 0:
                if len(buffer) > LONGEST_HEAD:
                    raise ReplyMismatch("the head of a reply is too long")
                if self._clock() - begun > max(MIN_SILENCES, count) * silence:  # a busy server answers one by one
                    raise TimeoutError("timed out")
                piece = sock.recv(RECEIVED_AT_ONCE)
                if not piece:
                    raise ConnectionResetError("connection reset before all replies")
                buffer += piece
            if not number:
                self._record(self._clock() - begun)
                sock.settimeout(max(MIN_GAP_SECONDS, silence * GAP_SHARE))
            yield parsed(buffer[:end].decode("latin-1"))
            del buffer[: end + 4]
        if buffer:
            raise ReplyMismatch("there are more replies than requests")


def _check_same(repeated: Sequence[File], found: Sequence[File | None]) -> None:
    """Raise ReplyMismatch if the first of `found` is not the one of `repeated`, which was requested again."""
    if repeated and found and found[0] != repeated[0]:
        raise ReplyMismatch(f"two replies for {repeated[0].path} differ")


def _files(stubs: Sequence[Stub], heads: Sequence[ReplyHead]) -> list[File | None]:
    """Return the file of each head; see `_file`."""
    return [_file(stub, head) for stub, head in zip(stubs, heads, strict=False)]


def _file(stub: Stub, head: ReplyHead) -> File | None:
    """Return the file that `head` is about; None if an ordinary request is to be sent for it.

    Raises:
        Throttled: the server throttles.
        ListingMismatch: the reply contradicts the listing, in the size or the date.
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
        raise ListingMismatch(f"the size or date of {stub.path} is not that of its listing")
    return file


def parsed(text: str) -> ReplyHead:
    """Parse the head of a reply.

    Raises:
        ReplyMismatch: it is none, or not of HTTP/1.1.
    """
    first, *lines = text.split("\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise ReplyMismatch(f"a reply begins with {first[:40]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise ReplyMismatch(f"the head of a reply contains {line[:40]!r}")
        name, value = name.title(), value.strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value  # two lengths are no length
    return ReplyHead(int(status[1]), status[2] or "", headers)
