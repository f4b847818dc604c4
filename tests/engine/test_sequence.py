"""File sequences are detected, and the next files are prefetched: earned, bounded, in order, never twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import directory, stub

from empiarfs.engine import sequence
from empiarfs.ports import Known

NAMES = [f"m{number:03}.mrc" for number in range(300)]


def order(names: list[str] = NAMES) -> sequence.SequenceDetector:
    """Return the detector of a directory with these files, and a directory between them."""
    entries = {name: stub(f"1/{name}") for name in names} | {"sub.mrc": directory("1/sub.mrc")}
    return sequence.SequenceDetector(Known(dict(entries), 5.0))


def test_one_file_is_no_sequence() -> None:
    """Nothing is prefetched for a use of one file, or of the same one again."""
    walked = order()
    assert [walked.after("m005.mrc") for _ in range(5)] == [[]] * 5


def test_the_second_file_in_order_begins_a_sequence() -> None:
    """The next files are prefetched in the order of the listing, without those already used."""
    walked = order()
    walked.after("m005.mrc")
    ahead = walked.after("m006.mrc")
    assert ahead
    assert ahead == [f"1/m{number:03}.mrc" for number in range(7, 7 + len(ahead))]


@pytest.mark.parametrize("windows", [sequence.SINGLE, sequence.BATCHED])
def test_a_sequence_to_the_end_prefetches_every_file_once(windows: sequence.Windows) -> None:
    """Each remaining file is prefetched once, none beyond the end, and never further ahead than the limit."""
    names = [f"m{number:04}.mrc" for number in range(3 * windows.most)]
    walked = order(names)
    ready: list[str] = []
    for number, name in enumerate(names):
        ahead = walked.after(name, windows)
        ready += ahead
        for path in ahead:
            assert 0 < int(path[3:7]) - number <= windows.most
    assert ready == sorted(set(ready))
    assert set(ready) >= {f"1/{name}" for name in names[4:]}


@given(st.lists(st.integers(0, 299), max_size=60))
def test_only_following_files_are_prefetched(used: list[int]) -> None:
    """Only listed files behind the used one are prefetched, no directory, and a bounded number."""
    walked = order()
    for number in used:
        ahead = walked.after(NAMES[number])
        assert set(ahead) <= {f"1/{name}" for name in NAMES[number + 1 :]}
        assert len(ahead) <= sequence.SINGLE.most


def test_parallel_sequences_are_independent() -> None:
    """Two ranks, each with a half of the directory, both have their next files prefetched."""
    walked = order()
    ready: list[str] = []
    for number in range(80):
        ready += walked.after(NAMES[number]) + walked.after(NAMES[number + 150])
    assert len(ready) == len(set(ready))
    assert {f"1/{NAMES[50]}", f"1/{NAMES[200]}"} <= set(ready)


def test_each_suffix_is_a_sequence_of_its_own() -> None:
    """For a reader of the movies the metadata files between them are not prefetched."""
    walked = order([f"m{number}.{kind}" for number in range(40) for kind in ("TIF", "xml", "tif")])
    ready = [path for number in range(10) for path in walked.after(f"m{number}.tif")]
    assert ready
    assert {path.rpartition(".")[2].lower() for path in ready} == {"tif"}


def test_an_unlisted_name_is_ignored() -> None:
    """An unlisted name or a directory does not advance a sequence."""
    walked = order()
    assert walked.after("other") == []
    assert walked.after("sub.mrc") == []
