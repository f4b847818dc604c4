"""What is where: files measured once, when someone looks or a little before; an error is never absence."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from support.fakes import SOON, FakeOrigin, directory, noise, stub
from trees import DATA, A, B, FakeSizes, World, opened_world

from empiarfs.cancellation import CancelToken
from empiarfs.engine import tree as trees
from empiarfs.errors import ArchiveError, Closed, Forbidden, NotADirectory, NotFound, Stale, Unavailable
from empiarfs.model import Directory, File, Stub
from empiarfs.ports import NEVER

HOUR = 3600.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world that nobody has asked for anything."""
    with opened_world(tmp_path) as made:
        yield made


def test_listing_a_directory_measures_nothing(world: World) -> None:
    """Names and kinds cost no request a file."""
    assert all(isinstance(node, Stub) for node in world.tree.listdir(DATA))
    assert world.origin.diary == []


def test_a_listed_file_is_measured_once_when_it_is_asked_for(world: World) -> None:
    """Its exact size comes from one asking, and is kept for the next run too."""
    file = File(A, 1000, world.origin.modified)
    assert world.tree.stat(A) == file
    assert world.tree.stat(A) == file
    world.tree = world.opened()
    assert world.tree.stat(A) == file
    assert world.origin.measured == [A]


def test_many_threads_measure_a_file_once(world: World) -> None:
    """A storm of stats is one asking."""
    world.tree.listdir(DATA)
    barrier = world.origin.held()
    with ThreadPoolExecutor(17) as pool:
        stats = [pool.submit(world.tree.stat, A) for _ in range(16)]
        barrier.wait_reached()
        barrier.lift()
        assert {stat.result(SOON) for stat in stats} == {world.origin.file(A)}
    assert world.origin.measured == [A]


def test_a_measured_file_is_shown_measured(world: World) -> None:
    """The next listing has the exact size in its place, and the others as they were."""
    world.tree.listdir(DATA)
    world.tree.stat(B)
    assert world.tree.listdir(DATA) == [stub(A), world.origin.file(B)]


def test_a_directory_is_known_from_the_listing(world: World) -> None:
    """No request is made for what the listing of its parent shows."""
    world.tree.listdir("10028")
    assert world.tree.stat(DATA) == directory(DATA)
    assert world.origin.diary == []


def test_the_root_is_a_directory(world: World) -> None:
    """And asking for it asks nobody."""
    assert world.tree.stat("") == Directory("")
    assert [*world.listing.diary, *world.origin.diary] == []


def test_an_unlisted_name_is_asked_for_once_and_kept(world: World) -> None:
    """The servers sometimes leave a file out: one measuring finds it, and the listing shows it from then on."""
    path = f"{DATA}/left-out.mrc"
    world.origin.files[path] = noise(5)
    for _ in range(2):
        assert world.tree.stat(path) == File(path, 5, world.origin.modified)
    assert "left-out.mrc" in world.names(DATA)
    world.tree = world.opened()
    assert world.tree.stat(path).path == path
    assert world.origin.measured == [path]


def test_an_unlisted_directory_is_found_by_asking(world: World) -> None:
    """Where the server says that a name is a directory, it is one from then on."""
    world.origin.directories.add(f"{DATA}/hidden")
    for _ in range(2):
        assert world.tree.stat(f"{DATA}/hidden") == Directory(f"{DATA}/hidden")
    assert world.origin.measured == [f"{DATA}/hidden"]


@pytest.mark.promise("If not, it is not requested again for an hour.")
def test_what_is_not_there_is_asked_for_once_an_hour(world: World) -> None:
    """A name that was not there is NotFound without asking for an hour, then asked for anew."""
    path = f"{DATA}/nothing"
    for _ in range(3):
        with pytest.raises(NotFound):
            world.tree.stat(path)
    world.tree = world.opened()
    world.clock.go_on(HOUR - 1)
    with pytest.raises(NotFound):
        world.tree.stat(path)
    assert world.origin.measured == [path]
    world.clock.go_on(2)
    world.origin.files[path] = b"now"
    assert world.tree.stat(path) == File(path, 3, world.origin.modified)


@pytest.mark.promise(
    "A name that a new listing lacks is shown until a second listing lacks it too, or the server answers 404 "
    "for it."
)
def test_a_listed_file_that_is_gone_is_listed_no_more(world: World) -> None:
    """The server says of the very URL that it is not there: it disappears."""
    world.tree.listdir(DATA)
    del world.origin.files[A]
    with pytest.raises(NotFound):
        world.tree.stat(A)
    assert world.names(DATA) == ["b.mrc"]


