"""Files are measured once, on demand or a little before, and an error never counts as absence."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from support.fakes import SOON, FakeOrigin, directory, noise, stub
from trees import DATA, A, B, FakeSizes, World, opened_world

from empiarfs.cancellation import CancelToken
from empiarfs.engine import bulk_sizes
from empiarfs.errors import ArchiveError, Closed, Forbidden, NotADirectory, NotFound, Stale, Unavailable
from empiarfs.model import Directory, File, Stub
from empiarfs.ports import NEVER

HOUR = 3600.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Return a world without any request so far."""
    with opened_world(tmp_path) as made:
        yield made


def test_listing_a_directory_measures_nothing(world: World) -> None:
    """A listing takes no request for each file."""
    assert all(isinstance(node, Stub) for node in world.tree.listdir(DATA))
    assert world.origin.diary == []


def test_a_listed_file_is_measured_once_on_demand(world: World) -> None:
    """The exact size comes from one request, and is stored for the next run too."""
    file = File(A, 1000, world.origin.modified)
    assert world.tree.stat(A) == file
    assert world.tree.stat(A) == file
    world.tree = world.opened()
    assert world.tree.stat(A) == file
    assert world.origin.measured == [A]


def test_many_threads_measure_a_file_once(world: World) -> None:
    """Simultaneous stats of one file are one request."""
    world.tree.listdir(DATA)
    barrier = world.origin.held()
    with ThreadPoolExecutor(17) as pool:
        stats = [pool.submit(world.tree.stat, A) for _ in range(16)]
        barrier.wait_reached()
        barrier.lift()
        assert {stat.result(SOON) for stat in stats} == {world.origin.file(A)}
    assert world.origin.measured == [A]


def test_a_measured_file_is_listed_with_its_size(world: World) -> None:
    """The next listing has the exact size in its place, and the other files unchanged."""
    world.tree.listdir(DATA)
    world.tree.stat(B)
    assert world.tree.listdir(DATA) == [stub(A), world.origin.file(B)]


def test_a_directory_is_known_from_the_listing(world: World) -> None:
    """A directory in the listing of its parent needs no request."""
    world.tree.listdir("10028")
    assert world.tree.stat(DATA) == directory(DATA)
    assert world.origin.diary == []


def test_the_root_is_a_directory(world: World) -> None:
    """The root is a directory without a request."""
    assert world.tree.stat("") == Directory("")
    assert [*world.listing.diary, *world.origin.diary] == []


def test_an_unlisted_name_is_requested_once_and_stored(world: World) -> None:
    """A file that the server leaves out of a listing is found by one request, and listed from then on."""
    path = f"{DATA}/left-out.mrc"
    world.origin.files[path] = noise(5)
    for _ in range(2):
        assert world.tree.stat(path) == File(path, 5, world.origin.modified)
    assert "left-out.mrc" in world.names(DATA)
    world.tree = world.opened()
    assert world.tree.stat(path).path == path
    assert world.origin.measured == [path]


def test_an_unlisted_directory_is_found_by_a_request(world: World) -> None:
    """A name that the server calls a directory is one from then on."""
    world.origin.directories.add(f"{DATA}/hidden")
    for _ in range(2):
        assert world.tree.stat(f"{DATA}/hidden") == Directory(f"{DATA}/hidden")
    assert world.origin.measured == [f"{DATA}/hidden"]


@pytest.mark.promise("If not, it is not requested again for an hour.")
def test_an_absent_name_is_requested_once_an_hour(world: World) -> None:
    """An absent name is NotFound without a request for an hour, and is then requested again."""
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
def test_a_listed_file_that_is_gone_is_removed(world: World) -> None:
    """A listed file whose URL is NotFound is removed from the listing."""
    world.tree.listdir(DATA)
    del world.origin.files[A]
    with pytest.raises(NotFound):
        world.tree.stat(A)
    assert world.names(DATA) == ["b.mrc"]


@pytest.mark.promise(
    "`ENOENT` means that the server answered 404 or 410 for exactly this name; for a listed one, twice."
)
@pytest.mark.parametrize("error", [Unavailable(A), Forbidden(A), Stale(A), Closed(A)])
def test_an_error_in_measuring_is_not_absence(world: World, error: ArchiveError) -> None:
    """After Unavailable or Forbidden a name stays listed, and is requested again."""
    world.origin.refusals[A] = error
    for _ in range(2):
        with pytest.raises(type(error)):
            world.tree.stat(A)
    assert world.names(DATA) == ["a.mrc", "b.mrc"]
    world.origin.refusals.clear()
    assert world.tree.stat(A) == world.origin.file(A)


