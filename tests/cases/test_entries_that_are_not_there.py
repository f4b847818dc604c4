"""Entries that are announced and not there: EMPIAR shows their pages, and the server answers 403 or 404.

The kind: what a user names exists, and not yet for the public. The message says so at the mount, and does not
promise a wait.
"""

import errno
import os
import time

import pytest
from support.fault_proxy import FaultProxy
from support.mounting import Mounts
from support.programs import names


def error_of_listing(path: str) -> tuple[int, float]:
    """List a directory; return the errno, and the seconds it took."""
    begun = time.monotonic()
    try:
        os.listdir(path)  # noqa: PTH208 - the test's own errno is that of the system call
    except OSError as error:
        return error.errno or -1, time.monotonic() - begun
    return 0, time.monotonic() - begun


@pytest.mark.promise(
    "A named entry that the server refuses (403: not, or not yet, public) is shown and `EACCES`, and the others "
    "work."
)
def test_an_entry_that_is_not_public_is_mounted_and_denied(mount: Mounts, fault_proxy: FaultProxy) -> None:
    """A mount of two entries, one of which is not public, says so; that one is EACCES at once, the other works."""
    with fault_proxy.answer("10300(/.*)?", 403):
        made = mount("10028", "10300", base_url=fault_proxy.url)
        made.expect("refuses it")
        assert made.started is not None
        assert made.started.stderr.decode() == (
            "empiarfs: warning: 10300: the server refuses it (HTTP 403): not (or not yet) public?; "
            "mounted anyway: it fails with 'Permission denied'\n"
        )
        number, seconds = made.call(error_of_listing, made / "10300")
        assert number == errno.EACCES
        assert seconds < 5
        assert "data" in made.call(names, made / "10028")


@pytest.mark.promise("A mount that names an entry which the server does not have (404) is refused as a whole.")
def test_a_mount_of_an_entry_that_is_missing_is_refused(mount: Mounts) -> None:
    """A mount of two entries, one of which does not exist, is refused, and says which and what to do."""
    made = mount.prepare(mount.account())
    done = mount.command(made, "10028", "11969")
    assert done.returncode == 1
    said = done.stderr.decode()
    assert "there is no entry 11969 (mistyped, or not yet public?)" in said
    assert "without 11969 the others can be mounted" in said
    assert not made.is_mounted()


def test_a_mount_of_missing_entries_alone_offers_no_others(mount: Mounts) -> None:
    """Where no named entry exists the message does not speak of others."""
    made = mount.prepare(mount.account())
    said = mount.command(made, "11969", "11970").stderr.decode()
    assert "there is no entry 11969, 11970" in said
    assert "the others" not in said
