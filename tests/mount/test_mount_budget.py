"""The connections of all programs of a user, counted at the server, stay within one budget."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from support.apache import BASE, Apache
from support.fault_proxy import FaultProxy
from support.fixture_tree import RANDOM, SPARSE
from support.mounting import DEADLINE, Mounts, eventually
from support.relay import Line, Relay
from support.request_log import RequestLog, counted, in_a_calm_moment
from support.sandbox import PROJECT

from empiarfs import wire
from empiarfs.files import ArchiveFile
from empiarfs.settings import Settings
from empiarfs.units import KIB, MIB

pytestmark = pytest.mark.slow  # waits on purpose, or repeats for long

BUDGET = 10  # connections, as they come
KEPT = 2  # of them, that are never lent to what nobody waits for
ROUND_TRIP = 0.02  # seconds; long enough for requests to be under way together
EACH = 12  # readers in each program: more than the budget
ENDED_IN_A_READ = r"Interrupted|the archive was closed"


def read_together(path: str, seed: int, count: int) -> int:
    """Read 256 KiB at several places of a file in threads at once; return the number of bytes."""

    def one(number: int) -> int:
        total = 0
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        for turn in range(4):
            place = (seed * 997 + number * 83 + turn * 211) % 4000 * 1024 * 1024
            total += os.preadv(fd, [bytearray(256 * 1024)], place)
        os.close(fd)
        return total

    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(one, range(count)))


def read_by_python(project: str, url: str, folder: str, path: str, seed: int, count: int, connections: int) -> int:
    """Do the same in Python without a mount."""
    sys.path.insert(0, project)
    from empiarfs import wire  # noqa: PLC0415 - found from here on
    from empiarfs.settings import Settings  # noqa: PLC0415 - see above

    archive = wire.archive(
        Settings(base_url=url, cache_dir=Path(folder), max_connections=connections, no_ftp=True, patience=60.0)
    )
    opened = archive.open(path)

    def one(number: int) -> int:
        total = 0
        for turn in range(4):
            place = (seed * 997 + number * 83 + turn * 211) % 4000 * 1024 * 1024
            total += len(opened.read_at(place, 256 * 1024))
        return total

    with ThreadPoolExecutor(count) as pool:
        total = sum(pool.map(one, range(count)))
    archive.close()
    return total


@pytest.fixture
def sparse(apache: Apache) -> Iterator[RequestLog]:
    """A relay before Apache, which counts connections."""
    with counted(apache, ROUND_TRIP) as made:
        yield made


def read_by_three(mount: Mounts, url: str, connections: int, *expected: str) -> None:
    """Read with two mounts and a Python program of one user at once, and check that all bytes come."""
    account = mount.account()
    flags = [f"--max-connections={connections}", "--no-ftp"]
    caches = [account.home / f"cache-{number}" for number in range(3)]  # one of its own for each: nothing is shared
    env = {"EMPIARFS_PATIENCE": "60"}
    mounts = [
        mount("10200", base_url=url, account=account, flags=[*flags, f"--cache-dir={cache}"], env=env)
        for cache in caches[:2]
    ]
    for made in mounts:
        made.expect(*expected)
    answers = [made.calling(read_together, made / SPARSE, seed, EACH)[1] for seed, made in enumerate(mounts)]
    words = (PROJECT, url, caches[2], SPARSE, 2, EACH, connections)
    answers.append(account.calling(read_by_python, *words)[1])
    assert [answer(60) for answer in answers] == [EACH * 4 * 256 * KIB] * 3


@pytest.mark.parametrize("connections", [4, BUDGET])
def test_programs_together_keep_the_budget(mount: Mounts, sparse: RequestLog, connections: int) -> None:
    """Two mounts and a Python program of one user hold no more connections than one alone may, and use them."""
    read_by_three(mount, sparse.url, connections)
    assert connections - 1 <= sparse.connections <= connections


def test_a_busy_server_gets_fewer_connections(mount: Mounts, fault_proxy: FaultProxy) -> None:
    """Replies of 503 never raise the connections above the budget, and every byte comes in the end."""
    host, _, port = fault_proxy.url.removeprefix("http://").partition("/")[0].partition(":")
    with closing(Relay((host, int(port)), Line(round_trip=ROUND_TRIP))) as relay:
        with fault_proxy.answer(SPARSE, 503, method="GET", times=12):
            read_by_three(mount, f"http://127.0.0.1:{relay.port}{BASE}", BUDGET, "HTTP 503")
        assert fault_proxy.count("GET", SPARSE) > 12
        assert 0 < relay.counts.highest <= BUDGET


def test_two_connections_are_reserved_for_demand_reads(
    fault_proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While all prefetch requests and their reader are stuck, another reader gets its bytes at once."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    def check() -> None:
        cache = Path(tempfile.mkdtemp(dir=tmp_path))
        archive = wire.archive(Settings(base_url=fault_proxy.url, cache_dir=cache, no_ftp=True))
        with closing(archive), ThreadPoolExecutor(2) as pool:
            opened, other = archive.open(SPARSE), archive.open(RANDOM)
            read_on(opened, 0, 8 * MIB)
            with fault_proxy.hold(SPARSE, method="GET") as rule:
                reading = pool.submit(read_on, opened, 8 * MIB, 64 * MIB)
                eventually(lambda: rule.waiting >= BUDGET - KEPT, "what is fetched ahead is stuck")
                time.sleep(0.2)  # for more of it to come; less than it takes until silence is noticed
                assert rule.waiting == BUDGET - KEPT
                assert len(pool.submit(other.read_at, 0, 10).result(DEADLINE)) == 10
                assert not reading.done()
                rule.release()
            reading.result(DEADLINE)

    in_a_calm_moment(check)


def read_on(opened: ArchiveFile, start: int, stop: int) -> None:
    """Read a range in order."""
    for offset in range(start, stop, 128 * KIB):
        opened.read_at(offset, 128 * KIB)


def test_a_killed_reader_takes_nothing_from_others(mount: Mounts, fault_proxy: FaultProxy) -> None:
    """When the first of two readers of one block is killed, the other gets it, and one GET is sent."""

    def read(path: str, mark: str, flags: int) -> int:
        fd = os.open(path, os.O_RDONLY | flags)
        Path(mark).touch()
        return os.preadv(fd, [bytearray(4096)], 0)

    def sleeps(process: int) -> bool:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in {"S", "D"}

    def check() -> None:
        made = mount("10100", base_url=fault_proxy.url)
        made.expect(ENDED_IN_A_READ)
        marks = [made.account.home / name for name in ("killed", "waiting")]
        asked = fault_proxy.count("GET", RANDOM)
        with fault_proxy.hold(
            RANDOM, method="GET", after=1
        ) as rule:  # it has begun: it is not asked twice for its silence
            killed, _ = made.calling(read, made / RANDOM, marks[0], 0)
            eventually(lambda: rule.waiting, "the first has asked")
            waiting, answer = made.calling(read, made / RANDOM, marks[1], os.O_DIRECT)
            eventually(lambda: marks[1].exists() and sleeps(waiting.pid), "the second waits")
            killed.kill()
            assert killed.wait(DEADLINE) == -signal.SIGKILL
            rule.release()
            assert answer(DEADLINE) == 4096
        made.umount()
        assert fault_proxy.count("GET", RANDOM) == asked + 1

    in_a_calm_moment(check)