@pytest.mark.promise(
    "`ENOENT` means that the server answered 404 or 410 for exactly this name; for a listed one, twice."
)
@pytest.mark.parametrize("error", [Unavailable(A), Forbidden(A), Stale(A), Closed(A)])
def test_an_error_in_measuring_is_never_taken_for_absence(world: World, error: ArchiveError) -> None:
    """A server that is away, or refuses, is believed about that alone: the name stays, and is asked for anew."""
    world.origin.refusals[A] = error
    for _ in range(2):
        with pytest.raises(type(error)):
            world.tree.stat(A)
    assert world.names(DATA) == ["a.mrc", "b.mrc"]
    world.origin.refusals.clear()
    assert world.tree.stat(A) == world.origin.file(A)


def test_an_unlisted_name_is_not_absent_while_the_server_is_away(world: World) -> None:
    """Unavailable is never NotFound, and is not remembered as such."""
    path = f"{DATA}/left-out.mrc"
    world.origin.refusals[path] = Unavailable(path)
    with pytest.raises(Unavailable):
        world.tree.stat(path)
    world.origin.refusals.clear()
    world.origin.files[path] = b"12"
    assert world.tree.stat(path).path == path


@pytest.mark.parametrize("path", [DATA, f"{DATA}/a.mrc", f"{DATA}/other/deep"])
def test_a_listing_that_is_away_is_unavailable_and_not_absent(world: World, path: str) -> None:
    """Where nothing is known and the server is away, the answer is Unavailable."""
    for place in ("10028", DATA, f"{DATA}/other"):
        world.listing.refusals[place] = Unavailable(place)
    with pytest.raises(Unavailable):
        world.tree.stat(path)


@pytest.mark.promise("Anything else that the server has at its root is hidden, and never requested.")
@pytest.mark.parametrize(
    "name", ["abc", "EMPIAR-10028", ".Trash", "10028x", "²", "\uff11\uff10\uff10\uff12\uff18", "-5", "10 028"]
)
def test_only_numbers_stand_at_the_root(world: World, name: str) -> None:
    """Any other name is NotFound without asking, below it too; the alias is the business of the faces."""
    for path in (name, f"{name}/data"):
        with pytest.raises(NotFound):
            world.tree.stat(path)
        with pytest.raises(NotFound):
            world.tree.listdir(path)
    assert [*world.listing.diary, *world.origin.diary] == []


def test_the_root_shows_entries_alone(world: World) -> None:
    """Files, and directories with other names, are not shown at the root."""
    world.listing.children[""] += [stub("10029"), directory("about"), directory("²"), directory("EMPIAR-1")]
    assert world.names("") == ["10028", "10934"]


def test_an_entry_is_asked_for_without_listing_all(world: World) -> None:
    """One measuring tells that an entry is there; the long listing of the root is not needed."""
    assert world.tree.stat("10028") == Directory("10028")
    assert world.tree.stat("10028") == Directory("10028")
    assert world.listing.diary == []
    assert world.origin.measured == ["10028"]


def test_an_entry_that_the_root_lacks_is_found(world: World) -> None:
    """An entry the server has and does not list is found by its number, and shown from then on."""
    world.names("")
    world.origin.directories.add("11111")
    assert world.tree.stat("11111") == Directory("11111")
    assert "11111" in world.names("")


def test_an_entry_that_is_nowhere_is_not_found(world: World) -> None:
    """A number the server does not know is NotFound."""
    with pytest.raises(NotFound):
        world.tree.stat("99999")
    with pytest.raises(NotFound):
        world.tree.listdir("99999")


def test_only_the_chosen_entries_are_there(world: World) -> None:
    """A tree of chosen entries shows them alone, in the order given, and denies the others without asking."""
    world.tree = world.opened("10934", "10028")
    assert world.names("") == ["10934", "10028"]
    assert world.names("10028") == ["data", "10028.xml"]
    diary = list(world.listing.diary)
    for ask in (world.tree.stat, world.tree.listdir):
        with pytest.raises(NotFound):
            ask("10029")
    assert world.listing.diary == diary == ["10028"]


def test_a_chosen_entry_is_a_directory_unasked(world: World) -> None:
    """A tree of chosen entries shows each as a directory without a request, whether or not the server answers."""
    world.tree = world.opened("10934", "99999")
    world.origin.refusals["10934"] = Unavailable("10934")
    assert world.tree.stat("10934") == Directory("10934")
    assert world.tree.stat("99999") == Directory("99999")
    assert (world.origin.diary, world.listing.diary) == ([], [])


