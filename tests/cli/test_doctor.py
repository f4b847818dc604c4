"""`empiarfs doctor`: each obstacle to a mount is a line with advice, and decides the status."""

import json
import os
import resource
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.commands import run
from support.fakes import SOON, noise
from support.scripted import ROOT, Reply, Request, ScriptedServer, Website

from empiarfs.cli import doctor, fuse_checks, machine, network
from empiarfs.cli.findings import Finding, State
from empiarfs.mount import mount_table, mountpoints, requirements
from empiarfs.setting_sources import load
from empiarfs.settings import Settings
from empiarfs.units import GIB, MIB
from empiarfs.urls import BASE_URL

FILES = {b"10028/10028.xml": b"<entry/>", b"10028/data/part 1/a.mrc": noise(2 * MIB), b"10029/x": b"x"}
NOW = 1_700_000_000.0
IN_ALL = 15.0  # seconds, whatever the network does


class Dated(Website):
    """A website that knows what time it is."""

    skew = 0.0

    def __call__(self, request: Request) -> Reply:
        """Answer one request."""
        from email.utils import formatdate  # noqa: PLC0415 - used here alone

        reply = super().__call__(request)
        reply.headers["Date"] = formatdate(time.time() + self.skew, usegmt=True)
        return reply


@pytest.fixture
def website() -> Website:
    """A good site that says what time it is."""
    return Dated(FILES)


@pytest.fixture(autouse=True)
def no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without updatedb, on which no mount is tried."""
    monkeypatch.setattr(fuse_checks, "trial", lambda _: iter(()))
    monkeypatch.setattr(fuse_checks, "UPDATEDB_CONFIG", tmp_path / "updatedb.conf")


@pytest.fixture(autouse=True)
def no_proxy(own_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names no proxy."""
    for name in (*machine.PROXIES, "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def findings_as_json(*flags: str) -> Any:
    """Return the output of `doctor --json`."""
    return json.loads(run("doctor", "--json", *flags).stdout)


def of_network(*, seconds: float = SOON) -> list[Finding]:
    """Return the findings about the network."""
    return list(network.findings(load({}, os.environ), seconds))


def states(findings: list[Finding]) -> list[str]:
    """Return the states of the findings."""
    return [one.state for one in findings]


def test_all_is_well(server: ScriptedServer) -> None:
    """On a machine that can mount, with a good server, every line is ok or a warning, and the status is 0."""
    result = run("doctor")
    lines = result.stdout.splitlines()
    assert (result.exit_code, lines[-1]) == (0, "all is well")
    assert not [line for line in lines if line.startswith("bad")]
    for word in ("/dev/fuse", "libfuse", "--allow-other", "cache", "connections", "files", "proxy", "round trip"):
        assert any(line.startswith(("ok", "warn")) and word in line for line in lines), word


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (["ok", "ok"], "all is well"),
        (["ok", "warn"], "a mount will work; 1 warning"),
        (["warn", "warn"], "a mount will work; 2 warnings"),
        (["warn", "bad", "ok"], '1 problem found (see "bad" above)'),
    ],
)
def test_the_last_line_hides_nothing(found: list[State], says: str) -> None:
    """The last line counts the problems, or the warnings where there is no problem."""
    assert doctor._verdict(found) == says


def test_json_has_the_same_findings(server: ScriptedServer) -> None:
    """`--json` writes the state, text and advice of each finding, and whether the machine is healthy."""
    found = findings_as_json()
    assert found["healthy"] is True
    assert {frozenset(one) for one in found["findings"]} == {frozenset({"state", "what", "advice"})}


def test_the_rate_is_measured_politely(server: ScriptedServer) -> None:
    """The rate is measured with three ranges of one file, in at most 12 requests over one connection."""
    found = of_network()
    assert states(found) == ["ok"] * 5
    assert found[3].what.startswith("one connection transfers ")
    assert "10028/data/part 1/a.mrc" in found[3].what
    assert len(server.requests) <= 12
    assert server.connections == 1
    wanted = [request.headers["range"] for request in server.requests if "range" in request.headers]
    assert wanted == ["bytes=0-524287", "bytes=524288-1048575", "bytes=1048576-1572863"]


