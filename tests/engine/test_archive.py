"""The archive as the mount, the command line and the Python API use it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import (
    SOON,
    BrokenStore,
    FakeClock,
    FakeListing,
    FakeOrigin,
    MemoryStore,
    QueuedTasks,
    directory,
    noise,
    single_flight,
    stub,
)
from support.parts import Reading

from empiarfs.engine.cache import Cache
from empiarfs.engine.listings import Listings
from empiarfs.engine.tree import Tree
from empiarfs.errors import Closed, IsADirectory, NotFound, Stale
from empiarfs.lru import LruCache
from empiarfs.model import File, Span
from empiarfs.ports import BlockStore
from empiarfs.storage.index import SqliteIndex

PATH = "10028/a.mrc"


def run(task: Callable[[], object]) -> None:
    """Run `task` at once."""
    task()


class Rig:
    """An archive over fakes, with all of them accessible."""

    def __init__(
        self,
        folder: Path,
        content: bytes,
        *,
        memory: int = 1 << 24,
        most_ahead: int = 1 << 22,
        store: BlockStore | None = None,
    ) -> None:
        self.origin = FakeOrigin({PATH: content}, piece=1 << 16)
        self.origin.directories = {"10028"}
        self.listing = FakeListing({"10028": [stub(PATH)], "": [directory("10028")]})
        self.index = SqliteIndex(folder / "tree.sqlite")
        self.cache = Cache(memory, store or BrokenStore(), 16)
        self.later = QueuedTasks()
        self.closed = 0
        self.ahead = FakeOrigin(self.origin.files, piece=1 << 16)
        tree = Tree(
            Listings(
                self.listing,
                self.index,
                listing_ttl=1e9,
                clock=FakeClock(),
                background=run,
                scans=single_flight(),
            ),
            self.origin,
            self.ahead,
            None,
            single_flight=single_flight(),
            background=self.later,
            keep_head=lambda *head: self.reader.keep(*head),  # noqa: PLW0108 - it is made below
        )
        reading = Reading(self.origin, self.ahead, self.cache, block_bytes=1 << 16, longest_run=1 << 21)
        self.reader = reading.reader
        self.archive = reading.archive(
            tree,
            self.later,
            self._close,
            most_ahead=most_ahead,
            request_size_bounds=lambda: (1 << 18, 1 << 19),
        )

    def _close(self) -> None:
        self.closed += 1
        self.cache.close(SOON)
        self.index.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """An archive of one file of 3 MiB and a bit."""
    rig = Rig(tmp_path, noise(3 * 2**20 + 17))
    yield rig
    rig.archive.close()


def test_a_file_is_opened_and_read(rig: Rig) -> None:
    """`open` measures a file, and `read` returns the bytes at an offset."""
    file = rig.archive.open(PATH)
    assert file.file == rig.origin.file(PATH)
    assert file.read_at(1_000_000, 100) == noise(3 * 2**20 + 17)[1_000_000:1_000_100]


@given(offset=st.integers(0, 250), size=st.integers(0, 250))
def test_a_read_is_short_only_at_the_end(tmp_path_factory: pytest.TempPathFactory, offset: int, size: int) -> None:
    """A read at any offset and of any size returns what `pread` of a file would return."""
    rig = Rig(tmp_path_factory.mktemp("rig"), noise(100))
    assert rig.archive.open(PATH).read_at(offset, size) == noise(100)[offset : offset + size]
    rig.archive.close()


def test_a_directory_does_not_open(rig: Rig) -> None:
    """Opening a directory raises IsADirectory."""
    with pytest.raises(IsADirectory):
        rig.archive.open("10028")


def test_a_missing_file_does_not_open(rig: Rig) -> None:
    """`open` raises the error that `stat` raises."""
    with pytest.raises(NotFound):
        rig.archive.open("10028/none")


def test_a_sequential_reader_is_prefetched(rig: Rig) -> None:
    """After some sequential reads the following bytes are prefetched, and then read without a request."""
    file = rig.archive.open(PATH)
    for offset in range(0, 2**20, 2**17):
        file.read_at(offset, 2**17)
    assert rig.later
    for task in rig.later:
        task()
    assert rig.ahead.fetches
    before = len(rig.origin.fetches)
    first = min(span.start for span in rig.ahead.fetches)
    assert file.read_at(first, 1000) == noise(3 * 2**20 + 17)[first : first + 1000]
    assert len(rig.origin.fetches) == before


def test_headers_read_file_by_file_are_prefetched(tmp_path: Path) -> None:
    """After some files in order the same part of the next ones is prefetched, and no more of them."""
    rig = Rig(tmp_path, b"")
    paths = [f"10028/m{number:02}.mrc" for number in range(30)]
    rig.listing.children["10028"] = [stub(path) for path in paths]
    for number, path in enumerate(paths):
        rig.origin.files[path] = rig.ahead.files[path] = noise(2**18, number)
    rig.archive.listdir("10028")
    for number, path in enumerate(paths):
        assert rig.archive.open(path).read_at(0, 1024) == noise(2**18, number)[:1024]
        while rig.later:
            rig.later.pop(0)()
    assert len(rig.origin.fetches) <= 4
    assert sum(span.size for span in rig.ahead.fetches) <= 30 * 2**16
    assert len(rig.origin.diary) + len(rig.ahead.diary) <= 30 + 4, "one request brings size and block"
    rig.archive.close()


def test_a_changed_file_is_stale_until_it_is_opened_again(rig: Rig) -> None:
    """A read of an open file that has changed raises Stale; opened again it is the new version."""
    opened = rig.archive.open(PATH)
    rig.origin.refusals[PATH] = Stale(PATH)
    with pytest.raises(Stale):
        opened.read_at(2**20, 10)
    rig.origin.refusals.clear()
    rig.origin.files[PATH] = b"new"
    assert rig.archive.open(PATH).read_at(0, 10) == b"new"


def test_opening_a_file_brings_its_first_bytes_with_its_size(rig: Rig) -> None:
    """One request is enough for a file that was listed and is now read from its start."""
    rig.archive.listdir("10028")
    assert rig.archive.open(PATH).read_at(0, 1024) == noise(1024)
    assert len(rig.origin.diary) == 1


def test_ranges_come_in_the_callers_order(rig: Rig) -> None:
    """Ranges in any order, overlapping or beyond the end, have the file's bytes, and neighbours are one request."""
    content = noise(3 * 2**20 + 17)
    file = rig.archive.stat(PATH)
    assert isinstance(file, File)
    before = len(rig.origin.diary)
    spans = [
        Span(2**21, 2**21 + 5),
        Span(0, 10),
        Span(5, 70_000),
        Span(7, 7),
        Span(len(content) - 3, len(content) + 9),
    ]
    assert rig.archive.read_ranges(file, spans) == [content[span.start : span.stop] for span in spans]
    assert len(rig.origin.diary) - before == 3
    assert rig.later == []