def test_an_unlisted_name_is_not_absent_while_the_server_is_away(world: World) -> None:
    """Unavailable is never NotFound, and is not recorded as absence."""
    path = f"{DATA}/left-out.mrc"
    world.origin.refusals[path] = Unavailable(path)
    with pytest.raises(Unavailable):
        world.tree.stat(path)
    world.origin.refusals.clear()
    world.origin.files[path] = b"12"
    assert world.tree.stat(path).path == path


@pytest.mark.parametrize("path", [DATA, f"{DATA}/a.mrc", f"{DATA}/other/deep"])
def test_an_unreachable_listing_is_unavailable_and_not_absent(world: World, path: str) -> None:
    """Without any knowledge and with the server away, the answer is Unavailable."""
    for place in ("10028", DATA, f"{DATA}/other"):
        world.listing.refusals[place] = Unavailable(place)
    with pytest.raises(Unavailable):
        world.tree.stat(path)


@pytest.mark.promise("Anything else that the server has at its root is hidden, and never requested.")
@pytest.mark.parametrize(
    "name", ["abc", "EMPIAR-10028", ".Trash", "10028x", "²", "\uff11\uff10\uff10\uff12\uff18", "-5", "10 028"]
)
def test_the_root_holds_only_numbers(world: World, name: str) -> None:
    """Any other name, and what is below it, is NotFound without a request; aliases belong to the callers."""
    for path in (name, f"{name}/data"):
        with pytest.raises(NotFound):
            world.tree.stat(path)
        with pytest.raises(NotFound):
            world.tree.listdir(path)
    assert [*world.listing.diary, *world.origin.diary] == []


def test_the_root_shows_only_entries(world: World) -> None:
    """Files, and directories with other names, are not shown at the root."""
    world.listing.children[""] += [stub("10029"), directory("about"), directory("²"), directory("EMPIAR-1")]
    assert world.names("") == ["10028", "10934"]


def test_an_entry_is_requested_without_listing_all(world: World) -> None:
    """One request finds an entry, without the long listing of the root."""
    assert world.tree.stat("10028") == Directory("10028")
    assert world.tree.stat("10028") == Directory("10028")
    assert world.listing.diary == []
    assert world.origin.measured == ["10028"]


def test_an_entry_that_the_root_lacks_is_found(world: World) -> None:
    """An entry that the server does not list is found by its number, and shown from then on."""
    world.names("")
    world.origin.directories.add("11111")
    assert world.tree.stat("11111") == Directory("11111")
    assert "11111" in world.names("")


def test_an_unknown_entry_is_not_found(world: World) -> None:
    """A number that the server does not know is NotFound."""
    with pytest.raises(NotFound):
        world.tree.stat("99999")
    with pytest.raises(NotFound):
        world.tree.listdir("99999")


def test_only_the_chosen_entries_exist(world: World) -> None:
    """A tree of chosen entries shows only them, in the given order, and others are NotFound without a request."""
    world.tree = world.opened("10934", "10028")
    assert world.names("") == ["10934", "10028"]
    assert world.names("10028") == ["data", "10028.xml"]
    diary = list(world.listing.diary)
    for ask in (world.tree.stat, world.tree.listdir):
        with pytest.raises(NotFound):
            ask("10029")
    assert world.listing.diary == diary == ["10028"]


def test_a_chosen_entry_is_a_directory_without_a_request(world: World) -> None:
    """A chosen entry is shown as a directory without a request, whether or not the server answers."""
    world.tree = world.opened("10934", "99999")
    world.origin.refusals["10934"] = Unavailable("10934")
    assert world.tree.stat("10934") == Directory("10934")
    assert world.tree.stat("99999") == Directory("99999")
    assert (world.origin.diary, world.listing.diary) == ([], [])


def test_a_chosen_entry_has_its_listed_date(world: World) -> None:
    """A listing of the root, by any run, dates the entries."""
    dated = Directory("10934", 1_600_000_000)
    world.listing.children[""] = [dated]
    world.tree.listdir("")
    world.tree = world.opened("10934")
    assert world.tree.stat("10934") == dated


