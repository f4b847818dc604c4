"""The same story through the kernel: a mount, its page cache, its mmap, its daemon that is killed.

What the daemon does behind the reader's back cannot be waited for here, so what is known of names may always be old
or new; the bytes are as strict as ever.
"""

import errno
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from support.fakes import noise
from support.model import mount_user
from support.model.knowledge import Knowledge
from support.model.server import MISFORTUNES, Listed, Measured, Missed, Served, Version
from support.mounting import DEADLINE, Mounts, eventually

from empiarfs.model import parent_path

pytestmark = pytest.mark.slow  # waits on purpose, or repeats for long

BLOCK = 64 * 1024  # the smallest that a user may choose
DIRECTORIES = ("10028", "10028/a", "10028/b")
SIZES = st.one_of(st.sampled_from([0, 1, BLOCK, BLOCK + 1, 300_001]), st.integers(0, 400_000))
NEW_SIZES = st.one_of(st.none(), SIZES)
PATHS = st.builds("{}/{}.mrc".format, st.sampled_from(DIRECTORIES), st.integers(0, 3))
READS = st.tuples(st.integers(0, 10**6), st.integers(0, 104), st.sampled_from([1, 4096, 100_000, 10**6]))
FEWEST = 4
MOMENT = 0.3  # seconds that the server is away


@dataclass(frozen=True)
class Handle:
    """An open file."""

    number: int
    path: str
    version: Version


