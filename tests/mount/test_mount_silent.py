"""A mount whose server has never answered: no lookup waits for long, and what is known is there at once."""

import errno
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from support import sandbox
from support.fault_proxy import FaultProxy
from support.mounting import Mount, Mounts, eventually, status_of

from empiarfs.cli.text import counted

pytestmark = pytest.mark.slow  # waits for real bounds

BOUND = 3.0  # seconds in place of the 30 that a name is waited for
SOON = 2.5  # seconds; what is answered at once takes a fraction of one, most of it Python's start
STUCK = "retrying|was closed|went silent|does not answer|refuses connections|has not answered|cannot be reached"
FILE = "10028/data/stack.mrcs"


@pytest.fixture
def bounded(open_folder: Path) -> dict[str, str]:
    """An environment in which lookups wait `BOUND` seconds, reads wait 300, and a mount returns soon."""
    (open_folder / "sitecustomize.py").write_text(
        "from empiarfs.cli import mounts\nfrom empiarfs.mount import names\n"
        f"mounts.CHECK_SECONDS = 0.5\nnames.SECONDS = {BOUND}\n"
    )
    return {"PYTHONPATH": f"{open_folder}:{sandbox.PROJECT}", "EMPIARFS_PATIENCE": "300"}


def away(fault_proxy: FaultProxy, how: str) -> AbstractContextManager[object]:
    """Return the context in which the server is silent, gone, or refuses connections."""
    return {"silent": lambda: fault_proxy.hold(".*"), "gone": fault_proxy.gone, "refusing": fault_proxy.refusing}[
        how
    ]()


def timed(mount: Mount, *command: str | Path, **more: Any) -> "tuple[subprocess.CompletedProcess[bytes], float]":
    """Run a program; return its result and the seconds it took."""
    begun = time.monotonic()
    return mount.run(*command, **more), time.monotonic() - begun


@pytest.fixture(params=["silent", "gone", "refusing"])
def named(
    request: pytest.FixtureRequest, mount: Mounts, fault_proxy: FaultProxy, bounded: dict[str, str], binding: str
) -> Iterator[Mount]:
    """A mount of entry 10028 whose server is silent."""
    with away(fault_proxy, request.param):
        made = mount("10028", base_url=fault_proxy.url, binding=binding, env=bounded)
        made.expect(STUCK)
        yield made
        made.umount("--lazy")


@pytest.mark.promise("A mount of some entries shows these alone. They exist, by either name, without a request.")
def test_a_named_entry_is_there_at_once(named: Mount) -> None:
    """A selected entry exists at once by its number and its accession, without the server."""
    for name in ("EMPIAR-10028", "empiar-10028", "10028"):
        for command in (["ls", "-d"], ["test", "-d"]):
            done, seconds = timed(named, *command, named / name)
            assert (done.returncode, done.stderr) == (0, b""), name
            assert seconds < SOON, name


def test_the_accession_of_an_entry_that_is_known_is_there_at_once(
    mount: Mounts, fault_proxy: FaultProxy, binding: str
) -> None:
    """The accession of an entry in the cache exists at once without selected entries too."""
    account = mount.account(binding=binding)
    before = mount(base_url=fault_proxy.url, account=account)
    assert before.run("ls", "-d", before / "EMPIAR-10028").returncode == 0
    before.umount()
    with fault_proxy.hold(".*"):
        made = mount(base_url=fault_proxy.url, account=account)
        made.expect(STUCK)
        done, seconds = timed(made, "ls", "-d", made / "EMPIAR-10028")
        assert done.returncode == 0
        assert seconds < SOON
        made.umount("--lazy")


