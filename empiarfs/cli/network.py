"""Which servers answer, how soon, and how fast."""

import re
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING

from empiarfs.cli.findings import Finding, Findings, State
from empiarfs.errors import ArchiveError, CertificateError, Unavailable
from empiarfs.model import Directory, File, Span, Stub, is_entry_number
from empiarfs.settings import Settings
from empiarfs.units import KIB
from empiarfs.urls import BASE_URL, without_credentials

if TYPE_CHECKING:
    from empiarfs.empiar.http import HttpClient

API_URL = "https://www.ebi.ac.uk/empiar/api/entry"
AN_ENTRY = "10028"  # small, and there since the beginning
NETWORK_SECONDS = 12.0  # for all that is asked of servers, together
TRIPS = 3  # requests to measure the round trip by
DEEPEST = 5  # directories on the way to a file that is worth reading
READS = 3  # parts of it, to measure the rate by
PART = 512 * KIB
WORTH_READING = re.compile(r"[\d.]+[MG]")  # as a listing rounds a mebibyte and more
NAMES_SHOWN = 3  # of a root without entries
LARGEST_SKEW = 60.0  # seconds; certificates are given for days, and caches count hours
NO_ENTRIES = "is that the directory that holds the numbered entries? --base-url names another"
NO_NETWORK = "is there a network, and does it need a proxy (HTTPS_PROXY)? What is kept can be read with --offline"


def findings(chosen: Settings, seconds: float = NETWORK_SECONDS) -> Findings:
    """Ask all servers at once, and wait for no longer than `seconds`."""
    if chosen.offline:
        yield Finding("ok", "offline, as set: no server is asked")
        return
    asked = [_Asked("the server", "bad", lambda: server(chosen))]
    if chosen.base_url == BASE_URL:
        asked.append(_Asked("EMPIAR's API", "warn", lambda: api(chosen), "files do not need it"))
    asked.append(
        _Asked("FTP", "warn", lambda: ftp(chosen), "sizes are measured file by file; --no-ftp spares the try")
    )
    deadline = time.monotonic() + seconds
    for one in asked:
        yield from one.found(deadline)


