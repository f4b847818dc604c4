"""Many readers that wait: each looked for signals of its program by itself, and each free connection woke all.

The kind: what one waiting reader costs is multiplied by two hundred. One thread looks for all of them, no more than
a fiftieth of its time, and a free connection wakes one request.
"""

import mmap
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.fakes import SOON
from support.fault_proxy import FaultProxy
from support.mounting import Mounts, eventually

from empiarfs.cancellation import cancel_scope, wait
from empiarfs.engine import limiter as limiter_module
from empiarfs.engine.limiter import ConnectionLimiter
from empiarfs.errors import Cancelled

READERS = 200


def test_one_thread_looks_for_all_waits() -> None:
    """The conditions of many waits are looked at by one thread, and a wait whose condition is false ends alone."""
    looking: set[int] = set()
    is_wanted = [True] * READERS
    events = [threading.Event() for _ in range(READERS)]

    def waits(number: int) -> bool:
        def condition() -> bool:
            looking.add(threading.get_ident())
            return is_wanted[number]

        with cancel_scope(condition):
            return wait(events[number].wait, None, events[number].set)

    with ThreadPoolExecutor(READERS) as pool:
        waiting = [pool.submit(waits, number) for number in range(READERS)]
        try:
            eventually(lambda: looking, "it is looked")
            is_wanted[7] = False
            with pytest.raises(Cancelled):
                waiting[7].result(SOON)
            assert sum(one.done() for one in waiting) == 1
        finally:
            for event in events:
                event.set()
        assert all(one.result(SOON) for number, one in enumerate(waiting) if number != 7)
    assert len(looking) == 1


def test_a_free_connection_wakes_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request that waits for a connection is woken once, by the one that it gets."""
    limiter = ConnectionLimiter(2, 0)
    woken: list[int] = []

    def counted(*arguments: object) -> bool:
        result = wait(*arguments)  # type: ignore[arg-type] # as it was called
        woken.append(1)
        return result

    def request() -> None:
        with limiter.demand():
            pass

    monkeypatch.setattr(limiter_module, "wait", counted)
    with ThreadPoolExecutor(READERS) as pool:
        with limiter.demand(), limiter.demand():
            waiting = [pool.submit(request) for _ in range(READERS)]
            eventually(lambda: limiter.waiting == READERS, "all wait")
        for one in waiting:
            one.result(SOON)
    assert len(woken) == READERS


def read_by_threads(path: str, count: int) -> list[int]:
    """Read the start of each of the first files of a directory in a thread of its own; return the lengths."""

    def start_of(file: Path) -> int:
        fd = os.open(file, os.O_RDONLY | os.O_DIRECT)
        buffer = mmap.mmap(-1, 4096)
        try:
            return os.preadv(fd, [buffer], 0)
        finally:
            os.close(fd)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start_of, sorted(Path(path).iterdir())[:count]))


def measured(path: str) -> int:
    """Look up all files of a directory, as the kernel looks them up one at a time; return their number."""
    return sum(entry.stat().st_size > 0 for entry in os.scandir(path))


def cpu_seconds(process: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_readers_of_a_silent_server_cost_next_to_nothing(mount: Mounts, fault_proxy: FaultProxy) -> None:
    """Readers that wait for a silent server take less than a fortieth of a CPU, end when killed, and read on."""
    directory = "10300/data"
    made = mount("10300", base_url=fault_proxy.url, env={"EMPIARFS_PATIENCE": "100"})
    made.expect("retrying|given up|no answer|refuses connections")  # the proxy ends before the mount
    count = min(READERS, made.call(measured, made / directory))
    with fault_proxy.hold(".*", method="GET") as held:
        process, answer = made.calling(read_by_threads, made / directory, count)
        killed, _ = made.calling(read_by_threads, made / directory, count)
        eventually(lambda: held.waiting, "the server is asked")
        time.sleep(2)
        before, begun = cpu_seconds(made.daemon()), time.monotonic()
        time.sleep(5)
        assert (cpu_seconds(made.daemon()) - before) / (time.monotonic() - begun) < 0.025
        killed.kill()
        killed.communicate(timeout=SOON)
        assert process.poll() is None
    assert len(answer(60)) == count