@pytest.mark.promise(
    "Until the server has answered for the first time since the mount, a name (`stat`, `open`, `ls`) fails "
    "with `EIO` after 30 s; a program whose last such call has just failed that way, or was interrupted, does "
    "not wait for the next one."
)
@pytest.mark.parametrize("how", ["silent", "gone"])
def test_names_fail_soon_where_no_server_has_answered(
    mount: Mounts, fault_proxy: FaultProxy, binding: str, bounded: dict[str, str], how: str
) -> None:
    """Lookups fail with EIO after the bound while the server has never answered, and the log says why."""
    with away(fault_proxy, how):
        made = mount(base_url=fault_proxy.url, binding=binding, env=bounded)
        made.expect(STUCK)
        for program, path in (("ls", "10028"), ("cat", FILE), ("ls", "")):
            done, seconds = timed(made, program, made / path)
            assert b"Input/output error" in done.stderr, path
            assert BOUND - 0.5 < seconds < BOUND + SOON, path
        assert re.search(r"the server has not answered since the mount.*names fail after 3 s.*doctor", made.log())
        made.umount("--lazy")


@pytest.mark.promise(
    "Until the server has answered for the first time since the mount, a name (`stat`, `open`, `ls`) fails "
    "with `EIO` after 30 s; a program whose last such call has just failed that way, or was interrupted, does "
    "not wait for the next one."
)
def test_names_are_waited_for_once_the_server_has_answered(
    mount: Mounts, fault_proxy: FaultProxy, binding: str, bounded: dict[str, str]
) -> None:
    """After the first answer the patience bounds lookups, and the same mount recovers."""
    with fault_proxy.hold(".*"):
        made = mount(base_url=fault_proxy.url, binding=binding, env=bounded)
        made.expect(STUCK)
        assert made.run("ls", made / "10028").returncode != 0
    assert made.run("ls", made / "10028").stdout == b"data\n"
    with fault_proxy.hold(".*"):
        process = made.start("ls", made / "10028/data", stdout=subprocess.PIPE)
        time.sleep(BOUND + SOON)
        assert process.poll() is None
    out, _ = process.communicate(timeout=30)
    assert b"stack.mrcs" in out


def test_reads_are_waited_for_though_no_server_has_answered(
    mount: Mounts, fault_proxy: FaultProxy, binding: str, bounded: dict[str, str]
) -> None:
    """A file of known size opens, and reads wait for as long as the patience lasts."""
    account = mount.account(binding=binding)
    before = mount("10028", base_url=fault_proxy.url, account=account)
    size = int(before.run("stat", "--format=%s", before / FILE).stdout)
    before.umount()
    with fault_proxy.hold(".*"):
        made = mount("10028", base_url=fault_proxy.url, account=account, env=bounded)
        made.expect(STUCK)
        process = made.start("cat", made / FILE, stdout=subprocess.PIPE)
        eventually(lambda: status_of(made)["reads_waiting"], "the read waits")
        time.sleep(BOUND + SOON)
        assert process.poll() is None
    out, _ = process.communicate(timeout=30)
    assert len(out) == size


def tried_three_times(path: str) -> tuple[list[int], float]:
    """Look up a path and change to it in two ways, as the `cd` of bash does; return the errnos and the seconds."""
    signal.signal(signal.SIGINT, lambda *_: None)
    begun = time.monotonic()
    found = []
    for call in (os.stat, os.chdir, os.chdir):
        try:
            call(path)
        except OSError as error:
            found.append(error.errno or -1)
    return found, time.monotonic() - begun


@pytest.mark.parametrize("way", ["interrupted", "in vain"])
def test_a_program_waits_once_for_what_it_tries_three_times(
    mount: Mounts, fault_proxy: FaultProxy, binding: str, bounded: dict[str, str], way: str
) -> None:
    """One interrupt, or one bound, ends all three attempts of a program."""
    with fault_proxy.hold(".*") as held:
        made = mount(base_url=fault_proxy.url, binding=binding, env=bounded)
        made.expect(STUCK)
        process, answer = made.calling(tried_three_times, made / "10028")
        if way == "interrupted":
            eventually(lambda: ("HEAD", "10028") in fault_proxy.seen and held.waiting, "the server is asked")
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
        found, seconds = answer(30)
        first = errno.EINTR if way == "interrupted" else errno.EIO
        assert found == [first, errno.EIO, errno.EIO]
        assert seconds < BOUND + SOON
        made.umount("--lazy")


