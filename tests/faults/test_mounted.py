"""Faults of the network under a mount: right bytes or the errno of the table, and the mount goes on."""

import errno
import hashlib
import mmap
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.apache import Apache
from support.fault_proxy import FaultProxy
from support.fault_table import DATA, FAULTS, HEAD, LISTING
from support.mounting import Mount, Mounts, eventually

pytestmark = pytest.mark.slow  # waits on purpose, or repeats for long

DATA_FAULTS = (
    "reset in the middle",
    "silence before the reply",
    "one byte a second",
    "200 with the whole file",
    "another total",
    "403",
    "404",
    "503, Retry-After in seconds",
    "an error page with 200",
)
HEAD_FAULTS = ("closed before the reply", "ten times the length", "403")
LISTING_FAULTS = ("cut, with a length that fits", "an error page with 200", "403", "404")
SIZE = 300_001
EXPECTED = "10028|10077"  # every trouble names its path


def content(name: str) -> bytes:
    """Return the bytes of a file."""
    return hashlib.shake_128(name.encode()).digest(SIZE)


def file_name(kind: str, fault: str) -> str:
    """Return the directory of the file for a fault, which no other fault touches."""
    return f"{kind} {re.sub(r'[^a-z0-9]', '-', fault)}"


@pytest.fixture(scope="module")
def tree_proxy() -> Iterator[FaultProxy]:
    """A faulty server with a file for each fault."""
    root = Path(tempfile.mkdtemp(prefix="empiarfs-faults-"))
    root.chmod(0o755)  # Apache is another user
    for kind, faults in ((DATA, DATA_FAULTS), (HEAD, HEAD_FAULTS), (LISTING, LISTING_FAULTS)):
        for fault in faults:
            name = file_name(kind, fault)
            file = root / "10028" / kind / name / "a.mrc"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content(name))
    (root / "10077").mkdir()
    (root / "10077" / "other.mrc").write_bytes(content("other"))
    apache = Apache(root)
    server = FaultProxy(apache.url)
    yield server
    server.close()
    apache.close()
    shutil.rmtree(root)


def outcome(path: str) -> tuple[int, str]:
    """Read a file or list a directory; return the errno and the checksum."""
    try:
        if not path.endswith(".mrc"):
            return 0, " ".join(sorted(os.listdir(path)))  # noqa: PTH208 - as plain as it can be
        return 0, hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        return error.errno or -1, ""


@pytest.fixture
def mounted_tree(mount: Mounts, tree_proxy: FaultProxy) -> Callable[[str], Mount]:
    """Returns a function that mounts it with a patience."""

    def made(patience: str) -> Mount:
        one = mount("10028", "10077", base_url=tree_proxy.url, env={"EMPIARFS_PATIENCE": patience})
        one.expect(EXPECTED)
        one.call(outcome, one / "10028" / DATA)
        one.call(outcome, one / "10028" / HEAD)
        one.call(outcome, one / "10028" / LISTING)
        return one

    return made


def tried(made: Mount, tree_proxy: FaultProxy, kind: str, fault: str, times: int | None) -> int:
    """Try a fault on its file; return the errno, and check that the right bytes follow."""
    name = file_name(kind, fault)
    below = f"10028/{kind}/{name}" + ("" if kind == LISTING else "/a.mrc")
    path = made / below
    right = (0, "a.mrc" if kind == LISTING else hashlib.sha256(content(name)).hexdigest())
    pattern = re.escape(below) + ("/" if kind == LISTING else "") + r"(\?.*)?"
    method = "HEAD" if kind == HEAD else "GET"
    with tree_proxy.rule(pattern, FAULTS[fault].act, method=method, times=times):
        number, seen = made.call(outcome, path)
        assert number or (number, seen) == right
        assert not number or made.call(outcome, made / "10077/other.mrc")[0] == 0
    if kind == DATA or FAULTS[fault].seen[kind].lasting == errno.EIO:
        eventually(lambda: made.call(outcome, path) == right, f"{name} is right again")
    return int(number)


CASES = [
    (kind, fault)
    for kind, faults in ((DATA, DATA_FAULTS), (HEAD, HEAD_FAULTS), (LISTING, LISTING_FAULTS))
    for fault in faults
]


