"""Who walks through a directory, and which files come next: earned, bounded, in order, never twice."""

from hypothesis import given
from hypothesis import strategies as st
from support.fakes import directory, stub

from empiarfs.engine import sequence
from empiarfs.ports import Known

NAMES = [f"m{number:03}.mrc" for number in range(300)]


def order(names: list[str] = NAMES) -> sequence.SequenceDetector:
    """Return the order of a directory with these files, and a directory between them."""
    entries = {name: stub(f"1/{name}") for name in names} | {"sub.mrc": directory("1/sub.mrc")}
    return sequence.SequenceDetector(Known(dict(entries), 5.0))


def test_one_file_is_no_walk() -> None:
    """Nothing is made ready for who looks at one file, or at the same one again."""
    walked = order()
    assert [walked.after("m005.mrc") for _ in range(5)] == [[]] * 5


def test_the_second_file_in_order_begins_a_walk() -> None:
    """The next ones follow, in the order of the listing, and not those that he has."""
    walked = order()
    walked.after("m005.mrc")
    ahead = walked.after("m006.mrc")
    assert ahead
    assert ahead == [f"1/m{number:03}.mrc" for number in range(7, 7 + len(ahead))]


def test_a_walk_to_the_end_makes_every_file_ready_once() -> None:
    """Each of the rest once, none beyond the end, and never further ahead than the bound."""
    walked = order()
    ready: list[str] = []
    for number, name in enumerate(NAMES):
        ahead = walked.after(name)
        ready += ahead
        for path in ahead:
            assert 0 < int(path[3:6]) - number <= sequence.MAX_WINDOW
    assert ready == sorted(set(ready))
    assert set(ready) >= {f"1/{name}" for name in NAMES[4:]}


@given(st.lists(st.integers(0, 299), max_size=60))
def test_whatever_is_used_only_files_further_on_are_made_ready(used: list[int]) -> None:
    """No name that is not there, no directory, nothing behind the file used, and a bounded number."""
    walked = order()
    for number in used:
        ahead = walked.after(NAMES[number])
        assert set(ahead) <= {f"1/{name}" for name in NAMES[number + 1 :]}
        assert len(ahead) <= sequence.MAX_WINDOW


def test_walks_of_several_do_not_disturb_each_other() -> None:
    """Two ranks, each with a half of the directory, both have their next files made ready."""
    walked = order()
    ready: list[str] = []
    for number in range(80):
        ready += walked.after(NAMES[number]) + walked.after(NAMES[number + 150])
    assert len(ready) == len(set(ready))
    assert {f"1/{NAMES[50]}", f"1/{NAMES[200]}"} <= set(ready)


def test_kinds_are_walked_through_by_themselves() -> None:
    """Who reads the movies is not given the metadata between them."""
    walked = order([f"m{number}.{kind}" for number in range(40) for kind in ("TIF", "xml", "tif")])
    ready = [path for number in range(10) for path in walked.after(f"m{number}.tif")]
    assert ready
    assert {path.rpartition(".")[2].lower() for path in ready} == {"tif"}


def test_a_name_that_is_not_listed_is_no_step() -> None:
    """Nor is a directory."""
    walked = order()
    assert walked.after("other") == []
    assert walked.after("sub.mrc") == []
