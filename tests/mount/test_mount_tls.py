"""TLS under a mount: a certificate is verified, and a bad one is logged at once, retried, and then an error."""

import ssl
from pathlib import Path

import pytest
import trustme
from support.mounting import Mounts
from support.scripted import ScriptedServer, Website

FILES = {b"10028/data/a.txt": b"bytes"}
EIO = 5


@pytest.fixture
def authority(open_folder: Path) -> trustme.CA:
    """An authority that no system trusts; `open_folder` has its certificate in a file."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(open_folder / "authority.pem"))
    return authority


@pytest.fixture
def website() -> Website:
    """A site of one file."""
    return Website(FILES)


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """A certificate of that authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_a_mount_believes_the_authority_that_is_named(
    mount: Mounts, server: ScriptedServer, open_folder: Path, binding: str
) -> None:
    """A mount trusts the authority that EMPIARFS_CA_BUNDLE names."""
    bundle = {"EMPIARFS_CA_BUNDLE": str(open_folder / "authority.pem")}
    made = mount("10028", base_url=server.base_url, env=bundle, account=mount.account(binding=binding))
    assert made.run("cat", made / "10028/data/a.txt").stdout == b"bytes"


@pytest.mark.promise(
    "A certificate that cannot be verified is treated like an unreachable server: logged at once, `EIO` after "
    "`--patience`; at a prompt at once."
)
def test_a_mount_warns_of_a_bad_certificate_and_waits(mount: Mounts, server: ScriptedServer) -> None:
    """A mount with a bad certificate is made with a warning that names the flag; reads fail with EIO later."""
    made = mount("10028", base_url=server.base_url, env={"EMPIARFS_PATIENCE": "2"})
    made.expect("certificate")
    assert made.started is not None
    assert b"--ca-bundle" in made.started.stderr
    done = made.run("cat", made / "10028/data/a.txt")
    assert b"Input/output error" in done.stderr
    (first, *_) = [line for line in made.log().splitlines() if "WARNING" in line]
    assert "certificate" in first
    assert "retrying" in first
    assert server.requests == []
