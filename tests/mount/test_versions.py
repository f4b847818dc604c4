"""One version of a file at a time is announced to the kernel."""

from dataclasses import replace

import pytest

from empiarfs.errors import Stale
from empiarfs.model import File
from empiarfs.mount.versions import KernelViewStale, Versions

OLD = File("10028/data/a.mrc", 4000, 1_700_000_000)
NEW = replace(OLD, size=3000, modified=1_700_009_000)


@pytest.fixture
def versions() -> Versions:
    """The versions of a kernel to which the old one was announced."""
    versions = Versions()
    versions.announced(OLD)
    return versions


def test_pages_are_kept_across_opens(versions: Versions) -> None:
    """The kernel's pages of a version are valid at every open after the first."""
    assert not versions.open(OLD)
    versions.close(OLD)
    assert versions.open(OLD)


def test_the_last_handle_of_a_version_is_known(versions: Versions) -> None:
    """Closing a version tells whether it was the last open handle of it."""
    versions.open(OLD)
    versions.open(OLD)
    assert [versions.close(OLD), versions.close(OLD)] == [False, True]


def test_pages_of_another_version_are_dropped_once(versions: Versions) -> None:
    """The first open of a new version drops the pages of the old one, and the second keeps its own."""
    versions.open(OLD)
    versions.close(OLD)
    assert versions.to_announce(NEW) == NEW
    versions.announced(NEW)
    assert not versions.open(NEW)
    assert versions.open(NEW)


def test_pages_of_a_forgotten_file_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages of a file whose announced version was forgotten are dropped."""
    monkeypatch.setattr("empiarfs.mount.versions.MAX_ANNOUNCED", 1)
    versions = Versions()
    for version in (OLD, replace(OLD, path="10028/data/b.mrc")):
        versions.announced(version)
        versions.open(version)
        versions.close(version)
    versions.announced(NEW)
    assert not versions.open(NEW)


def test_a_version_that_was_not_announced_is_not_opened(versions: Versions) -> None:
    """A version that was not announced to the kernel is not opened, and opens after its announcement."""
    with pytest.raises(KernelViewStale):
        versions.open(NEW)
    versions.announced(NEW)
    versions.open(NEW)


def test_while_a_version_is_open_no_other_is_announced(versions: Versions) -> None:
    """While a version is open, no other one is announced or opened."""
    versions.open(OLD)
    versions.open(OLD)
    versions.close(OLD)
    assert versions.to_announce(NEW) == OLD
    with pytest.raises(Stale, match="still open"):
        versions.open(NEW)
    versions.close(OLD)
    assert versions.to_announce(NEW) == NEW
    versions.announced(NEW)
    versions.open(NEW)


def test_other_files_are_not_concerned(versions: Versions) -> None:
    """An open version blocks the versions of its own path alone."""
    versions.open(OLD)
    other = replace(NEW, path="10028/data/b.mrc")
    assert versions.to_announce(other) == other
    versions.announced(other)
    versions.open(other)


def test_one_version_by_two_dates_is_opened_as_it_is_open(versions: Versions) -> None:
    """A version by the listing's date and by the exact date is opened as the one that is open."""
    listed = replace(OLD, modified=1_700_000_000 - 20 + 3600, coarse_mtime=True)
    for first, second in ((OLD, listed), (listed, OLD)):
        versions.announced(first)
        versions.open(first)
        assert versions.to_open(second) == first
        for other in (replace(second, size=1), replace(second, modified=1_700_000_500)):
            assert versions.to_open(other) == other
        versions.close(first)
        assert versions.to_open(second) == second
