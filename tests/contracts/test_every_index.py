"""What every index must do."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import directory, stub

from empiarfs.model import Directory, File, Node, Stub, base_name
from empiarfs.ports import Index
from empiarfs.storage.index import SqliteIndex

DATA = "10028/data"
A, B, C = (f"{DATA}/{name}.mrc" for name in "abc")


@pytest.fixture(params=["in a file", "in memory"])
def index(request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Index]:
    """Each implementation, empty."""
    folder = tmp_path if request.param == "in a file" else tmp_path / "missing"
    with closing(SqliteIndex(folder / "tree.sqlite")) as opened:
        caplog.clear()
        yield opened


def names(index: Index, path: str = DATA) -> list[str]:
    """Return the names that `index` has of `path`."""
    known = index.directory(path)
    return [] if known is None else list(known.nodes)


def test_an_index_knows_nothing_at_first(index: Index) -> None:
    """A new index has no directory, node or absence."""
    assert index.directory("") is None
    assert index.directory(DATA) is None
    assert index.node(A) is None
    assert index.absent_since(A) is None
    assert not index.holds("")
    assert not index.holds(DATA)


def test_a_directory_holds_what_was_listed_at_or_below_it(index: Index) -> None:
    """`holds` compares whole names of a path."""
    index.replace(DATA, [], 1.0)
    assert [path for path in ("", "10028", DATA, "1002", "10028/dat", f"{DATA}/x") if index.holds(path)] == [
        "",
        "10028",
        DATA,
    ]


def test_a_listing_is_given_back_as_it_came(index: Index) -> None:
    """A listing is returned as it was stored, in order, with its time."""
    entries: list[Node] = [stub(C), stub(A, "543M", ""), directory(B), File(f"{DATA}/d", 5, None)]
    known = index.replace(DATA, entries, 12.5)
    assert known == index.directory(DATA)
    assert list(known.nodes.values()) == entries
    assert list(known.nodes) == [base_name(node.path) for node in entries]
    assert known.scanned == 12.5


def test_an_empty_directory_is_known(index: Index) -> None:
    """An empty directory is stored as empty."""
    index.replace(DATA, [], 1.0)
    known = index.directory(DATA)
    assert known is not None
    assert known.nodes == {}


def test_one_name_is_found(index: Index) -> None:
    """`node` returns one node of a listing."""
    index.replace(DATA, [stub(A), directory(B)], 1.0)
    assert index.node(A) == stub(A)
    assert index.node(B) == directory(B)
    assert index.node(C) is None


def test_directories_have_their_own_children(index: Index) -> None:
    """Each directory has its own children alone."""
    index.replace("10028", [directory(DATA)], 1.0)
    index.replace(DATA, [stub(A)], 1.0)
    index.replace("", [directory("10028")], 1.0)
    assert [names(index, path) for path in ("", "10028", DATA)] == [["10028"], ["data"], ["a.mrc"]]


def test_a_measured_file_takes_its_place_in_the_listing(index: Index) -> None:
    """A measured file replaces its stub in the same place."""
    index.replace(DATA, [stub(A), stub(B)], 1.0)
    index.add(File(A, 7, 8))
    known = index.directory(DATA)
    assert known is not None
    assert list(known.nodes.values()) == [File(A, 7, 8), stub(B)]


@pytest.mark.parametrize("modified", [None, 0, -5, 1_700_000_000])
@pytest.mark.parametrize("size", [0, 1, 66 * 2**30])
def test_sizes_and_dates_are_exact(index: Index, size: int, modified: int | None) -> None:
    """Every size and date is returned as it was stored."""
    index.add(File(A, size, modified))
    assert index.node(A) == File(A, size, modified)


def test_a_measured_file_survives_a_listing_as_before(index: Index) -> None:
    """A listing with the same rounded size and date leaves a file measured."""
    index.replace(DATA, [stub(A)], 1.0)
    index.add(File(A, 7, 8))
    index.replace(DATA, [stub(A)], 2.0)
    assert index.node(A) == File(A, 7, 8)


@pytest.mark.parametrize("now", [stub(A, size="2.0K"), stub(A, date="2025-01-01 00:00"), directory(A)])
def test_a_measured_file_that_is_listed_otherwise_is_not_measured_any_more(index: Index, now: Node) -> None:
    """A listing with another size, date or type replaces a measured file."""
    index.replace(DATA, [stub(A)], 1.0)
    index.add(File(A, 7, 8))
    index.replace(DATA, [now], 2.0)
    assert index.node(A) == now


def test_a_listing_with_exact_sizes_replaces_measured_ones(index: Index) -> None:
    """A listing with exact sizes replaces measured ones."""
    index.replace(DATA, [stub(A)], 1.0)
    index.add(File(A, 7, 8))
    index.replace(DATA, [File(A, 9, 10)], 2.0)
    assert index.node(A) == File(A, 9, 10)


def test_a_name_is_removed_when_two_listings_lack_it(index: Index) -> None:
    """A name is removed when two listings in a row lack it."""
    index.replace(DATA, [stub(A), stub(B)], 1.0)
    assert list(index.replace(DATA, [stub(A)], 2.0).nodes) == ["a.mrc", "b.mrc"]
    assert list(index.replace(DATA, [stub(A)], 3.0).nodes) == ["a.mrc"]
    assert index.node(B) is None


def test_only_listings_in_a_row_count(index: Index) -> None:
    """A name that reappears is removed only after two further listings without it."""
    index.replace(DATA, [stub(A), stub(B)], 1.0)
    for turn in range(3):
        index.replace(DATA, [stub(A)], 2.0 + turn)
        assert names(index) == ["a.mrc", "b.mrc"]
        index.replace(DATA, [stub(A), stub(B)], 2.5 + turn)


def test_listings_of_other_directories_do_not_count(index: Index) -> None:
    """Listings of other directories remove no name."""
    index.replace(DATA, [stub(A)], 1.0)
    for turn in range(3):
        index.replace("10028/other", [], 2.0 + turn)
        index.replace("10028", [], 2.0 + turn)
    assert names(index) == ["a.mrc"]


def test_a_name_found_by_asking_is_kept_whatever_the_listings_say(index: Index) -> None:
    """A name that was never listed is not removed by listings without it."""
    index.replace(DATA, [stub(A)], 1.0)
    index.add(File(B, 7, 8))
    index.add(directory(C))
    for turn in range(4):
        known = index.replace(DATA, [stub(A)], 2.0 + turn)
        assert set(known.nodes) == {"a.mrc", "b.mrc", "c.mrc"}
    assert index.node(B) == File(B, 7, 8)


def test_a_name_found_by_asking_that_is_listed_later_stays_measured(index: Index) -> None:
    """A name found by lookup and listed later stays measured, and is then removed like a listed one."""
    index.add(File(A, 7, 8))
    index.replace(DATA, [stub(A)], 1.0)
    assert index.node(A) == File(A, 7, 8)
    index.replace(DATA, [], 2.0)
    index.replace(DATA, [], 3.0)
    assert index.node(A) is None


def test_what_was_found_by_asking_does_not_make_a_listing(index: Index) -> None:
    """A node found by lookup does not make its directory known."""
    index.add(File(A, 7, 8))
    assert index.directory(DATA) is None


def test_a_removed_name_is_gone_and_its_absence_known(index: Index) -> None:
    """A removed name is in no listing, and the time of its removal is stored."""
    index.replace(DATA, [stub(A), stub(B)], 1.0)
    index.remove(A, 5.0)
    assert names(index) == ["b.mrc"]
    assert index.node(A) is None
    assert index.absent_since(A) == 5.0
    assert index.absent_since(B) is None
    index.remove(A, 6.0)
    assert index.absent_since(A) == 6.0


def test_what_is_added_is_absent_no_more(index: Index) -> None:
    """Adding a node ends its absence."""
    index.remove(A, 5.0)
    index.add(File(A, 7, 8))
    assert index.absent_since(A) is None


def test_unmeasuring_leaves_what_was_listed(index: Index) -> None:
    """`unmeasure` removes the exact size and date and leaves the listed ones."""
    index.replace(DATA, [stub(A, "543M", "then")], 1.0)
    index.add(File(A, 7, 8))
    assert index.unmeasure(File(A, 7, 8)) == stub(A, "543M", "then")
    assert index.node(A) == stub(A, "543M", "then")


@pytest.mark.parametrize("other", [File(A, 6, 8), File(A, 7, 9), File(A, 7, None)])
def test_unmeasuring_another_version_changes_nothing(index: Index, other: File) -> None:
    """`unmeasure` of another version changes nothing."""
    index.replace(DATA, [stub(A)], 1.0)
    index.add(File(A, 7, 8))
    index.unmeasure(other)
    assert index.node(A) == File(A, 7, 8)


def test_a_file_without_a_date_is_unmeasured_too(index: Index) -> None:
    """`unmeasure` works for a file without a date."""
    index.replace(DATA, [stub(A)], 1.0)
    index.add(File(A, 7, None))
    index.unmeasure(File(A, 7, None))
    assert index.node(A) == stub(A)


def test_unmeasuring_what_is_not_known_gives_a_bare_stub(index: Index) -> None:
    """`unmeasure` of an unknown file returns a stub and adds nothing."""
    assert index.unmeasure(File(A, 7, 8)) == Stub(A)
    assert index.node(A) is None


NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: b"/" not in name and b"\0" not in name)


@given(st.sets(NAMES, max_size=12))
def test_a_file_of_any_name_is_stored(tmp_path_factory: pytest.TempPathFactory, raw: set[bytes]) -> None:
    """Names of any bytes are returned as they were stored."""
    entries = [stub(f"{DATA}/{name.decode('utf-8', 'surrogateescape')}") for name in sorted(raw)]
    with closing(SqliteIndex(tmp_path_factory.mktemp("index") / "tree.sqlite")) as index:
        assert list(index.replace(DATA, entries, 1.0).nodes.values()) == entries
        for number, entry in enumerate(entries):
            assert index.node(entry.path) == entry
            index.add(File(entry.path, number, None))
        known = index.directory(DATA)
        assert known is not None
        assert list(known.nodes.values()) == [File(one.path, n, None) for n, one in enumerate(entries)]


def test_a_directory_that_becomes_a_file_is_one(index: Index) -> None:
    """A node may change between file and directory, by a listing and by `add`."""
    index.replace(DATA, [directory(A), stub(B)], 1.0)
    index.replace(DATA, [stub(A), directory(B)], 2.0)
    assert index.node(A) == stub(A)
    assert index.node(B) == directory(B)
    index.add(File(A, 1, 2))
    index.add(Directory(A))
    assert index.node(A) == Directory(A)
