"""Messages that pointed the wrong way: at the server for a proxy, a name, a certificate, a limit, a bind mount."""

import json
import resource
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from support import sandbox
from support.commands import run
from support.mounting import Mount, Mounts
from support.programs import names
from support.raw_server import RawServer
from support.scripted import ROOT, Reply, ScriptedServer

from empiarfs.cli import machine
from empiarfs.mount import mount_table, mountpoints, probe

NOWHERE = "http://archive.invalid/x"
ELSEWHERE = "https://archive.invalid/x"  # reached through a proxy alone


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port of this machine that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


def warning(mount: Mounts, base_url: str, **environment: str) -> str:
    """Mount `base_url`, whose server cannot be used; return the one line that `empiarfs mount` writes."""
    made = mount.prepare(mount.account())
    made.expect("retrying for up to", "using at most")
    done = mount.command(made, "10028", base_url=base_url, env=environment)
    assert done.returncode == 0
    (line,) = done.stderr.decode().splitlines()
    made.umount()
    return line


def advice(mount: Mounts, base_url: str, **environment: str) -> list[str]:
    """Return the first problem that `empiarfs doctor` finds, and its advice."""
    done = mount.account().empiarfs("doctor", f"--base-url={base_url}", "--json", env=environment, timeout=30)
    found = json.loads(done.stdout)["findings"]
    return next([one["what"], one["advice"]] for one in found if one["state"] == "bad")


def proxied(port: int, scheme: str = "http") -> dict[str, str]:
    """Return the variables that name a proxy at `port`."""
    return {"HTTPS_PROXY": f"{scheme}://127.0.0.1:{port}", "HTTP_PROXY": f"{scheme}://127.0.0.1:{port}"}


def test_a_name_that_cannot_be_found_is_named_at_the_mount(mount: Mounts) -> None:
    """A mount says that the name of the server cannot be found."""
    assert "10028: the server's name cannot be found" in warning(mount, NOWHERE)


def test_a_redirect_is_named_at_the_mount(mount: Mounts, server: ScriptedServer) -> None:
    """A mount, and the doctor, say that the server redirects to another one, as a captive portal does."""
    portal = Reply("302 Found", {"Location": "http://portal.invalid/login", "Content-Length": "0"})
    server.answer = lambda _: portal
    assert "the server redirects to another server: 'http://portal.invalid/login'" in warning(
        mount, server.base_url
    )
    what, then = advice(mount, server.base_url)
    assert "redirects to another server" in what
    assert "captive portal" in then


def test_an_unknown_certificate_is_named_at_the_mount(mount: Mounts) -> None:
    """A mount says that the certificate cannot be verified, and which option names its authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with ScriptedServer(lambda _: Reply("200 OK", {}), context) as server:
        line = warning(mount, f"https://127.0.0.1:{server.port}{ROOT}")
    assert "certificate cannot be verified; --ca-bundle" in line


def test_a_server_that_refuses_is_named_at_the_mount(mount: Mounts, refusing_port: int) -> None:
    """A mount says that the server refuses connections."""
    assert "the server refuses connections" in warning(mount, f"http://127.0.0.1:{refusing_port}/x")


def test_a_socks_proxy_is_named_at_the_mount(mount: Mounts) -> None:
    """A mount says that it cannot use a SOCKS proxy."""
    assert "a SOCKS proxy is set" in warning(mount, ELSEWHERE, **proxied(9, "socks5"))


@pytest.mark.parametrize("base_url", [ELSEWHERE, NOWHERE])
def test_a_dead_proxy_is_not_the_server(mount: Mounts, refusing_port: int, base_url: str) -> None:
    """A proxy that refuses connections is named as the proxy, at the mount and by the doctor."""
    assert "the proxy does not answer" in warning(mount, base_url, **proxied(refusing_port))
    what, then = advice(mount, base_url, **proxied(refusing_port))
    assert what == f"{base_url}: the proxy does not answer"
    assert then.startswith("is HTTPS_PROXY the proxy of your network?")


@pytest.mark.parametrize("base_url", [ELSEWHERE, NOWHERE])
def test_a_proxy_that_wants_a_password_says_so(mount: Mounts, server: ScriptedServer, base_url: str) -> None:
    """The advice for HTTP 407 is the user name and password of the proxy, not another proxy."""
    server.answer = lambda _: Reply("407 Proxy Authentication Required", {"Content-Length": "0"})
    assert "HTTP 407" in warning(mount, base_url, **proxied(server.port))
    what, then = advice(mount, base_url, **proxied(server.port))
    assert "HTTP 407" in what
    assert "HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT" in then


def test_a_proxy_that_does_not_reach_the_server_says_so(mount: Mounts, server: ScriptedServer) -> None:
    """A proxy that answers, and does not connect to the server, is not said to be silent."""
    server.answer = lambda _: Reply("502 Bad Gateway", {"Content-Length": "0"})
    assert "the proxy does not connect to the server" in warning(mount, ELSEWHERE, **proxied(server.port))


def test_a_proxy_without_tls_is_no_server_without_tls(mount: Mounts) -> None:
    """A proxy that is written with https:// and speaks HTTP is named, and not the server."""
    with RawServer(lambda _: [], welcome=[b"HTTP/1.1 400 Bad Request\r\n\r\n"]) as proxy:
        assert "http:// in HTTPS_PROXY" in warning(mount, ELSEWHERE, **proxied(proxy.port, "https"))


