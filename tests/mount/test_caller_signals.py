"""A program that waits for a server: a fatal signal ends it, and no other signal disturbs it."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH116, PTH123, PTH208

import errno
import hashlib
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.fault_proxy import FaultProxy
from support.fixture_tree import RANDOM, FixtureTree
from support.mounting import Mounts, eventually

from empiarfs.mount.caller_signals import Reader, is_dead, is_ending

pytestmark = pytest.mark.slow  # waits on purpose, or repeats for long

FILE = "10028/data/stack.mrcs"
STUCK = "retrying|was closed|went silent|does not answer|refuses connections"
SOON = 3.0  # seconds; a look every 0.2 and a busy machine


def looked(path: str) -> int:
    """Return the size of a file."""
    return os.stat(path).st_size


def opened(path: str) -> int:
    """Open a file; return its size."""
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size


def listed(path: str) -> int:
    """List a directory."""
    return len(os.listdir(path))


@pytest.mark.promise("A program that waits for bytes or for a name can be killed, and interrupted with Ctrl-C.")
@pytest.mark.parametrize(  # each signal once and each call once: the daemon looks at the signal alone
    ("number", "verb", "below"),
    [
        (signal.SIGKILL, looked, FILE),
        (signal.SIGTERM, opened, FILE),
        (signal.SIGINT, listed, "10028/data"),
        (signal.SIGHUP, looked, "EMPIAR-10999"),
        (signal.SIGQUIT, looked, FILE),
    ],
)
def test_a_program_that_waits_for_a_name_can_be_ended(
    mount: Mounts,
    fault_proxy: FaultProxy,
    tree: FixtureTree,
    binding: str,
    verb: Callable[[str], Any],
    below: str,
    number: signal.Signals,
) -> None:
    """A signal that ends a program ends it while it waits for a silent server, and the next lookup is right."""
    made = mount(base_url=fault_proxy.url, binding=binding)
    made.expect(STUCK)
    with fault_proxy.hold(".*") as held:
        process, _ = made.calling(verb, made / below)
        eventually(lambda: held.waiting, "the server is asked")
        time.sleep(0.3)
        assert process.poll() is None
        begun = time.monotonic()
        process.send_signal(number)
        process.communicate(timeout=SOON)
        assert time.monotonic() - begun < SOON
        assert process.returncode in {-number, 1}  # 1: KeyboardInterrupt
    if below.startswith("10028"):
        real = Path(tree.root, below)
        expected = len(os.listdir(real)) if verb is listed else real.stat().st_size
        assert made.call(verb, made / below) == expected


def disturbed(path: str) -> tuple[int, int]:
    """Return the size of a file while a timer ticks and children end, and the number of signals handled."""
    ticks = 0

    def handle(*_: object) -> None:
        nonlocal ticks
        ticks += 1

    for number in (signal.SIGALRM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGWINCH):
        signal.signal(number, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    for _ in range(3):
        subprocess.Popen(["sleep", "0.3"])
    size = os.stat(path).st_size
    signal.setitimer(signal.ITIMER_REAL, 0)
    return size, ticks


@pytest.mark.promise("No other signal disturbs it.")
def test_other_signals_do_not_disturb_a_lookup(
    mount: Mounts, fault_proxy: FaultProxy, tree: FixtureTree, binding: str
) -> None:
    """A lookup of a program that handles a timer, children and SIGWINCH gets its answer."""
    made = mount(base_url=fault_proxy.url, binding=binding)
    made.expect(STUCK)
    with fault_proxy.hold(r".*\.mrcs", method="HEAD") as held:
        process, answer = made.calling(disturbed, made / FILE)
        eventually(lambda: held.waiting, "the server is asked")
        for _ in range(5):
            process.send_signal(signal.SIGUSR1)
            process.send_signal(signal.SIGWINCH)
            time.sleep(0.2)
        assert process.poll() is None
    size, ticks = answer(30)
    assert size == Path(tree.root, FILE).stat().st_size
    assert ticks > 0


@pytest.mark.promise(
    "With older libfuse the kernel looks up one name of a directory at a time: a program that is queued "
    "behind another ends only after it."
)
def test_many_programs_that_wait_for_one_name_can_be_killed(
    mount: Mounts, fault_proxy: FaultProxy, tree: FixtureTree, binding: str
) -> None:
    """Twenty programs that wait for one name end soon after SIGKILL, and the next lookup is right."""
    made = mount(base_url=fault_proxy.url, binding=binding, env={"EMPIARFS_PATIENCE": "60"})
    made.expect(STUCK)
    made.call(listed, made / "10028/data")
    with fault_proxy.hold(r".*\.mrcs", method="HEAD") as held:
        waiting = [made.calling(looked, made / FILE)[0] for _ in range(20)]
        eventually(lambda: held.waiting, "the server is asked")
        time.sleep(0.5)
        for process in waiting:
            process.kill()
        for process in waiting:
            process.communicate(timeout=2 * SOON)
        _, answer = made.calling(looked, made / FILE)
    assert answer(30) == Path(tree.root, FILE).stat().st_size


def read_past_the_pages(path: str) -> int:
    """Read with O_DIRECT: the kernel waits for the answer itself."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    return os.preadv(fd, [mmap.mmap(-1, 4096)], 0)


