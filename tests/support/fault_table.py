"""The table of faults: what each does to a request, and what a reader must then see; written by hand."""

import errno
import gzip
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate

from support.apache import BASE
from support.fault_proxy import Act, Exchange, Reply

EIO, EACCES, ENOENT, ESTALE = errno.EIO, errno.EACCES, errno.ENOENT, errno.ESTALE
DRIP_SECONDS = 1.0  # from one byte to the next
PAUSE = 1  # seconds that a server asks to be left alone in these tests

ERROR_PAGE = (
    b"<html><head><title>503</title></head><body><h1>We'll be back soon</h1>"
    b'<table><tr><td><a href="status.html">Status</a></td></tr></table></body></html>'
)


@dataclass(frozen=True)
class Seen:
    """What a reader sees: an errno, or 0 for the right bytes.

    Attributes:
        once: where it happens to one request.
        lasting: where it happens to every one until patience is at its end.
    """

    once: int
    lasting: int


WAITED_FOR = Seen(0, EIO)  # asked again
HARMLESS = Seen(0, 0)  # a head that is cut, or tells no length, is one: a request for the first byte tells it then
CHANGED = Seen(ESTALE, ESTALE)
REFUSED = Seen(EACCES, EACCES)

DATA, HEAD, NAME, LISTING = "data", "head", "name", "listing"
ALL = (DATA, HEAD, NAME, LISTING)


@dataclass(frozen=True)
class Fault:
    """A way to be wrong.

    Attributes:
        act: what is done to a request.
        seen: what comes of it, by what is hit: the data of an open file (`data`), the measuring of a listed file
            (`head`) or of one that is not listed (`name`), a directory (`listing`).
        pause: whether it asks that the whole server be left alone.
        kept: what is remembered, so that the end of the fault changes nothing for a while.
    """

    act: Act
    seen: Mapping[str, Seen]
    pause: bool = False
    kept: tuple[str, ...] = ()


def each(seen: Seen = WAITED_FOR, *hit: str, **but: Seen) -> dict[str, Seen]:
    """Return the same for all that can be hit, `but` for some."""
    return dict.fromkeys(hit or ALL, seen) | but


def changed(change: Callable[[Reply], Reply]) -> Act:
    """Return the act that answers with a changed reply of Apache's."""
    return lambda exchange: exchange.send(change(exchange.asked()))


def headers(**headers: str) -> Act:
    """Return the act that answers with other headers."""
    return changed(lambda reply: reply.with_headers(**headers))


def status(number: int, **headers: str) -> Act:
    """Return the act that answers with a status and no body."""
    return lambda exchange: exchange.answer(number, **headers)


def reset_before(exchange: Exchange) -> None:
    """Break the connection in place of a reply."""
    exchange.reset()


def closed_before(exchange: Exchange) -> None:
    """Close the connection in place of a reply."""
    exchange.hang_up()