def test_a_chosen_entry_is_checked_by_a_request(world: World) -> None:
    """`check` requests an unknown entry once, and one that is NotFound is absent from then on."""
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
    """Listing a file, or a path below one, raises NotADirectory."""
    for path in (A, f"{A}/x", f"{A}/x/y"):
        with pytest.raises(NotADirectory):
            world.tree.listdir(path)
    for path in (f"{A}/x", f"{A}/x/y"):
        with pytest.raises(NotADirectory):
            world.tree.stat(path)


def test_a_missing_directory_is_not_found(world: World) -> None:
    """A missing directory is NotFound at any depth, for a listing and for a stat."""
    for path in (f"{DATA}/none", f"{DATA}/none/deeper"):
        with pytest.raises(NotFound):
            world.tree.listdir(path)
        with pytest.raises(NotFound):
            world.tree.stat(f"{path}/file")


def test_an_error_has_the_requested_path(world: World) -> None:
    """The path of an error is the caller's, not that of a parent."""
    path = f"{DATA}/none/deeper/file"
    with pytest.raises(NotFound) as caught:
        world.tree.stat(path)
    assert caught.value.path == path


def test_files_of_a_directory_without_listing_are_found(world: World) -> None:
    """A known path opens although its directory cannot be listed."""
    world.listing.refusals[DATA] = Forbidden(DATA)
    assert world.tree.stat(A) == world.origin.file(A)
    with pytest.raises(NotFound):
        world.tree.stat(f"{DATA}/none")


def test_files_of_a_directory_without_listing_are_measured_once(world: World) -> None:
    """A file that was measured is stored there too."""
    world.listing.refusals[DATA] = Forbidden(DATA)
    world.tree.stat(A)
    world.tree.stat(A)
    assert world.origin.measured == [A]


def test_a_changed_file_is_measured_again(world: World) -> None:
    """After `mark_changed` the next stat sends a request, in this run and the next."""
    old = world.tree.stat(A)
    assert isinstance(old, File)
    world.origin.files[A] = noise(1234)
    world.tree.mark_changed(old)
    assert world.tree.stat(A) == File(A, 1234, world.origin.modified)
    world.tree = world.opened()
    assert world.tree.stat(A) == File(A, 1234, world.origin.modified)
    assert world.origin.measured == [A, A]


def test_marking_an_older_version_changes_nothing(world: World) -> None:
    """A reader of an old version does not remove the size of the new one."""
    world.tree.stat(A)
    world.tree.mark_changed(File(A, 1, 1))
    assert world.tree.stat(A) == world.origin.file(A)
    assert world.origin.measured == [A]


def test_a_changed_file_is_shown_as_not_measured(world: World) -> None:
    """After `mark_changed` the listing has the rounded size and date."""
    world.tree.listdir(DATA)
    old = world.tree.stat(A)
    assert isinstance(old, File)
    world.tree.mark_changed(old)
    assert world.tree.listdir(DATA)[0] == stub(A)


def test_the_returned_list_belongs_to_the_caller(world: World) -> None:
    """A caller may change the list that `listdir` returns."""
    world.tree.listdir(DATA).clear()
    assert world.names(DATA) == ["a.mrc", "b.mrc"]


@pytest.fixture
def walk(world: World) -> list[str]:
    """A directory of forty movies, and as many other files between them."""
    movies = [f"{DATA}/movie_{number:02}.tif" for number in range(40)]
    world.listing.children[DATA] = [
        entry for path in movies for entry in (stub(path), stub(path.replace(".tif", ".xml")))
    ]
    for path in movies:
        world.origin.files[path] = world.ahead.files[path] = noise(100)
        world.origin.files[path.replace(".tif", ".xml")] = world.ahead.files[path.replace(".tif", ".xml")] = b"<>"
    world.tree.listdir(DATA)
    return movies


def test_files_used_in_order_are_measured_ahead(world: World, walk: list[str]) -> None:
    """After two siblings the next ones of that suffix are measured ahead."""
    for path in walk[:2]:
        world.tree.stat(path)
    for task in world.ahead_tasks:
        task()
    assert world.ahead.measured
    assert all(path.endswith(".tif") for path in world.ahead.measured)
    for path in world.ahead.measured:
        assert world.tree.stat(path) == world.origin.file(path)
    assert world.origin.measured == walk[:2]


