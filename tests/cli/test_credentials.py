"""User names and passwords in addresses: they are used, and shown nowhere."""

import base64
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from support.commands import run
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
def website() -> Website:
    """A site that requires a password."""
    return Guarded(FILES)


@pytest.fixture
def server(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    """The server of that site; the settings name it and the password."""
    monkeypatch.setenv("EMPIARFS_BASE_URL", with_login(server.base_url))
    return server


def with_login(url: str, login: str = LOGIN) -> str:
    """Return `url` with credentials in it."""
    return url.replace("://", f"://{login}@")


def silent(result: Result, folder: Path) -> None:
    """Check that the password is in no output and in no file name."""
    assert SECRET not in result.output + result.stderr
    assert EXPECTED.split()[1] not in result.output + result.stderr
    assert not any(SECRET in name for _, folders, files in os.walk(folder) for name in (*folders, *files))


@pytest.mark.promise("User names and passwords in URLs never appear in a log, message or file name.")
def test_credentials_in_the_base_url_are_used(server: ScriptedServer, tmp_path: Path) -> None:
    """Listings and bytes are fetched with the credentials, and the verbose log does not contain the password."""
    for words, output in ((("ls", "10028"), "10028.xml"), (("cat", "10028/data/a.mrc"), "bytes")):
        result = run(*words, "--verbose")
        assert result.exit_code == 0
        assert output in result.stdout
        assert f"GET http://127.0.0.1:{server.port}/" in result.stderr
        silent(result, tmp_path)


def test_a_rejected_password_is_not_shown(server: ScriptedServer, tmp_path: Path) -> None:
    """The error for a rejected password names the status and does not contain the password."""
    result = run("ls", "10028", "--base-url", with_login(server.base_url, f"me:{SECRET}no"), "--verbose")
    assert result.exit_code == 1
    assert "401" in result.stderr
    silent(result, tmp_path)


def test_an_unreachable_server_does_not_reveal_the_password(server: ScriptedServer, tmp_path: Path) -> None:
    """The error for an unreachable server does not contain the password."""
    server.stop()
    result = run("ls", "10028", "--verbose")
    assert result.exit_code == 1
    silent(result, tmp_path)


def test_an_invalid_host_does_not_reveal_the_password(server: ScriptedServer, tmp_path: Path) -> None:
    """The error for an invalid host name does not contain the password, though the library's message does."""
    url = f"http://{LOGIN}@{'a' * 70}.example/x"
    result = run("ls", "10028", "--base-url", url, "--verbose")
    assert result.exit_code == 1
    silent(result, tmp_path)


@pytest.mark.promise("User names and passwords in URLs never appear in a log, message or file name.")
def test_messages_of_libraries_lose_the_password() -> None:
    """Credentials are removed from the messages of libraries, whether a scheme precedes them or not."""
    assert SECRET not in str(transport_error(OSError(f"cannot reach http://{LOGIN}@h/x nor {LOGIN}@h")))


def test_a_foreign_address_does_not_reveal_the_password(server: ScriptedServer, tmp_path: Path) -> None:
    """The error for an address on another server shows no password, neither of the address nor of the base URL."""
    result = run("ls", f"http://you:{SECRET}@elsewhere.example/x")
    assert (result.exit_code, "elsewhere.example" in result.stderr) == (2, True)
    silent(result, tmp_path)


def test_an_address_below_the_base_url_needs_no_password_of_its_own(server: ScriptedServer) -> None:
    """An address below the base URL is the same place with and without credentials."""
    for url in (server.base_url, with_login(server.base_url)):
        assert "data/" in run("ls", f"{url}/10028").stdout


@pytest.mark.promise("User names and passwords in URLs never appear in a log, message or file name.")
def test_the_cache_knows_no_password(server: ScriptedServer, tmp_path: Path) -> None:
    """The cache is the same for all credentials: what was fetched with one login is found with another."""
    run("ls", "10028")
    asked = len(server.requests)
    result = run("ls", "10028", "--base-url", with_login(server.base_url, "someone:else"))
    assert (result.exit_code, len(server.requests)) == (0, asked)


@pytest.mark.promise(
    "A redirect is followed on the same server alone, never from HTTPS to HTTP, and never with credentials."
)
def test_the_password_stays_with_its_server(server: ScriptedServer) -> None:
    """A redirect to another port of the same host is not followed."""
    with ScriptedServer(Website(FILES)) as other:
        away = {"Location": f"{other.base_url}/10028/data/", "Content-Length": "0"}
        server.answer = lambda _: Reply("302 Found", away)
        run("ls", "10028/x")
        assert other.requests == []


def test_a_redirect_on_the_same_server_keeps_it(server: ScriptedServer) -> None:
    """A redirect on the same server is followed with the credentials, which its Location does not contain."""
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
    """Credentials in a proxy's address are used, and the verbose log does not contain them."""
    result = run("cat", "10028/data/a.mrc", "--verbose")
    assert (result.exit_code, result.stdout) == (0, "bytes")
    silent(result, tmp_path)


def test_a_proxy_that_refuses_does_not_reveal_the_password(
    proxy: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error for a proxy that rejects the password names the status and does not contain the password."""
    monkeypatch.setenv("http_proxy", f"http://me:{SECRET}no@127.0.0.1:{proxy.port}")
    result = run("ls", "10028", "--verbose")
    assert (result.exit_code, "407" in result.stderr) == (1, True)
    silent(result, tmp_path)


@pytest.mark.parametrize(
    "address", ["http://{}@127.0.0.1:{}", "gopher://{}@127.0.0.1:{}", "http://{}@127.0.0.1:{}x"]
)
def test_an_unusable_proxy_does_not_reveal_the_password(
    proxy: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """The error for a proxy that is unreachable or invalid is short and does not contain the password."""
    monkeypatch.setenv("http_proxy", address.format(LOGIN, proxy.port))
    proxy.stop()
    result = run("ls", "10028", "--verbose")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) < 5
    silent(result, tmp_path)
