"""The next files of a program that steps through a directory are measured in batches, which never delay it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.fakes import SOON, Barrier, noise, stub
from support.mounting import eventually
from trees import DATA, FakeBatches, World, opened_world

from empiarfs.engine import sequence, size_batches
from empiarfs.engine.size_batches import BATCH
from empiarfs.errors import ArchiveError, Closed, Throttled, Unavailable
from empiarfs.model import File, Stub

COUNT = 3 * BATCH


@pytest.fixture(params=[1])
def shares(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of batches at least; one, but where a test says otherwise."""
    monkeypatch.setattr(size_batches, "SHARES", request.param)
    return int(request.param)


@pytest.fixture
def world(tmp_path: Path, shares: int) -> Iterator[World]:
    """A world with a source of batches and a directory of many files, of which two were just used in order."""
    with opened_world(tmp_path) as made:
        paths = [f"{DATA}/m{number:04}.mrc" for number in range(COUNT)]
        made.listing.children[DATA] = [stub(path) for path in paths]
        made.origin.files = made.ahead.files = {path: noise(1000 + number) for number, path in enumerate(paths)}
        made.batched = FakeBatches(made.origin)
        made.tree = made.opened()
        yield made


@pytest.fixture
def paths(world: World) -> list[str]:
    """The files; the first two were just used in order."""
    found = [node.path for node in world.tree.listdir(DATA)]
    for path in found[:2]:
        world.tree.stat(path)
    return found


@pytest.fixture
def batches(world: World) -> FakeBatches:
    """The source of batches."""
    assert world.batched is not None
    return world.batched


def run(world: World) -> None:
    """Run the queued tasks, and those that they queue."""
    while world.ahead_tasks:
        world.ahead_tasks.pop(0)()