def test_a_sequence_to_the_end_measures_nothing_twice(world: World, walk: list[str]) -> None:
    """Ahead or on demand, each file of the suffix is measured once, and no other file."""
    for path in walk:
        world.tree.stat(path)
        while world.ahead_tasks:
            world.ahead_tasks.pop(0)()
    assert sorted(world.origin.measured + world.ahead.measured) == walk
    assert len(world.origin.measured) <= 4


def test_files_used_at_random_are_not_measured_ahead(world: World, walk: list[str]) -> None:
    """Files in random order take their own requests only."""
    for number in (30, 3, 22, 11, 37, 17, 7, 33):
        world.tree.stat(walk[number])
    assert world.ahead_tasks == []


@pytest.mark.parametrize("error", [Unavailable(A), Forbidden(A)])
def test_an_error_ahead_of_use_is_dropped(world: World, walk: list[str], error: ArchiveError) -> None:
    """An error ahead of use is raised nowhere, and the next stat sends a request."""
    for path in walk[2:]:
        world.ahead.refusals[path] = error
    for path in walk[:2]:
        world.tree.stat(path)
    for task in world.ahead_tasks:
        task()
    assert world.tree.stat(walk[2]) == world.origin.file(walk[2])


def test_a_caller_hedges_a_silent_request_ahead(world: World, walk: list[str]) -> None:
    """A caller that joins a silent request ahead of use hedges it as any other."""
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


def test_a_caller_joins_a_request_ahead(world: World, walk: list[str]) -> None:
    """A caller gets the result of a request ahead of use, without a second one."""
    for path in walk[:2]:
        world.tree.stat(path)
    barrier = world.ahead.held()
    with ThreadPoolExecutor(2) as pool:
        ahead = pool.submit(world.ahead_tasks[0])
        barrier.wait_reached()
        waiting = pool.submit(world.tree.stat, walk[2])
        time.sleep(0.05)  # until the caller waits
        barrier.lift()
        begun = time.monotonic()
        assert waiting.result(SOON) == world.origin.file(walk[2])
        assert time.monotonic() - begun < SOON / 8
        ahead.result(SOON)
    assert world.origin.measured == walk[:2]


def test_a_file_that_is_opened_is_measured_with_its_first_bytes(world: World) -> None:
    """One request returns the size and the first bytes of a listed file, which are cached."""
    heads: list[tuple[File, bytes]] = []
    world.tree._keep_head = lambda file, data: heads.append((file, data))
    world.tree.listdir(DATA)
    assert world.tree.stat(A, 10) == world.origin.file(A)
    assert heads == [(world.origin.file(A), noise(1000)[:10])]
    assert world.tree.stat(A, 10) == world.origin.file(A)
    assert len(world.origin.diary) == 1


def test_a_head_of_a_length_that_the_listing_contradicts_is_not_cached(world: World) -> None:
    """The first bytes of a file whose size is rejected are not cached."""
    world.agrees = lambda stub, file: stub.listed_size == str(file.size)
    world.listing.children[DATA] = [stub(A, "1000"), stub(B, "2000")]
    world.origin.files[A] = noise(17)
    heads: list[bytes] = []
    world.tree._keep_head = lambda _, data: heads.append(data)
    with pytest.raises(Unavailable):
        world.tree.stat(A, 10)
    assert heads == []


@pytest.mark.parametrize("error", [Unavailable(A), Forbidden(A)])
def test_a_caller_sends_its_own_request_after_a_failure_ahead(
    world: World, walk: list[str], error: ArchiveError
) -> None:
    """The error of a request ahead of use is not raised in a caller that joined it."""
    world.second = 0.5
    for path in walk[:2]:
        world.tree.stat(path)
    barrier = world.ahead.held()
    world.ahead.refusals[walk[2]] = error
    with ThreadPoolExecutor(2) as pool:
        ahead = pool.submit(world.ahead_tasks[0])
        barrier.wait_reached()
        waiting = pool.submit(world.tree.stat, walk[2])
        time.sleep(0.05)  # until the caller waits
        barrier.lift()
        assert waiting.result(SOON) == world.origin.file(walk[2])
        assert ahead.result(SOON) is None


