"""Whatever is read, changed, lost, killed and broken, in whatever order: what SEMANTICS.md promises, nothing else.

Hypothesis makes up the story; `knowledge` is what an archive may know of the tree by then, and the bytes are those
of one version. The archive lives in a process of its own, with a real server (`served`), and is killed at times.
"""

import os
import random
import shutil
import tempfile
import threading
from calendar import timegm
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import strptime
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from support import cache_files
from support.fakes import noise
from support.model.hosts import Forks, Host, settings_of
from support.model.knowledge import DAY, HOUR, Knowledge, Name
from support.model.server import MISFORTUNES, Begun, Event, Listed, Measured, Missed, Served, Version
from support.mounting import eventually

from empiarfs.errors import ArchiveError, IsADirectory, NotFound, Stale, Unavailable
from empiarfs.model import Directory, File, Node, Stub, parent_path

pytestmark = pytest.mark.slow  # waits on purpose, or repeats for long

BLOCK = 4096
MEMORY = 256 * 1024
DISK = 120_000
CONNECTIONS = 4
SLACK = 128 * 1024  # a chunk that was just stored: all of a file
FEWEST = 4  # files that are always there
SHORT_PATIENCE = 0.05

DIRECTORIES = ("10028", "10028/a", "10028/b", "10028/a/c")
SIZES = st.one_of(st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 97_001]), st.integers(0, 60_000))
NEW_SIZES = st.one_of(st.none(), SIZES)  # of a file that is replaced; None for as many bytes as before
NAMES = st.sampled_from(["0.mrc", "1.mrc", "2.mrc", "3.mrc", "4 %.mrc"])
PATHS = st.builds("{}/{}".format, st.sampled_from(DIRECTORIES), NAMES)
# of which handle, from which share of the file on, how much, and whether to begin with a block
READS = st.tuples(
    st.integers(0, 10**6),
    st.integers(0, 104),
    st.one_of(st.integers(1, 3 * BLOCK), st.just(BLOCK), st.just(200_000)),
    st.booleans(),
)
Read = tuple[int, int, int, bool]


@dataclass(frozen=True)
class Handle:
    """A file that was opened, and which version of it."""

    number: int
    path: str
    version: Version


