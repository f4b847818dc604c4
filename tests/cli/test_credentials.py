"""User names and passwords in addresses: they are used, and shown nowhere."""

import base64
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from commands import isolated, run
from support.scripted import ROOT, Reply, Request, ScriptedServer, Website

from empiarfs.empiar.connection import transport_error

FILES = {b"10028/data/a.mrc": b"bytes", b"10028/10028.xml": b"<entry/>"}
SECRET = "s3cr3t"  # noqa: S105 - of nobody
LOGIN = f"me:{SECRET}%40x"
EXPECTED = "Basic " + base64.b64encode(f"me:{SECRET}@x".encode()).decode()


class Guarded(Website):
    """A website that wants a password."""

    def __call__(self, request: Request) -> Reply:
        """Answer one request."""
        if request.headers.get("authorization") != EXPECTED:
            return Reply("401 Unauthorized", {"Content-Length": "0", "WWW-Authenticate": 'Basic realm="x"'})
        return super().__call__(request)


class Proxy(Website):
    """A proxy that wants a password, and has the website itself."""

    def __call__(self, request: Request) -> Reply:
        """Answer one request."""
        if request.headers.get("proxy-authorization") != EXPECTED:
            return Reply("407 Proxy Authentication Required", {"Content-Length": "0"})
        return super().__call__(replace(request, target="/" + request.target.split("/", 3)[3]))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A server that wants a password; the settings name it, and the password."""
    isolated(tmp_path, monkeypatch)
    with ScriptedServer(Guarded(FILES)) as server:
        monkeypatch.setenv("EMPIARFS_BASE_URL", with_login(server.base_url))
        yield server


def with_login(url: str, login: str = LOGIN) -> str:
    """Return `url` for somebody who logs in."""
    return url.replace("://", f"://{login}@")


def silent(result: Result, folder: Path) -> None:
    """Check that the password is in nothing that was said, and in no name of a file."""
    assert SECRET not in result.output + result.stderr
    assert EXPECTED.split()[1] not in result.output + result.stderr
    assert not any(SECRET in name for _, folders, files in os.walk(folder) for name in (*folders, *files))


@pytest.mark.promise("User names and passwords in URLs never appear in a log, message or file name.")
def test_who_logs_in_is_let_in(server: ScriptedServer, tmp_path: Path) -> None:
    """For listings and bytes; with every request in the log, the password is in none."""
    for words, output in ((("ls", "10028"), "10028.xml"), (("cat", "10028/data/a.mrc"), "bytes")):
        result = run(*words, "--verbose")
        assert result.exit_code == 0
        assert output in result.stdout
        assert f"GET http://127.0.0.1:{server.port}/" in result.stderr
        silent(result, tmp_path)


def test_a_wrong_password_is_told_without_it(server: ScriptedServer, tmp_path: Path) -> None:
    """The server refuses."""
    result = run("ls", "10028", "--base-url", with_login(server.base_url, f"me:{SECRET}no"), "--verbose")
    assert result.exit_code == 1
    assert "401" in result.stderr
    silent(result, tmp_path)


def test_a_server_that_is_away_is_told_without_it(server: ScriptedServer, tmp_path: Path) -> None:
    """Whatever the libraries say."""
    server.stop()
    result = run("ls", "10028", "--verbose")
    assert result.exit_code == 1
    silent(result, tmp_path)


def test_a_host_that_is_none_is_told_without_it(server: ScriptedServer, tmp_path: Path) -> None:
    """The library shows the whole address."""
    url = f"http://{LOGIN}@{'a' * 70}.example/x"
    result = run("ls", "10028", "--base-url", url, "--verbose")
    assert result.exit_code == 1
    silent(result, tmp_path)


@pytest.mark.promise("User names and passwords in URLs never appear in a log, message or file name.")
def test_what_the_libraries_say_is_told_without_it() -> None:
    """Whatever they put into it."""
    assert SECRET not in str(transport_error(OSError(f"cannot reach http://{LOGIN}@h/x nor {LOGIN}@h")))


def test_an_address_elsewhere_is_told_without_it(server: ScriptedServer, tmp_path: Path) -> None:
    """Neither that of the base URL nor that of the argument."""
    result = run("ls", f"http://you:{SECRET}@elsewhere.example/x")
    assert (result.exit_code, "elsewhere.example" in result.stderr) == (2, True)
    silent(result, tmp_path)


def test_an_address_below_the_base_url_needs_no_password_of_its_own(server: ScriptedServer) -> None:
    """With it or without, it is the same place."""
    for url in (server.base_url, with_login(server.base_url)):
        assert "data/" in run("ls", f"{url}/10028").stdout


@pytest.mark.promise("User names and passwords in URLs never appear in a log, message or file name.")
def test_the_cache_knows_no_password(server: ScriptedServer, tmp_path: Path) -> None:
    """What was kept under one is found with another: the archive is the same."""
    run("ls", "10028")
    asked = len(server.requests)
    result = run("ls", "10028", "--base-url", with_login(server.base_url, "someone:else"))
    assert (result.exit_code, len(server.requests)) == (0, asked)


@pytest.mark.promise(
    "A redirect is followed on the same server alone, never from HTTPS to HTTP, and never with credentials."
)
def test_the_password_stays_with_its_server(server: ScriptedServer) -> None:
    """Another port of the same host is another server, and is not asked."""
    with ScriptedServer(Website(FILES)) as other:
        away = {"Location": f"{other.base_url}/10028/data/", "Content-Length": "0"}
        server.answer = lambda _: Reply("302 Found", away)
        run("ls", "10028/x")
        assert other.requests == []


def test_a_redirect_on_the_same_server_keeps_it(server: ScriptedServer) -> None:
    """Servers write their own address without it."""
    site = Guarded(FILES)
    away = {"Location": f"{server.base_url}/10028/data/", "Content-Length": "0"}
    server.answer = lambda request: Reply("302 Found", away) if request.target.endswith("/x/") else site(request)
    assert run("ls", "10028/x").exit_code == 0


@pytest.fixture
def proxy(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A proxy that wants a password, on the way to a place that can be reached in no other way."""
    monkeypatch.setenv("EMPIARFS_BASE_URL", f"http://archive.invalid{ROOT}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ScriptedServer(Proxy(FILES)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://{LOGIN}@127.0.0.1:{proxy.port}")
        yield proxy


def test_a_proxy_is_logged_in_to(proxy: ScriptedServer, tmp_path: Path) -> None:
    """And not told of with its password."""
    result = run("cat", "10028/data/a.mrc", "--verbose")
    assert (result.exit_code, result.stdout) == (0, "bytes")
    silent(result, tmp_path)


def test_a_proxy_that_refuses_is_told_without_the_password(
    proxy: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its status."""
    monkeypatch.setenv("http_proxy", f"http://me:{SECRET}no@127.0.0.1:{proxy.port}")
    result = run("ls", "10028", "--verbose")
    assert (result.exit_code, "407" in result.stderr) == (1, True)
    silent(result, tmp_path)


@pytest.mark.parametrize(
    "address", ["http://{}@127.0.0.1:{}", "gopher://{}@127.0.0.1:{}", "http://{}@127.0.0.1:{}x"]
)
def test_a_proxy_that_is_none_is_told_without_the_password(
    proxy: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """One that is away, and addresses that are none, which the libraries show whole."""
    monkeypatch.setenv("http_proxy", address.format(LOGIN, proxy.port))
    proxy.stop()
    result = run("ls", "10028", "--verbose")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) < 5
    silent(result, tmp_path)