@pytest.mark.parametrize("flags", [[], ["--foreground"]])
def test_a_limit_of_memory_is_named(mount: Mounts, flags: list[str]) -> None:
    """Where `ulimit -v` leaves too little memory for threads, the message names the limit."""
    made = mount.prepare(mount.account())
    archive, log = f"--base-url={mount.base_url}", f"--log-file={made.log_file}"
    words = ["mount", *flags, archive, log, str(made.path), "10028"]
    done = made.run("bash", "-c", 'ulimit -v 150000; "$@"', "bash", sys.executable, "-m", "empiarfs", *words)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1].endswith("raise them: ulimit -v unlimited, ulimit -u unlimited")
    made.see_gone()


def test_the_doctor_knows_of_a_limit_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of memory that a busy mount exceeds is a warning."""
    for most, state in ((800_000 << 10, "warn"), (8 << 30, "ok"), (resource.RLIM_INFINITY, "ok")):
        monkeypatch.setattr(resource, "getrlimit", lambda _, most=most: (most, most))
        assert [one.state for one in machine.address_space()] == [state]


@pytest.fixture
def bound(mount: Mounts) -> Iterator[tuple[Mount, Path]]:
    """A mount, and a bind mount of one of its directories."""
    made = mount("10001", "10028")
    part = made.account.mkdir(made.account.home / "part")
    sandbox.bind(made / "10028/data", part)
    yield made, part
    sandbox.unbind(part)


@pytest.mark.root
def test_a_bind_mount_of_a_directory_is_not_down(bound: tuple[Mount, Path]) -> None:
    """`status`, and its output for Prometheus, list a mount once, and no bind mount of a part of it."""
    made, part = bound
    assert made.call(names, part)
    listed = probe.mounts()  # those of other programs too, which may be dead
    assert (listed.count(str(made.path)), listed.count(str(part))) == (1, 0)


@pytest.mark.root
def test_the_status_of_a_bind_mount_is_that_of_its_mount(bound: tuple[Mount, Path]) -> None:
    """`status` of a bind mount of a directory shows the mount that it is a part of."""
    made, part = bound
    done = made.account.empiarfs("status", part, "--json")
    assert json.loads(done.stdout)["mountpoint"] == str(made.path)


def test_a_bind_mount_whose_mount_is_not_visible_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` of a bind mount says what it shows where its mount is not visible, as in a container."""
    alone = mount_table.Mounted("/data", mount_table.KIND, frozenset(), "/10028/data", "0:44")
    monkeypatch.setattr(mount_table, "table", lambda: [alone])
    with pytest.raises(
        mountpoints.CannotMount, match="/data shows /10028/data of a mount that is not visible here"
    ):
        probe.with_status(Path("/data"))


@pytest.mark.parametrize("option", ["max_read=65536", "max_readahead=131072"])
def test_an_option_that_never_mounts_is_not_offered(tmp_path: Path, option: str) -> None:
    """Options with which libfuse 3 does not mount are unknown, and no message offers them."""
    done = run("mount", "-o", option, str(tmp_path / "mnt"))
    name = option.partition("=")[0]
    assert f"-o {name}: unknown option" in done.stderr
    assert name not in done.stderr.partition("choose from")[2]
