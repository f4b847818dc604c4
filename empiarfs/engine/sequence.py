"""Detects programs that use the files of a directory in order, and predicts the next files.

Several such sequences run at once (threads, MPI ranks), each at its own position. The second file in order opens
the window of a sequence, each further one makes it larger, and a file out of order begins another one.
"""

from dataclasses import dataclass

from empiarfs.model import Directory
from empiarfs.ports import Known

MAX_STEP = 2  # the most positions to the next file: some programs skip one
MAX_SEQUENCES = 8


@dataclass(frozen=True, slots=True)
class Windows:
    """How many files beyond the newest one to prefetch: at first, how many times more each time, and at most."""

    first: int
    growth: int
    most: int


SINGLE = Windows(4, 4, 64)  # a request for each file
BATCHED = Windows(50, 8, 2000)  # a round trip for many files; enough for all connections while they are used


@dataclass(frozen=True, slots=True)
class FileSequence:
    """One sequential use of the files of a directory.

    Attributes:
        position: the position of the newest file in the listing.
        window: how many files beyond it to prefetch.
        prefetched_to: one past the last position that was prefetched.
    """

    position: int
    window: int = 0
    prefetched_to: int = 0


FileSequences = tuple[FileSequence, ...]  # the most recently used first


def advance(sequences: FileSequences, position: int, windows: Windows = SINGLE) -> tuple[FileSequences, range]:
    """Return the sequences after a use of the file at `position`, and the positions to prefetch now."""
    for sequence in sequences:
        if not sequence.position <= position <= sequence.position + MAX_STEP:
            continue
        others = tuple(other for other in sequences if other is not sequence)
        if position == sequence.position:
            return (sequence, *others), range(0)
        reach = min(max(windows.first, windows.growth * sequence.window), windows.most)
        begin = max(sequence.prefetched_to, position + 1)
        end = position + 1 + reach
        if begin > position + 1 + reach // 2:  # enough is in flight
            return (FileSequence(position, sequence.window, sequence.prefetched_to), *others), range(0)
        return (FileSequence(position, reach, max(begin, end)), *others), range(begin, max(begin, end))
    return (FileSequence(position), *sequences[: MAX_SEQUENCES - 1]), range(0)


class SequenceDetector:
    """The files of one directory in the order of its listing, by suffix, and the sequences through them.

    Attributes:
        scanned: when the directory was listed.
        places: the position of each file among those of its suffix.
        is_read: whether a file was read since the last use.
    """

    def __init__(self, known: Known) -> None:
        self.scanned = known.scanned
        self.is_read = False
        self.places: dict[str, int] = {}
        self._kinds: dict[str, list[str]] = {}
        self._sequences: dict[str, FileSequences] = {}
        for name, node in list(known.nodes.items()):
            if not isinstance(node, Directory):
                kind = self._kinds.setdefault(suffix_of(name), [])
                self.places[name] = len(kind)
                kind.append(node.path)

    def after(self, name: str, windows: Windows = SINGLE) -> list[str]:
        """Record that the file `name` is used; return the paths to prefetch."""
        suffix = suffix_of(name)
        place = self.places.get(name)
        if place is None:
            return []
        # two threads may overwrite each other's update: it costs a prefetch request at most
        self._sequences[suffix], places = advance(self._sequences.get(suffix, ()), place, windows)
        return self._kinds[suffix][places.start : places.stop]


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in lower case; empty if there is none."""
    stem, _, suffix = name.rpartition(".")
    return suffix.lower() if stem else ""