class MountModel(RuleBasedStateMachine):
    """One story."""

    mounts: Mounts
    asks: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.served = Served()
        for directory in DIRECTORIES:
            for number in range(3):
                self.served.write(f"{directory}/{number}.mrc", noise(150_000 * number + 17, number))
        self.written = 0
        self.known = Knowledge()
        self.taken = 0  # of the server's diary
        self.versions: dict[str, set[Version]] = {}  # that ever were
        self.shown: dict[str, set[Version | None]] = {}  # that the kernel was told since the mount, None: nothing
        self.handles: list[Handle] = []
        self.account = self.mounts.account()
        self.place = self.account.home / "mnt"
        self.listener = Listener(str(self.account.home / "socket"), "AF_UNIX", authkey=mount_user.KEY)
        self.mounted()

    def mounted(self) -> None:
        """Mount on the existing cache, and start the process that uses it."""
        self.mount = self.mounts(
            account=self.account,
            base_url=self.served.url,
            path=self.place,
            flags=["--cache-size=2M", "--memory-cache-size=16M", "--max-connections=4"],
            env={"EMPIARFS_BLOCK_SIZE": str(BLOCK), "EMPIARFS_PATIENCE": "60"},
        )
        self.mount.expect("WARNING")
        self.account.start(sys.executable, mount_user.__file__, str(self.listener.address))
        self.line: Any = self.listener.accept()
        self.shown.clear()
        paths = {handle.path for handle in self.handles} or {"10028/2.mrc"}
        self.handles.clear()
        for path in sorted(paths):
            self.open_a_file(path)

    def teardown(self) -> None:
        """Unmount, and check that nothing is left."""
        self.line.close()
        self.account.end()
        self.mount.umount()
        self.listener.close()
        self.served.server.stop()
        assert not self.served.complaints, self.served.complaints

    def asked(self, command: str, *arguments: Any) -> Any:
        """Call the process; return the result."""
        self.asks[command] += 1
        self.line.send((command, arguments))
        assert self.line.poll(DEADLINE * 2), f"{command} {arguments} hangs"
        result = self.line.recv()
        self.record_events()
        return result

    def record_events(self) -> None:
        """Record what the server has sent; what is in flight may have arrived or not."""
        events = self.served.diary[self.taken :]
        self.taken += len(events)
        for event in events:
            self.known.take(event, 0.0, surely=False)
            match event:
                case Missed(path):
                    self.known.gone(path, 0.0, surely=False)
                case Measured(path, Version() as version):
                    self.versions.setdefault(path, set()).add(version)
                case Listed():
                    pass

    def may_be(self, path: str) -> set[Version | None]:
        """Return the versions that may be shown at `path`, None for no file."""
        measured = {one.version for one in self.known.of(path) if one is not None and one.version is not None}
        absent = {None} if None in self.known.of(path) else set()
        return measured | absent | {self.served.files.get(path)} | self.shown.get(path, set())

    def see_version(self, path: str, size: int, modified: int) -> Version:
        """Check that size and date are those of one version that may be shown, and return it."""
        for version in self.may_be(path):
            if version is not None and (len(version.content), version.modified) == (size, modified):
                self.shown.setdefault(path, set()).add(version)
                return version
        raise AssertionError(f"{path}: {size} bytes of {modified} are shown, {self.may_be(path)} may be")

    def see_refusal(self, path: str, error: Any, *allowed: int) -> None:
        """Check that the result is an error that is allowed."""
        assert isinstance(error, OSError), error
        if error.errno == errno.ENOENT and None in self.may_be(path):
            self.shown.setdefault(path, set()).add(None)
            return
        assert error.errno in allowed, f"{path}: {error}"

    @rule(directory=st.sampled_from(DIRECTORIES))
    def list_a_directory(self, directory: str) -> None:
        """A listing shows names that exist or were known."""
        result = self.asked("entries", f"{self.place}/{directory}")
        assert isinstance(result, list), result
        shown = {f"{directory}/{name}" for name in result}
        assert len(shown) == len(result)
        for path in shown | {path for path in self.known.names if parent_path(path) == directory}:
            assert any((one is not None) == (path in shown) for one in self.known.of(path)), path

    @rule(path=PATHS)
    def look_at_a_name(self, path: str) -> None:
        """A lookup gives the exact size and date of one version."""
        result = self.asked("stat", f"{self.place}/{path}")
        if isinstance(result, tuple):
            self.see_version(path, *result)
        else:
            self.see_refusal(path, result)

    @rule(path=PATHS)
    def open_a_file(self, path: str) -> None:
        """Opening gives one version, and none while an older one is open."""
        result = self.asked("open", f"{self.place}/{path}")
        if isinstance(result, tuple):
            number, size, modified = result
            self.handles.append(Handle(number, path, self.see_version(path, size, modified)))
        else:
            is_open = any(handle.path == path for handle in self.handles)
            self.see_refusal(path, result, *([errno.ESTALE] if is_open else []))

    @rule(read=READS, command=st.sampled_from(["read", "mapped"]))
    def read_a_part(self, read: tuple[int, int, int], command: str) -> None:
        """A read gives the bytes of the version that was opened, or a clear error."""
        self.see_read(self.chosen(read[0]), read[1], read[2], command)

    @rule(choice=st.integers(0, 10**6), size=NEW_SIZES, drop=st.booleans())
    def read_on_after_it_has_changed(self, choice: int, size: int | None, drop: bool) -> None:
        """The old handle gives old bytes or an error; reopened, it gives new ones."""
        handle = self.chosen(choice)
        self.see_read(handle, 0, 100_000, "read")
        self.written_anew(handle.path, len(handle.version.content) if size is None else size)
        if drop:
            self.asked("drop", handle.number)
        for share, command in ((50, "read"), (0, "mapped"), (90, "read")):
            self.see_read(handle, share, 100_000, command)
        for one in [one for one in self.handles if one.path == handle.path]:
            self.asked("close", one.number)
            self.handles.remove(one)
        self.open_a_file(handle.path)
        for one in self.handles:
            self.see_read(one, 0, 10**6, "read")

    def see_read(self, handle: Handle, share: int, size: int, command: str) -> None:
        """Read, and check the bytes."""
        offset = len(handle.version.content) * share // 100
        if command == "mapped" and not handle.version.content:
            return  # nothing can be mapped
        before = self.served.files.get(handle.path)
        result = self.asked(command, handle.number, offset, size)
        there = {before, self.served.files.get(handle.path)}
        if isinstance(result, bytes):
            assert result == handle.version.content[offset : offset + size], f"wrong bytes of {handle.path}"
        elif isinstance(result, int):
            assert result == mount_user.SIGBUS
            assert there - {handle.version}, "it has not changed"
        else:
            assert isinstance(result, OSError)
            assert there - {handle.version}, f"it has not changed: {result}"
            assert result.errno == errno.ESTALE or (result.errno == errno.ENOENT and None in there), result

    def chosen(self, choice: int) -> Handle:
        """Return one of the open files, or a new one where there is none."""
        while not self.handles:
            self.written_anew("10028/0.mrc", 200_000)
            self.open_a_file("10028/0.mrc")
        return self.handles[choice % len(self.handles)]

    @rule(choice=st.integers(0, 10**6))
    def close_a_file(self, choice: int) -> None:
        """A handle is closed."""
        handle = self.chosen(choice)
        self.handles.remove(handle)
        self.asked("close", handle.number)

    @rule(path=PATHS, size=SIZES)
    def a_file_is_written(self, path: str, size: int) -> None:
        """A file is new, or replaced."""
        self.written_anew(path, size)

    def written_anew(self, path: str, size: int) -> None:
        """Write new bytes."""
        self.written += 1
        self.served.write(path, noise(size, 1000 + self.written))

    @rule(choice=st.integers(0, 10**6))
    def a_file_is_removed(self, choice: int) -> None:
        """One file is removed."""
        if len(self.served.files) > FEWEST:
            self.served.remove(sorted(self.served.files)[choice % len(self.served.files)])

    @rule(misfortunes=st.lists(st.sampled_from(sorted({*MISFORTUNES} - {"404"})), min_size=1, max_size=3))
    def requests_will_go_wrong(self, misfortunes: list[str]) -> None:
        """The next few requests fail."""
        self.served.misfortunes.extend(misfortunes)

    @rule(read=READS)
    def read_while_the_server_is_away_for_a_moment(self, read: tuple[int, int, int]) -> None:
        """A reader waits for the server."""
        handle = self.chosen(read[0])
        self.asked("drop", handle.number)
        self.served.is_down = True
        back = threading.Timer(MOMENT, setattr, (self.served, "is_down", False))
        back.start()
        self.see_read(handle, read[1], read[2], "read")
        back.join()

    @rule()
    def the_kernel_forgets(self) -> None:
        """The kernel drops the pages that are not mapped."""
        for handle in self.handles:
            self.asked("drop", handle.number)

    @rule(kill=st.booleans(), read=READS)
    def it_is_mounted_anew(self, kill: bool, read: tuple[int, int, int]) -> None:
        """It is remounted by the user, or after its daemon was killed during a read."""
        handle = self.chosen(read[0])
        if kill:
            daemon = self.mount.daemon()
            offset = len(handle.version.content) * read[1] // 100
            self.line.send(("read", (handle.number, offset, read[2])))
            threading.Event().wait(0.001 * (read[0] % 10))
            os.kill(daemon, signal.SIGKILL)
            assert self.line.poll(DEADLINE), "who reads from a dead mount hangs"
            result = self.line.recv()
            content = handle.version.content[offset : offset + read[2]]
            assert isinstance(result, OSError) or content.startswith(result), "wrong bytes"
            eventually(lambda: not self.mount.daemons(), "the daemon is dead")
        self.line.close()
        self.account.end()
        if not kill:
            self.mount.umount()
        self.mounts.made.remove(self.mount)
        self.record_events()
        self.mounted()


@pytest.mark.timeout(0)
def test_every_story_ends_well_through_the_kernel(
    lasting_mount: Mounts, capsys: pytest.CaptureFixture[str], how_long: Callable[..., int]
) -> None:
    """Any sequence of events gives bytes of the opened version or a clear error, through read and mmap."""
    MountModel.mounts, MountModel.asks = lasting_mount, Counter()
    run_state_machine_as_test(
        MountModel,
        settings=settings(
            max_examples=how_long(4, 40),
            stateful_step_count=how_long(20, 50),
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    with capsys.disabled():
        print(f"\nmodel through the kernel: {dict(MountModel.asks)}")  # noqa: T201 - how much the long run has done


def test_the_process_that_uses_a_mount_is_right(tmp_path: Path) -> None:
    """The process that uses the mount returns right results on a local directory."""
    file = tmp_path / "file"
    file.write_bytes(noise(10_000))
    use = mount_user.MountUser()
    number, size, _ = use.open(str(file))
    assert use.entries(str(tmp_path)) == ["file"]
    assert use.read(number, 100, 5_000) == use.mapped(number, 100, 5_000) == noise(10_000)[100:5_100]
    assert use.stat(str(file))[0] == size == 10_000
    use.close(number)