def test_faults_that_last_are_the_errors_of_the_table(
    mounted_tree: Callable[[str], Mount], tree_proxy: FaultProxy
) -> None:
    """One mount shows each lasting fault as the errno of the table, and leaks nothing."""
    made = mounted_tree("1")
    made.call(outcome, made / "10077/other.mrc")
    before = footprint(made)
    numbers = {case: tried(made, tree_proxy, *case, None) for case in CASES}
    assert numbers == {(kind, fault): FAULTS[fault].seen[kind].lasting for kind, fault in CASES}
    eventually(lambda: footprint(made) <= before, "descriptors and threads are back", 30)
    assert tree_proxy.connections <= 12


def footprint(made: Mount) -> tuple[int]:
    """Return the number of open files of the daemon, without its idle connections."""
    folder = Path(f"/proc/{made.daemon()}/fd")
    links = []
    for one in folder.iterdir():
        try:
            links.append(os.readlink(one))  # noqa: PTH115 - it may be no path
        except OSError:
            continue
    return (sum(not re.search(r"socket:|slot-|cache\.db|segment|\.val", link) for link in links),)


def test_faults_that_pass_are_not_seen(mounted_tree: Callable[[str], Mount], tree_proxy: FaultProxy) -> None:
    """With patience a fault that happens once is no error unless it is a clear answer.

    The kernel hides even such a one where it has read ahead, and asks once more.
    """
    made = mounted_tree("30")
    numbers = {case: tried(made, tree_proxy, *case, 1) for case in CASES}
    once = {(kind, fault): FAULTS[fault].seen[kind].once for kind, fault in CASES}
    assert {case: number for case, number in numbers.items() if number not in {0, once[case]}} == {}
    assert {case for case in CASES if case[0] != DATA and numbers[case] != once[case]} == set()


def test_without_patience_the_first_failure_is_the_answer(
    mounted_tree: Callable[[str], Mount], tree_proxy: FaultProxy
) -> None:
    """With `--patience 0` a read fails with EIO within seconds, and the next one sends a request."""
    made = mounted_tree("0")
    begun = time.monotonic()
    for fault in ("reset in the middle", "an error page with 200", "503, Retry-After in seconds"):
        assert tried(made, tree_proxy, DATA, fault, None) == errno.EIO
    assert time.monotonic() - begun < 20


def test_a_map_of_what_cannot_be_had_is_a_signal(
    mounted_tree: Callable[[str], Mount], tree_proxy: FaultProxy
) -> None:
    """A map of a file whose bytes cannot be fetched raises SIGBUS, and never shows zeros."""

    def mapped(path: str) -> int:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:  # noqa: PTH123 - as plain as it can be
            return int(pages[200_000])

    made = mounted_tree("0.5")
    name = file_name(DATA, "403")
    path = f"10028/data/{name}/a.mrc"
    with tree_proxy.rule(re.escape(path), FAULTS["500"].act, method="GET"):
        process, _ = made.calling(mapped, made / path)
        assert process.wait(30) == -signal.SIGBUS
    assert made.call(mapped, made / path) == content(name)[200_000]


def test_a_network_that_is_gone_for_a_while_is_waited_for(
    mounted_tree: Callable[[str], Mount], tree_proxy: FaultProxy
) -> None:
    """Readers wait for a network that is gone, and cached data are served meanwhile."""
    made = mounted_tree("60")
    names = [file_name(DATA, fault) for fault in DATA_FAULTS]
    made.call(outcome, made / "10077/other.mrc")
    with tree_proxy.gone():
        readers = [made.calling(outcome, made / "10028/data" / name / "a.mrc") for name in names[:8]]
        assert made.call(outcome, made / "10077/other.mrc")[0] == 0
        assert made.call(outcome, made / "10028" / DATA)[0] == 0
        eventually(lambda: "retrying for up to" in made.log(), "the log says how long it is tried")
        assert all(process.poll() is None for process, _ in readers)
    for name, (_, answer) in zip(names, readers, strict=False):
        assert answer(60) == (0, hashlib.sha256(content(name)).hexdigest())
