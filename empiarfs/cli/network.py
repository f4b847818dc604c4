"""The checks of the network: which servers answer, after how long, and how fast."""

import dataclasses
import re
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING

from empiarfs.cli.findings import Finding, Findings, State
from empiarfs.errors import ArchiveError, CertificateError, Unavailable, UnknownListing, WrongRange
from empiarfs.model import Directory, File, Span, Stub, is_entry_number
from empiarfs.settings import Settings
from empiarfs.units import KIB
from empiarfs.urls import BASE_URL, without_credentials

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from empiarfs.host import Host

API_URL = "https://www.ebi.ac.uk/empiar/api/entry"
AN_ENTRY = "10028"  # small, and one of the oldest
NETWORK_SECONDS = 12.0  # for all requests together
TRIPS = 3  # requests that measure the round trip
DEEPEST = 5  # directories on the way to a file that is worth reading
READS = 3  # parts of it that measure the transfer rate
PART = 512 * KIB
WORTH_READING = re.compile(r"[\d.]+[MG]")  # as a listing rounds a mebibyte and more
NAMES_SHOWN = 3  # of a root without entries
LARGEST_SKEW = 60.0  # seconds; certificates are given for days, and caches count hours
NO_ENTRIES = "is this the directory that holds the numbered entries? choose another with --base-url"
KNOWN_SERVERS = "the listings of Apache, nginx and lighttpd are known, see docs/running.md"
API_ADVICE = "the API is not needed to read files"
FTP_ADVICE = "each file is measured by an HTTP request, many at a time for ls -l; --no-ftp does not try FTP"
# what to do about an error with these words
_BY_REASON = (
    ("HTTP 407", "write them into the URL of the proxy: export HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"),
    ("the proxy", "is HTTPS_PROXY the proxy of your network? no_proxy names servers that are reached without it"),
    ("redirects to", "does a captive portal answer in its place? if the archive has moved: --base-url"),
    ("is it http://", "the server speaks another protocol: --base-url http://..."),
)
NO_NETWORK = "is there a network, and does it need a proxy (HTTPS_PROXY)? cached data can be read with --offline"


def findings(chosen: Settings, seconds: float = NETWORK_SECONDS) -> Findings:
    """Check all servers at once, for no longer than `seconds`."""
    if chosen.offline:
        yield Finding("ok", "offline, as chosen: no server was contacted")
        return
    checks = [_Check(without_credentials(chosen.base_url), "bad", lambda: server(chosen))]
    if chosen.base_url == BASE_URL:
        checks.append(_Check(API_URL, "warn", lambda: api(chosen), API_ADVICE))
    checks.append(_Check(_ftp_url(chosen) or "FTP", "warn", lambda: ftp(chosen), FTP_ADVICE))
    deadline = time.monotonic() + seconds
    for one in checks:
        yield from one.found(deadline)


