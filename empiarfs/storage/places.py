"""Where the blocks of files lie, as far as is known without asking the database."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from empiarfs.model import Block, File

KNOWN_SECONDS = 10.0  # how long the list of a file's blocks is believed
MOST_KNOWN = 4096  # files whose blocks are listed in memory
MOST_PLACES = 262_144  # blocks that are listed there; some 30 MB


class Place(NamedTuple):
    """Where a block is: in the segment `name`, which holds `numbers`, in the file `filename`."""

    name: str
    numbers: range
    filename: str


@dataclass(slots=True)
class _Listed:
    """The blocks of one file that were on disk `when` they were listed, by number."""

    when: float
    places: dict[int, Place]


@dataclass(slots=True)
class _Look:
    """A list of one file that is being made, and what was stored meanwhile."""

    added: dict[int, Place] = field(default_factory=dict)
    found: dict[int, Place] = field(default_factory=dict)  # empty where the list could not be made
    done: threading.Event = field(default_factory=threading.Event)


class Places:
    """The places of blocks, file by file. No list is made under the lock: who asks for another file does not wait.

    What another process stores meanwhile is found later; what was evicted meanwhile is found missing.

    Args:
        listed: gives the segments of a file; may take long, or raise.
    """

    def __init__(self, listed: Callable[[File], Iterable[Place]]) -> None:
        self._list = listed
        self._lock = threading.Lock()
        self._known: dict[File, _Listed] = {}  # the one that was listed or added to last stands last
        self._count = 0  # of places, in all of them
        self._looks: dict[File, _Look] = {}

    def __repr__(self) -> str:
        return f"<Places files={len(self._known)} blocks={self._count} looks={len(self._looks)}>"

    def find(self, block: Block) -> Place | None:
        """Return where `block` was when the blocks of its file were last listed; a look at each costs more.

        Raises:
            Exception: whatever listing raises, to the one thread that lists; those who wait for it find nothing.
        """
        with self._lock:
            listed = self._known.get(block.file)
            if listed is not None and block.number in listed.places:
                return listed.places[block.number]
            look = self._looks.get(block.file)
            if listed is not None and (look is not None or time.monotonic() - listed.when <= KNOWN_SECONDS):
                return None
            is_mine = look is None
            if look is None:
                look = self._looks[block.file] = _Look()
        if is_mine:
            self._look(block.file, look)
        else:
            look.done.wait()
        return look.found.get(block.number)

    def add(self, file: File, place: Place) -> None:
        """Take in what was just stored."""
        places = dict.fromkeys(place.numbers, place)
        with self._lock:
            if file in self._looks:
                self._looks[file].added.update(places)
            listed = self._known.get(file)
            if listed is not None:
                self._count -= len(listed.places)
                listed.places.update(places)
                self._keep(file, listed)

    def forget(self, file: File) -> None:
        """Look for the blocks of `file` anew the next time; a list that is being made may be as wrong."""
        with self._lock:
            self._looks.pop(file, None)
            listed = self._known.pop(file, None)
            self._count -= len(listed.places) if listed is not None else 0

    def clear(self) -> None:
        """Forget all files."""
        with self._lock:
            self._looks.clear()
            self._known.clear()
            self._count = 0

    def _look(self, file: File, look: _Look) -> None:
        """List `file`, and keep that unless the file was forgotten meanwhile."""
        when = time.monotonic()
        try:
            found: dict[int, Place] = {}
            for place in self._list(file):
                found.update(dict.fromkeys(place.numbers, place))
            with self._lock:
                look.found = found
                found.update(look.added)
                if self._looks.get(file) is look:
                    before = self._known.get(file)
                    self._count -= len(before.places) if before is not None else 0
                    self._keep(file, _Listed(when, found))
        finally:
            with self._lock:
                if self._looks.get(file) is look:
                    del self._looks[file]
            look.done.set()

    def _keep(self, file: File, listed: _Listed) -> None:
        """Put what is now listed of `file`, and not yet counted, last; the first go where there are too many."""
        self._known.pop(file, None)
        self._known[file] = listed
        self._count += len(listed.places)
        while len(self._known) > 1 and (self._count > MOST_PLACES or len(self._known) > MOST_KNOWN):
            self._count -= len(self._known.pop(next(iter(self._known))).places)
