"""A doubled slash in the base URL: `ls` worked, and everything in a mounted entry was EIO after the patience.

The kind: servers merge slashes, and redirect from the one way to write a directory to the other. All ways to write
the base URL are one archive, and a redirect to the merged path with a slash says that it is a directory.
"""

from pathlib import Path

import pytest
from support.apache import BASE, Apache
from support.archives import archive_of
from support.mounting import Mounts
from support.programs import names
from support.scripted import ROOT, Reply, Request, ScriptedServer, Website

from empiarfs.model import Directory
from empiarfs.paths import archive_path
from empiarfs.urls import ftp_address, web_address

DOUBLED = ROOT.replace("/", "//")


@pytest.mark.parametrize("url", ["http://host//a///b", "http://host/a//b//", "http://host/a/b"])
def test_doubled_slashes_of_the_base_url_are_single(url: str) -> None:
    """A base URL is the same archive with single and with doubled slashes."""
    assert web_address(url) == "http://host/a/b"
    assert ftp_address(url.replace("http", "ftp")) == "ftp://host/a/b"


def test_a_url_below_the_base_may_have_doubled_slashes() -> None:
    """A URL below the base URL names the same path with doubled slashes."""
    assert archive_path("http://host//a//b/10028//data", "http://host/a/b") == "10028/data"


def test_a_mount_of_a_doubled_base_url_shows_its_entries(mount: Mounts, apache: Apache) -> None:
    """The directories of an entry are listed in a mount whose base URL has a doubled slash."""
    made = mount("10028", base_url=apache.url.replace(BASE, BASE.replace("/", "//")))
    assert made.started is not None
    assert made.started.stderr == b""
    assert "data" in made.call(names, made / "10028")


def test_a_redirect_to_the_merged_path_is_the_directory(server: ScriptedServer, tmp_path: Path) -> None:
    """A redirect that merges slashes and adds one at the end means a directory, and is not followed."""
    site = Website({b"10028/data/a.mrc": b"a"})

    def answer(request: Request) -> Reply | None:
        target = request.target.replace("//", "/")
        reply = site(Request(request.method, target, request.headers, request.connection))
        return reply if reply is None or "Location" in reply.headers else site(request)

    server.answer = answer
    with archive_of(server.base_url.replace(ROOT, DOUBLED), tmp_path, patience=0.0) as archive:
        assert archive.stat("10028") == Directory("10028")