def half(exchange: Exchange) -> None:
    """Send a half: of the body, or of the head where there is no body."""
    reply = exchange.asked()
    if exchange.method == "HEAD":
        exchange.write(reply.head[: len(reply.head) // 2])
    else:
        exchange.send(reply, len(reply.body) // 2)


def reset_in_the_middle(exchange: Exchange) -> None:
    """Break the connection after a half."""
    half(exchange)
    exchange.reset()


def closed_in_the_middle(exchange: Exchange) -> None:
    """Close the connection after a half."""
    half(exchange)
    exchange.hang_up()


def silence(exchange: Exchange) -> None:
    """Never answer."""
    exchange.keep_silent()
    exchange.hang_up()


def silence_in_the_middle(exchange: Exchange) -> None:
    """Send a half, and then nothing."""
    half(exchange)
    silence(exchange)


def drip(exchange: Exchange) -> None:
    """Send a byte a second: of the body, or of the headers where there is no body."""
    reply = exchange.asked()
    status, end, headers = reply.head.partition(b"\r\n")
    begin, rest = (status + end, headers) if exchange.method == "HEAD" else (reply.head, reply.body)
    exchange.write(begin)
    for number in range(len(rest)):
        exchange.write(rest[number : number + 1])
        if exchange.over.wait(DRIP_SECONDS):
            break
    exchange.hang_up()


def cut_to_measure(reply: Reply) -> Reply:
    """Return half the body, and a length that fits."""
    body = reply.body[: len(reply.body) // 2]
    return replace(reply, body=body).with_headers(content_length=str(len(body)))


def whole_file(exchange: Exchange) -> None:
    """Take no notice of the range."""
    exchange.send(exchange.asked(""))


def short_whole_file(exchange: Exchange) -> None:
    """Take no notice of the range, and stop in the middle."""
    exchange.send(cut_to_measure(exchange.asked("")))
    exchange.hang_up()


def surplus(reply: Reply) -> Reply:
    """Return a hundred bytes too many, and a length that fits."""
    body = reply.body + bytes(100)
    return replace(reply, body=body).with_headers(content_length=str(len(body)))


def _content_range(reply: Reply) -> tuple[int, int, int]:
    part, _, total = reply.headers["content-range"].removeprefix("bytes ").partition("/")
    start, _, last = part.partition("-")
    return int(start), int(last), int(total)


def other_range(exchange: Exchange) -> None:
    """Send what stands one byte further on, and say so."""
    first, _, last = exchange.range.removeprefix("bytes=").partition("-")
    exchange.send(exchange.asked(f"bytes={int(first) + 1}-{int(last) + 1}"))


def shorter_range(reply: Reply) -> Reply:
    """Return an honest part of what was asked for."""
    start, _, total = _content_range(reply)
    body = reply.body[: len(reply.body) // 2]
    honest = reply.with_headers(
        content_range=f"bytes {start}-{start + len(body) - 1}/{total}", content_length=str(len(body))
    )
    return replace(honest, body=body)


def longer(reply: Reply) -> Reply:
    """Claim one byte more in total."""
    if "content-range" in reply.headers:
        start, last, total = _content_range(reply)
        return reply.with_headers(content_range=f"bytes {start}-{last}/{total + 1}")
    return reply.with_headers(content_length=str(int(reply.headers["content-length"]) + 1))


def tenfold(reply: Reply) -> Reply:
    """Claim ten times the length, which contradicts the listing."""
    return reply.with_headers(content_length=reply.headers["content-length"] + "0")


def no_bytes(reply: Reply) -> Reply:
    """Claim a length of zero."""
    return reply.with_headers(content_length="0")


def cut_in_its_length(exchange: Exchange) -> None:
    """Stop in the middle of the number."""
    head, name, _ = exchange.asked().head.partition(b"content-length: ")
    exchange.write(head + name + b"17")
    exchange.hang_up()


def swapped(exchange: Exchange) -> None:
    """Answer after the next request."""
    exchange.send_late(exchange.asked())


def doubled(exchange: Exchange) -> None:
    """Answer twice."""
    for _ in range(2):
        exchange.send(exchange.asked())


def missing(exchange: Exchange) -> None:
    """Leave the request out, and go on with the next one."""


def with_a_body(exchange: Exchange) -> None:
    """Send a body, which no reply to HEAD has."""
    reply = exchange.asked()
    exchange.write(reply.head + bytes(int(reply.headers["content-length"])))


def chunked_with_a_body(exchange: Exchange) -> None:
    """Send a body in chunks, which no reply to HEAD has."""
    exchange.write(exchange.asked().with_headers(content_length="", transfer_encoding="chunked").head)
    exchange.write(b"3\r\nabc\r\n0\r\n\r\n")


def by_http_1_0(exchange: Exchange) -> None:
    """Answer as an old server, which closes each connection."""
    exchange.write(exchange.asked().head.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    exchange.hang_up()


def closed_after(exchange: Exchange) -> None:
    """Announce the end of the connection, and close it."""
    exchange.send(exchange.asked().with_headers(connection="close"))
    exchange.hang_up()


def closed_after_without_a_word(exchange: Exchange) -> None:
    """Close the connection after the reply."""
    exchange.send(exchange.asked())
    exchange.hang_up()


def multipart(reply: Reply) -> Reply:
    """Return the part as one of several, as for a request of many ranges."""
    text = reply.headers["content-range"]
    body = f"--x\r\nContent-Range: {text}\r\n\r\n".encode() + reply.body + b"\r\n--x--\r\n"
    return replace(reply, body=body).with_headers(
        content_type="multipart/byteranges; boundary=x", content_range="", content_length=str(len(body))
    )


def zipped(reply: Reply) -> Reply:
    """Compress what was asked for as it is."""
    body = gzip.compress(reply.body)
    return replace(reply, body=body).with_headers(content_encoding="gzip", content_length=str(len(body)))


def chunked(exchange: Exchange) -> None:
    """Send in chunks, without a length."""
    reply = exchange.asked()
    exchange.write(reply.with_headers(content_length="", transfer_encoding="chunked").head)
    if exchange.method != "HEAD":
        for start in range(0, len(reply.body), 10_000):
            piece = reply.body[start : start + 10_000]
            exchange.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        exchange.write(b"0\r\n\r\n")


def chunked_and_cut(exchange: Exchange) -> None:
    """Send half in chunks, and no last one."""
    reply = exchange.asked()
    exchange.write(reply.with_headers(content_length="", transfer_encoding="chunked").head)
    piece = reply.body[: len(reply.body) // 2]
    exchange.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    exchange.hang_up()


def until_closed(exchange: Exchange) -> None:
    """Send no length, and close the connection in the middle, which by the rules ends the body."""
    reply = exchange.asked().with_headers(content_length="", connection="close")
    exchange.send(reply, len(reply.body) // 2)
    exchange.hang_up()


def error_page(exchange: Exchange) -> None:
    """Say 200, and send a page that says otherwise."""
    exchange.send(Reply(200, {"content-type": "text/html", "content-length": str(len(ERROR_PAGE))}, ERROR_PAGE))


def garbage(exchange: Exchange) -> None:
    """Answer in the tongue of another protocol."""
    exchange.write(b"\x16\x03\x01 220 mail.example ESMTP\r\n\r\n" * 3)
    exchange.hang_up()


def circle(exchange: Exchange) -> None:
    """Send from here to there and back."""
    path, _, query = exchange.path.partition("?")
    exchange.answer(302, location=f"{BASE}/{path}?{'back' if query == 'there' else 'there'}")


def elsewhere(exchange: Exchange) -> None:
    """Send to a server of another name, which has the same."""
    exchange.answer(302, location=f"http://localhost:{exchange.upstream}{BASE}/{exchange.path}")


def asks_for_a_pause(number: int, *, date: bool = False) -> Act:
    """Return the act that answers with a status and Retry-After."""

    def act(exchange: Exchange) -> None:
        after = formatdate(time.time() + PAUSE + 1, usegmt=True) if date else str(PAUSE)
        exchange.answer(number, retry_after=after)

    return act


def version(content: bytes, modified: int) -> Act:
    """Return the act that answers as a server that has another version of the file."""

    def act(exchange: Exchange) -> None:
        told = {"last-modified": formatdate(modified, usegmt=True), "accept-ranges": "bytes"}
        first, _, last = exchange.range.removeprefix("bytes=").partition("-")
        if not exchange.range:
            exchange.send(Reply(200, told | {"content-length": str(len(content))}, content))
        elif int(first) >= len(content):
            exchange.answer(416)
        else:
            body = content[int(first) : int(last) + 1]
            part = f"bytes {first}-{int(first) + len(body) - 1}/{len(content)}"
            exchange.send(Reply(206, told | {"content-range": part, "content-length": str(len(body))}, body))

    return act


def by_turns(act: Act) -> Act:
    """Return the act that does `act` to every second request, as one of two servers behind a balance."""
    turns = itertools.cycle((True, False))
    return lambda exchange: act(exchange) if next(turns) else exchange.pass_on()


class Plan:
    """An act: one after the other to successive requests, and nothing to those that come after."""

    def __init__(self, acts: Sequence[Act]) -> None:
        self._acts = iter(acts)
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            act = next(self._acts, None)
        if act is None:
            exchange.pass_on()
        else:
            act(exchange)


ANOTHER_DATE = formatdate(1_500_000_000, usegmt=True)

FAULTS: dict[str, Fault] = {
    "reset before the reply": Fault(reset_before, each()),
    "closed before the reply": Fault(closed_before, each()),
    "reset in the middle": Fault(reset_in_the_middle, each()),
    "closed in the middle": Fault(closed_in_the_middle, each(head=HARMLESS, name=HARMLESS)),
    "silence before the reply": Fault(silence, each()),
    "silence in the middle": Fault(silence_in_the_middle, each()),
    "one byte a second": Fault(drip, each()),
    "a short body of 206": Fault(changed(cut_to_measure), each(WAITED_FOR, DATA)),
    "a short body of 200": Fault(short_whole_file, each(WAITED_FOR, DATA)),
    "200 with the whole file": Fault(whole_file, each(WAITED_FOR, DATA)),
    "too many bytes": Fault(changed(surplus), each(WAITED_FOR, DATA)),
    "another range": Fault(other_range, each(WAITED_FOR, DATA)),
    "a shorter range": Fault(changed(shorter_range), each(WAITED_FOR, DATA)),
    "no Content-Range": Fault(headers(content_range=""), each(WAITED_FOR, DATA)),
    "several parts": Fault(changed(multipart), each(WAITED_FOR, DATA)),
    # a wrong length that fits what the listing rounds is believed, until the data say otherwise
    "another total": Fault(changed(longer), each(CHANGED, DATA, HEAD, NAME)),
    "ten times the length": Fault(changed(tenfold), each(WAITED_FOR, HEAD, name=CHANGED)),
    "a length of zero": Fault(changed(no_bytes), each(HARMLESS, HEAD, NAME)),
    "a length that is cut": Fault(cut_in_its_length, each(WAITED_FOR, HEAD, name=CHANGED)),
    "a length that is none": Fault(headers(content_length="many"), each(WAITED_FOR, HEAD, NAME)),
    "206 for all": Fault(changed(lambda reply: replace(reply, status=206)), each(data=HARMLESS)),
    "204": Fault(status(204), each()),
    "416": Fault(status(416), each(data=CHANGED)),
    "401": Fault(status(401), each(REFUSED), kept=(LISTING,)),
    "403": Fault(status(403), each(REFUSED), kept=(LISTING,)),
    "404": Fault(status(404), each(Seen(0, ENOENT), name=Seen(ENOENT, ENOENT)), kept=(HEAD, NAME)),
    "410": Fault(status(410), each(Seen(0, ENOENT), name=Seen(ENOENT, ENOENT)), kept=(HEAD, NAME)),
    "429": Fault(status(429), each()),
    "429, Retry-After in seconds": Fault(asks_for_a_pause(429), each(), pause=True),
    "429, Retry-After as a date": Fault(asks_for_a_pause(429, date=True), each(), pause=True),
    "500": Fault(status(500), each()),
    "502": Fault(status(502), each()),
    "503": Fault(status(503), each()),
    "503, Retry-After in seconds": Fault(asks_for_a_pause(503), each(), pause=True),
    "503, Retry-After as a date": Fault(asks_for_a_pause(503, date=True), each(), pause=True),
    "504": Fault(status(504), each()),
    "redirects in a circle": Fault(circle, each()),
    "a redirect to another host": Fault(elsewhere, each()),
    "a redirect to a file": Fault(status(302, location="file:///etc/passwd"), each()),
    "a redirect to nowhere": Fault(status(302), each()),
    "another Content-Type": Fault(headers(content_type="text/html; charset=utf-16"), each(HARMLESS)),
    "gzip": Fault(changed(zipped), each()),
    "chunks without a length": Fault(chunked, each(HARMLESS)),
    "chunks that are cut": Fault(chunked_and_cut, each(WAITED_FOR, DATA, LISTING)),
    "cut, with a length that fits": Fault(changed(cut_to_measure), each(WAITED_FOR, LISTING)),
    "cut, without a length": Fault(until_closed, each(WAITED_FOR, DATA, LISTING)),
    "an error page with 200": Fault(error_page, each()),
    "garbage": Fault(garbage, each()),
    # servers behind one balance need not agree on it; length and date are what tells
    "another ETag": Fault(headers(etag='"another"'), each(HARMLESS)),
    "another date": Fault(headers(last_modified=ANOTHER_DATE), each(CHANGED, DATA, HEAD, NAME)),
    "no date": Fault(headers(last_modified=""), each(HARMLESS, DATA, HEAD, NAME)),
}

# what concerns requests that are sent before the last one was answered, as for the sizes of many files: no size is
# wrong, and all files are measured in the end
PIPELINED: dict[str, Act] = {
    "two replies swapped": swapped,
    "a reply missing": missing,
    "a reply twice": doubled,
    "a body to HEAD": with_a_body,
    "a chunked body to HEAD": chunked_with_a_body,
    "HTTP/1.0": by_http_1_0,
    "closed after the reply, announced": closed_after,
    "closed after the reply, unannounced": closed_after_without_a_word,
}
