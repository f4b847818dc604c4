"""All processes together never exceed the limit on connections, and a process that dies releases its slots."""

import logging
import os
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.fakes import SOON

from empiarfs.private_dirs import runtime_folder
from empiarfs.process_semaphore import ProcessSemaphore

SERVER = "ftp.ebi.ac.uk"


def taken(semaphore: ProcessSemaphore) -> bool:
    """Return whether a slot can be acquired at once, and release it."""
    try:
        semaphore.acquire(0.0)()
    except TimeoutError:
        return False
    return True


def test_no_more_slots_than_the_limit_are_acquired(tmp_path: Path) -> None:
    """The fourth of three slots is refused, and acquired once another is released."""
    semaphore = ProcessSemaphore(tmp_path / "slots", SERVER, 3)
    held = [semaphore.acquire(0.0) for _ in range(3)]
    with pytest.raises(TimeoutError):
        semaphore.acquire(0.0)
    held.pop()()
    assert taken(semaphore)
    for release in held:
        release()


@pytest.mark.promise(
    "All processes of a user on a machine together hold at most `--max-connections` connections to a server (10; "
    "never more than 12)."
)
def test_all_users_of_the_folder_share_one_limit(tmp_path: Path) -> None:
    """Two programs together hold no more slots than one may."""
    one, other = (ProcessSemaphore(tmp_path / "slots", SERVER, 2) for _ in range(2))
    first, second = one.acquire(0.0), other.acquire(0.0)
    assert not taken(one)
    assert not taken(other)
    first()
    assert taken(other)
    second()


def test_each_server_has_its_own_limit(tmp_path: Path) -> None:
    """Slots of one server do not count for another."""
    release = ProcessSemaphore(tmp_path / "slots", SERVER, 1).acquire(0.0)
    assert taken(ProcessSemaphore(tmp_path / "slots", "empiar.pdbj.org", 1))
    release()


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    """The slots of a killed process are free."""
    program = (
        "import sys, signal; from pathlib import Path; "
        "from empiarfs.process_semaphore import ProcessSemaphore; "
        "held = ProcessSemaphore(Path(sys.argv[1]), 'ftp.ebi.ac.uk', 1).acquire(0.0); "
        "print('held', flush=True); signal.pause()"
    )
    semaphore = ProcessSemaphore(tmp_path / "slots", SERVER, 1)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "slots")], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert not taken(semaphore)
        process.kill()
    assert taken(semaphore)


def test_releasing_twice_is_harmless(tmp_path: Path) -> None:
    """A second release does not free a slot that another process has acquired since."""
    semaphore = ProcessSemaphore(tmp_path / "slots", SERVER, 1)
    release = semaphore.acquire(0.0)
    release()
    again = semaphore.acquire(0.0)
    release()
    assert not taken(semaphore)
    again()


def test_there_are_no_waiters_at_first(tmp_path: Path) -> None:
    """`has_waiters` reports only other processes."""
    semaphore = ProcessSemaphore(tmp_path / "slots", SERVER, 1)
    release = semaphore.acquire(0.0)
    assert not semaphore.has_waiters()
    release()


def test_a_waiter_is_seen_until_it_has_a_slot(tmp_path: Path) -> None:
    """`has_waiters` is true while another process waits, so that idle connections are closed for it."""
    semaphore, other = (ProcessSemaphore(tmp_path / "slots", SERVER, 1) for _ in range(2))
    release = semaphore.acquire(0.0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.acquire, SOON)
        deadline = time.monotonic() + SOON
        while not semaphore.has_waiters():
            assert time.monotonic() < deadline, "the waiter is not seen"
            time.sleep(0.01)
        release()
        waiting.result(SOON)()
    assert not semaphore.has_waiters()


def test_the_folder_is_private(tmp_path: Path) -> None:
    """The folder has mode 0700, like the cache."""
    ProcessSemaphore(tmp_path / "slots", SERVER, 1)
    assert stat.S_IMODE((tmp_path / "slots").stat().st_mode) == 0o700


@pytest.mark.promise(
    "If no file can be locked, the connections of other processes are not counted, and the log says so in one line."
)
def test_an_unusable_folder_does_not_prevent_reading(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Other processes are then not counted, which one log line says."""
    (tmp_path / "slots").write_text("")
    semaphore = ProcessSemaphore(tmp_path / "slots", SERVER, 1)
    for _ in range(3):
        semaphore.acquire(0.0)
    assert not semaphore.has_waiters()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    caplog.clear()


def test_the_folder_is_the_users_runtime_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is that of the session, else one of the user among the temporary files."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/5")
    assert runtime_folder() == Path("/run/user/5/empiarfs")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime_folder().name == f"empiarfs-{os.geteuid()}"


def test_a_removed_folder_is_created_again(tmp_path: Path) -> None:
    """After its removal, at logout for example, the slots are counted again, in a private folder."""
    semaphore = ProcessSemaphore(tmp_path / "slots", SERVER, 1)
    shutil.rmtree(tmp_path / "slots")
    assert not semaphore.has_waiters()
    release = semaphore.acquire(0.0)
    assert not taken(ProcessSemaphore(tmp_path / "slots", SERVER, 1))
    release()
    assert taken(semaphore)
    assert stat.S_IMODE((tmp_path / "slots").stat().st_mode) == 0o700
