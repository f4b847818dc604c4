"""The answers to the kernel, without a kernel."""

import errno
import itertools
import logging
import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from empiarfs.archive import Archive
from empiarfs.errors import Offline
from empiarfs.model import Directory, File, Node, Stub
from empiarfs.mount import binding
from empiarfs.mount.operations import Operations
from empiarfs.mount.status import MountStats, RecentWarnings
from empiarfs.mount.view import Owner

DIRECTORY = "10028/data"
FILE = File(f"{DIRECTORY}/a.mrc", 4000, 1_700_000_000)
NEWER = File(FILE.path, 3000, 1_700_009_000)
EIO = pytest.raises(OSError, match=rf"\[Errno {errno.EIO}\]")


class OneDirectory:
    """An archive of one directory with measured files, of which some are listed as not measured yet."""

    def __init__(self, *files: File, stubs: Sequence[Stub] = ()) -> None:
        self.files = {file.path: file for file in files}
        self.stubs = stubs
        self.released: list[File] = []

    def has_answered(self) -> bool:
        """See `Archive`."""
        return True

    def listdir(self, directory: str) -> list[Node]:
        """See `Archive.listdir`."""
        return [*self.files.values(), *self.stubs]

    def known(self, stub: Stub) -> Node:
        """See `Archive.known`."""
        return self.files.get(stub.path, stub)

    def release(self, file: File) -> None:
        """See `Archive.release`."""
        self.released.append(file)

    def stat(self, path: str) -> File | Directory:
        """See `Archive.stat`."""
        if path not in self.files:
            raise Offline(path, "it is not kept on disk")
        return self.files[path]


def answering(archive: OneDirectory) -> tuple[Operations, MountStats]:
    """Return operations over `archive`, and their counters."""
    stats = MountStats("/mnt", RecentWarnings())
    return Operations(cast("Archive", archive), Owner(1000, 1000), 1_795_000_000, lambda: None, stats), stats


def information(handle: int = 0) -> Any:
    """Return the file information that the kernel passes."""
    return SimpleNamespace(fh=handle, flags=os.O_RDONLY, keep_cache=False, direct_io=False)


def entries(operations: Operations, handle: int, room: int = 100) -> dict[str, int]:
    """Read an open directory as libfuse does; return the names for which the kernel has room, and their flags."""
    fuse = cast("Any", binding._Fuse.__new__(binding._Fuse))
    fuse.operations = operations
    taken: dict[str, int] = {}

    def filler(_buffer: object, name: bytes, _status: object, _offset: int, flags: int) -> int:
        if len(taken) == room:
            return 1
        taken[name.decode()] = flags
        return 0

    there = SimpleNamespace(contents=information(handle))
    assert fuse.readdir_fuse_3(f"/{DIRECTORY}".encode(), None, filler, 0, there, binding.READDIR_PLUS) == 0
    return taken


def listed(operations: Operations, room: int = 100) -> list[str]:
    """List the directory as libfuse does; return the names for which the kernel has room."""
    return list(entries(operations, operations.opendir(f"/{DIRECTORY}"), room))


def test_a_surprise_when_a_file_is_opened_is_logged_and_eio(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception in open is logged with its traceback, becomes EIO, and leaves no version open."""
    archive = OneDirectory(FILE)
    operations, stats = answering(archive)
    operations.getattr(f"/{FILE.path}")
    monkeypatch.setattr(stats, "record_open", lambda _: 1 / 0)
    with EIO:
        operations.open(f"/{FILE.path}", information())
    (record,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert record.getMessage() == f"open {FILE.path}"
    assert record.exc_info
    archive.files[FILE.path] = NEWER
    assert operations.getattr(f"/{FILE.path}")["st_size"] == NEWER.size
    caplog.clear()


def test_a_surprise_when_a_file_is_closed_is_logged_and_eio(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception in release is logged and becomes EIO."""
    operations, _ = answering(OneDirectory(FILE))
    operations.getattr(f"/{FILE.path}")
    info = information()
    operations.open(f"/{FILE.path}", info)
    operations._versions.close(FILE)
    with EIO:
        operations.release(f"/{FILE.path}", info)
    assert caplog.messages == [f"release {FILE.path}"]
    caplog.clear()


@pytest.mark.parametrize("path", [f"/{FILE.path}", f"/EMPIAR-{FILE.path}"])
def test_the_last_handle_of_a_file_ends_its_prefetch(path: str) -> None:
    """A file is released when the last of its handles is closed, and not before, whatever its entry is called."""
    archive = OneDirectory(FILE)
    operations, _ = answering(archive)
    operations.getattr(path)
    handles = [information(), information()]
    for info in handles:
        operations.open(path, info)
    operations.release(path, handles[0])
    assert archive.released == []
    operations.release(path, handles[1])
    assert archive.released == [FILE]


def test_a_surprise_in_a_listing_is_logged_and_eio(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception in readdir is logged and becomes EIO."""
    operations, _ = answering(OneDirectory(FILE))
    monkeypatch.setattr(operations, "attributes", lambda _: 1 / 0)
    with EIO:
        listed(operations)
    assert caplog.messages == [f"list {DIRECTORY}"]
    caplog.clear()


def test_opening_an_older_version_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """An open that fails because an older version is open is one line; one that the kernel retries is none."""
    archive = OneDirectory(FILE)
    operations, _ = answering(archive)
    caplog.set_level(logging.INFO)
    with pytest.raises(OSError, match="the kernel has another version"):
        operations.open(f"/{FILE.path}", information())
    assert caplog.messages == []
    operations.getattr(f"/{FILE.path}")
    operations.open(f"/{FILE.path}", information())
    archive.files[FILE.path] = NEWER
    with pytest.raises(OSError, match="still open"):
        operations.open(f"/{FILE.path}", information())
    assert caplog.messages == [f"open {FILE.path}: it changed at the server, and its older version is still open"]
    caplog.clear()


def test_a_directory_shows_what_was_measured_since_it_was_opened() -> None:
    """A file that is measured after its directory was opened comes with its attributes, and needs no lookup."""
    archive = OneDirectory(stubs=[Stub(FILE.path), Stub(f"{DIRECTORY}/b.mrc")])
    operations, _ = answering(archive)
    handle = operations.opendir(f"/{DIRECTORY}")
    archive.files[FILE.path] = FILE
    found = entries(operations, handle)
    assert (found["a.mrc"], found["b.mrc"]) == (binding.FILL_PLUS, 0)


def test_only_entries_that_the_kernel_took_are_announced() -> None:
    """An entry for which the kernel's buffer has no room is not announced."""
    other = File(f"{DIRECTORY}/b.mrc", 5, 6)
    operations, _ = answering(OneDirectory(FILE, other))
    assert listed(operations, room=3) == [".", "..", "a.mrc"]
    operations.open(f"/{FILE.path}", information())
    with pytest.raises(OSError, match="the kernel has another version"):
        operations.open(f"/{other.path}", information())


def test_each_mount_logs_what_is_unreachable_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each mount logs a path that is offline once in its own log."""
    caplog.set_level(logging.WARNING)
    for (operations, _), _ in itertools.product([answering(OneDirectory()) for _ in range(2)], range(2)):
        with pytest.raises(Offline):
            operations.getattr("/10028/gone.mrc")
    assert len(caplog.messages) == 2
    caplog.clear()