@pytest.mark.parametrize("files", [{b"10028/small": b"x"}, {b"10028/empty": b""}])
def test_a_file_that_is_too_short_is_read_all_the_same(server: ScriptedServer, files: dict[bytes, bytes]) -> None:
    """A file too short to measure the rate is read, and the line says that it is too short."""
    server.answer = Dated(files)
    assert "too short" in of_network()[3].what


def test_an_archive_without_files_is_a_warning(server: ScriptedServer) -> None:
    """An archive in which no file is found is a warning."""
    server.answer = Dated({b"10028/y/z/1/2/3/4/5/6/7": b""})
    assert of_network()[3] == Finding("warn", "found no file to measure the transfer rate with")


def test_a_server_that_is_away_is_bad(server: ScriptedServer) -> None:
    """An unreachable server is bad, with advice, and the command ends in time."""
    server.stop()
    begun = time.monotonic()
    result = run("doctor")
    assert time.monotonic() - begun < IN_ALL
    assert result.exit_code == 1
    assert ": the server refuses connections\n      is there a network" in result.stdout
    assert result.stdout.splitlines()[-1].endswith('found (see "bad" above)')


@pytest.mark.parametrize(
    ("status", "advice"),
    [("404 Not Found", "--base-url"), ("401 Unauthorized", "password"), ("502 Bad", "network")],
)
def test_a_server_that_refuses_is_bad(server: ScriptedServer, status: str, advice: str) -> None:
    """A server that answers with an error status is bad, with the advice for that status."""
    server.answer = lambda _: Reply(status, {"Content-Length": "0"})
    found = of_network()
    assert found[0].state == "bad"
    assert advice in found[0].advice


def test_one_lost_request_is_no_problem(server: ScriptedServer) -> None:
    """One request that gets no answer is retried, and every state is ok."""
    site, first = Dated(FILES), threading.Event()

    def answer(request: Request) -> Reply | None:
        if not first.is_set():
            first.set()
            return None
        return site(request)

    server.answer = answer
    assert states(of_network()) == ["ok"] * 5


def test_what_breaks_off_in_the_middle_is_a_warning(server: ScriptedServer) -> None:
    """A server that lists its entries and answers nothing else is a warning."""
    site = Dated(FILES)

    def answer(request: Request) -> Reply | None:
        return site(request) if request.method == "HEAD" or request.target == f"{ROOT}/" else None

    server.answer = answer
    found = of_network()
    assert states(found) == ["ok", "ok", "ok", "warn", "ok"]


INDEX = "<html><head><title>Index of /</title></head><body><pre>{}</pre></body></html>"
NO_ARCHIVES = {
    "nothing": ("", "is not a listing of entries"),
    "an application": (
        '<html><head><title>Log in</title></head><body><div id="app"></div></body></html>',
        "is not a listing",
    ),
    "an empty index": (INDEX.format('<a href="../">..</a>'), "lists no entry: it holds nothing"),
    "an entry": (
        INDEX.format('<a href="10028.xml">x</a> 1\n<a href="data/">data</a> -'),
        "lists no entry: it holds 10028.xml, data",
    ),
    "others": (
        INDEX.format("".join(f'<a href="{one}">x</a>' for one in "abcd")),
        "lists no entry: it holds a, b, c, ...",
    ),
    "a file with a number": (INDEX.format('<a href="10028">10028</a> 5'), "lists no entry: it holds 10028"),
}


@pytest.mark.parametrize("page", NO_ARCHIVES)
def test_a_server_of_no_entries_is_bad(server: ScriptedServer, page: str) -> None:
    """A root that answers but lists no entries is bad, with the advice to name another base URL."""
    text, says = NO_ARCHIVES[page]
    headers = {"Content-Type": "text/html", "Content-Length": str(len(text))}
    server.answer = lambda _: Reply("200 OK", headers, text.encode())
    result = run("doctor")
    lines = result.stdout.splitlines()
    (bad,) = [number for number, line in enumerate(lines) if line.startswith("bad")]
    assert says in lines[bad]
    assert server.base_url in lines[bad]
    assert "choose another with --base-url" in lines[bad + 1]
    assert (result.exit_code, lines[-1]) == (1, '1 problem found (see "bad" above)')