def test_a_file_is_measured_ahead_once_at_a_time(world: World, walk: list[str]) -> None:
    """A second task for the same file gets None without waiting, as it holds a connection."""
    barrier = world.ahead.held()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(world.tree.measure_ahead, walk[0])
        barrier.wait_reached()
        assert world.tree.measure_ahead(walk[0]) is None
        barrier.lift()
        assert first.result(SOON) == world.origin.file(walk[0])
    assert world.ahead.measured == walk[:1]


def test_sizes_of_a_large_directory_are_requested_together(world: World, walk: list[str]) -> None:
    """The first stat requests all sizes in the background, and then no file is measured alone."""
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


def test_without_bulk_sizes_files_are_measured_one_by_one(world: World, walk: list[str]) -> None:
    """A server without FTP takes a request for each file, and raises no error."""
    world.sizes = FakeSizes(world.origin)
    world.sizes.refusal = Unavailable(DATA, "no FTP")
    world.tree = world.opened()
    for path in walk[:3]:
        assert world.tree.stat(path) == world.origin.file(path)
        world.run_later()
    assert world.sizes.diary == [DATA]
    assert world.origin.measured == walk[:3]


def test_the_sizes_of_a_small_directory_are_not_requested_together(world: World) -> None:
    """Few files are measured as they are used."""
    world.sizes = FakeSizes(world.origin)
    world.tree = world.opened()
    world.tree.stat(A)
    world.run_later()
    assert world.sizes.diary == []


def test_the_sizes_of_a_new_listing_are_requested_again(world: World, walk: list[str]) -> None:
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


def test_bulk_sizes_do_not_overwrite_measured_files(world: World, walk: list[str]) -> None:
    """A date from HEAD, before the FTP request or during it, is better than that of a listing."""
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


def test_a_bulk_size_is_not_replaced_by_a_later_head(world: World, walk: list[str]) -> None:
    """A HEAD in flight does not change the version of a file that was opened with the listing's date."""
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


def test_waits_for_bulk_sizes_are_bounded_together(
    world: World, walk: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow FTP server delays a directory by some seconds, not each of its files."""
    monkeypatch.setattr(bulk_sizes, "BULK_SECONDS", 0.5)
    world.sizes = FakeSizes(world.origin)
    world.tree = world.opened()
    begun = time.monotonic()
    for path in walk:
        assert world.tree.stat(path) == world.origin.file(path)
    assert time.monotonic() - begun < 2 * 0.5


@pytest.mark.promise(
    "A size is accepted only if it is within one unit of the last digit that the directory's listing shows; if "
    "they disagree, the directory is listed again, and a server that still contradicts itself is `EIO`."
)
def test_an_implausible_size_is_checked_in_a_new_listing(world: World) -> None:
    """A file that was replaced since it was listed agrees with the new listing."""
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
    "A size is accepted only if it is within one unit of the last digit that the directory's listing shows; if "
    "they disagree, the directory is listed again, and a server that still contradicts itself is `EIO`."
)
def test_a_size_that_contradicts_the_listing_is_an_error(world: World) -> None:
    """A size that a new listing contradicts too raises Unavailable, and nothing of it is stored."""
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
    """An origin with one server that does not know a file yet."""

    lags = 1

    def measure(self, path: str, *, deadline: float = NEVER, token: CancelToken | None = None) -> File:
        """See `Origin.measure`."""
        found = super().measure(path, deadline=deadline, token=token)
        if len(self.measured) <= self.lags:
            raise NotFound(path)
        return found


def test_a_listed_file_is_requested_again_after_not_found(world: World) -> None:
    """A listed file that one server does not know is requested once more, as servers lag."""
    world.origin = Lagging(world.origin.files)
    world.tree = world.opened()
    assert world.tree.stat(A) == world.origin.file(A)
    assert world.origin.measured == [A, A]


@pytest.mark.promise(
    "`ENOENT` means that the server answered 404 or 410 for exactly this name; for a listed one, twice."
)
def test_a_listed_file_that_is_twice_not_found_is_removed(world: World) -> None:
    """After two NotFound a listed file is absent, and its name is removed."""
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
def test_an_invalid_path_is_not_found(world: World, path: str) -> None:
    """A path with dots is NotFound without a request, as the HTTP library would resolve them."""
    with pytest.raises(NotFound):
        world.tree.stat(path)
    with pytest.raises(NotFound):
        world.tree.listdir(path)
    assert not world.origin.diary
    assert not world.listing.diary