def test_one_interrupt_ends_a_cd(mount: Mounts, fault_proxy: FaultProxy, bounded: dict[str, str]) -> None:
    """One SIGINT ends a `cd` of bash, which goes on with its next command."""
    with fault_proxy.hold(".*"):
        made = mount(base_url=fault_proxy.url, env=bounded)
        made.expect(STUCK)
        process = made.start(
            "bash", "-c", 'trap : INT; cd "$0"; echo back', made / "10028/data", stdout=subprocess.PIPE
        )
        eventually(lambda: ("HEAD", "10028") in fault_proxy.seen, "the server is asked")
        time.sleep(0.5)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        assert out == b"back\n"
        assert time.monotonic() - begun < SOON < 2 * BOUND  # which is how long the two that follow would take
        made.umount("--lazy")


def test_status_counts_the_programs_that_wait(mount: Mounts, fault_proxy: FaultProxy, binding: str) -> None:
    """The status counts lookups, listings and opens as names, and reads as reads; at the end both are 0."""
    account = mount.account(binding=binding)
    before = mount("10028", base_url=fault_proxy.url, account=account)
    assert before.run("stat", before / FILE).returncode == 0
    before.umount()
    with fault_proxy.hold(".*"):
        made = mount("10028", "10100", "10300", base_url=fault_proxy.url, account=account)
        made.expect(STUCK)
        assert (status_of(made)["names_waiting"], status_of(made)["reads_waiting"]) == (0, 0)
        waiting = [made.start("head", "-c", "1", made / FILE, stdout=subprocess.DEVNULL)]
        eventually(lambda: status_of(made)["reads_waiting"], "one waits for bytes")
        assert status_of(made)["names_waiting"] == 0
        for program, path in (("ls", "10100"), ("stat", "10300/data"), ("cat", "10028/data/movie.tif")):
            waiting.append(made.start(program, made / path, stdout=subprocess.DEVNULL))
        eventually(lambda: status_of(made)["names_waiting"] == 3, "three wait for names")
        values = status_of(made)
        table = made.account.empiarfs("status", made.path).stdout.decode()
        reads = counted(values["reads_waiting"], "read")
        assert f"waiting     programs wait for 3 names and {reads}\n" in table
        text = made.account.empiarfs("status", "--prometheus", made.path).stdout.decode()
        assert f'empiarfs_names_waiting{{mountpoint="{made.path}"}} 3\n' in text
    assert [process.wait(30) for process in waiting] == [0] * 4
    assert (status_of(made)["names_waiting"], status_of(made)["reads_waiting"]) == (0, 0)


@pytest.mark.parametrize(
    ("entries", "patience", "words"),
    [
        (["10028"], "300", "names fail after 30 s, and reads after 300 s (--patience)"),
        ([], "300", "names fail after 30 s, and reads after 300 s (--patience)"),
        (["10028"], "7", "names fail after 7 s, and reads after 7 s (--patience)"),
    ],
)
def test_the_warning_says_how_long_is_waited(
    mount: Mounts, fault_proxy: FaultProxy, entries: list[str], patience: str, words: str
) -> None:
    """The warning of a mount whose server is silent says in one line how long lookups wait."""
    with fault_proxy.hold(".*"):
        made = mount(*entries, base_url=fault_proxy.url, env={"EMPIARFS_PATIENCE": patience})
        made.expect(STUCK)
        assert made.started is not None
        (line,) = made.started.stderr.decode().splitlines()
        assert line.startswith("empiarfs: warning: ")
        assert line.endswith(f"mounted anyway: until it answers {words}; for the cause run: empiarfs doctor")
        made.umount("--lazy")
