"""A file of the archive is a raw binary file of Python."""

import io
import os
import pickle
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.fakes import SOON, noise

from empiarfs.errors import Stale
from empiarfs.files import PIECE, ArchiveFile, Readable
from empiarfs.model import File
from empiarfs.units import MIB

PATH = "10028/data/a.mrc"


class InMemory:
    """An archive of one file."""

    def __init__(self, content: bytes, successor: "InMemory | None" = None) -> None:
        self.content = content
        self.successor = successor
        self.reads: list[tuple[int, int]] = []
        self.trouble: OSError | None = None

    def read(self, file: File, offset: int, size: int) -> bytes:
        """See `Archive.read`."""
        self.reads.append((offset, size))
        if self.trouble is not None:
            raise self.trouble
        return self.content[offset : offset + size]

    def in_this_process(self) -> Readable:
        """See `Archive.in_this_process`."""
        return self.successor or self


class Unpicklable(InMemory):
    """An archive without a recipe."""

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("open one in each")


def opened(archive: InMemory, position: int = 0) -> ArchiveFile:
    """Return the file of `archive`."""
    return ArchiveFile(archive, File(PATH, len(archive.content), 1_700_000_000), position)


@pytest.fixture
def archive() -> InMemory:
    """Return an archive of one file of 1000 bytes."""
    return InMemory(noise(1000))


class AsBytesIO(RuleBasedStateMachine):
    """A state machine: the file behaves as `io.BytesIO` under any reads and seeks."""

    @initialize(size=st.integers(0, 300))
    def open(self, size: int) -> None:
        """Open both files."""
        self.ours, self.theirs = opened(InMemory(noise(size))), io.BytesIO(noise(size))

    @rule(size=st.one_of(st.none(), st.integers(-2, 400)))
    def read(self, size: int | None) -> None:
        """Read some, or all."""
        assert self.ours.read(size) == self.theirs.read(size)

    @rule()
    def readall(self) -> None:
        """Read all bytes."""
        assert self.ours.readall() == self.theirs.read()

    @rule(size=st.integers(0, 400))
    def readinto(self, size: int) -> None:
        """Fill a buffer."""
        ours, theirs = bytearray(size), bytearray(size)
        assert self.ours.readinto(ours) == self.theirs.readinto(theirs)
        assert ours == theirs

    @rule()
    def readline(self) -> None:
        """Read a line."""
        assert self.ours.readline() == self.theirs.readline()

    @rule(offset=st.integers(-400, 400), whence=st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]))
    def seek(self, offset: int, whence: int) -> None:
        """Seek, beyond the end too."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.theirs.tell(), os.SEEK_END: len(self.theirs.getvalue())}[whence]
        if base + offset >= 0:
            assert self.ours.seek(offset, whence) == self.theirs.seek(base + offset)
        else:
            with pytest.raises(ValueError, match="negative seek position"):
                self.ours.seek(offset, whence)

    @invariant()
    def stands_where_the_other_does(self) -> None:
        """Compare the positions."""
        if hasattr(self, "ours"):
            assert self.ours.tell() == self.theirs.tell()


TestAsBytesIO = AsBytesIO.TestCase
TestAsBytesIO.settings = hypothesis_settings(max_examples=40, stateful_step_count=20, deadline=None)


def test_a_file_is_raw_readable_seekable_and_not_writable(archive: InMemory) -> None:
    """A file meets the requirements of Python's buffers, and has its name, size, mode and version."""
    file = opened(archive)
    assert isinstance(file, io.RawIOBase)
    assert (file.readable(), file.seekable(), file.writable(), file.isatty()) == (True, True, False, False)
    assert (file.name, file.size, file.mode, file.file.path) == (PATH, 1000, "rb", PATH)
    assert repr(file) == f"<ArchiveFile '{PATH}' size=1000 position=0>"
    with pytest.raises(io.UnsupportedOperation):
        file.write(b"x")  # type: ignore[call-overload, unused-ignore]
    with pytest.raises(io.UnsupportedOperation):
        file.fileno()
    with pytest.raises(ValueError, match="invalid whence 3"):
        file.seek(0, 3)


def test_a_closed_file_refuses_everything(archive: InMemory) -> None:
    """Each method of a closed file raises ValueError, and closing twice is no error."""
    with opened(archive) as file:
        pass
    file.close()
    assert file.closed
    assert "closed" in repr(file)
    calls: list[Callable[[], object]] = [
        file.read, file.readall, file.tell, file.readable, file.seekable, file.readline,
        lambda: file.seek(0), lambda: file.readinto(bytearray(1)), lambda: file.read_at(0, 1),
        lambda: pickle.dumps(file),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match="closed file"):
            call()
    assert archive.reads == []


def test_nothing_is_fetched_that_is_not_read(archive: InMemory) -> None:
    """Opening, seeking and reading past the end read nothing, and a huge size is clamped to the end."""
    file = opened(archive)
    file.seek(5000)
    assert file.read(10) == b""
    assert all(not size for _, size in archive.reads)
    file.seek(-10, os.SEEK_END)
    assert file.read(2**62) == archive.content[-10:]
    assert archive.reads[-1] == (990, 10)


