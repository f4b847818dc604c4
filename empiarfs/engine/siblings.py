"""Who walks through a directory file by file, and which files come next.

Several walk at once (threads, MPI ranks), each from another place on. A walk earns its reach: the second file in
order begins it, it grows fourfold with each further one, and one file out of order ends it.
"""

from dataclasses import dataclass

from empiarfs.model import Directory
from empiarfs.ports import Known

STEP = 2  # how many places on the next file may be: some programs skip one
FIRST_REACH = 4
MOST_REACH = 64
MOST_WALKS = 8


@dataclass(frozen=True, slots=True)
class Walk:
    """One way through a directory.

    Attributes:
        position: the place of the newest file, in the order of the listing.
        reach: how many files beyond it are to be made ready.
        ready: one past the last place that was made ready.
    """

    position: int
    reach: int = 0
    ready: int = 0


Walks = tuple[Walk, ...]  # the one that moved last stands first


def stepped(walks: Walks, position: int) -> tuple[Walks, range]:
    """Take in that the file at `position` was used; give the walks after it, and the places to make ready now."""
    for walk in walks:
        if not walk.position <= position <= walk.position + STEP:
            continue
        others = tuple(other for other in walks if other is not walk)
        if position == walk.position:
            return (walk, *others), range(0)
        reach = min(max(FIRST_REACH, 4 * walk.reach), MOST_REACH)
        begin = max(walk.ready, position + 1)
        end = position + 1 + reach
        if begin > position + 1 + reach // 2:  # enough is under way
            return (Walk(position, walk.reach, walk.ready), *others), range(0)
        return (Walk(position, reach, max(begin, end)), *others), range(begin, max(begin, end))
    return (Walk(position), *walks[: MOST_WALKS - 1]), range(0)


class Order:
    """The files of one directory in the order of its listing, kind by kind, and who walks through them."""

    def __init__(self, known: Known) -> None:
        self.scanned = known.scanned
        self.places: dict[str, int] = {}
        self._kinds: dict[str, list[str]] = {}
        self._walks: dict[str, Walks] = {}
        for name, entry in list(known.entries.items()):
            if not isinstance(entry, Directory):
                kind = self._kinds.setdefault(suffix_of(name), [])
                self.places[name] = len(kind)
                kind.append(entry.path)

    def after(self, name: str) -> list[str]:
        """Take one use in; give the paths to make ready."""
        suffix = suffix_of(name)
        place = self.places.get(name)
        if place is None:
            return []
        # two threads may overwrite each other's step: a request ahead more or less
        self._walks[suffix], places = stepped(self._walks.get(suffix, ()), place)
        return self._kinds[suffix][places.start : places.stop]


def suffix_of(name: str) -> str:
    """Give the kind of a file, by its suffix in small letters."""
    stem, _, suffix = name.rpartition(".")
    return suffix.lower() if stem else ""
