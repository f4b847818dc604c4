"""Offline, cached data are returned, the rest fails at once, and nothing is requested, refreshed or prefetched."""

import math
import pickle
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.fakes import FakeClock, directory, noise, single_flight, stub

from empiarfs import wire
from empiarfs.archive import Archive
from empiarfs.cancellation import cancel_scope
from empiarfs.engine.listings import Listings
from empiarfs.engine.offline import OfflineListing, OfflineOrigin
from empiarfs.engine.tree import Tree
from empiarfs.errors import IsADirectory, NotADirectory, NotFound, Offline
from empiarfs.model import Directory, File, Span
from empiarfs.settings import Settings, archive_name
from empiarfs.storage.disk import DiskStore
from empiarfs.storage.index import SqliteIndex
from empiarfs.units import KIB

DATA = "10028/data"
A, B = f"{DATA}/a.mrc", f"{DATA}/b.mrc"
FILE = File(A, 600 * KIB, 5)
YEARS = 1e9  # seconds


@pytest.fixture
def index(tmp_path: Path) -> Iterator[SqliteIndex]:
    """Return an index with one listed directory, one measured file and one absent name."""
    with closing(SqliteIndex(tmp_path / "tree.sqlite")) as index:
        index.replace(DATA, [stub(A), stub(B), directory(f"{DATA}/sub")], 0.0)
        index.add(FILE)
        index.remove(f"{DATA}/none", 0.0)
        yield index


@pytest.fixture
def tree(index: SqliteIndex) -> Tree:
    """Return an offline tree, long after the index was written."""

    def never(_: object) -> None:
        pytest.fail("a task was begun behind the reader's back")

    origin = OfflineOrigin(index)
    listings = Listings(
        OfflineListing(),
        index,
        listing_ttl=math.inf,
        clock=FakeClock(YEARS),
        background=never,
        scans=single_flight(),
        absent=math.inf,
    )
    return Tree(listings, origin, origin, None, single_flight=single_flight())


def test_a_measured_file_is_known(index: SqliteIndex) -> None:
    """A file that was measured is known, also if another program measures it meanwhile."""
    origin = OfflineOrigin(index)
    assert origin.measure(A) == FILE
    with pytest.raises(Offline):
        origin.measure(B)
    index.add(File(B, 7, None))
    assert origin.measure(B) == File(B, 7, None)


@pytest.mark.parametrize("path", ["10028", DATA, f"{DATA}/sub"])
def test_a_known_directory_is_a_directory(index: SqliteIndex, path: str) -> None:
    """A directory is known if it was listed, is in a listing, or a directory below it was listed."""
    with pytest.raises(IsADirectory):
        OfflineOrigin(index).measure(path)


@pytest.mark.parametrize("path", [B, "1002", "100281", "10028/dat", "10028/data2", "10029/data"])
def test_an_unknown_name_is_offline(index: SqliteIndex, path: str) -> None:
    """A name that is not known raises Offline with its path, even beside a known directory."""
    with pytest.raises(Offline, match="offline") as caught:
        OfflineOrigin(index).measure(path)
    assert caught.value.path == path
    assert pickle.loads(pickle.dumps(caught.value)).errno == caught.value.errno == 113  # noqa: S301 - our own


def test_bytes_and_listings_are_not_available(index: SqliteIndex) -> None:
    """Fetching and listing raise Offline at the call, even for what is known."""
    with pytest.raises(Offline) as of_bytes:
        OfflineOrigin(index).fetch(FILE, Span(0, 1))
    with pytest.raises(Offline) as of_names:
        OfflineListing().scan(DATA)
    assert (of_bytes.value.path, of_names.value.path) == (A, DATA)


@pytest.mark.promise(
    "Listings are shown however old they are, and data that another program fetches into the same cache "
    "meanwhile are found; a directory that was shown stays as it was."
)
def test_an_old_listing_is_shown_and_never_refreshed(tree: Tree) -> None:
    """A listing of any age is shown without a refresh."""
    assert [node.path for node in tree.listdir(DATA)] == [A, B, f"{DATA}/sub"]
    assert tree.stat(A) == FILE