def test_a_large_buffer_is_filled_in_pieces() -> None:
    """The archive is read 4 MiB at a time, so that no second copy of the buffer is held."""
    archive = InMemory(noise(2 * PIECE + 17))
    array = np.empty(len(archive.content), np.uint8)
    assert opened(archive).readinto(array) == len(archive.content)
    assert array.tobytes() == archive.content
    assert archive.reads == [(0, PIECE), (PIECE, PIECE), (2 * PIECE, 17)]


def test_a_buffer_of_any_type_and_shape_is_filled(archive: InMemory) -> None:
    """Arrays of numbers are filled byte by byte, up to the end of the file."""
    array = np.zeros((2, 70), np.int16)
    assert opened(archive, 800).readinto(array) == 200
    assert array.tobytes() == archive.content[800:] + bytes(80)


def test_an_error_leaves_the_position_unchanged(archive: InMemory) -> None:
    """A read that failed can be repeated."""
    file = opened(archive, 100)
    archive.trouble = Stale(PATH)
    for call in (lambda: file.read(50), lambda: file.readinto(bytearray(50)), file.readall):
        with pytest.raises(Stale):
            call()
        assert file.tell() == 100
    archive.trouble = None
    assert file.read(50) == archive.content[100:150]


def test_threads_that_share_a_file_get_different_parts() -> None:
    """Each byte is read once, whichever thread reads it."""
    archive = InMemory(noise(2**20))
    file = opened(archive)
    parts: list[bytes] = []

    def read() -> None:
        while part := file.read(1000):
            parts.append(part)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(SOON)
    size = len(archive.content)
    expected = [archive.content[start : start + 1000] for start in range(0, size, 1000)]
    assert sorted(parts) == sorted(expected)


def test_read_at_does_not_move_the_position(archive: InMemory) -> None:
    """`read_at` neither uses nor moves the position."""
    file = opened(archive, 7)
    assert file.read_at(990, 100) == archive.content[990:]
    assert file.tell() == 7


def test_a_file_pickles_as_its_archive_its_version_and_its_position(archive: InMemory) -> None:
    """An unpickled file reads on at the same position; an archive that cannot be pickled raises TypeError."""
    copy = pickle.loads(pickle.dumps(opened(archive, 42)))  # noqa: S301 - our own
    assert (copy.file, copy.tell(), copy.read(10)) == (opened(archive).file, 42, archive.content[42:52])
    with pytest.raises(TypeError, match="open one in each"):
        pickle.dumps(opened(Unpicklable(b"")))


def test_a_file_goes_on_with_the_archive_of_its_process() -> None:
    """In a child the inherited archive is replaced once by the child's own, and is not collected."""
    here = InMemory(b"here")
    parent = InMemory(b"gone", here)
    file = opened(parent)
    assert file.read() == b"here"
    assert file.read_at(0, 2) == b"he"
    assert parent.reads == []
    assert file._inherited is parent


@pytest.fixture
def zipped() -> tuple[InMemory, bytes]:
    """Return an archive of a zip file, and its content."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as writer:
        writer.writestr("inside.bin", noise(5000))
    return InMemory(target.getvalue()), noise(5000)


def test_a_zip_file_is_read_through_it(zipped: tuple[InMemory, bytes]) -> None:
    """`zipfile` seeks from the end and reads members."""
    archive, content = zipped
    with zipfile.ZipFile(opened(archive)) as reader:  # type: ignore[arg-type, unused-ignore]
        assert reader.read("inside.bin") == content


def test_python_buffers_it() -> None:
    """`io.BufferedReader` reads ahead in pieces of its buffer."""
    archive = InMemory(noise(3 * MIB))
    with io.BufferedReader(opened(archive), MIB) as file:
        assert file.read(10) == archive.content[:10]
        assert file.peek(10)[:10] == archive.content[10:20]
        assert file.read() == archive.content[10:]
    assert len(archive.reads) < 10


def test_numpy_loads_an_array_from_it() -> None:
    """`numpy.load` reads it like a file on disk."""
    target = io.BytesIO()
    np.save(target, np.arange(10_000))
    loaded = np.load(opened(InMemory(target.getvalue())))  # type: ignore[arg-type, unused-ignore]
    assert (loaded == np.arange(10_000)).all()


def test_mrcfile_reads_it(tmp_path: Path) -> None:
    """The library mrcfile reads the same as from a file on disk, and for the header alone nothing more."""
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as written:
        written.set_data(np.arange(12, dtype=np.int16).reshape(3, 4))
    archive = InMemory(path.read_bytes())
    with opened(archive) as file:  # to be closed first: mrcfile writes to what is open when it closes
        found = mrcfile.mrcinterpreter.MrcInterpreter(file)
        assert (found.data == np.arange(12).reshape(3, 4)).all()
    archive.reads.clear()
    with opened(archive) as file:
        mrcfile.mrcinterpreter.MrcInterpreter(file, header_only=True)
    assert [size for _, size in archive.reads if size] == [1024]
