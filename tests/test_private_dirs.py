"""Private directories: nothing is read from or written to a place that others can change."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from empiarfs import wire
from empiarfs.private_dirs import (
    UnsafePath,
    check_holder,
    check_private_file,
    ensure_private,
    nearest,
    prepare_cache_dir,
    runtime_folder,
)
from empiarfs.process_semaphore import ProcessSemaphore
from empiarfs.settings import Settings, archive_name
from empiarfs.storage.disk import DiskStore
from empiarfs.storage.index import SqliteIndex, index_file

THEIRS = 65534  # the user nobody


def mode(path: Path) -> int:
    """Return the permissions of `path`."""
    return stat.S_IMODE(path.stat().st_mode)


def folder(path: Path, permissions: int) -> Path:
    """Make a directory with exactly these permissions."""
    path.mkdir()
    path.chmod(permissions)
    return path


def test_a_folder_is_created_private(tmp_path: Path) -> None:
    """A new cache directory and its parent get mode 0700, whatever the umask is."""
    before = os.umask(0)
    try:
        assert prepare_cache_dir(tmp_path / "a" / "b") == tmp_path / "a" / "b" / "v1"
    finally:
        os.umask(before)
    assert [mode(path) for path in (tmp_path / "a/b/v1", tmp_path / "a/b")] == [0o700, 0o700]


def test_a_folder_that_others_can_read_is_closed(tmp_path: Path) -> None:
    """A directory that others may read gets mode 0700."""
    ensure_private(folder(tmp_path / "shown", 0o755))
    assert mode(tmp_path / "shown") == 0o700


@pytest.mark.promise("A cache folder that belongs to another user, or that others may write to, is refused.")
@pytest.mark.parametrize("permissions", [0o777, 0o1777, 0o702, 0o770, 0o720])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, permissions: int) -> None:
    """A directory that others may write is refused and not changed."""
    open_to_all = folder(tmp_path / "open", permissions)
    with pytest.raises(UnsafePath, match="may be written by others"):
        ensure_private(open_to_all)
    assert mode(open_to_all) == permissions


@pytest.mark.parametrize(("permissions", "refused"), [(0o777, 1), (0o757, 1), (0o1777, 0), (0o775, 0), (0o755, 0)])
def test_the_cache_folder_itself_may_be_shared_if_others_cannot_rename(
    tmp_path: Path, permissions: int, refused: int
) -> None:
    """The cache directory may be shared by a group, or by all with the sticky bit."""
    shared = folder(tmp_path / "shared", permissions)
    if refused:
        with pytest.raises(UnsafePath, match="written by everybody"):
            prepare_cache_dir(shared)
    else:
        assert prepare_cache_dir(shared) == shared / "v1"


def by_link(path: Path) -> Path:
    """Return a symbolic link to `path`."""
    link = path.with_name(f"link-to-{path.name}")
    link.symlink_to(path)
    return link


def plain(path: Path) -> Path:
    """Return `path`."""
    return path


@pytest.mark.promise("A cache folder that belongs to another user, or that others may write to, is refused.")
@pytest.mark.parametrize("way", [plain, by_link])
@pytest.mark.parametrize("check", [ensure_private, prepare_cache_dir, check_holder, check_private_file])
def test_a_path_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[Path], object], way: Callable[[Path], Path]
) -> None:
    """A directory, its parent, or a file of another user is refused, through a link too."""
    theirs = tmp_path / "theirs"
    if check is check_private_file:
        theirs.write_bytes(b"")
    else:
        theirs.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: theirs.stat().st_uid + 1)
    monkeypatch.setattr("empiarfs.private_dirs._ROOT", -1)  # the tests may run as root
    with pytest.raises(UnsafePath, match="another user"):
        check(way(theirs))


@pytest.mark.root
@pytest.mark.parametrize("check", [ensure_private, check_private_file])
def test_a_link_of_another_user_is_refused(tmp_path: Path, check: Callable[[Path], object]) -> None:
    """A symbolic link of another user is refused."""
    ours = tmp_path / "ours"
    if check is ensure_private:
        ours.mkdir(mode=0o700)
    else:
        ours.write_bytes(b"")
    link = by_link(ours)
    os.lchown(link, THEIRS, THEIRS)
    with pytest.raises(UnsafePath, match="another user"):
        check(link)


def test_a_link_of_the_user_is_accepted(tmp_path: Path) -> None:
    """A symbolic link of the user to a directory of the user is accepted."""
    (tmp_path / "large disk").mkdir()
    link = by_link(tmp_path / "large disk")
    assert prepare_cache_dir(link) == link / "v1"
    ensure_private(by_link(tmp_path / "large disk" / "v1"))


def test_a_file_that_others_may_write_is_refused_only_behind_a_link(tmp_path: Path) -> None:
    """A file that others may write is refused behind a link, and accepted in a private directory."""
    file = tmp_path / "file"
    file.write_bytes(b"")
    file.chmod(0o666)
    check_private_file(file)
    check_private_file(tmp_path / "none")
    with pytest.raises(UnsafePath, match="others may write"):
        check_private_file(by_link(file))


def test_an_index_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """An index that others may write is refused before it is opened."""
    file = tmp_path / "tree.sqlite"
    (tmp_path / "elsewhere").touch()
    (tmp_path / "elsewhere").chmod(0o666)
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafePath):
        SqliteIndex(file)
    assert (tmp_path / "elsewhere").read_bytes() == b""


@pytest.mark.parametrize("inside", ["", "v1", "v1/blocks"])
def test_an_archive_does_not_open_on_an_unsafe_cache(tmp_path: Path, inside: str) -> None:
    """An archive does not open on an unsafe cache directory, and the error names it."""
    (tmp_path / "cache" / "v1" / "blocks").mkdir(parents=True)
    for path in ("v1/blocks", "v1", ""):
        (tmp_path / "cache" / path).chmod(0o777 if path == inside else 0o700)
    with pytest.raises(UnsafePath, match=str(tmp_path / "cache" / inside)):
        wire.archive(Settings(base_url="http://127.0.0.1:9/x", cache_dir=tmp_path / "cache"))


def test_an_archive_that_does_not_open_closes_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block store is closed when the index turns out to be unsafe."""
    closed = []

    class Watched(DiskStore):
        def close(self) -> None:
            closed.append(self)
            super().close()

    monkeypatch.setattr(wire, "DiskStore", Watched)
    settings = Settings(base_url="http://127.0.0.1:9/x", cache_dir=tmp_path / "cache")
    ensure_private(tmp_path / "cache" / "v1")
    (tmp_path / "elsewhere").touch()
    (tmp_path / "elsewhere").chmod(0o666)
    index_file(settings.cache_dir, archive_name(settings.base_url)).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafePath):
        wire.archive(settings)
    assert len(closed) == 1


