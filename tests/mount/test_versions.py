"""The kernel is told of one version of a file at a time."""

from dataclasses import replace

import pytest

from empiarfs.errors import Stale
from empiarfs.model import File
from empiarfs.mount.versions import KernelViewStale, Versions

OLD = File("10028/data/a.mrc", 4000, 1_700_000_000)
NEW = replace(OLD, size=3000, modified=1_700_009_000)


@pytest.fixture
def versions() -> Versions:
    """Of a kernel that was told of the old version."""
    versions = Versions()
    versions.announced(OLD)
    return versions


def test_pages_are_kept_across_opens(versions: Versions) -> None:
    """The same version opened again may be served from what the kernel has; at first it has nothing."""
    assert not versions.open(OLD)
    versions.close(OLD)
    assert versions.open(OLD)


def test_pages_of_another_version_are_dropped_once(versions: Versions) -> None:
    """The first opening of a new version drops what the kernel had of the old one; the second keeps its pages."""
    versions.open(OLD)
    versions.close(OLD)
    assert versions.to_announce(NEW) == NEW
    versions.announced(NEW)
    assert not versions.open(NEW)
    assert versions.open(NEW)


def test_pages_of_who_knows_which_version_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that was opened so long ago that it is forgotten, the kernel may have the pages of any version."""
    monkeypatch.setattr("empiarfs.mount.versions.MAX_ANNOUNCED", 1)
    versions = Versions()
    for version in (OLD, replace(OLD, path="10028/data/b.mrc")):
        versions.announced(version)
        versions.open(version)
        versions.close(version)
    versions.announced(NEW)
    assert not versions.open(NEW)


def test_a_version_the_kernel_was_not_told_of_is_not_opened(versions: Versions) -> None:
    """The kernel would cut it at the end of the one it knows; told of it, it opens."""
    with pytest.raises(KernelViewStale):
        versions.open(NEW)
    versions.announced(NEW)
    versions.open(NEW)


def test_while_a_version_is_open_the_kernel_is_told_of_no_other(versions: Versions) -> None:
    """Nor is another opened, until the last who has it open has closed it; who asks is told why."""
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
    """A version that is open holds up its own path alone."""
    versions.open(OLD)
    other = replace(NEW, path="10028/data/b.mrc")
    assert versions.to_announce(other) == other
    versions.announced(other)
    versions.open(other)


def test_one_version_by_two_dates_is_opened_as_it_is_open(versions: Versions) -> None:
    """By a listing's date and by the exact one it is one, as far as anybody can tell."""
    listed = replace(OLD, modified=1_700_000_000 - 20 + 3600, coarse_mtime=True)
    for first, second in ((OLD, listed), (listed, OLD)):
        versions.announced(first)
        versions.open(first)
        assert versions.to_open(second) == first
        for other in (replace(second, size=1), replace(second, modified=1_700_000_500)):
            assert versions.to_open(other) == other
        versions.close(first)
        assert versions.to_open(second) == second
