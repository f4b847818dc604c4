"""Walks of directory trees, and glob patterns; the only module that knows globs."""

import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence

from empiarfs.errors import Forbidden, NotADirectory, NotFound
from empiarfs.model import Directory, Node, base_name, join
from empiarfs.paths import archive_path
from empiarfs.urls import BASE_URL

Listdir = Callable[[str], list[Node]]

_ANY_DEPTH = "**"
_MAGIC = re.compile(r"[*?\[]")


def walk(
    listdir: Listdir, directory: str, onerror: Callable[[OSError], object] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield each directory from `directory` down, with the names of its directories and of its files.

    The walk is top-down and in the order of the listings. A name that the caller removes from the list of
    directories before it takes the next triple is not entered. Each directory is listed once, when the walk reaches
    it.

    Args:
        listdir: lists a directory.
        directory: the root of the walk.
        onerror: called with the error of a directory that cannot be listed, which is then skipped.

    Raises:
        ArchiveError: a directory cannot be listed, and there is no `onerror`.
    """
    waiting = [directory]
    while waiting:
        above = waiting.pop()
        try:
            nodes = listdir(above)
        except OSError as error:
            if onerror is None:
                raise
            onerror(error)
            continue
        directories = [base_name(node.path) for node in nodes if isinstance(node, Directory)]
        files = [base_name(node.path) for node in nodes if not isinstance(node, Directory)]
        yield above, directories, files
        waiting += [join(above, name) for name in reversed(directories)]


def glob(listdir: Listdir, pattern: str) -> Iterator[str]:
    """Yield the paths that match `pattern`, each once.

    `*` matches any part of a name, `?` one character, `[abc]` and `[!abc]` one of a set, and a whole name `**` any
    number of directories, including none; at the end of the pattern `**` matches everything below. A name that
    itself holds such characters matches literally, before the names that the pattern matches. The matches in a
    directory come before those below it, both in the order of the listings. Only directories that may hold a match
    are listed, each once, when the iteration reaches them; a directory that the server does not list holds none.

    Args:
        listdir: lists a directory.
        pattern: like `10028/data/*/*.mrc`; `EMPIAR-10028/...` and `empiar://10028/...` mean the same.

    Raises:
        ValueError: the pattern climbs (`..`).
        ArchiveError: a directory cannot be listed: Unavailable, Offline, Closed.
    """
    names = tuple(archive_path(pattern, BASE_URL).split("/"))
    return _below(listdir, "", names, _reached(names, {0})) if names != ("",) else iter(())


def _below(listdir: Listdir, directory: str, names: Sequence[str], states: frozenset[int]) -> Iterator[str]:
    """Yield the matches below `directory`.

    Args:
        listdir: lists a directory.
        directory: the directory to search.
        names: the names of the pattern.
        states: the numbers of names that may have matched up to here.
    """
    literal = _literal(names, states)
    if literal is not None:
        state = next(iter(states)) + 1
        yield from _below(listdir, join(directory, literal), names, _reached(names, {state}))
        return
    try:
        nodes = listdir(directory)
    except (NotFound, NotADirectory, Forbidden):
        return
    wanted = {names[state] for state in states if state < len(names)}
    entered = []
    # the sort is stable: literal matches come first, the rest in the order of the listing
    for node in sorted(nodes, key=lambda node: base_name(node.path) not in wanted):
        stepped = _stepped(names, states, base_name(node.path))
        if len(names) in stepped or (names[-1] == _ANY_DEPTH and len(names) - 1 in states & stepped):
            yield node.path
        after = _reached(names, stepped)
        if isinstance(node, Directory) and after - {len(names)}:
            entered.append((node.path, after))
    for path, after in entered:
        yield from _below(listdir, path, names, after)


def _literal(names: Sequence[str], states: frozenset[int]) -> str | None:
    """Return the only possible next name if it needs no listing, else None.

    The last name of the pattern needs one: it matches only if it exists.
    """
    if len(states) != 1:
        return None
    (state,) = states
    return names[state] if state < len(names) - 1 and not _MAGIC.search(names[state]) else None


def _reached(names: Sequence[str], states: set[int]) -> frozenset[int]:
    """Return `states` and those reachable without a name: `**` also matches no directory."""
    reached = set(states)
    for state, name in enumerate(names):
        if state in reached and name == _ANY_DEPTH:
            reached.add(state + 1)
    return frozenset(reached)


def _stepped(names: Sequence[str], states: frozenset[int], name: str) -> set[int]:
    """Return the states that the child `name` leads to from `states`."""
    stepped = set()
    for state in states - {len(names)}:
        if names[state] == _ANY_DEPTH:
            stepped.add(state)
            if name != _ANY_DEPTH:
                continue
        if name == names[state] or fnmatch.fnmatchcase(name, names[state]):
            stepped.add(state + 1)
    return stepped