class _Asked:
    """A look that runs in a thread of its own: names that cannot be found may take their time.

    Args:
        whom: who is asked, for the line that says that no answer came.
        state: how bad that is.
        look: what is done.
        advice: for when it fails; according to what went wrong where it is empty.
    """

    def __init__(self, whom: str, state: State, look: Callable[[], Findings], advice: str = "") -> None:
        self._whom = whom
        self._state: State = state
        self._look = look
        self._advice = advice
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def found(self, deadline: float) -> Findings:
        """Yield what was found before `deadline`."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        found = list(self._found)
        yield from found
        if self._thread.is_alive():
            what = "takes long; not all was measured" if found else "does not answer"
            yield Finding(
                "warn" if found else self._state,
                f"{self._whom} {what}",
                "" if found else self._advice or NO_NETWORK,
            )

    def _run(self) -> None:
        try:
            try:
                self._look_once()
            except Unavailable as error:  # about 3 % of requests hang
                if self._found or isinstance(error, CertificateError):
                    raise
                self._look_once()
        except OSError as error:
            state: State = "warn" if self._found else self._state
            reason = _reason(error).removesuffix("; is there a network?")  # as the advice asks
            what = reason if reason.startswith(self._whom) else f"{self._whom}: {reason}"
            self._found.append(Finding(state, what, self._advice or _advice(error)))

    def _look_once(self) -> None:
        for one in self._look():
            self._found.append(one)  # one by one, so that what is known is known when time is up


def server(chosen: Settings) -> Findings:
    """Ask the server of the base URL for its entries; measure the clock, the round trip and the rate."""
    from empiarfs import wire  # noqa: PLC0415 - brings requests, which `--help` need not wait for

    with wire.client_of(chosen, chosen.base_url) as asking:
        url = without_credentials(chosen.base_url)
        try:
            with asking.request("HEAD", "", slash=True) as reply:
                date, now = reply.headers.get("Date", ""), time.time()
            found, entries = root(asking, url)
        except FileNotFoundError:
            yield Finding("bad", f"the server has nothing at {url}", NO_ENTRIES)
            return
        yield found
        yield from clock(date, now)
        trips = [_seconds(lambda: _head(asking)) for _ in range(TRIPS)]
        yield Finding("ok", f"a round trip takes {min(trips) * 1000:.0f} ms")
        if entries:
            yield from rate(asking, AN_ENTRY if AN_ENTRY in entries else entries[0])


def root(asking: "HttpClient", url: str) -> tuple[Finding, list[str]]:
    """List the root of the archive at `url`; return what is to be said of it, and the entries that it holds.

    Raises:
        ArchiveError: the server did not send the page.
    """
    from empiarfs.empiar.autoindex import NotAListing  # noqa: PLC0415 - brings lxml
    from empiarfs.empiar.listing import HtmlListing  # noqa: PLC0415 - brings requests, as above

    try:
        listed = HtmlListing(asking).scan("")
    except Unavailable as error:
        if not isinstance(error.__cause__, NotAListing):
            raise
        advice = f"{NO_ENTRIES}; or does a portal or a proxy send a page of its own?"
        return Finding("bad", f"{url} is no listing of entries: {error.__cause__}", advice), []
    entries = [one.path for one in listed if isinstance(one, Directory) and is_entry_number(one.path)]
    if entries:
        return Finding("ok", f"{url} answers, and lists {len(entries)} entries"), entries
    names = ", ".join([*(one.path for one in listed[:NAMES_SHOWN]), *["..."] * (len(listed) > NAMES_SHOWN)])
    return Finding("bad", f"{url} lists no entry: it holds {names or 'nothing'}", NO_ENTRIES), []


def clock(date: str, now: float) -> Findings:
    """Compare the clock of this machine with the server's.

    Args:
        date: the Date header of a reply.
        now: when it came, in seconds since 1970.
    """
    try:
        skew = now - parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return
    if abs(skew) > LARGEST_SKEW:
        side = "fast" if skew > 0 else "slow"
        yield Finding(
            "warn", f"this machine's clock is {abs(skew):.0f} s {side}", "set it: timedatectl set-ntp true"
        )
    else:
        yield Finding("ok", "this machine's clock is right")


def rate(asking: "HttpClient", begin: str) -> Findings:
    """Read parts of a file below `begin`, one after the other, and tell how fast they came."""
    from empiarfs.empiar.http import HttpOrigin  # noqa: PLC0415 - brings requests, which `--help` need not wait for

    file = _some_file(asking, begin)
    if file is None:
        yield Finding("warn", "no file was found to measure the rate by")
        return
    origin = HttpOrigin(asking)

    def read_through(span: Span) -> None:
        for _ in origin.fetch(file, span):
            pass

    stop = min(file.size, READS * PART)
    spans = [Span(start, min(start + PART, stop)) for start in range(0, stop, PART)]
    seconds = sum(_seconds(partial(read_through, span)) for span in spans)
    if file.size < PART:
        yield Finding("ok", f"{file.path} can be read; it is too short to measure the rate by")
    else:
        speed = spans[-1].stop / max(seconds, 1e-6) / 1e6
        yield Finding("ok", f"one connection brings {speed:.1f} MB/s, from {file.path}")


def api(chosen: Settings) -> Findings:
    """Ask for what EMPIAR knows of an entry."""
    from empiarfs import wire  # noqa: PLC0415 - brings requests, which `--help` need not wait for

    with wire.client_of(chosen, API_URL) as asking, asking.request("GET", AN_ENTRY, slash=True) as reply:
        is_record = next(reply.pieces(), b"").lstrip().startswith(b"{")
    if is_record:
        yield Finding("ok", "EMPIAR's API answers")
    else:
        yield Finding("warn", f"{API_URL} gives no record", "files do not need it")


def ftp(chosen: Settings) -> Findings:
    """Ask the FTP server, from which exact sizes may come."""
    from empiarfs import wire  # noqa: PLC0415 - brings requests, which `--help` need not wait for

    sizes = wire.ftp_of(chosen)
    if sizes is None:
        yield Finding("ok", "no FTP: sizes are measured file by file")
        return
    sizes.check()
    yield Finding("ok", f"FTP answers: {without_credentials(wire.ftp_url(chosen))}")


def _some_file(asking: "HttpClient", begin: str) -> File | None:
    """Return a file of a mebibyte or more, or else any, on the way down from `begin`."""
    from empiarfs.empiar.http import HttpOrigin  # noqa: PLC0415 - brings requests, which `--help` need not wait for
    from empiarfs.empiar.listing import HtmlListing  # noqa: PLC0415 - the same

    listing, directory = HtmlListing(asking), begin
    found: Stub | None = None
    for _ in range(DEEPEST):
        entries = listing.scan(directory)
        stubs = [node for node in entries if isinstance(node, Stub)]
        worth = [stub for stub in stubs if WORTH_READING.fullmatch(stub.listed_size)]
        found = next(iter(worth), found or next(iter(stubs), None))
        below = next((node.path for node in entries if isinstance(node, Directory)), None)
        if worth or below is None:
            break
        directory = below
    return None if found is None else HttpOrigin(asking).measure(found.path)


def _head(asking: "HttpClient") -> None:
    with asking.request("HEAD", "", slash=True):
        pass


def _seconds(act: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def _reason(error: OSError) -> str:
    return error.reason if isinstance(error, ArchiveError) else without_credentials(str(error))


def _advice(error: OSError) -> str:
    match error:
        case CertificateError() if "http://" in error.reason:
            return "write the address as the server speaks: --base-url http://..."
        case CertificateError():
            return "a proxy of your site may stand before it: ask for its certificate, and give it with --ca-bundle"
        case FileNotFoundError():
            return NO_ENTRIES
        case PermissionError():
            return (
                "does it want a user name and password in the address, or is your address refused? "
                "Where the listing alone is closed, name the entries: empiarfs mount ~/empiar 10028"
            )
        case _:
            return NO_NETWORK
