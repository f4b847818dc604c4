"""Kernels that end a whole mount when one of its answers takes too long (Linux 6.15, fs.fuse.*_request_timeout)."""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from support import sandbox
from support.fault_proxy import FaultProxy
from support.fixture_tree import RANDOM
from support.mounting import Mounts
from support.programs import length, names

from empiarfs.archive import Archive
from empiarfs.cancellation import wait
from empiarfs.cli import fuse_checks
from empiarfs.model import File
from empiarfs.mount import daemon, kernel_limit
from empiarfs.mount.kernel_limit import Limit
from empiarfs.mount.operations import Operations
from empiarfs.mount.status import MountStats, RecentWarnings
from empiarfs.mount.view import Owner
from empiarfs.settings import Settings

SETTINGS = Path("/proc/sys/fs")


def limited(folder: Path, default: str, most: str) -> Path:
    """Make a folder that looks like /proc/sys/fs/fuse with these two limits, in seconds."""
    folder.mkdir(exist_ok=True)
    (folder / "default_request_timeout").write_text(f"{default}\n")
    (folder / "max_request_timeout").write_text(f"{most}\n")
    return folder


@pytest.mark.parametrize(
    ("default", "most", "expected"),
    [
        ("0", "0", None),
        ("60", "0", Limit(60, "fs.fuse.default_request_timeout")),
        ("0", "90", Limit(90, "fs.fuse.max_request_timeout")),
        ("60", "90", Limit(60, "fs.fuse.default_request_timeout")),
        ("90", "60", Limit(60, "fs.fuse.max_request_timeout")),
        ("0", "5", Limit(15, "fs.fuse.max_request_timeout")),
    ],
)
def test_the_limit_is_the_smaller_one_that_is_set(
    tmp_path: Path, default: str, most: str, expected: Limit | None
) -> None:
    """The limit is the smaller of the two that are not 0, and at least the 15 s at which the kernel looks."""
    assert kernel_limit.limit(limited(tmp_path, default, most)) == expected


def test_an_older_kernel_has_no_limit(tmp_path: Path) -> None:
    """A kernel without the settings has no limit."""
    assert kernel_limit.limit(tmp_path / "fuse") is None


@pytest.mark.parametrize(("patience", "state"), [(300.0, "warn"), (10.0, "ok")])
def test_the_doctor_shows_the_limit(monkeypatch: pytest.MonkeyPatch, patience: float, state: str) -> None:
    """The doctor shows a limit, and warns where the patience exceeds it."""
    monkeypatch.setattr(kernel_limit, "limit", lambda: Limit(30, "fs.fuse.max_request_timeout"))
    (found,) = fuse_checks.request_timeout(Settings(patience=patience))
    assert found.state == state
    assert "for 30 s (fs.fuse.max_request_timeout)" in found.what
    assert ("sysctl fs.fuse.max_request_timeout=0" in found.advice) == (state == "warn")


@pytest.mark.parametrize(
    ("longest", "level", "says"),
    [
        (31.0, logging.ERROR, "an answer took 31 s, and fs.fuse.max_request_timeout = 30"),
        (3.0, logging.INFO, "was unmounted, or ended by the kernel"),
    ],
)
def test_the_log_says_why_a_mount_has_ended(
    caplog: pytest.LogCaptureFixture, longest: float, level: int, says: str
) -> None:
    """Where there is a limit, the log names it at the end of the mount, and an answer that took longer."""
    caplog.set_level(logging.INFO, "empiarfs")
    daemon._log_end("/mnt", Limit(30, "fs.fuse.max_request_timeout"), longest)
    assert [(one.levelno, says in one.getMessage()) for one in caplog.records] == [(level, True)]


class Waiting:
    """An archive whose every answer waits, without end, for what the patience does not bound."""

    has_answered = staticmethod(lambda: True)

    def stat(self, path: str) -> File:
        """Wait, as for a connection."""
        wait(lambda _: False)
        return File(path, 1, 0)

    def read(self, file: File, offset: int, size: int) -> bytes:
        """Wait, as for a connection."""
        wait(lambda _: False)
        return b""


@pytest.mark.parametrize("call", ["stat", "read"])
def test_no_wait_is_longer_than_the_limit_allows(call: str) -> None:
    """A name and a read fail with EIO in time, whatever the engine waits for."""
    stats = MountStats("/mnt", RecentWarnings())
    operations = Operations(cast("Archive", Waiting()), Owner(0, 0), 0, lambda: None, stats, longest_wait=0.01)
    operations._handles[1] = File("10028/a", 1, 0)
    calls: dict[str, Callable[[], object]] = {
        "stat": lambda: operations.getattr("/10028/a"),
        "read": lambda: operations.read("/10028/a", 1, 0, SimpleNamespace(fh=1)),
    }
    with pytest.raises(OSError, match="within 0 s") as raised:
        calls[call]()
    assert raised.value.errno == errno.EIO


@pytest.fixture
def short_limit(own_machine: None, open_folder: Path) -> Iterator[None]:
    """A kernel whose settings say 15 s; it is not set, since that would be for all mounts of the machine."""
    limited(open_folder / "fuse", "0", "15")
    sandbox.bind(open_folder, SETTINGS)
    yield
    sandbox.unbind(SETTINGS)


@pytest.mark.root
@pytest.mark.promise(
    "If the kernel limits the time of an answer (`fs.fuse.max_request_timeout`), reads and names fail before it "
    "ends the mount, and `empiarfs mount` says so."
)
def test_a_mount_answers_before_the_kernel_ends_it(
    short_limit: None, mount: Mounts, fault_proxy: FaultProxy, binding: str
) -> None:
    """Where the server is silent, reads and names fail within the limit, and the mount goes on."""
    made = mount("10028", "10100", base_url=fault_proxy.url, binding=binding)
    made.expect("retrying|given up|no bytes|went silent")
    assert made.started is not None
    assert "reads fail after 5 s, not 20 s (--patience)" in made.started.stderr.decode()
    assert "for 15 s (fs.fuse.max_request_timeout)" in made.started.stderr.decode()

    def failing(paths: list[str]) -> tuple[list[int], bool]:
        begun = time.monotonic()
        found = []

        def look(path: str) -> None:
            try:
                Path(path).read_bytes()
            except OSError as error:
                found.append(error.errno or -1)

        with ThreadPoolExecutor(len(paths)) as pool:
            list(pool.map(look, paths))
        return found, time.monotonic() - begun < 15

    assert made.call(length, made / "10028/data/stack.mrcs") > 0
    with fault_proxy.hold(".*"):
        paths = [os.fspath(made / RANDOM), os.fspath(made / "10100/data/nothing here")]
        assert made.call(failing, paths) == ([errno.EIO] * 2, True)
    assert made.call(names, made.path) == ["10028", "10100"]