def test_a_chosen_entry_has_the_date_that_is_known_of_it(world: World) -> None:
    """A listing of the root, by whichever run, dates the entries."""
    dated = Directory("10934", 1_600_000_000)
    world.listing.children[""] = [dated]
    world.tree.listdir("")
    world.tree = world.opened("10934")
    assert world.tree.stat("10934") == dated


def test_a_chosen_entry_is_checked_by_asking(world: World) -> None:
    """The check asks the server once for what is not known; an entry that it denies is not there from then on."""
    world.tree = world.opened("10934", "99999")
    for _ in range(2):
        world.tree.check("10934")
        with pytest.raises(NotFound):
            world.tree.check("99999")
    with pytest.raises(NotFound):
        world.tree.check("10028")  # was not chosen
    assert world.origin.measured == ["10934", "99999"]
    with pytest.raises(NotFound):
        world.tree.stat("99999")


def test_a_file_is_not_a_directory(world: World) -> None:
    """Looking into a file, or below one, says what it is."""
    for path in (A, f"{A}/x", f"{A}/x/y"):
        with pytest.raises(NotADirectory):
            world.tree.listdir(path)
    for path in (f"{A}/x", f"{A}/x/y"):
        with pytest.raises(NotADirectory):
            world.tree.stat(path)


def test_a_directory_that_is_not_there_is_not_found(world: World) -> None:
    """At any depth, by listing and by asking."""
    for path in (f"{DATA}/none", f"{DATA}/none/deeper"):
        with pytest.raises(NotFound):
            world.tree.listdir(path)
        with pytest.raises(NotFound):
            world.tree.stat(f"{path}/file")


def test_an_error_names_what_was_asked_for(world: World) -> None:
    """The path in the error is the caller's, not that of a parent."""
    path = f"{DATA}/none/deeper/file"
    with pytest.raises(NotFound) as caught:
        world.tree.stat(path)
    assert caught.value.path == path


def test_files_of_a_directory_closed_to_listings_are_found_by_asking(world: World) -> None:
    """A path that the user knows opens although nothing lists it."""
    world.listing.refusals[DATA] = Forbidden(DATA)
    assert world.tree.stat(A) == world.origin.file(A)
    with pytest.raises(NotFound):
        world.tree.stat(f"{DATA}/none")


def test_files_of_a_closed_directory_are_measured_once(world: World) -> None:
    """What was found by asking is kept there too."""
    world.listing.refusals[DATA] = Forbidden(DATA)
    world.tree.stat(A)
    world.tree.stat(A)
    assert world.origin.measured == [A]


def test_a_changed_file_is_measured_anew(world: World) -> None:
    """After `changed` the next stat asks the server, in this run and the next."""
    old = world.tree.stat(A)
    assert isinstance(old, File)
    world.origin.files[A] = noise(1234)
    world.tree.mark_changed(old)
    assert world.tree.stat(A) == File(A, 1234, world.origin.modified)
    world.tree = world.opened()
    assert world.tree.stat(A) == File(A, 1234, world.origin.modified)
    assert world.origin.measured == [A, A]


def test_news_of_an_older_version_change_nothing(world: World) -> None:
    """A reader who still held an old version does not unmeasure the new one."""
    world.tree.stat(A)
    world.tree.mark_changed(File(A, 1, 1))
    assert world.tree.stat(A) == world.origin.file(A)
    assert world.origin.measured == [A]


def test_a_changed_file_is_shown_as_not_measured(world: World) -> None:
    """The listing keeps its rounded size and date."""
    world.tree.listdir(DATA)
    old = world.tree.stat(A)
    assert isinstance(old, File)
    world.tree.mark_changed(old)
    assert world.tree.listdir(DATA)[0] == stub(A)


def test_entries_may_be_changed_by_the_caller(world: World) -> None:
    """The list given is the caller's own."""
    world.tree.listdir(DATA).clear()
    assert world.names(DATA) == ["a.mrc", "b.mrc"]


@pytest.fixture
def walk(world: World) -> list[str]:
    """A directory of forty movies, and the same number of other files between them."""
    movies = [f"{DATA}/movie_{number:02}.tif" for number in range(40)]
    world.listing.children[DATA] = [
        entry for path in movies for entry in (stub(path), stub(path.replace(".tif", ".xml")))
    ]
    for path in movies:
        world.origin.files[path] = world.ahead.files[path] = noise(100)
        world.origin.files[path.replace(".tif", ".xml")] = world.ahead.files[path.replace(".tif", ".xml")] = b"<>"
    world.tree.listdir(DATA)
    return movies


