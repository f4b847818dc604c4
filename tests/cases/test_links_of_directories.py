"""Programs that derive the number of subdirectories from the number of links (older File::Find of Perl)."""

# what runs in a child speaks to the kernel as plainly as it can
# ruff: noqa: PTH116, PTH208

import os
import stat

import pytest
from support.mounting import Mounts


def found_by_links(root: str) -> list[str]:
    """Return the names of all directories below `root`, as File::Find finds them where `dont_use_nlink` is 0."""
    found = []
    left = [root]
    while left:
        folder = left.pop()
        links = os.stat(folder).st_nlink
        children = links - 2 if links >= 2 else None  # fewer than two say nothing
        for name in sorted(os.listdir(folder)):
            if children == 0:
                break  # the rest are files, and need no stat
            if stat.S_ISDIR(os.lstat(f"{folder}/{name}").st_mode):
                children = None if children is None else children - 1
                left.append(f"{folder}/{name}")
                found.append(name)
    return sorted(found)


@pytest.mark.promise("The number of links is 1, of directories too.")
def test_a_search_that_counts_links_finds_all_directories(mount: Mounts, binding: str) -> None:
    """A directory has one link, so that a search by number of links skips no subdirectory."""

    def links(root: str) -> list[int]:
        return [os.stat(root).st_nlink, *(child.stat().st_nlink for child in os.scandir(root))]

    made = mount("10001", "10028", binding=binding)
    assert "4" in made.call(found_by_links, made / "10001")
    for folder in (made.path, made / "10001/data"):
        assert set(made.call(links, folder)) == {1}, folder
