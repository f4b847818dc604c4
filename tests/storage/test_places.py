"""Where blocks lie, without a database: what is listed, what is stored meanwhile, and who waits for whom."""

import threading
from collections.abc import Iterable

import pytest

from empiarfs.model import Block, File
from empiarfs.storage import places
from empiarfs.storage.places import Place, Places

FILE, OTHER = File("10028/a", 1000, 5), File("10028/b", 1000, 5)
DEADLINE = 20.0


def place(numbers: range, mark: str = "a") -> Place:
    """Return where a segment lies."""
    return Place(f"{numbers.start}+{len(numbers)}", numbers, mark)


class Shelf:
    """What lists: it keeps a diary, and may be held up."""

    def __init__(self) -> None:
        self.kept: dict[File, list[Place]] = {}
        self.listed: list[File] = []
        self.fails = False
        self.held: set[File] = set()
        self.begun = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, file: File) -> Iterable[Place]:
        """Return what is there of `file` when the look begins."""
        self.listed.append(file)
        found = list(self.kept.get(file, []))
        if file in self.held:
            self.begun.set()
            assert self.let_go.wait(DEADLINE)
        if self.fails:
            raise OSError("no look")
        return found


@pytest.fixture
def shelf() -> Shelf:
    """Four blocks of one file, in two segments."""
    shelf = Shelf()
    shelf.kept[FILE] = [place(range(2)), place(range(4, 6))]
    return shelf


class Finder(threading.Thread):
    """A thread that looks for a block."""

    def __init__(self, known: Places, block: Block) -> None:
        super().__init__(daemon=True)
        self._known, self._block = known, block
        self.found: Place | Exception | None = KeyError("not yet")
        self.start()

    def run(self) -> None:
        """Look."""
        try:
            self.found = self._known.find(self._block)
        except OSError as error:
            self.found = error

    def result(self) -> Place | Exception | None:
        """Return what was found, when it is."""
        self.join(DEADLINE)
        assert not self.is_alive()
        return self.found


def test_a_file_is_listed_once(shelf: Shelf) -> None:
    """What is there and what is not are both known then."""
    known = Places(shelf)
    found = [known.find(Block(FILE, number)) for number in range(7)]
    assert [one and one.numbers for one in found] == [range(2)] * 2 + [None] * 2 + [range(4, 6)] * 2 + [None]
    assert shelf.listed == [FILE]


def test_a_file_that_takes_long_holds_up_no_other(shelf: Shelf) -> None:
    """While one file is listed, blocks of others are found, and stored."""
    known = Places(shelf)
    known.find(Block(FILE, 0))
    shelf.held = {OTHER}
    finder = Finder(known, Block(OTHER, 0))
    assert shelf.begun.wait(DEADLINE)
    assert known.find(Block(FILE, 0)) == place(range(2))
    known.add(FILE, place(range(2, 3)))
    assert known.find(Block(FILE, 2)) == place(range(2, 3))
    shelf.let_go.set()
    assert finder.result() is None


def test_a_list_that_is_made_anew_holds_up_nobody(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was listed before is found meanwhile, and what was not is missing as it was."""
    known = Places(shelf)
    known.find(Block(FILE, 0))
    monkeypatch.setattr(places, "KNOWN_SECONDS", -1.0)
    shelf.held = {FILE}
    finder = Finder(known, Block(FILE, 9))
    assert shelf.begun.wait(DEADLINE)
    assert known.find(Block(FILE, 0)) == place(range(2))
    assert known.find(Block(FILE, 9)) is None
    assert shelf.listed == [FILE] * 2
    shelf.let_go.set()
    assert finder.result() is None


def test_those_who_ask_for_a_new_file_at_once_share_a_list(shelf: Shelf) -> None:
    """One lists, the others wait for it."""
    known = Places(shelf)
    shelf.held = {FILE}
    finders = [Finder(known, Block(FILE, 0))]
    assert shelf.begun.wait(DEADLINE)
    finders += [Finder(known, Block(FILE, 4)) for _ in range(3)]
    shelf.let_go.set()
    assert [finder.result() for finder in finders] == [place(range(2)), *[place(range(4, 6))] * 3]
    assert shelf.listed == [FILE]


def test_what_is_stored_while_a_list_is_made_is_in_it(shelf: Shelf) -> None:
    """It is newer than what the list found."""
    known = Places(shelf)
    shelf.held = {FILE}
    finder = Finder(known, Block(FILE, 1))
    assert shelf.begun.wait(DEADLINE)
    known.add(FILE, place(range(1, 3), "new"))
    shelf.let_go.set()
    assert finder.result() == place(range(1, 3), "new")
    found = [known.find(Block(FILE, number)) for number in range(3)]
    assert found == [place(range(2)), *[place(range(1, 3), "new")] * 2]
    assert shelf.listed == [FILE]


@pytest.mark.parametrize("everything", [False, True])
def test_a_list_of_what_is_forgotten_meanwhile_is_not_kept(shelf: Shelf, everything: bool) -> None:
    """It may tell of what is gone, or of another database."""
    known = Places(shelf)
    shelf.held = {FILE}
    finder = Finder(known, Block(FILE, 0))
    assert shelf.begun.wait(DEADLINE)
    if everything:
        known.clear()
    else:
        known.forget(FILE)
    shelf.kept.clear()
    shelf.let_go.set()
    finder.result()
    assert known.find(Block(FILE, 0)) is None
    assert shelf.listed == [FILE] * 2


def test_a_list_that_cannot_be_made_is_made_the_next_time(shelf: Shelf) -> None:
    """Who lists hears why; who waits for it finds nothing, and nobody waits for ever."""
    known = Places(shelf)
    shelf.held, shelf.fails = {FILE}, True
    finder = Finder(known, Block(FILE, 0))
    assert shelf.begun.wait(DEADLINE)
    shelf.let_go.set()
    assert isinstance(finder.result(), OSError)
    shelf.fails = False
    assert known.find(Block(FILE, 0)) == place(range(2))


def test_a_file_that_was_forgotten_is_listed_anew(shelf: Shelf) -> None:
    """And no other."""
    known = Places(shelf)
    for file in (FILE, OTHER):
        known.find(Block(file, 0))
    shelf.kept[FILE] = [place(range(2), "new")]
    known.forget(FILE)
    assert known.find(Block(FILE, 0)) == place(range(2), "new")
    known.find(Block(OTHER, 0))
    assert shelf.listed == [FILE, OTHER, FILE]


def test_no_more_places_are_known_than_there_is_room_for(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they were listed or stored: the file that was listed or stored last stays."""
    monkeypatch.setattr(places, "MOST_PLACES", 10)
    known = Places(shelf)
    known.find(Block(FILE, 0))
    known.find(Block(OTHER, 0))
    for number in range(8):
        known.add(OTHER, place(range(number, number + 1)))
    assert repr(known) == "<Places files=1 blocks=8 looks=0>"
    known.find(Block(FILE, 0))
    assert repr(known) == "<Places files=1 blocks=4 looks=0>"
    known.forget(FILE)
    assert repr(known) == "<Places files=0 blocks=0 looks=0>"


def test_no_more_files_are_known_than_there_is_room_for(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was listed first goes first."""
    monkeypatch.setattr(places, "MOST_KNOWN", 2)
    known = Places(shelf)
    for path in "abc":
        known.find(Block(File(path, 5, None), 0))
    assert repr(known) == "<Places files=2 blocks=0 looks=0>"