def test_an_absent_name_stays_absent(tree: Tree) -> None:
    """An absent name is NotFound at any later time."""
    with pytest.raises(NotFound):
        tree.stat(f"{DATA}/none")


def test_an_unlisted_name_is_offline_and_not_absent(tree: Tree) -> None:
    """A name that its listing lacks raises Offline, as the server may have it."""
    with pytest.raises(Offline) as caught:
        tree.stat(f"{DATA}/unlisted")
    assert caught.value.path == f"{DATA}/unlisted"


def test_a_directory_that_was_never_listed_can_be_traversed(tree: Tree) -> None:
    """A directory is traversed if something below it is known, but its names are not."""
    assert tree.stat("10028") == Directory("10028")
    assert tree.stat(DATA) == Directory(DATA)
    with pytest.raises(Offline):
        tree.listdir("10028")
    with pytest.raises(Offline):
        tree.listdir("")


def test_a_known_file_is_no_directory(tree: Tree) -> None:
    """Listing a known file raises NotADirectory."""
    with pytest.raises(NotADirectory):
        tree.listdir(A)
    with pytest.raises(NotADirectory):
        tree.stat(f"{A}/x")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return offline settings with an empty cache and an unreachable address."""
    return Settings(
        base_url="http://127.0.0.1:9/x", ftp_url="ftp://127.0.0.1:9/x", cache_dir=tmp_path / "cache", offline=True
    )


@pytest.fixture
def archive(settings: Settings) -> Iterator[Archive]:
    """Return an offline archive with three of five blocks of one file cached."""
    with closing(wire.archive(settings)) as archive:
        kept = settings.cache_dir / "v1"
        name = archive_name(settings.base_url)
        with closing(SqliteIndex(kept / f"tree-{name}.sqlite")) as index:
            index.replace(DATA, [stub(A)], 0.0)
            index.add(FILE)
            index.remove(f"{DATA}/none", 0.0)
        store = DiskStore(kept / "blocks", 1 << 30, archive=name, block_bytes=settings.block_size)
        with closing(store):
            for number in (0, 1, 2):
                store.put(FILE, {number: noise(settings.block_size, number)})
        yield archive


def test_cached_blocks_are_read_up_to_the_first_gap(archive: Archive, settings: Settings) -> None:
    """A sequential read of cached blocks neither requests nor fails for blocks ahead of the reader."""
    opened = archive.open(A)
    for offset in range(0, 3 * settings.block_size, 32 * KIB):
        number, begin = divmod(offset, settings.block_size)
        assert opened.read_at(offset, 32 * KIB) == noise(settings.block_size, number)[begin : begin + 32 * KIB]
    with pytest.raises(Offline) as caught:
        opened.read_at(3 * settings.block_size, 1)
    assert caught.value.path == A
    assert opened.read_at(FILE.size, 10) == b""


def test_a_cancellable_read_is_refused_as_well(archive: Archive, settings: Settings) -> None:
    """A read in a cancel scope raises Offline from the thread that sends its request."""
    opened = archive.open(A)
    with cancel_scope(lambda: True):
        assert opened.read_at(0, settings.block_size) == noise(settings.block_size, 0)
        with pytest.raises(Offline):
            opened.read_at(3 * settings.block_size, 1)


def test_old_knowledge_is_used(archive: Archive) -> None:
    """Names and absent names are known however old they are."""
    assert [node.path for node in archive.listdir(DATA)] == [A]
    with pytest.raises(NotFound):
        archive.stat(f"{DATA}/none")


@pytest.mark.promise("With `--offline` no connection is ever made.")
def test_no_connection_is_made_and_no_slot_taken(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call opens a connection or acquires a slot."""
    import socket  # noqa: PLC0415 - replaced here alone

    def never(*_: object, **__: object) -> None:
        pytest.fail("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", never)
    monkeypatch.setattr(socket.socket, "connect_ex", never)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    for ask in (archive.listdir, archive.stat, archive.open):
        for path in (B, "10029", "10029/data"):
            with pytest.raises(Offline):
                ask(path)
    assert not (tmp_path / "run").exists()