def test_who_walks_through_a_directory_finds_the_next_files_measured(world: World, walk: list[str]) -> None:
    """After two siblings the next ones of that kind are measured ahead, so that he need not ask for them."""
    for path in walk[:2]:
        world.tree.stat(path)
    for task in world.ahead_tasks:
        task()
    assert world.ahead.measured
    assert all(path.endswith(".tif") for path in world.ahead.measured)
    for path in world.ahead.measured:
        assert world.tree.stat(path) == world.origin.file(path)
    assert world.origin.measured == walk[:2]


def test_who_walks_to_the_end_has_nothing_measured_twice(world: World, walk: list[str]) -> None:
    """Ahead or asked for, each file of his kind is measured once, and no file of another kind."""
    for path in walk:
        world.tree.stat(path)
        while world.ahead_tasks:
            world.ahead_tasks.pop(0)()
    assert sorted(world.origin.measured + world.ahead.measured) == walk
    assert len(world.origin.measured) <= 4


def test_who_jumps_about_has_nothing_measured_ahead(world: World, walk: list[str]) -> None:
    """Random files cost what they cost."""
    for number in (30, 3, 22, 11, 37, 17, 7, 33):
        world.tree.stat(walk[number])
    assert world.ahead_tasks == []


@pytest.mark.parametrize("error", [Unavailable(A), Forbidden(A)])
def test_what_goes_wrong_ahead_is_no_verdict(world: World, walk: list[str], error: ArchiveError) -> None:
    """Nobody hears of it, and who asks for the file asks the server."""
    for path in walk[2:]:
        world.ahead.refusals[path] = error
    for path in walk[:2]:
        world.tree.stat(path)
    for task in world.ahead_tasks:
        task()
    assert world.tree.stat(walk[2]) == world.origin.file(walk[2])


def test_a_caller_that_meets_a_silent_measuring_ahead_has_it_hedged(world: World, walk: list[str]) -> None:
    """It waits for it no longer than for any silent request: the request is sent a second time."""
    world.second = 0.01
    for path in walk[:2]:
        world.tree.stat(path)
    barrier = world.ahead.held(times=1)
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(world.ahead_tasks[0])
        barrier.wait_reached()
        assert world.tree.stat(walk[2]) == world.origin.file(walk[2])
        ahead.result(SOON)
    assert world.ahead.measured == [walk[2]] * 2
    assert world.origin.measured == walk[:2]


def test_a_caller_that_meets_a_measuring_ahead_that_succeeds_sends_nothing(world: World, walk: list[str]) -> None:
    """One that ends in time is used, at once, and costs no second request."""
    for path in walk[:2]:
        world.tree.stat(path)
    barrier = world.ahead.held()
    with ThreadPoolExecutor(2) as pool:
        ahead = pool.submit(world.ahead_tasks[0])
        barrier.wait_reached()
        waiting = pool.submit(world.tree.stat, walk[2])
        time.sleep(0.05)  # until it stands there
        barrier.lift()
        begun = time.monotonic()
        assert waiting.result(SOON) == world.origin.file(walk[2])
        assert time.monotonic() - begun < SOON / 8
        ahead.result(SOON)
    assert world.origin.measured == walk[:2]


def test_a_file_that_is_opened_is_measured_with_its_first_bytes(world: World) -> None:
    """One request brings both, of a file that is listed and not measured; the bytes are cached."""
    heads: list[tuple[File, bytes]] = []
    world.tree._keep_head = lambda file, data: heads.append((file, data))
    world.tree.listdir(DATA)
    assert world.tree.stat(A, 10) == world.origin.file(A)
    assert heads == [(world.origin.file(A), noise(1000)[:10])]
    assert world.tree.stat(A, 10) == world.origin.file(A)
    assert len(world.origin.diary) == 1


def test_a_head_of_a_length_that_the_listing_contradicts_is_not_cached(world: World) -> None:
    """What is not believed of a file leaves no bytes of it behind."""
    world.agrees = lambda stub, file: stub.listed_size == str(file.size)
    world.listing.children[DATA] = [stub(A, "1000"), stub(B, "2000")]
    world.origin.files[A] = noise(17)
    heads: list[bytes] = []
    world.tree._keep_head = lambda _, data: heads.append(data)
    with pytest.raises(Unavailable):
        world.tree.stat(A, 10)
    assert heads == []