@pytest.mark.parametrize("shares", [1, 3, 8, 100], indirect=True)
def test_few_files_are_shared_among_the_connections(
    world: World, batches: FakeBatches, paths: list[str], shares: int
) -> None:
    """Fifty files are as many batches as there are connections, so that a slow server works on all at once."""
    run(world)
    assert [path for batch in batches.diary for path in batch] == paths[2 : 2 + BATCH]
    assert len(batches.diary) == min(shares, -(-BATCH // size_batches.FEWEST))


@pytest.mark.promise(
    "A program that looks files up in the order of their directory gets the next sizes ahead, of at most 2,000 "
    "files (64 if it reads each): from one FTP list of the directory, else from requests that are sent together, "
    "up to 50 over one connection, else from single ones."
)
def test_the_next_files_are_measured_in_a_batch(world: World, batches: FakeBatches, paths: list[str]) -> None:
    """After two files in order the next ones are measured together, and need no request of their own."""
    run(world)
    assert batches.diary == [paths[2 : 2 + BATCH]]
    assert [world.tree.stat(path) for path in paths] == [world.origin.file(path) for path in paths]
    assert world.ahead.measured == []


def test_a_program_that_goes_on_gets_the_rest_in_large_batches(
    world: World, batches: FakeBatches, paths: list[str]
) -> None:
    """Each further file opens the window more, so that all connections are in use; each file is measured once."""
    run(world)
    for path in paths[2:]:
        world.tree.stat(path)
        run(world)
    assert len(batches.diary) == 3
    assert [path for batch in batches.diary for path in batch] == paths[2:]
    assert world.origin.measured == paths[:2]


def test_a_program_that_reads_each_file_gets_few_sizes_ahead(
    world: World, batches: FakeBatches, paths: list[str]
) -> None:
    """Sizes come in batches, but not far ahead of a program that reads file by file."""
    run(world)
    for number, path in enumerate(paths[2:], 2):
        before = len(batches.diary)
        world.tree.next_after(paths[number - 1], use="read")
        world.tree.stat(path)
        run(world)
        assert all(paths.index(one) <= number + 64 for batch in batches.diary[before:] for one in batch)
    assert world.origin.measured == paths[:2]


def test_batched_sizes_are_stored(world: World, paths: list[str]) -> None:
    """The next run of the program knows them."""
    run(world)
    world.tree = world.opened()
    assert world.tree.stat(paths[2]) == world.origin.file(paths[2])
    assert world.origin.measured == paths[:2]


def test_files_that_are_opened_in_order_come_with_their_first_bytes(
    world: World, batches: FakeBatches, paths: list[str]
) -> None:
    """A program that opens file by file gets single requests, which bring the first bytes."""
    world.ahead_tasks.clear()
    world.tree.stat(paths[2], head=10)
    world.tree.stat(paths[3], head=10)
    run(world)
    assert batches.diary == []


def test_without_batches_files_are_measured_one_by_one(
    world: World, batches: FakeBatches, paths: list[str]
) -> None:
    """Where batches are not usable any more, the files of one are measured by single requests."""
    batches.is_in_use = False
    run(world)
    assert batches.diary == []
    assert world.ahead.measured == paths[2 : 2 + BATCH]


def test_fewer_files_are_measured_ahead_one_by_one(world: World, batches: FakeBatches) -> None:
    """Where batches were never usable, the window is that of single requests."""
    batches.is_in_use = False
    for node in world.tree.listdir(DATA)[:2]:
        world.tree.stat(node.path)
    assert len(world.ahead_tasks) == sequence.SINGLE.first


def test_a_file_that_a_batch_leaves_out_is_measured_alone(
    world: World, batches: FakeBatches, paths: list[str]
) -> None:
    """What was not answered is measured ahead by a request of its own."""
    batches.unanswered = {paths[5]}
    run(world)
    assert world.ahead.measured == [paths[5]]
    assert world.tree.stat(paths[5]) == world.origin.file(paths[5])


@pytest.mark.parametrize("error", [Unavailable(DATA), Closed(DATA)])
def test_the_files_before_an_error_are_stored(
    world: World, batches: FakeBatches, paths: list[str], error: ArchiveError
) -> None:
    """What came before an error counts; the rest is measured by single requests, and no claim is left."""
    batches.unanswered = set(paths[10:])
    batches.error = error
    with pytest.raises(type(error)):
        world.ahead_tasks.pop(0)()
    run(world)
    assert world.ahead.measured == paths[10 : 2 + BATCH]
    assert [world.tree.stat(path) for path in paths[:12]] == [world.origin.file(path) for path in paths[:12]]


def test_a_server_that_throttles_a_batch_gets_fewer_requests(
    world: World, batches: FakeBatches, paths: list[str]
) -> None:
    """The limiter learns of it as from a single request."""
    batches.unanswered = set(paths)
    batches.error = Throttled(DATA, "busy", 7.0)
    with pytest.raises(Throttled):
        world.ahead_tasks.pop(0)()
    assert world.limiter.allowed == 5
    assert world.limiter.pause() > 6


def test_a_batch_holds_a_connection_for_prefetch(world: World, batches: FakeBatches, paths: list[str]) -> None:
    """A batch counts as one prefetch while it lasts, and holds nothing afterwards."""
    seen: list[int] = []
    batches.meanwhile = lambda: seen.append(world.limiter.busy)
    run(world)
    assert paths
    assert seen == [1]
    assert world.limiter.busy == 0


def test_a_program_joins_a_batch(world: World, batches: FakeBatches, paths: list[str]) -> None:
    """A program that needs a file of a batch in flight gets its answer, without a request of its own."""
    batches.barrier = Barrier(0)
    with ThreadPoolExecutor(2) as pool:
        ahead = pool.submit(world.ahead_tasks.pop(0))
        batches.barrier.wait_reached()
        before = world.waits
        waiting = pool.submit(world.tree.stat, paths[2])
        eventually(lambda: world.waits > before, "the program waits")
        batches.barrier.lift()
        begun = time.monotonic()
        assert waiting.result(SOON) == world.origin.file(paths[2])
        assert time.monotonic() - begun < SOON / 8
        ahead.result(SOON)
    assert world.origin.measured == paths[:2]


@pytest.mark.promise(
    "A program does not wait for a batch of requests that is silent for unusually long: it sends one of its own."
)
def test_a_program_does_not_wait_for_a_silent_batch(world: World, batches: FakeBatches, paths: list[str]) -> None:
    """When a batch is silent for long, a program that needs one of its files sends a request of its own."""
    world.second = 0.01
    batches.barrier = Barrier(0)
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(world.ahead_tasks.pop(0))
        batches.barrier.wait_reached()
        assert [world.tree.stat(path) for path in paths[2:4]] == [world.origin.file(path) for path in paths[2:4]]
        assert world.origin.measured == paths[:4]
        batches.barrier.lift()
        ahead.result(SOON)
    assert world.tree.stat(paths[9]) == world.origin.file(paths[9])
    assert world.origin.measured == paths[:4]


def test_a_batch_that_goes_on_elsewhere_is_waited_for_again(
    world: World, batches: FakeBatches, paths: list[str]
) -> None:
    """After a part of a batch the rest is claimed again, so that a program does not request file by file."""
    world.second = 0.01
    second = Barrier(0)

    def in_two_parts(_directory: str, stubs: list[Stub]) -> Iterator[list[File]]:
        world.tree.stat(paths[2])  # waits for nothing: it claims the file itself once the batch is late
        yield []
        second.passed()
        yield [world.origin.file(one.path) for one in stubs]

    batches.measure_batch = in_two_parts  # type: ignore[method-assign,assignment]
    with ThreadPoolExecutor(2) as pool:
        ahead = pool.submit(world.ahead_tasks.pop(0))
        second.wait_reached()
        world.second = SOON
        before = world.waits
        waiting = pool.submit(world.tree.stat, paths[3])
        eventually(lambda: world.waits > before, "the program waits")
        second.lift()
        assert waiting.result(SOON) == world.origin.file(paths[3])
        ahead.result(SOON)
    assert world.origin.measured == paths[:3]


def test_a_file_in_flight_is_not_part_of_a_batch(world: World, batches: FakeBatches, paths: list[str]) -> None:
    """A file that a program is measuring, or has measured, is not requested again."""
    world.tree.stat(paths[3])
    barrier = world.origin.held()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(world.tree.stat, paths[7])
        barrier.wait_reached()
        world.ahead_tasks[0]()
        barrier.lift()
        assert waiting.result(SOON) == world.origin.file(paths[7])
    assert batches.diary[0] == [path for path in paths[2 : 2 + BATCH] if path not in {paths[3], paths[7]}]


def test_a_file_that_was_listed_otherwise_meanwhile_is_not_stored(
    world: World, batches: FakeBatches, paths: list[str]
) -> None:
    """A size that agrees with an older listing does not count for a newer one."""

    def list_again() -> None:
        world.listing.children[DATA] = [stub(path, size="2.0K") for path in paths]
        world.listings.rescan(DATA)

    batches.meanwhile = list_again
    world.ahead_tasks.pop(0)()
    assert all(isinstance(world.listings.node(path), Stub) for path in paths[2:])


def test_nothing_is_claimed_while_a_batch_waits_for_a_connection(
    world: World, batches: FakeBatches, paths: list[str]
) -> None:
    """A program never waits for a batch that has no connection yet."""
    with ThreadPoolExecutor(9) as pool:
        held = Barrier(0)

        def hold() -> None:
            with world.limiter.prefetch():
                held.passed()

        holding = [pool.submit(hold) for _ in range(8)]
        held.wait_reached(8)
        ahead = pool.submit(world.ahead_tasks.pop(0))
        assert world.tree.stat(paths[2]) == world.origin.file(paths[2])
        assert not ahead.done()
        held.lift()
        ahead.result(SOON)
        for one in holding:
            one.result(SOON)
    assert paths[2] not in batches.diary[0]
