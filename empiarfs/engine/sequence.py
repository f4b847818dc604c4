"""Who walks through a directory file by file, and which files come next.

Several walk at once (threads, MPI ranks), each from another place on. A walk earns its reach: the second file in
order begins it, it grows fourfold with each further one, and one file out of order ends it.
"""

from dataclasses import dataclass

from empiarfs.model import Directory
from empiarfs.ports import Known

MAX_STEP = 2  # how many places on the next file may be: some programs skip one
FIRST_WINDOW = 4
MAX_WINDOW = 64
MAX_SEQUENCES = 8


@dataclass(frozen=True, slots=True)
class FileSequence:
    """One way through a directory.

    Attributes:
        position: the place of the newest file, in the order of the listing.
        window: how many files beyond it are to be made ready.
        prefetched_to: one past the last place that was made ready.
    """

    position: int
    window: int = 0
    prefetched_to: int = 0


FileSequences = tuple[FileSequence, ...]  # the one that moved last stands first


def advance(sequences: FileSequences, position: int) -> tuple[FileSequences, range]:
    """Record that the file at `position` was used; give the walks after it, and the places to make ready now."""
    for sequence in sequences:
        if not sequence.position <= position <= sequence.position + MAX_STEP:
            continue
        others = tuple(other for other in sequences if other is not sequence)
        if position == sequence.position:
            return (sequence, *others), range(0)
        reach = min(max(FIRST_WINDOW, 4 * sequence.window), MAX_WINDOW)
        begin = max(sequence.prefetched_to, position + 1)
        end = position + 1 + reach
        if begin > position + 1 + reach // 2:  # enough is under way
            return (FileSequence(position, sequence.window, sequence.prefetched_to), *others), range(0)
        return (FileSequence(position, reach, max(begin, end)), *others), range(begin, max(begin, end))
    return (FileSequence(position), *sequences[: MAX_SEQUENCES - 1]), range(0)


class SequenceDetector:
    """The files of one directory in the order of its listing, kind by kind, and who walks through them."""

    def __init__(self, known: Known) -> None:
        self.scanned = known.scanned
        self.places: dict[str, int] = {}
        self._kinds: dict[str, list[str]] = {}
        self._sequences: dict[str, FileSequences] = {}
        for name, node in list(known.nodes.items()):
            if not isinstance(node, Directory):
                kind = self._kinds.setdefault(suffix_of(name), [])
                self.places[name] = len(kind)
                kind.append(node.path)

    def after(self, name: str) -> list[str]:
        """Take one use in; give the paths to make ready."""
        suffix = suffix_of(name)
        place = self.places.get(name)
        if place is None:
            return []
        # two threads may overwrite each other's step: a request ahead more or less
        self._sequences[suffix], places = advance(self._sequences.get(suffix, ()), place)
        return self._kinds[suffix][places.start : places.stop]


def suffix_of(name: str) -> str:
    """Return the kind of a file, by its suffix in small letters."""
    stem, _, suffix = name.rpartition(".")
    return suffix.lower() if stem else ""
