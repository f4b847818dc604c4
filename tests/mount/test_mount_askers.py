"""Who waits for a name: ended when he is told to end, and not disturbed by anything else."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH116, PTH123, PTH208

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faulty import Faulty
from mounting import Mounts, eventually
from world import World

from empiarfs.errors import NotFound
from empiarfs.mount import askers
from empiarfs.mount.askers import Abandoned, Askers, is_to_end

FILE = "10028/data/stack.mrcs"
STUCK = "asking again|was closed|went silent|does not answer|refuses connections"
SOON = 3.0  # seconds; a look every 0.2 and a busy machine


def looked(path: str) -> int:
    """Ask for the length of a file."""
    return os.stat(path).st_size


def opened(path: str) -> int:
    """Open a file, and ask for its length."""
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size


def listed(path: str) -> int:
    """List a directory."""
    return len(os.listdir(path))


@pytest.mark.promise("A program that waits for bytes or for a name can be ended, with Ctrl-C too.")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize(
    ("verb", "below"), [(looked, FILE), (opened, FILE), (listed, "10028/data"), (looked, "EMPIAR-10999")]
)
def test_who_waits_for_a_name_can_be_ended(
    mount: Mounts,
    faulty: Faulty,
    world: World,
    binding: str,
    verb: Callable[[str], Any],
    below: str,
    number: signal.Signals,
) -> None:
    """With a silent server, any signal that means the end is the end; the next one to ask is answered right."""
    made = mount(base_url=faulty.url, binding=binding)
    made.expect(STUCK)
    with faulty.hold(".*") as held:
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
        real = Path(world.root, below)
        expected = len(os.listdir(real)) if verb is listed else real.stat().st_size
        assert made.call(verb, made / below) == expected


def disturbed(path: str) -> tuple[int, int]:
    """Ask for the length of a file while a clock ticks, and children end; count what was handled."""
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


@pytest.mark.promise(
    "No other signal disturbs one that waits for a name; what it asked for is asked to its end, for who wants the "
    "same next."
)
def test_no_other_signal_disturbs_who_waits(mount: Mounts, faulty: Faulty, world: World, binding: str) -> None:
    """A program with a timer, children and a window that changes is answered as if there were none."""
    made = mount(base_url=faulty.url, binding=binding)
    made.expect(STUCK)
    with faulty.hold(r".*\.mrcs", method="HEAD") as held:
        process, answer = made.calling(disturbed, made / FILE)
        eventually(lambda: held.waiting, "the server is asked")
        for _ in range(5):
            process.send_signal(signal.SIGUSR1)
            process.send_signal(signal.SIGWINCH)
            time.sleep(0.2)
        assert process.poll() is None
    size, ticks = answer(30)
    assert size == Path(world.root, FILE).stat().st_size
    assert ticks > 0


@pytest.mark.promise(
    "No other signal disturbs one that waits for a name; what it asked for is asked to its end, for who wants the "
    "same next.",
    "Older libfuse has the kernel look up one name of a directory at a time: who stands behind another can be "
    "ended after him.",
)
def test_those_who_wait_for_one_name_share_a_request(mount: Mounts, faulty: Faulty, world: World) -> None:
    """Five are killed, and gone one after the other; who comes then is answered by what was asked for them."""
    made = mount(base_url=faulty.url, env={"EMPIARFS_PATIENCE": "60"})
    made.expect(STUCK)
    made.call(listed, made / "10028/data")
    with faulty.hold(r".*\.mrcs", method="HEAD") as held:
        waiting = [made.calling(looked, made / FILE)[0] for _ in range(5)]
        eventually(lambda: held.waiting, "the server is asked")
        time.sleep(0.5)
        for process in waiting:
            process.kill()
        for process in waiting:
            process.communicate(timeout=SOON)
        _, answer = made.calling(looked, made / FILE)
        time.sleep(0.5)
        assert held.waiting <= 2  # a second asking where the first is silent
    assert answer(30) == Path(world.root, FILE).stat().st_size
    assert faulty.count("HEAD", FILE) <= 4


def test_a_pipeline_is_ended_as_a_terminal_does(mount: Mounts, faulty: Faulty) -> None:
    """`ls -l | sort` in a process group of its own: one SIGINT to the group, and the prompt is back."""
    made = mount(base_url=faulty.url)
    made.expect(STUCK)
    with faulty.hold(".*") as held:
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
        ("", "SIGTERM", True),
        ("", "SIGQUIT", True),
        ("", "SIGUSR1", False),
        ("signal.signal(signal.SIGINT, print)", "SIGINT", True),
        ("signal.signal(signal.SIGINT, signal.SIG_IGN)", "SIGINT", False),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})", "SIGTERM", False),
    ],
)
def test_what_means_the_end(prepared: str, sent: str, *, ends: bool) -> None:
    """A signal that waits, that is neither blocked nor ignored, and by which somebody wants an end."""
    program = f"import os, signal\n{prepared}\nprint('there', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            stat = Path(f"/proc/{process.pid}/stat")
            eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it is stopped")
            assert not is_to_end(process.pid)
            process.send_signal(signal.Signals[sent])  # a stopped process does not take it
            assert is_to_end(process.pid) == ends
        finally:
            process.kill()


def test_who_is_not_known_waits_on() -> None:
    """A thread of another namespace, or one that is no more, is not to end."""
    assert not is_to_end(0)
    assert not is_to_end(2**22 + 1)


def test_errors_are_each_his_own() -> None:
    """Two who wait for the same get two errors; another error comes through as it is."""
    waiting = Askers(lambda: 0)

    def missing() -> None:
        raise NotFound("10028/data/none")

    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(NotFound, match="none"):
        waiting.answer("missing", missing)
    with pytest.raises(ZeroDivisionError):
        waiting.answer("broken", broken)
    assert waiting.answer("missing", lambda: 7) == 7


def test_beyond_so_many_askings_there_is_no_thread_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked in the kernel's own thread is answered too, but cannot be ended."""
    monkeypatch.setattr(askers, "MOST_ASKED", 0)
    monkeypatch.setattr(askers, "is_to_end", lambda _: True)
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer):
        assert Askers(lambda: 1).answer("slow", lambda: select.select([reader], [], [], 0.5)) == ([], [], [])
        monkeypatch.undo()
        monkeypatch.setattr(askers, "is_to_end", lambda _: True)
        with pytest.raises(Abandoned):
            Askers(lambda: 1).answer("slow", lambda: select.select([reader], [], [], 0.5))