@pytest.mark.parametrize("error", [Unavailable(A), Forbidden(A)])
def test_who_meets_a_measuring_ahead_that_fails_asks_himself(
    world: World, walk: list[str], error: ArchiveError
) -> None:
    """The failure of a request that nobody waited for is not handed to who came to wait for it."""
    world.second = 0.5
    for path in walk[:2]:
        world.tree.stat(path)
    barrier = world.ahead.held()
    world.ahead.refusals[walk[2]] = error
    with ThreadPoolExecutor(2) as pool:
        ahead = pool.submit(world.ahead_tasks[0])
        barrier.wait_reached()
        waiting = pool.submit(world.tree.stat, walk[2])
        time.sleep(0.05)  # until he stands there
        barrier.lift()
        assert waiting.result(SOON) == world.origin.file(walk[2])
        assert ahead.result(SOON) is None


def test_a_file_is_measured_ahead_once_at_a_time(world: World, walk: list[str]) -> None:
    """Who comes second gets nothing, and does not wait: he holds a place at the gate."""
    barrier = world.ahead.held()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(world.tree.measure_ahead, walk[0])
        barrier.wait_reached()
        assert world.tree.measure_ahead(walk[0]) is None
        barrier.lift()
        assert first.result(SOON) == world.origin.file(walk[0])
    assert world.ahead.measured == walk[:1]


def test_sizes_of_a_large_directory_come_together(world: World, walk: list[str]) -> None:
    """The first look asks for all sizes at once, behind the reader; from then on nothing is measured one by one."""
    world.sizes = FakeSizes(world.origin)
    world.tree = world.opened()
    world.tree.stat(walk[0])
    assert world.run_later() == 1
    for path in walk:
        assert world.tree.stat(path).path == path
    assert world.sizes.diary == [DATA]
    assert world.origin.measured == walk[:1]
    world.tree = world.opened()
    found = world.tree.stat(walk[9])
    assert isinstance(found, File)
    assert found.size == 100
    assert world.origin.measured == walk[:1]


def test_sizes_that_cannot_be_had_together_are_measured_one_by_one(world: World, walk: list[str]) -> None:
    """A server without FTP costs a request a file, and no error."""
    world.sizes = FakeSizes(world.origin)
    world.sizes.refusal = Unavailable(DATA, "no FTP")
    world.tree = world.opened()
    for path in walk[:3]:
        assert world.tree.stat(path) == world.origin.file(path)
        world.run_later()
    assert world.sizes.diary == [DATA]
    assert world.origin.measured == walk[:3]


def test_the_sizes_of_a_small_directory_are_not_asked_for_together(world: World) -> None:
    """A few files are measured as they are wanted."""
    world.sizes = FakeSizes(world.origin)
    world.tree = world.opened()
    world.tree.stat(A)
    world.run_later()
    assert world.sizes.diary == []


def test_the_sizes_of_a_new_listing_are_asked_for_anew(world: World, walk: list[str]) -> None:
    """A directory that was listed again, with other files, has these measured together too."""
    world.sizes = FakeSizes(world.origin)
    world.tree = world.opened()
    world.tree.stat(walk[0])
    world.run_later()
    world.listing.children[DATA] = [stub(path, date="2025-05-05 05:05") for path in walk]
    world.clock.go_on(1)
    world.listings.rescan(DATA)
    for path in walk[:2]:
        world.tree.stat(path)
    world.run_later()
    assert world.sizes.diary == [DATA, DATA]


def test_what_was_measured_meanwhile_is_not_overwritten(world: World, walk: list[str]) -> None:
    """A date from HEAD is better than that of a listing: before FTP is asked, and while it answers."""
    world.sizes = FakeSizes(world.origin)
    world.tree = world.opened()
    world.sizes.meanwhile = lambda: world.tree.measure_ahead(walk[5])
    world.tree.stat(walk[0])
    world.run_later()
    for _ in range(2):
        for path in (walk[0], walk[5]):
            assert world.tree.stat(path) == world.origin.file(path)
        assert world.tree.stat(walk[6]) == replace(world.origin.file(walk[6]), coarse_mtime=True)
        world.tree = world.opened()
    assert world.origin.measured == walk[:1]
    assert world.ahead.measured == [walk[5]]