@pytest.mark.parametrize(
    ("status", "says"), [("404 Not Found", "the server has nothing at "), ("403 Forbidden", "HTTP 403")]
)
def test_a_root_that_is_not_listed_is_bad(server: ScriptedServer, status: str, says: str) -> None:
    """A root that answers a HEAD request but refuses to be listed is bad."""
    site = Dated(FILES)
    refusal = Reply(status, {"Content-Length": "0"})
    server.answer = lambda request: (
        refusal if (request.method, request.target) == ("GET", f"{ROOT}/") else site(request)
    )
    found = of_network()[0]
    assert (found.state, says in found.what) == ("bad", True), found
    assert "entries" in found.advice


def test_a_network_that_is_silent_is_given_up_in_time(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name lookup that takes minutes does not delay the command beyond its time limit."""
    release = threading.Event()

    def forever(*_: object, **__: object) -> None:
        release.wait(SOON)
        raise OSError("no")

    monkeypatch.setattr(socket, "getaddrinfo", forever)
    monkeypatch.setenv("EMPIARFS_BASE_URL", "http://archive.invalid/x")
    begun = time.monotonic()
    found = of_network(seconds=0.3)
    assert time.monotonic() - begun < SOON / 2
    assert found[0] == Finding("bad", "http://archive.invalid/x does not answer", network.NO_NETWORK)
    release.set()


def test_offline_no_connection_is_made(server: ScriptedServer) -> None:
    """With `--offline` no connection is made, and that is no problem."""
    result = run("doctor", "--offline")
    assert result.exit_code == 0
    assert "no server was contacted" in result.stdout
    assert server.connections == 0


def test_the_lines_of_the_network_name_the_url_that_they_check(server: ScriptedServer) -> None:
    """The answer, the round trip and a refused connection are reported with the base URL."""
    url = server.base_url
    found = [one.what for one in of_network()]
    assert found[0].startswith(f"{url} answers, and lists ")
    assert any(what.startswith(f"a round trip to {url} takes ") for what in found)
    server.stop()
    (refused, _) = of_network()
    assert refused.what == f"{url}: the server refuses connections"


def test_a_password_in_an_address_is_not_shown(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output shows no password of the base URL or of the proxy."""
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    monkeypatch.setenv("EMPIARFS_BASE_URL", server.base_url.replace("://", "://me:secret@"))
    result = run("doctor")
    assert "proxy:3128" in result.stdout
    assert "secret" not in result.output


def test_the_api_is_checked_for_empiar_alone(monkeypatch: pytest.MonkeyPatch, server: ScriptedServer) -> None:
    """The API is checked for EMPIAR alone, and a reply without the entry's record is a warning."""
    assert not any("API" in one.what for one in of_network())
    monkeypatch.setattr(network, "API_URL", f"{server.base_url}/api")
    for body, state in ((b'{"EMPIAR-10028": {}}', "ok"), (b"<html>", "warn"), (b"", "warn")):
        server.answer = Website({b"api/10028/": body})
        assert states(list(network.api(Settings()))) == [state]
    monkeypatch.setattr(network, "server", lambda _: iter(()))
    monkeypatch.setattr(network, "ftp", lambda _: iter(()))
    server.answer = Website({b"api/10028/": b"{"})
    assert list(network.findings(Settings(base_url=BASE_URL))) == [
        Finding("ok", f"{server.base_url}/api answers (EMPIAR's API)")
    ]


def test_ftp_that_does_not_answer_is_a_warning(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An FTP server that does not answer is a warning with advice, and its password is not shown."""
    monkeypatch.delenv("EMPIARFS_NO_FTP")
    place = f"127.0.0.1:{server.port}/x"
    monkeypatch.setenv("EMPIARFS_FTP_URL", f"ftp://me:secret@{place}")
    server.stop()
    found = of_network()[-1]
    assert found.state == "warn"
    assert found.what.startswith(f"ftp://{place}: FTP does not answer")
    assert "--no-ftp" in found.advice
    assert "secret" not in found.what


@pytest.mark.parametrize(
    ("ahead", "state", "words"),
    [(0, "ok", "right"), (59, "ok", "right"), (90, "warn", "90 s fast"), (-3600, "warn", "3600 s slow")],
)
def test_the_clock_is_compared_with_the_servers(ahead: int, state: str, words: str) -> None:
    """A clock that differs from the server's by more than a minute is a warning."""
    (found,) = network.clock("Tue, 14 Nov 2023 22:13:20 GMT", NOW + ahead)
    assert (found.state, words in found.what) == (state, True)


@pytest.mark.parametrize("date", ["", "yesterday", "Tue, 99 Nov 2023 22:13:20 GMT"])
def test_a_reply_without_a_date_gives_no_finding(date: str) -> None:
    """A reply without a valid date gives no finding about the clock."""
    assert list(network.clock(date, NOW)) == []


def refusing(error: OSError) -> Any:
    """Return an `os.open` that cannot open the FUSE device."""
    before = os.open

    def opened(path: Any, *arguments: Any, **more: Any) -> int:
        if path == requirements.DEVICE:
            raise error
        return before(path, *arguments, **more)

    return opened


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (FileNotFoundError(2, "none"), "--device"),
        (OSError(19, "no module"), "modprobe"),
        (PermissionError(13, "no"), "ask"),
    ],
)
def test_a_machine_without_fuse_is_bad(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, error: OSError, advice: str
) -> None:
    """A FUSE device that cannot be opened is bad, with the advice for the reason."""
    monkeypatch.setattr(os, "open", refusing(error))
    (found,) = fuse_checks.device()
    assert (found.state, advice in found.advice) == ("bad", True)
    assert run("doctor").exit_code == 1