def test_the_nearest_folder_is_the_folder_or_one_above_it(tmp_path: Path) -> None:
    """`nearest` returns the path itself or its nearest existing parent, a file too."""
    (tmp_path / "file").touch()
    assert nearest(tmp_path) == nearest(tmp_path / "a" / "b") == tmp_path
    assert nearest(tmp_path / "file" / "x") == tmp_path / "file"


def test_a_slot_folder_that_others_may_write_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A directory for slots that others may write is not used, which one warning says."""
    ProcessSemaphore(folder(tmp_path / "run", 0o777), "h", 2).acquire(0.1)()
    (record,) = caplog.records
    assert "may be written by others" in record.getMessage()
    caplog.clear()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_file_in_place_of_the_cache_folder_is_an_error(tmp_path: Path) -> None:
    """A file in place of the cache directory is an error that names `--cache-dir`."""
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match="a file in the way; choose another folder: --cache-dir"):
            prepare_cache_dir(folder)


UNWRITABLE = """
import encodings.idna, logging, os, sys
sys.path[:0] = {path!r}
from pathlib import Path
from empiarfs import wire
from empiarfs.errors import Offline
from empiarfs.settings import Settings, archive_name
from empiarfs.storage.disk import DiskStore
os.setgid(65534); os.setuid(65534)
logging.basicConfig(format="WARNED %(message)s")
archive = wire.archive(Settings(cache_dir=Path({cache!r}), offline=True))
try:
    archive.stat("10028")
except Offline:
    print("goes on")
archive.close()
"""


@pytest.mark.promise("If the cache cannot be written, nothing is cached, and the log says so in one line.")
@pytest.mark.root
@pytest.mark.parametrize("there", ["", "v1"])
def test_a_cache_that_cannot_be_written_is_one_warning(open_folder: Path, there: str) -> None:
    """A cache directory that cannot be written is one warning, and the archive works without it."""
    cache = folder(open_folder / "cache", 0o700)
    for path in filter(None, (there,)):
        (cache / path).mkdir(mode=0o700)
        os.chown(cache / path, THEIRS, THEIRS)
        (cache / path).chmod(0o500)
    os.chown(cache, THEIRS, THEIRS)
    cache.chmod(0o500)
    program = UNWRITABLE.format(path=[str(Path(__file__).parents[1]), *sys.path], cache=str(cache))
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60, cwd="/"
    )
    assert (said.returncode, said.stdout) == (0, "goes on\n"), said.stderr
    (line,) = said.stderr.splitlines()
    assert line.startswith("WARNED ")
    assert "--cache-dir" in line


def test_an_index_without_a_file_works(tmp_path: Path) -> None:
    """An index without a file works in memory."""
    with closing(SqliteIndex(None)) as index:
        assert index.directory("") is None
        index.remove("10028", 5.0)
        assert index.absent_since("10028") == 5.0


def test_the_runtime_folder_is_the_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime directory is below XDG_RUNTIME_DIR, or one named for the user without a session."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_folder() == tmp_path / "empiarfs"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime_folder().name == f"empiarfs-{os.geteuid()}"