def read_by_many_threads(path: str) -> int:
    """Read a file in each of 60 threads, more than the kernel reads ahead for at once."""
    names = sorted(os.listdir(path))[:60]
    with ThreadPoolExecutor(60) as pool:
        return sum(pool.map(lambda name: len(Path(path, name).read_bytes()), names))


@pytest.mark.promise("A program that waits for bytes or for a name can be killed, and interrupted with Ctrl-C.")
@pytest.mark.parametrize(("verb", "below"), [(read_past_the_pages, FILE), (read_by_many_threads, "10300/data")])
def test_a_program_that_waits_for_bytes_can_be_killed_however_it_reads(
    mount: Mounts, fault_proxy: FaultProxy, binding: str, verb: Callable[[str], int], below: str
) -> None:
    """A program that waits for bytes can be killed, with O_DIRECT or many threads too; the next read is right."""
    made = mount(base_url=fault_proxy.url, binding=binding)
    made.expect(STUCK)
    expected = made.call(verb, made / below)
    made.umount()
    again = mount(base_url=fault_proxy.url, binding=binding, flags=["--cache-size=0"])
    again.expect(STUCK)
    with fault_proxy.hold(".*", method="GET") as held:
        process, _ = again.calling(verb, again / below)
        eventually(lambda: held.waiting, "the server is asked")
        time.sleep(0.5)
        process.kill()
        process.communicate(timeout=SOON)
    assert again.call(verb, again / below) == expected


def whole(path: str) -> str:
    """Return the checksum of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.promise("A program that waits for bytes or for a name can be killed, and interrupted with Ctrl-C.")
def test_programs_that_share_the_pages_of_a_killed_one_read_right(
    mount: Mounts, fault_proxy: FaultProxy, tree: FixtureTree, binding: str
) -> None:
    """Programs that wait for pages that the kernel reads ahead for another get them when that one is killed."""
    made = mount(base_url=fault_proxy.url, binding=binding)
    made.expect(STUCK)
    made.call(looked, made / RANDOM)
    with fault_proxy.hold(".*", method="GET") as held:
        first, _ = made.calling(whole, made / RANDOM)
        eventually(lambda: held.waiting, "the server is asked")
        others = [made.calling(whole, made / RANDOM) for _ in range(3)]
        time.sleep(0.5)
        first.kill()
        first.communicate(timeout=SOON)
        time.sleep(0.3)
        assert [process.poll() for process, _ in others] == [None] * 3
    assert [answer(30) for _, answer in others] == [whole(os.fspath(tree.root / RANDOM))] * 3


def read_and_interrupted(path: str) -> tuple[int, int]:
    """Read a file, and count the signals that are handled meanwhile."""
    ticks = 0

    def handle(*_: object) -> None:
        nonlocal ticks
        ticks += 1

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    return len(Path(path).read_bytes()), ticks


@pytest.mark.promise(
    "One that catches the signal gets `EINTR` if it waits for a name, and goes on waiting for bytes."
)
def test_a_program_that_catches_the_signal_reads_on(
    mount: Mounts, fault_proxy: FaultProxy, tree: FixtureTree, binding: str
) -> None:
    """A read of a program that catches the signal waits on and returns all bytes, because RELION ignores errors."""
    made = mount(base_url=fault_proxy.url, binding=binding)
    made.expect(STUCK)
    made.call(looked, made / FILE)
    with fault_proxy.hold(".*", method="GET") as held:
        process, answer = made.calling(read_and_interrupted, made / FILE)
        eventually(lambda: held.waiting, "the server is asked")
        for number in (signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
            time.sleep(0.4)
        assert process.poll() is None
    assert answer(30) == (Path(tree.root, FILE).stat().st_size, 2)


def caught(path: str) -> tuple[str, int]:
    """Look up a size while a signal is caught; return the error, and then the size."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        os.stat(path)
    except InterruptedError as error:
        return str(error.errno), os.stat(path).st_size
    return "", 0


@pytest.mark.promise(
    "One that catches the signal gets `EINTR` if it waits for a name, and goes on waiting for bytes."
)
def test_a_lookup_is_interrupted_by_a_signal_that_is_caught(
    mount: Mounts, fault_proxy: FaultProxy, tree: FixtureTree, binding: str
) -> None:
    """A lookup of a program that catches the signal fails with EINTR, and the next one succeeds."""
    made = mount(base_url=fault_proxy.url, binding=binding)
    made.expect(STUCK)
    with fault_proxy.hold(r".*\.mrcs", method="HEAD") as held:
        process, answer = made.calling(caught, made / FILE)
        eventually(lambda: held.waiting, "the server is asked")
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
    assert answer(30) == (str(errno.EINTR), Path(tree.root, FILE).stat().st_size)