def test_a_user_without_fusermount_is_bad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A missing fusermount is bad for an ordinary user and no problem for root."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert states(list(fuse_checks.helper())) == ["ok"]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert states(list(fuse_checks.helper())) == ["bad"]


def test_a_binding_that_is_none_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown FUSE binding is bad, and the advice names those that exist."""
    monkeypatch.setenv("EMPIARFS_FUSE", "pyfuse3")
    (found,) = fuse_checks.library()
    assert (found.state, found.advice) == ("bad", "use mfusepy or fusepy")


@pytest.mark.parametrize("error", [None, mountpoints.CannotMount("it is not a mount of empiarfs")])
def test_a_trial_that_hangs_is_detached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: mountpoints.CannotMount | None
) -> None:
    """A trial that does not end in time is bad, and its mount is detached if it was made."""
    detached: list[tuple[Path, bool]] = []

    def hanging(command: list[str], *, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    def unmount(point: Path, *, lazy: bool) -> str:
        detached.append((point, lazy))
        if error is not None:
            raise error
        return ""

    monkeypatch.setattr(subprocess, "run", hanging)
    monkeypatch.setattr(mountpoints, "unmount", unmount)
    monkeypatch.setattr(fuse_checks, "UNDO_SECONDS", 0.01)
    found = fuse_checks._tried(tmp_path / "mount", tmp_path)
    assert (found.state, "does not answer within 20 s" in found.what) == ("bad", True)
    assert set(detached) == {(tmp_path / "mount", True)}


def test_an_interrupted_trial_is_detached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mount that is made when the check is interrupted is detached."""
    detached: list[Path] = []

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def unmount(point: Path, *, lazy: bool) -> str:
        assert lazy
        detached.append(point)
        if len(detached) == 1:
            raise mountpoints.CannotMount("it is not made yet")
        return ""

    monkeypatch.setattr(subprocess, "run", interrupted)
    monkeypatch.setattr(mountpoints, "unmount", unmount)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        fuse_checks._tried(tmp_path / "mount", tmp_path)
    assert detached == [tmp_path / "mount"] * 2