class Model(RuleBasedStateMachine):
    """One story."""

    forks: Forks
    asks: dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="empiarfs-model-"))
        self.served = Served()
        for directory in DIRECTORIES[:3]:
            self.served.make(directory)
            for number in range(3):
                self.served.write(f"{directory}/{number}.mrc", noise(65_000 * number + 17, number))
        self.known = Knowledge()
        self.handles: list[Handle] = []
        self.now = 0.0  # how far ahead the clock of the wall is; what happens takes no time
        self.written = 0
        self.host = self.opened()
        for directory in DIRECTORIES[:2]:
            self.open_a_file(f"{directory}/2.mrc")

    def opened(self) -> Host:
        """Open the archive on the existing cache."""
        self.sent_before = self.served.sent
        chosen = settings_of(self.served.url, self.folder / "cache", cache_size=DISK, memory_cache_size=MEMORY)
        host = self.forks.host(chosen, self.now)
        if self.served.is_down:
            host.call("set_patience", SHORT_PATIENCE)
        return host

    def teardown(self) -> None:
        """Close, and check that nothing is left."""
        try:
            self.served.is_down = False
            self.host.close()
            assert not self.served.complaints, self.served.complaints
        finally:
            with suppress(ProcessLookupError, OSError):
                self.host.kill()
            self.served.server.stop()
            shutil.rmtree(self.folder, ignore_errors=True)

    def asked(self, command: str, *arguments: Any) -> tuple[Any, list[Event], Knowledge]:
        """Call the host; return the result, what the server sent meanwhile, and what was known before."""
        self.asks[command] = self.asks.get(command, 0) + 1
        before, said = self.known.copy(), len(self.served.diary)
        result: Any
        try:
            result = self.host.call(command, *arguments)
        except ArchiveError as error:
            result = error
        self.host.call("settle")
        events = self.served.diary[said:]
        # a listing behind the reader's back comes to be known before what he asked for, or after it
        listings = [event for event in events if isinstance(event, Listed)]
        others = [event for event in events if not isinstance(event, Listed)]
        late = self.known.copy()
        self.known.take_all(events, self.now)
        late.take_all([*others, *listings], self.now)
        self.known.add(late)
        self.see_still()
        return result, events, before

    def see_still(self) -> None:
        """Check that nothing is in flight, and that every limit was respected."""
        counters = self.host.call("counters")
        assert counters["surprises"] == []
        assert counters["flights"] == counters["in use"] == counters["waiting"] == 0, counters
        assert counters["open"] == counters["idle"] <= CONNECTIONS, counters
        assert counters["peak"] <= CONNECTIONS, counters
        assert counters["in memory"] <= MEMORY, counters
        assert counters["fetched"] <= self.served.sent - self.sent_before + counters["fetched"] * self.has_broken
        volume = cache_files.volume(self.folder / "cache")
        assert volume <= DISK + SLACK, f"{volume} bytes are kept on disk"

    has_broken = False  # whether replies were cut, whose bytes the server does not count

    # what a reader does

    @rule(directory=st.sampled_from([*DIRECTORIES, "10028/nowhere"]))
    def list_a_directory(self, directory: str) -> None:
        """A listing shows known names, and costs nothing for a day."""
        result, events, before = self.asked("entries", directory)
        is_known = before.is_listed(directory)
        if isinstance(result, ArchiveError):
            assert not is_known, f"it was listed before: {result}"
            match result:
                case NotFound():
                    assert directory not in self.served.directories
                case Unavailable():
                    assert self.served.is_down
                case _:
                    raise result
            return
        if before.is_fresh(directory, self.now):
            assert not any(isinstance(event, Listed) for event in events), "it was listed anew"
        shown: dict[str, Node] = {entry.path: entry for entry in result}
        assert len(shown) == len(result), "a name is shown twice"
        was_shown = before.scanned.get(directory, {None}) != {None}
        for path in shown.keys() | {path for path in self.known.names if parent_path(path) == directory}:
            may = self.known.of(path) | (before.of(path) if was_shown else frozenset())
            node = shown.get(path)
            assert any(shows(one, node) for one in may), f"{path}: {node} is shown, {may} is known"
            if before.of(path) == self.known.of(path):
                self.known.settle(path, partial(shows, entry=node))

    @rule(path=PATHS)
    def look_at_a_name(self, path: str) -> None:
        """A lookup gives the exact size, requested once, or NotFound where the server said so."""
        self.found("stat", path)

    @rule(path=PATHS)
    def open_a_file(self, path: str) -> None:
        """Opening gives the version that was measured last, or the current one."""
        result = self.found("open", path)
        if result is not None:
            number, file = result
            self.handles.append(Handle(number, path, self.version_of(file)))

    def found(self, command: str, path: str) -> Any:
        """Look up `path`; return the result, None for a clear and right refusal."""
        result, events, before = self.asked(command, path)
        file = result[1] if isinstance(result, tuple) else result
        relists = any(isinstance(event, Listed) and event.directory == parent_path(path) for event in events)
        was_measured = all(one is not None and one.version is not None for one in before.of(path))
        is_gone = before.of(path) == {None} and before.is_absent(path, self.now) and not relists
        match file:
            case File():
                assert not is_gone, "it was asked for twice in an hour"
                may = before.of(path) | self.known.of(path)
                versions = {one.version for one in may if one is not None}
                assert self.version_of(file) in versions, f"{file} is shown, {may} is known"
                self.known.settle(path, lambda one: one is None or one.version in {None, self.version_of(file)})
                if was_measured and not relists:
                    asked = [event for event in events if isinstance(event, Measured) and event.path == path]
                    assert not asked, f"{before.of(path)} was known, and asked for again"
            case NotFound():
                misses = events.count(Missed(path))
                is_noted = before.may_be_absent(path, self.now) and None in before.of(path)
                if is_gone:
                    assert not misses, "it was asked for twice in an hour"
                elif is_noted and not misses:
                    pass
                elif parent_path(path) in self.served.directories:
                    is_listed = all(one is not None for one in before.of(path)) and not relists
                    assert misses >= (2 if is_listed else 1), "nobody has said so"
                    self.known.gone(path, self.now, surely=not relists)
                return None
            case Unavailable():
                assert self.served.is_down
                assert not was_measured, f"it was measured before: {file}"
                return None
            case IsADirectory() | Directory():
                raise AssertionError(f"{file} is no directory")
            case ArchiveError():
                raise file
        return result

    def version_of(self, file: File) -> Version:
        """Return the version with this size and date, of all that the server ever had."""
        (found,) = (one for one in self.versions(file.path) if one.modified == file.modified)
        assert len(found.content) == file.size
        return found

    def versions(self, path: str) -> set[Version]:
        """Return all versions of `path` that were ever measured or exist."""
        measured = {
            event.version
            for event in self.served.diary
            if isinstance(event, Measured | Begun) and event.path == path
        }
        return {one for one in (*measured, self.served.files.get(path)) if one is not None}

    def wanted(self, read: Read) -> tuple[Handle, int, int]:
        """Return the handle, offset and size of a read."""
        choice, share, size, aligned = read
        handle = self.chosen(choice)
        offset = len(handle.version.content) * share // 100
        return handle, offset // BLOCK * BLOCK if aligned else offset, size

    @rule(read=READS)
    def read_a_part(self, read: Read) -> None:
        """A read gives the bytes of its version, or a clear error."""
        handle, offset, size = self.wanted(read)
        result, _, _ = self.asked("read", handle.number, offset, size)
        self.see_right(handle, offset, size, result, {self.served.files.get(handle.path)})

    @rule(reads=st.lists(READS, min_size=2, max_size=8))
    def read_parts_at_once(self, reads: list[Read]) -> None:
        """The same holds for many threads, of one file or several."""
        asked = [self.wanted(read) for read in reads]
        results, _, _ = self.asked("read_at_once", [(one.number, offset, size) for one, offset, size in asked])
        for (handle, offset, size), result in zip(asked, results, strict=True):
            self.see_right(handle, offset, size, result, {self.served.files.get(handle.path)})

    @rule(choice=st.integers(0, 10**6), step=st.sampled_from([BLOCK, 5000, 20_000]))
    def read_sequentially(self, choice: int, step: int) -> None:
        """The same holds from the start to the end, as `cp` reads."""
        self.read_all_of(self.chosen(choice), step)

    def read_all_of(self, handle: Handle, step: int = 100_000) -> None:
        """Read a file to its end, or to the first error."""
        for offset in range(0, len(handle.version.content) + step, step):
            result, _, _ = self.asked("read", handle.number, offset, step)
            self.see_right(handle, offset, step, result, {self.served.files.get(handle.path)})
            if isinstance(result, ArchiveError):
                break

    def read_all(self) -> None:
        """Read all that is open."""
        for handle in list(self.handles):
            self.read_all_of(handle)

    @rule(read=READS, misfortunes=st.lists(st.sampled_from(MISFORTUNES), min_size=1, max_size=4))
    def read_while_requests_go_wrong(self, read: Read, misfortunes: list[str]) -> None:
        """A read of what is not cached succeeds while requests fail and are retried."""
        handle, offset, size = self.wanted(read)
        self.host.call("forget")
        self.host.call("shrink", 0)
        self.requests_will_go_wrong(misfortunes)
        result, _, _ = self.asked("read", handle.number, offset, size)
        self.see_right(handle, offset, size, result, {self.served.files.get(handle.path)})

    @rule(read=READS, size=NEW_SIZES)
    def read_while_it_changes(self, read: Read, size: int | None) -> None:
        """A file that is replaced in the middle of a read is never mixed."""
        handle, offset, length = self.wanted(read)
        size = len(handle.version.content) if size is None else size
        before = self.served.files.get(handle.path)
        self.served.before_next_part = lambda: self.written_anew(handle.path, size)
        result, _, _ = self.asked("read", handle.number, offset, length)
        self.served.before_next_part = None
        self.see_right(handle, offset, length, result, {before, self.served.files.get(handle.path)})

    @rule(choice=st.integers(0, 10**6), size=NEW_SIZES, kept=st.booleans())
    def read_on_after_it_has_changed(self, choice: int, size: int | None, kept: bool) -> None:
        """The old handle gives old bytes or an error, a new one new bytes, from any cache."""
        handle = self.chosen(choice)
        self.read_all_of(handle)
        self.written_anew(handle.path, len(handle.version.content) if size is None else size)
        self.host.call("forget")
        if not kept:
            self.host.call("shrink", 0)
        self.read_all_of(handle)
        self.open_a_file(handle.path)
        self.read_all()

    def chosen(self, choice: int) -> Handle:
        """Return one of the handles, or a new one where there is none and the server answers."""
        if not self.handles:
            self.the_server_comes_back()
            self.written_anew("10028/0.mrc", 5 * BLOCK)
            self.now += DAY + 60  # so that it is known
            self.host.call("set_ahead", self.now)
            self.open_a_file("10028/0.mrc")
        return self.handles[choice % len(self.handles)]

    def see_right(
        self, handle: Handle, offset: int, size: int, result: bytes | ArchiveError, there: set[Version | None]
    ) -> None:
        """Check that `result` is what a read may give while the server had the versions `there`."""
        match result:
            case bytes():
                assert result == handle.version.content[offset : offset + size], "wrong bytes"
            case Stale():
                assert there - {handle.version}, f"it has not changed: {result}"
                self.known.changed(handle.path, handle.version)
            case NotFound():
                assert None in there, f"it is there: {result}"
            case Unavailable():
                assert self.served.is_down, f"the server answers: {result}"
            case _:
                raise result

    @rule(choice=st.integers(0, 10**6))
    def close_a_file(self, choice: int) -> None:
        """A handle is closed."""
        handle = self.chosen(choice)
        self.handles.remove(handle)
        self.asked("release", handle.number)

    # what the server does

    @rule(path=PATHS, size=SIZES)
    def a_file_is_written(self, path: str, size: int) -> None:
        """A file is new, replaced, grown or shrunk."""
        self.written_anew(path, size)

    @rule(choice=st.integers(0, 10**6))
    def a_file_is_replaced_by_as_many_bytes(self, choice: int) -> None:
        """A new version differs by its date alone."""
        path = sorted(self.served.files)[choice % len(self.served.files)]
        self.written_anew(path, len(self.served.files[path].content))

    def written_anew(self, path: str, size: int) -> None:
        """Write new bytes."""
        self.written += 1
        self.served.write(path, noise(size, 1000 + self.written))

    @rule(choice=st.integers(0, 10**6))
    def a_file_is_removed(self, choice: int) -> None:
        """One file is removed."""
        if len(self.served.files) > FEWEST:
            self.served.remove(sorted(self.served.files)[choice % len(self.served.files)])

    @rule(path=PATHS, seconds=st.sampled_from([60.0, HOUR + 60]))
    def a_file_comes_after_it_was_missed(self, path: str, seconds: float) -> None:
        """A file that was missing is found an hour later."""
        self.found("stat", path)
        if path not in self.served.files:
            self.written_anew(path, 3 * BLOCK)
        self.time_passes(seconds)
        self.found("stat", path)

    @rule(directory=st.sampled_from(DIRECTORIES[:3]), misfortune=st.sampled_from([*MISFORTUNES, "down"]))
    def old_listings_while_requests_go_wrong(self, directory: str, misfortune: str) -> None:
        """A known listing is shown at once, and no failing refresh removes anything."""
        for _ in range(3):
            self.list_a_directory(directory)
            self.time_passes(DAY + 60)
            if misfortune == "down":
                self.the_server_goes_down()
            else:
                self.requests_will_go_wrong([misfortune])
        self.list_a_directory(directory)
        self.the_server_comes_back()

    @rule(path=PATHS, misfortunes=st.lists(st.just("404"), min_size=1, max_size=2))
    def one_of_two_servers_lacks_a_file(self, path: str, misfortunes: list[str]) -> None:
        """A listed name is absent after two misses, or it exists."""
        self.requests_will_go_wrong(misfortunes)
        self.found("stat", path)

    @rule(misfortunes=st.lists(st.sampled_from(MISFORTUNES), min_size=1, max_size=3))
    def requests_will_go_wrong(self, misfortunes: list[str]) -> None:
        """The next few requests fail."""
        self.has_broken = True
        self.served.misfortunes.extend(misfortunes)

    @rule()
    def the_server_goes_down(self) -> None:
        """The server refuses connections."""
        self.served.is_down = True
        self.host.call("set_patience", SHORT_PATIENCE)

    @rule()
    def the_server_comes_back(self) -> None:
        """The server answers again."""
        self.served.is_down = False
        self.served.misfortunes.clear()
        self.host.call("set_patience", 30.0)

    @rule(seconds=st.sampled_from([HOUR / 2, HOUR + 60, DAY + 60]))
    def time_passes(self, seconds: float) -> None:
        """Listings and absences get stale."""
        self.now += seconds
        self.host.call("set_ahead", self.now)

    # what the machine does

    @rule()
    def memory_is_lost(self) -> None:
        """Recent blocks are on disk alone."""
        self.host.call("forget")

    @rule(most=st.sampled_from([0, 100_000, 200_000]))
    def the_cache_shrinks(self, most: int) -> None:
        """Blocks are evicted."""
        self.host.call("shrink", most)

    @rule(seed=st.integers(0, 10**6), harm=st.sampled_from(["flip", "cut", "empty", "swap", "lose"]))
    def the_disk_fails(self, seed: int, harm: str) -> None:
        """Files of the cache are damaged."""
        chance = random.Random(seed)
        whole = [file for file in cache_files.chunks(self.folder / "cache") if file.stat().st_size]
        for file in whole:
            content = bytearray(file.read_bytes())
            match harm:
                case "flip":
                    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
                    file.write_bytes(content)
                case "cut":
                    os.truncate(file, len(content) // 2)
                case "empty":
                    os.truncate(file, 0)
                case "swap":  # with one that is as long, if there is one
                    alike = [one for one in whole if one.stat().st_size == len(content) and one != file]
                    other = chance.choice(alike or whole)
                    file.write_bytes(other.read_bytes())
                    other.write_bytes(content)
                case "lose":
                    file.unlink()
        self.host.call("forget")
        self.read_all()

    @rule()
    def it_is_mounted_anew(self) -> None:
        """The archive is reopened, and open files are lost."""
        self.host.close()
        self.see_server_idle()
        self.come_again()

    @rule(read=READS, path=PATHS, what=st.sampled_from(["read", "stat", "entries", "nothing"]), wait=st.booleans())
    def it_is_killed(self, read: Read, path: str, what: str, wait: bool) -> None:
        """The process is killed in the middle of a request, whose result may be stored or not."""
        handle, offset, size = self.wanted(read)
        said = len(self.served.diary)
        if what == "read":
            self.host.begin("read", handle.number, offset, size)
        elif what == "stat":
            self.host.begin("stat", path)
        elif what == "entries":
            self.host.begin("entries", parent_path(path))
        if wait and what != "nothing":  # until it has begun, on most machines
            threading.Event().wait(0.001 * (read[0] % 8))
        self.host.kill()
        self.see_server_idle()
        for event in self.served.diary[said:]:
            self.known.take(event, self.now, surely=False)
            if isinstance(event, Missed):
                self.known.gone(event.path, self.now, surely=False)
        self.come_again()

    def come_again(self) -> None:
        """Reopen the archive and the files that were open."""
        paths = {handle.path for handle in self.handles}
        self.handles.clear()
        self.host = self.opened()
        for path in sorted(paths):
            self.open_a_file(path)
        self.read_all()

    def see_server_idle(self) -> None:
        """Wait until the server has no connection, so that later replies belong to the past."""
        eventually(lambda: not any(one.is_alive() for one in self.served.server._threads[1:]), "the server idles")


def shows(known: Name | None, entry: Node | None) -> bool:
    """Return whether a listing that knows this of a name shows this."""
    match entry:
        case None:
            return known is None
        case Directory():
            return known is not None and known.stamp is None
        case File():
            version = known.version if known is not None else None
            return version is not None and (len(version.content), version.modified) == (entry.size, entry.modified)
        case Stub():
            date = timegm(strptime(entry.listed_date, "%Y-%m-%d %H:%M")) // 60 if entry.listed_date else ""
            stamp = f"{entry.listed_size.strip()} {date}".strip()
            return known is not None and known.version is None and known.stamp == stamp


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Makes processes with archives."""
    made = Forks()
    yield made
    made.close()


def summary(counts: dict[str, int]) -> str:
    """Return how often each thing was requested."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


@pytest.mark.timeout(0)
def test_every_story_ends_well(
    forks: Forks, capsys: pytest.CaptureFixture[str], how_long: Callable[..., int]
) -> None:
    """Any sequence of reads, changes, faults and kills gives bytes of one version or a clear error."""
    Model.forks, Model.asks = forks, {}
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=how_long(20, 400),
            stateful_step_count=how_long(30, 50),
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    with capsys.disabled():
        print(f"\nmodel: {summary(Model.asks)}")  # noqa: T201 - how much the long run has done