class _Check:
    """A check that runs in a thread of its own: looking up a host name may take long.

    Args:
        url: what is contacted, for the line that says that it does not answer.
        state: how bad a failure is.
        look: makes the requests.
        advice: for a failure; if it is empty it depends on the error.
    """

    def __init__(self, url: str, state: State, look: Callable[[], Findings], advice: str = "") -> None:
        self._url = url
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
            what = "is slow: not everything was measured" if found else "does not answer"
            yield Finding(
                "warn" if found else self._state,
                f"{self._url} {what}",
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
            reason = _reason(error).removesuffix("; is there a network?")  # the advice says so
            self._found.append(Finding(state, f"{self._url}: {reason}", self._advice or _advice(error)))

    def _look_once(self) -> None:
        for one in self._look():
            self._found.append(one)  # one by one: those found before the time is up count


def server(chosen: Settings) -> Findings:
    """List the base URL; measure its clock, the round trip and the transfer rate."""
    with _host(chosen, chosen.base_url) as host:
        url = without_credentials(chosen.base_url)
        try:
            with host.client.request("HEAD", "", slash=True) as reply:
                date, now = reply.headers.get("Date", ""), time.time()
            found, entries = root(host, url)
        except FileNotFoundError:
            yield Finding("bad", f"the server has nothing at {url}", NO_ENTRIES)
            return
        yield found
        yield from clock(date, now)
        trips = [_seconds(lambda: _head(host)) for _ in range(TRIPS)]
        yield Finding("ok", f"a round trip to {url} takes {min(trips) * 1000:.0f} ms")
        if entries:
            yield from rate(host, AN_ENTRY if AN_ENTRY in entries else entries[0])


def root(host: "Host", url: str) -> tuple[Finding, list[str]]:
    """List the root of the archive at `url`; return the finding, and the entries that it holds.

    Raises:
        ArchiveError: the server did not send the page.
    """
    from empiarfs.empiar.autoindex import NotAListing  # noqa: PLC0415 - brings lxml

    try:
        listed = host.listing.scan("")
    except (Unavailable, UnknownListing) as error:
        if not isinstance(error.__cause__, NotAListing):
            raise
        advice = f"{NO_ENTRIES}; or does a captive portal or proxy answer in its place? {KNOWN_SERVERS}"
        return Finding("bad", f"{url} is not a listing of entries: {error.__cause__}", advice), []
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


def rate(host: "Host", begin: str) -> Findings:
    """Read parts of a file below `begin`, one after the other, and report the transfer rate."""
    file = _some_file(host, begin)
    if file is None:
        yield Finding("warn", "found no file to measure the transfer rate with")
        return

    def read_through(span: Span) -> None:
        for _ in host.origin.fetch(file, span):
            pass

    stop = min(file.size, READS * PART)
    spans = [Span(start, min(start + PART, stop)) for start in range(0, stop, PART)]
    seconds = sum(_seconds(partial(read_through, span)) for span in spans)
    if file.size < PART:
        yield Finding("ok", f"{file.path} can be read; it is too short to measure the transfer rate")
    else:
        speed = spans[-1].stop / max(seconds, 1e-6) / 1e6
        yield Finding("ok", f"one connection transfers {speed:.1f} MB/s (measured with {file.path})")


def api(chosen: Settings) -> Findings:
    """Request the record of an entry from EMPIAR's API."""
    with _host(chosen, API_URL) as host:
        is_record = host.get(AN_ENTRY, slash=True).lstrip().startswith(b"{")
    if is_record:
        yield Finding("ok", f"{API_URL} answers (EMPIAR's API)")
    else:
        yield Finding("warn", f"{API_URL} returns no record", API_ADVICE)


def ftp(chosen: Settings) -> Findings:
    """Check the FTP server, whose lists give exact sizes."""
    from empiarfs import wire  # noqa: PLC0415 - brings requests, which `--help` need not wait for

    sizes = wire.ftp_of(chosen)
    if sizes is None:
        yield Finding("ok", "no FTP: each file is measured by an HTTP request")
        return
    sizes.check()
    yield Finding("ok", f"{_ftp_url(chosen)} answers")


def _ftp_url(chosen: Settings) -> str:
    from empiarfs import wire  # noqa: PLC0415 - brings requests, which `--help` need not wait for

    return without_credentials(wire.ftp_url(chosen))


def _host(chosen: Settings, url: str) -> "AbstractContextManager[Host]":
    """Yield the server of `url`, which is asked once."""
    from empiarfs.host import open_host  # noqa: PLC0415 - brings requests, which `--help` need not wait for

    return open_host(url, dataclasses.replace(chosen, patience=0.0))


def _some_file(host: "Host", begin: str) -> File | None:
    """Return a file of a mebibyte or more, or else any, on the way down from `begin`."""
    directory = begin
    found: Stub | None = None
    for _ in range(DEEPEST):
        entries = host.listing.scan(directory)
        stubs = [node for node in entries if isinstance(node, Stub)]
        worth = [stub for stub in stubs if WORTH_READING.fullmatch(stub.listed_size)]
        found = next(iter(worth), found or next(iter(stubs), None))
        below = next((node.path for node in entries if isinstance(node, Directory)), None)
        if worth or below is None:
            break
        directory = below
    return None if found is None else host.origin.measure(found.path)


def _head(host: "Host") -> None:
    with host.client.request("HEAD", "", slash=True):
        pass


def _seconds(act: Callable[[], object]) -> float:
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def _reason(error: OSError) -> str:
    return error.reason if isinstance(error, ArchiveError) else without_credentials(str(error))


def _advice(error: OSError) -> str:
    by_reason = (advice for words, advice in _BY_REASON if words in _reason(error))
    if isinstance(error, Unavailable) and (advice := next(by_reason, "")):
        return advice
    match error:
        case CertificateError():
            return "a proxy of your site may intercept TLS: get its certificate, and pass it with --ca-bundle"
        case WrongRange():
            return "a cache of your site breaks requests for parts of files: have it exempt this server, or use https://"
        case FileNotFoundError():
            return NO_ENTRIES
        case PermissionError():
            return (
                "does it need a user name and password in the URL, or does it block your address? "
                "If only the listing is forbidden, name the entries: empiarfs mount ~/empiar 10028"
            )
        case _:
            return NO_NETWORK