@pytest.mark.parametrize(
    ("line", "wanted", "state", "open_to_us"),
    [
        ("user_allow_other", "yes", "ok", 1),
        (" user_allow_other ", "yes", "ok", 1),
        ("#user_allow_other", "yes", "bad", 0),
        ("#user_allow_other", "no", "ok", 0),
    ],
)
def test_others_may_read_where_the_administrator_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, wanted: str, state: str, open_to_us: int
) -> None:
    """A missing `user_allow_other` is bad only with `--allow-other`; otherwise the line says what it needs."""
    (tmp_path / "fuse.conf").write_text(f"# a comment\n{line}\n")
    monkeypatch.setattr(fuse_checks, "FUSE_CONFIG", tmp_path / "fuse.conf")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (found,) = fuse_checks.others(load({"allow_other": wanted}, {}))
    assert found.state == state
    assert ("you may use" in found.what) == bool(open_to_us)
    if not open_to_us and state == "ok":
        needs_it = f"--allow-other needs user_allow_other in {fuse_checks.FUSE_CONFIG}"
        assert found == Finding("ok", f"other users cannot read your mounts: {needs_it}")


@pytest.mark.parametrize(("kind", "state"), [("ext4", "ok"), ("nfs4", "warn"), ("lustre", "warn")])
def test_a_cache_that_is_not_on_a_local_disk_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, state: str
) -> None:
    """A cache on a network file system is a warning; the nearest and last mount above it decides."""
    inside = mount_table.Mounted(str(tmp_path), kind, frozenset())
    table = [
        mount_table.Mounted("/", "xfs", frozenset()),
        mount_table.Mounted(str(tmp_path), "tmpfs", frozenset()),
        inside,
    ]
    table.append(mount_table.Mounted(f"{tmp_path}x", "nfs", frozenset()))
    monkeypatch.setattr(mount_table, "table", lambda: table)
    found = next(machine.cache_folder(tmp_path / "not" / "there"))
    assert (found.state, kind in found.what) == (state, True)


def test_a_disk_without_room_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with less free space than the minimum is a warning."""
    from types import SimpleNamespace  # noqa: PLC0415 - used here alone

    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=100 * GIB, free=4 * GIB))
    assert states(list(machine.cache_folder(tmp_path))) == ["ok", "warn"]


def test_a_cache_that_is_not_safe_is_bad(tmp_path: Path) -> None:
    """A cache directory that others may write is bad."""
    tmp_path.chmod(0o777)
    (found,) = machine.cache_folder(tmp_path)
    assert (found.state, "written by everybody" in found.what) == ("bad", True)


def test_a_folder_for_slots_that_cannot_be_used_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory for connection slots that cannot be used is a warning."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    assert states(list(machine.slots_folder())) == ["warn"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert states(list(machine.slots_folder())) == ["ok"]


@pytest.mark.parametrize(("most", "state"), [(256, "warn"), (1024, "ok"), (resource.RLIM_INFINITY, "ok")])
def test_few_open_files_are_a_warning(monkeypatch: pytest.MonkeyPatch, most: int, state: str) -> None:
    """A limit of few open files is a warning."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (most, most))
    assert states(list(machine.open_files())) == [state]


@pytest.mark.parametrize(
    ("environ", "state", "words"),
    [
        ({}, "ok", "no proxy"),
        ({"HTTPS_PROXY": "http://p:1"}, "ok", "through a proxy: https_proxy=http://p:1"),
        ({"https_proxy": "socks5://p:1"}, "bad", "SOCKS"),
        ({"ALL_PROXY": "socks5://p:1"}, "bad", "SOCKS"),
        ({"HTTP_PROXY": "socks5://p:1"}, "ok", "through a proxy"),
        ({"https_proxy": "http://p:1", "no_proxy": "ebi.ac.uk"}, "ok", "no proxy for ftp.ebi.ac.uk"),
    ],
)
def test_proxies_are_shown(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], state: str, words: str
) -> None:
    """The line names the proxies in use, and a SOCKS proxy for the archive is bad."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    (found,) = machine.proxies(Settings())
    assert (found.state, words in found.what) == (state, True), found