@pytest.mark.parametrize("span", [Span(-1, 5), Span(-9, -5), Span(10, 5)])
def test_a_range_that_is_none_is_a_value_error(rig: Rig, span: Span) -> None:
    """A mistake in the caller's arithmetic does not become other bytes."""
    opened = rig.archive.open(PATH)
    with pytest.raises(ValueError, match="no bytes from"):
        rig.archive.read_ranges(opened.file, [Span(0, 5), span])
    for offset, size in ((-1, 5), (5, -1)):
        with pytest.raises(ValueError, match=r"no -?\d bytes at"):
            opened.read_at(offset, size)


def test_ranges_of_a_file_that_changed_are_stale(rig: Rig) -> None:
    """Reading ranges of a changed file raises Stale, and the file is measured again when it is next opened."""
    file = rig.archive.stat(PATH)
    assert isinstance(file, File)
    rig.origin.refusals[PATH] = Stale(PATH)
    with pytest.raises(Stale):
        rig.archive.read_ranges(file, [Span(0, 10)])
    rig.origin.refusals.clear()
    rig.origin.files[PATH] = b"new"
    assert rig.archive.open(PATH).read_at(0, 10) == b"new"


def test_an_archive_lists_its_tree(rig: Rig) -> None:
    """`listdir` returns the nodes of the tree."""
    assert rig.archive.listdir("10028") == [stub(PATH)]