def test_what_came_together_meanwhile_is_the_version(world: World, walk: list[str]) -> None:
    """Who has opened it by the listing's date is not told of another by a HEAD that was on its way."""
    world.sizes = FakeSizes(world.origin)
    world.tree = world.opened()
    barrier = world.origin.held()
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(world.tree.stat, walk[0])
        barrier.wait_reached()
        world.run_later()
        opened = world.tree.stat(walk[0])
        barrier.lift()
        assert looking.result(SOON) == opened == replace(world.origin.file(walk[0]), coarse_mtime=True)
    assert world.tree.stat(walk[0]) == opened


def test_all_who_wait_for_sizes_wait_for_one_time(
    world: World, walk: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An FTP server that takes its time costs a directory some seconds, not each of its files."""
    monkeypatch.setattr(trees, "BULK_SECONDS", 0.5)
    world.sizes = FakeSizes(world.origin)
    world.tree = world.opened()
    begun = time.monotonic()
    for path in walk:
        assert world.tree.stat(path) == world.origin.file(path)
    assert time.monotonic() - begun < 2 * 0.5


@pytest.mark.promise(
    "A size is accepted only if it rounds to the size in the directory's listing; if they disagree, the "
    "directory is listed again, and a server that still contradicts itself is `EIO`."
)
def test_a_length_that_the_listing_cannot_round_is_looked_up_in_a_new_listing(world: World) -> None:
    """The file was replaced since it was listed; the new listing says so too."""
    world.agrees = lambda stub, file: stub.listed_size == str(file.size)
    world.listing.children[DATA] = [stub(A, "1000"), stub(B, "2000")]
    world.tree.listdir(DATA)
    world.tree.stat(B)
    assert world.listing.diary == [DATA]
    world.origin.files[A] = noise(5000)
    world.listing.children[DATA] = [stub(A, "5000"), stub(B, "2000")]
    assert world.tree.stat(A) == File(A, 5000, world.origin.modified)
    assert world.listing.diary == [DATA, DATA]


@pytest.mark.promise(
    "A size is accepted only if it rounds to the size in the directory's listing; if they disagree, the "
    "directory is listed again, and a server that still contradicts itself is `EIO`."
)
def test_a_length_that_the_listing_contradicts_is_not_believed(world: World) -> None:
    """An error page or a proxy's cut: one new listing, then an error, and nothing of it is kept."""
    world.agrees = lambda stub, file: stub.listed_size == str(file.size)
    world.listing.children[DATA] = [stub(A, "1000"), stub(B, "2000")]
    world.origin.files[A] = noise(17)
    with pytest.raises(Unavailable):
        world.tree.stat(A)
    assert world.listing.diary == [DATA, DATA]
    assert world.tree.listdir(DATA)[0] == stub(A, "1000")
    world.origin.files[A] = noise(1000)
    assert world.tree.stat(A) == world.origin.file(A)


class Lagging(FakeOrigin):
    """An origin of which one server does not know a file yet."""

    lags = 1

    def measure(self, path: str, *, deadline: float = NEVER, token: CancelToken | None = None) -> File:
        """See `Origin.measure`."""
        found = super().measure(path, deadline=deadline, token=token)
        if len(self.measured) <= self.lags:
            raise NotFound(path)
        return found


def test_a_listed_file_that_one_server_does_not_know_is_asked_for_again(world: World) -> None:
    """Servers behind the balance lag; the listing has seen it."""
    world.origin = Lagging(world.origin.files)
    world.tree = world.opened()
    assert world.tree.stat(A) == world.origin.file(A)
    assert world.origin.measured == [A, A]


@pytest.mark.promise(
    "`ENOENT` means that the server answered 404 or 410 for exactly this name; for a listed one, twice."
)
def test_a_listed_file_that_is_twice_not_there_is_gone(world: World) -> None:
    """It is believed then, and its name goes."""
    world.origin = Lagging(world.origin.files)
    world.origin.lags = 2
    world.tree = world.opened()
    with pytest.raises(NotFound):
        world.tree.stat(A)
    assert world.origin.measured == [A, A]
    assert world.names(DATA) == ["b.mrc"]


@pytest.mark.parametrize(
    "path",
    ["10028/..", "10028/../10029", "10028/./a", "10028//a", "10028/", "10028/a/..", "10028/a\0", "10028/\0/a"],
)
def test_a_path_that_is_no_path_is_not_there(world: World, path: str) -> None:
    """Nobody is asked: the library that sends the request would resolve its dots, and ask for another file."""
    with pytest.raises(NotFound):
        world.tree.stat(path)
    with pytest.raises(NotFound):
        world.tree.listdir(path)
    assert not world.origin.diary
    assert not world.listing.diary