def test_a_pipeline_is_ended_as_a_terminal_does(mount: Mounts, fault_proxy: FaultProxy) -> None:
    """One SIGINT to the process group of `ls -l | sort` ends both."""
    made = mount(base_url=fault_proxy.url)
    made.expect(STUCK)
    with fault_proxy.hold(".*") as held:
        process = made.account.start(
            "sh", "-c", 'ls -l "$0" | sort', made / "10028/data", process_group=0, stdout=subprocess.PIPE
        )
        eventually(lambda: held.waiting, "the server is asked")
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=SOON)
    assert process.returncode


@pytest.mark.parametrize(
    ("prepared", "sent", "ends"),
    [
        ("", "SIGTERM", "to end"),
        ("", "SIGQUIT", "to end and dead"),
        ("", "SIGABRT", "to end and dead"),
        ("", "SIGXCPU", "to end and dead"),
        ("", "SIGCHLD", "no"),
        ("signal.signal(signal.SIGQUIT, print)", "SIGQUIT", "to end"),
        ("signal.signal(signal.SIGABRT, print)", "SIGABRT", "no"),
        ("signal.signal(signal.SIGINT, print)", "SIGINT", "to end"),
        ("signal.signal(signal.SIGHUP, print)", "SIGHUP", "no"),
        ("signal.signal(signal.SIGINT, signal.SIG_IGN)", "SIGINT", "no"),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})", "SIGTERM", "no"),
    ],
)
def test_what_means_the_end(prepared: str, sent: str, ends: str) -> None:
    """A thread is ending when a fatal signal is pending that it neither blocks nor ignores."""
    program = f"import os, signal\n{prepared}\nprint('there', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            stat = Path(f"/proc/{process.pid}/stat")
            eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it is stopped")
            assert not is_ending(process.pid)
            process.send_signal(signal.Signals[sent])  # a stopped process does not take it
            assert is_ending(process.pid) == ends.startswith("to end")
            assert is_dead(process.pid) == ends.endswith("dead")
        finally:
            process.kill()


def test_an_unknown_thread_is_not_ending() -> None:
    """A thread of another PID namespace, or one that has ended, is not ending."""
    assert not is_ending(0)
    assert not is_ending(2**22 + 1)


def patiently_reads(path: str) -> tuple[int, float]:
    """Read from a silent server; return the errno and the seconds it took."""
    begun = time.monotonic()
    try:
        with open(path, "rb", buffering=0) as file:
            file.read(4096)
    except OSError as error:
        return error.errno or -1, time.monotonic() - begun
    return 0, time.monotonic() - begun


def patiently_looks(path: str) -> tuple[int, float]:
    """Look up a name on a silent server; return the errno and the seconds it took."""
    begun = time.monotonic()
    try:
        os.stat(path)
    except OSError as error:
        return error.errno or -1, time.monotonic() - begun
    return 0, time.monotonic() - begun


@pytest.mark.promise(
    "If a server does not answer, a read waits (`--patience`, 300 s), then fails with `EIO`; it never returns "
    "other bytes or fewer.",
    "A request that is in flight when the patience ends may still complete, and the kernel repeats a read "
    "whose readahead has failed: it may wait as long again.",
)
@pytest.mark.parametrize("way", ["read", "look"])
def test_a_silent_server_is_waited_for_until_patience_ends(
    mount: Mounts, fault_proxy: FaultProxy, binding: str, way: str
) -> None:
    """Reads and lookups from a silent server fail with EIO within a few seconds after the patience."""
    made = mount(base_url=fault_proxy.url, binding=binding, env={"EMPIARFS_PATIENCE": "3"})
    made.expect(STUCK + "|given up")
    made.call(looked, made / FILE)
    with fault_proxy.hold(r".*random\.bin|.*\.mrcs", method="GET" if way == "read" else "HEAD"):
        for _ in range(2):
            path = made / (FILE if way == "read" else RANDOM)
            number, seconds = made.call(patiently_reads if way == "read" else patiently_looks, path)
            assert number == errno.EIO
            assert 2.5 < seconds < 14


def test_a_reader_that_was_seen_and_is_gone_is_dead() -> None:
    """A program whose read is buffered ends at once; one that was never seen may be in another namespace."""
    program = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    reader, late = Reader(program.pid), Reader(program.pid)
    assert not reader.is_dead()
    program.kill()
    program.communicate()
    assert reader.is_dead()
    assert not late.is_dead()
