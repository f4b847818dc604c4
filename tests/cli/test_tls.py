"""TLS: always verified, by the named authorities, and a clear error where it cannot be."""

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.commands import run
from support.scripted import Reply, Request, ScriptedServer, Website

HERE = "127.0.0.1"
FILES = {b"10028/data/a.mrc": b"bytes"}
Start = Callable[..., ScriptedServer]
AT_ONCE = 10.0  # seconds; a third of the patience that `ls` has


class Authority:
    """An authority that no system trusts, and the file with its certificate."""

    def __init__(self, file: Path) -> None:
        self._authority = trustme.CA()
        self.file = file
        self._authority.cert_pem.write_to_path(str(file))

    def certificate(self, *names: str, **more: Any) -> ssl.SSLContext:
        """Return what a server shows that calls itself `names`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names, **more).configure_cert(context)
        return context


@pytest.fixture
def authority(own_settings: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority for the test; the environment names no other."""
    monkeypatch.setenv("EMPIARFS_PATIENCE", "30")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    return Authority(tmp_path / "authority.pem")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts servers with a certificate; the settings name the last one."""
    with ExitStack() as stack:

        def started(tls: ssl.SSLContext, answer: Callable[[Request], Reply | None] | None = None) -> ScriptedServer:
            server = stack.enter_context(ScriptedServer(answer or Website(FILES), tls))
            monkeypatch.setenv("EMPIARFS_BASE_URL", server.base_url)
            return server

        yield started


def refused(*flags: str) -> str:
    """Check that `ls` fails at once with one line; return it."""
    begun = time.monotonic()
    result = run("ls", "10028/data", *flags)
    assert time.monotonic() - begun < AT_ONCE
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    return line


def test_the_authority_of_the_bundle_is_trusted(authority: Authority, start: Start) -> None:
    """Listings and bytes are fetched from a server whose authority `--ca-bundle` names."""
    start(authority.certificate(HERE))
    bundle = f"--ca-bundle={authority.file}"
    assert run("ls", "10028/data", bundle).stdout == "a.mrc\n"
    assert run("cat", "10028/data/a.mrc", bundle).stdout == "bytes"


@pytest.mark.promise("TLS certificates are always verified; no option disables that.")
def test_an_unknown_authority_is_not_trusted(authority: Authority, start: Start) -> None:
    """No request is sent to a server of an unknown authority, and the error names `--ca-bundle`."""
    server = start(authority.certificate(HERE))
    assert "--ca-bundle" in refused()
    assert server.requests == []


@pytest.mark.promise("TLS certificates are always verified; no option disables that.")
def test_a_certificate_for_another_host_is_rejected(authority: Authority, start: Start) -> None:
    """No request is sent to a server whose certificate names another host."""
    server = start(authority.certificate("elsewhere.example"))
    assert "another host" in refused(f"--ca-bundle={authority.file}")
    assert server.requests == []


@pytest.mark.promise("TLS certificates are always verified; no option disables that.")
def test_an_expired_certificate_is_rejected(authority: Authority, start: Start) -> None:
    """A certificate that has expired or is not valid yet is rejected."""
    now = datetime.now(UTC)
    day = timedelta(days=1)
    start(authority.certificate(HERE, not_before=now - 2 * day, not_after=now - day))
    assert "expired" in refused(f"--ca-bundle={authority.file}")
    start(authority.certificate(HERE, not_before=now + day, not_after=now + 2 * day))
    assert "not valid yet" in refused(f"--ca-bundle={authority.file}")


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_setting_goes_before_the_environment(
    authority: Authority, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """`--ca-bundle` takes precedence over the variables of requests and curl, which apply without it."""
    start(authority.certificate(HERE))
    other = Authority(tmp_path / "other.pem")
    monkeypatch.setenv(variable, str(authority.file))
    assert "--ca-bundle" in refused(f"--ca-bundle={other.file}")
    assert run("ls", "10028/data").exit_code == 0
    monkeypatch.setenv(variable, str(other.file))
    assert run("ls", "10028", f"--ca-bundle={authority.file}").exit_code == 0
    monkeypatch.setenv(variable, str(tmp_path / "none.pem"))
    assert "REQUESTS_CA_BUNDLE" in refused("--base-url", start(authority.certificate(HERE)).base_url)


def test_an_unreadable_bundle_is_an_error_at_the_start(authority: Authority, start: Start) -> None:
    """A bundle that cannot be read is one error line before any connection is made, for a mount too."""
    server = start(authority.certificate(HERE))
    for words in (("ls",), ("mount", str(authority.file.parent / "mnt"))):
        result = run(*words, "--ca-bundle=/no/such/file")
        assert result.exit_code == 1
        assert result.stderr == "Error: --ca-bundle: '/no/such/file' cannot be read: No such file or directory\n"
    assert server.connections == 0


@pytest.mark.promise(
    "A redirect is followed on the same server alone, never from HTTPS to HTTP, and never with credentials."
)
def test_a_redirect_to_plain_http_is_not_followed(authority: Authority, start: Start) -> None:
    """A redirect from HTTPS to plain HTTP on the same server is an error."""
    with ScriptedServer(Website(FILES)) as plain:
        away = {"Location": f"{plain.base_url}/10028/data/", "Content-Length": "0"}
        start(authority.certificate(HERE), lambda _: Reply("302 Found", away))
        assert "not encrypted" in run("ls", "10028/x", "--patience=0", f"--ca-bundle={authority.file}").stderr
        assert plain.requests == []