def test_closing_closes(tmp_path: Path) -> None:
    """`close` calls the function that the archive was created with."""
    rig = Rig(tmp_path, b"")
    rig.archive.close()
    assert rig.closed == 1


@pytest.mark.promise(
    "An archive that was opened before a fork refuses to work in the child, with a clear error: the two would "
    "share connections, and get each other's replies."
)
@pytest.mark.promise("Open it in each process.")
def test_an_archive_is_closed_in_a_child_process(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a fork all methods raise Closed, also those of a file opened before, and nothing is requested."""
    file = rig.archive.open(PATH)
    before = len(rig.origin.diary)
    monkeypatch.setattr("empiarfs.archive._generation", -1)
    calls: list[Callable[[], object]] = [
        lambda: rig.archive.listdir("10028"),
        lambda: rig.archive.stat(PATH),
        lambda: rig.archive.open(PATH),
        lambda: rig.archive.read(file.file, 0, 10),
        lambda: rig.archive.read_ranges(file.file, [Span(0, 10)]),
        lambda: file.read_at(0, 10),
    ]
    for call in calls:
        with pytest.raises(Closed):
            call()
    assert len(rig.origin.diary) == before
    monkeypatch.undo()
    assert file.read_at(0, 10) == noise(10)


def test_a_file_that_is_read_again_is_prefetched_again(rig: Rig) -> None:
    """A stream that has reached the end does not stand in the way of one that begins at the same place."""
    file = rig.archive.open(PATH)
    for _ in range(2):
        for offset in range(0, 2**20, 2**17):
            file.read_at(offset, 2**17)
        file.read_at(3 * 2**20, 17)
        rig.later.clear()
        rig.cache._lru = LruCache(1 << 24, len)  # as where a larger file has pushed it out
        rig.ahead.diary.clear()
    for offset in range(0, 2**20, 2**17):
        file.read_at(offset, 2**17)
    for task in rig.later:
        task()
    assert rig.ahead.fetches


def test_a_prefetched_head_is_one_request_for_size_and_block(rig: Rig) -> None:
    """However few bytes of the previous file were read, a whole block comes with the size of the next one."""
    rig.archive.listdir("10028")
    rig.archive._prefetcher._prefetch_ends(PATH, 1000, 0)
    assert len(rig.ahead.diary) == 1
    assert rig.archive.open(PATH).read_at(0, 1000) == noise(1000)
    assert (len(rig.ahead.diary), len(rig.origin.diary)) == (1, 0)


def test_the_prefetch_of_a_file_that_is_closed_is_dropped(rig: Rig) -> None:
    """What is queued for a file that its last reader has closed is not fetched; it is when reading goes on."""
    file = rig.archive.open(PATH)
    for offset in range(0, 2**20, 2**17):
        file.read_at(offset, 2**17)
    rig.later(lambda: None, "another file")
    rig.archive.release(file.file)
    assert len(rig.later) == 1
    file.read_at(2**20, 2**17)
    for task in rig.later:
        task()
    assert min(span.start for span in rig.ahead.fetches) >= 2**20


def test_what_is_read_from_disk_requests_little_beyond_it(tmp_path: Path) -> None:
    """A reader of the cached first part of a file grows no window to the rest of it."""
    content, cached = noise(64 << 20), 24 << 20
    store = MemoryStore()
    rig = Rig(tmp_path, content, memory=128 << 20, most_ahead=64 << 20, store=store)
    file = rig.archive.open(PATH)
    store.put(file.file, {number: content[number << 16 : number + 1 << 16] for number in range(cached >> 16)})
    for offset in range(0, cached, 2**17):
        file.read_at(offset, 2**17)
        while rig.later:
            rig.later.pop(0)()
    assert 0 < sum(span.size for span in rig.ahead.fetches) <= 10 << 20
    rig.archive.close()
