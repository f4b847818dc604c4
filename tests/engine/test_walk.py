"""Walks and patterns find their names, and list only the directories that they need."""

import fnmatch
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empiarfs.engine.walk import glob, walk
from empiarfs.errors import Forbidden, NotADirectory, NotFound, Unavailable
from empiarfs.model import Directory, Node, Stub, parent_path

TREE = [
    "10028/data/b.mrc", "10028/data/a.mrc", "10028/data/sub/c.mrc", "10028/data/sub/deep/d.mrc",
    "10028/data/[x].mrc", "10028/data/x.mrc", "10028/10028.xml", "10029/data/e.mrc",
]  # fmt: skip


class Listed:
    """A tree that counts its listings."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.nodes: dict[str, dict[str, Node]] = {"": {}}
        self.listed: list[str] = []
        self.refusals: dict[str, OSError] = {}
        for path in paths:
            self._add(Stub(path))

    def _add(self, node: Node) -> None:
        above = parent_path(node.path)
        if above not in self.nodes:
            self.nodes[above] = {}
            self._add(Directory(above))
        self.nodes[above].setdefault(node.path, node)
        if isinstance(node, Directory):
            self.nodes.setdefault(node.path, {})

    def listdir(self, directory: str) -> list[Node]:
        """List a directory."""
        self.listed.append(directory)
        if directory in self.refusals:
            raise self.refusals[directory]
        if directory in self.nodes:
            return list(self.nodes[directory].values())
        found = self.nodes.get(parent_path(directory), {}).get(directory)
        raise NotFound(directory) if found is None else NotADirectory(directory)

    def found(self, pattern: str) -> list[str]:
        """Return the paths that a pattern finds."""
        return list(glob(self.listdir, pattern))


@pytest.fixture
def tree() -> Listed:
    """Return a small archive."""
    return Listed(TREE)


def test_a_walk_is_top_down_and_in_the_order_of_the_listings(tree: Listed) -> None:
    """Each directory comes with its names, before the directories below it."""
    assert list(walk(tree.listdir, "10028")) == [
        ("10028", ["data"], ["10028.xml"]),
        ("10028/data", ["sub"], ["b.mrc", "a.mrc", "[x].mrc", "x.mrc"]),
        ("10028/data/sub", ["deep"], ["c.mrc"]),
        ("10028/data/sub/deep", [], ["d.mrc"]),
    ]


def test_a_walk_starts_at_the_root_by_default(tree: Listed) -> None:
    """The paths below the root have no slash before them."""
    assert [directory for directory, _, _ in walk(tree.listdir, "")][:3] == ["", "10028", "10028/data"]


def test_a_directory_that_the_caller_removes_is_not_listed(tree: Listed) -> None:
    """As with `os.walk`, the list of directories may be changed in place, and nothing is listed early."""
    for _, directories, _ in walk(tree.listdir, "10028"):
        if "sub" in directories:
            directories.remove("sub")
    assert tree.listed == ["10028", "10028/data"]


def test_an_error_ends_a_walk_without_onerror(tree: Listed) -> None:
    """A directory that cannot be listed raises its error; with `onerror` the walk goes on."""
    tree.refusals["10028/data/sub"] = Unavailable("10028/data/sub")
    with pytest.raises(Unavailable):
        list(walk(tree.listdir, "10028"))
    errors: list[OSError] = []
    assert [directory for directory, _, _ in walk(tree.listdir, "10028", errors.append)] == ["10028", "10028/data"]
    assert errors == [tree.refusals["10028/data/sub"]]


@pytest.mark.parametrize(
    ("pattern", "found", "listed"),
    [
        ("10028/data/*.mrc", ["b.mrc", "a.mrc", "[x].mrc", "x.mrc"], ["10028/data"]),
        ("EMPIAR-10028/data/?.mrc", ["b.mrc", "a.mrc", "x.mrc"], ["10028/data"]),
        ("empiar://10028/data//./a.mrc", ["a.mrc"], ["10028/data"]),
        ("10028/data/[!a].mrc", ["b.mrc", "x.mrc"], ["10028/data"]),
        ("10028/data/[ab].mrc", ["b.mrc", "a.mrc"], ["10028/data"]),
        ("10028/data/[x].mrc", ["[x].mrc", "x.mrc"], ["10028/data"]),
        ("10028/data/*/*.mrc", ["sub/c.mrc"], ["10028/data", "10028/data/sub"]),
        ("10028/data/sub/*", ["sub/c.mrc", "sub/deep"], ["10028/data/sub"]),
        (
            "10028/data/**/*.mrc",
            ["b.mrc", "a.mrc", "[x].mrc", "x.mrc", "sub/c.mrc", "sub/deep/d.mrc"],
            ["10028/data", "10028/data/sub", "10028/data/sub/deep"],
        ),
        (
            "10028/data/sub/**",
            ["sub/c.mrc", "sub/deep", "sub/deep/d.mrc"],
            ["10028/data/sub", "10028/data/sub/deep"],
        ),
        ("10028/data/s*/deep/*", ["sub/deep/d.mrc"], ["10028/data", "10028/data/sub/deep"]),
        ("10028/data/*/nothing", [], ["10028/data", "10028/data/sub"]),
        ("10028/data/a.mrc/*", [], ["10028/data/a.mrc"]),
        ("10028/none/*", [], ["10028/none"]),
        ("10028/data/A.MRC", [], ["10028/data"]),
        ("", [], []),
    ],
)
def test_a_pattern_finds_and_lists(tree: Listed, pattern: str, found: list[str], listed: list[str]) -> None:
    """Matches come in the order of the listings, and only directories that may hold one are listed."""
    assert tree.found(pattern) == [f"10028/data/{name}" for name in found]
    assert tree.listed == listed


def test_entries_are_found_by_a_pattern(tree: Listed) -> None:
    """The root is listed only if the first name is a pattern."""
    assert tree.found("1002*/data/*.mrc")[-1] == "10029/data/e.mrc"
    assert tree.listed == ["", "10028/data", "10029/data"]


def test_a_glob_lists_no_further_than_its_iteration(tree: Listed) -> None:
    """The first match takes only the listings before it."""
    assert next(glob(tree.listdir, "10028/**/*.mrc")) == "10028/data/b.mrc"
    assert tree.listed == ["10028", "10028/data"]


def test_a_directory_without_listing_has_no_match_and_an_unavailable_one_is_an_error(tree: Listed) -> None:
    """A forbidden directory holds no match; an unavailable one is an error and not empty."""
    tree.refusals["10028/data/sub"] = Forbidden("10028/data/sub")
    assert tree.found("10028/data/**/c.mrc") == []
    tree.refusals["10028/data/sub"] = Unavailable("10028/data/sub")
    with pytest.raises(Unavailable):
        tree.found("10028/data/**/c.mrc")


def test_a_pattern_does_not_climb(tree: Listed) -> None:
    """A pattern with `..` raises ValueError at the call, and nothing is listed."""
    with pytest.raises(ValueError, match=r"'\.\.'"):
        glob(tree.listdir, "10028/../*")
    assert tree.listed == []


def test_directories_named_two_stars_match_literally() -> None:
    """A directory named `**` comes before the names that the pattern matches."""
    tree = Listed(["1/a/x", "1/**/x"])
    assert tree.found("1/**/x") == ["1/**/x", "1/a/x"]


NAMES = st.sampled_from(["a", "b", "ab", "c"])
PATTERNS = st.sampled_from(["a", "b", "ab", "?", "*", "a*", "*b", "[ab]", "[!a]", "**"])


def matches(names: list[str], patterns: list[str]) -> bool:
    """Return whether `names` match `patterns` by the definition; a final `**` matches at least one name."""
    match patterns:
        case []:
            return not names
        case ["**", *rest]:
            least = 0 if rest else 1
            return any(matches(names[count:], rest) for count in range(least, len(names) + 1))
        case [first, *rest]:
            return bool(names) and fnmatch.fnmatchcase(names[0], first) and matches(names[1:], rest)
    raise AssertionError(patterns)


@given(
    paths=st.sets(st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/".join(["1", *names])), max_size=8),
    pattern=st.lists(PATTERNS, min_size=1, max_size=4),
)
def test_a_pattern_finds_what_its_definition_says(paths: set[str], pattern: list[str]) -> None:
    """In any tree a pattern finds each matching path once, and lists no directory twice."""
    tree = Listed(path for path in sorted(paths) if not any(one.startswith(f"{path}/") for one in paths))
    everything = [node.path for nodes in tree.nodes.values() for node in nodes.values()]
    found = tree.found("/".join(["1", *pattern]))
    assert set(found) == {path for path in everything if matches(path.split("/"), ["1", *pattern])}
    assert len(found) == len(set(found))
    assert len(tree.listed) == len(set(tree.listed))
