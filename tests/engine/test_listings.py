"""Listings are requested once, cached, refreshed in the background, and not lost while a server is away."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.fakes import MODIFIED, SOON, Barrier, noise, stub
from trees import DATA, FRESH, A, B, World, opened_world

from empiarfs.errors import ArchiveError, Forbidden, NotFound, Unavailable
from empiarfs.model import Directory, File, Node


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Return a world without any request so far."""
    with opened_world(tmp_path) as made:
        yield made


@pytest.mark.promise("`ls` costs one request for a directory that is not known, none for one that is.")
def test_a_directory_is_listed_once(world: World) -> None:
    """A second listing of a directory takes no request, in the next run too."""
    assert world.listed() == ["a.mrc", "b.mrc"]
    assert world.listed() == ["a.mrc", "b.mrc"]
    world.tree = world.opened()
    assert world.listed() == ["a.mrc", "b.mrc"]
    assert world.listing.diary == [DATA]


def test_many_threads_make_one_scan(world: World) -> None:
    """Threads that list the same directory at once share one request."""
    world.listing.barrier = Barrier(0)
    with ThreadPoolExecutor(9) as pool:
        looks = [pool.submit(world.listed) for _ in range(8)]
        world.listing.barrier.wait_reached()
        world.listing.barrier.lift()
        assert [look.result(SOON) for look in looks] == [["a.mrc", "b.mrc"]] * 8
    assert world.listing.diary == [DATA]


def test_a_fresh_listing_is_not_refreshed(world: World) -> None:
    """A listing younger than `listing_ttl` is not refreshed."""
    world.listed()
    world.clock.go_on(FRESH - 1)
    world.listed()
    world.tree.stat(A)
    assert world.later == []


def test_an_old_listing_is_shown_at_once_and_refreshed_in_the_background(world: World) -> None:
    """A caller gets the old listing without waiting, and the new one after the refresh."""
    world.listed()
    world.clock.go_on(FRESH + 1)
    world.listing.children[DATA].append(stub(f"{DATA}/c.mrc"))
    assert world.listed() == ["a.mrc", "b.mrc"]
    assert world.listing.diary == [DATA]
    assert world.run_later() == 1
    assert world.listed() == ["a.mrc", "b.mrc", "c.mrc"]
    assert world.later == []


def test_an_old_listing_of_the_last_run_is_refreshed_too(world: World) -> None:
    """A listing from the index ages as well."""
    world.listed()
    world.clock.go_on(FRESH + 1)
    world.tree = world.opened()
    assert world.listed() == ["a.mrc", "b.mrc"]
    assert len(world.later) == 1


def test_a_refresh_is_not_tried_more_often_than_once_a_minute(world: World) -> None:
    """A hundred uses of an old listing are one attempt, and one more after a minute."""
    world.listed()
    world.clock.go_on(FRESH + 1)
    world.listing.refusals[DATA] = Unavailable(DATA)
    for _ in range(100):
        world.listed()
    assert world.run_later() == 1
    world.clock.go_on(59)
    world.listed()
    assert world.run_later() == 0
    world.clock.go_on(2)
    world.listed()
    assert world.run_later() == 1


@pytest.mark.promise(
    "An unreachable server is never `ENOENT`, and never an empty directory: what was listed before stays listed."
)
@pytest.mark.parametrize("error", [Unavailable(DATA, "away"), NotFound(DATA), Forbidden(DATA)])
def test_a_failing_refresh_leaves_the_old_listing(
    world: World, error: ArchiveError, caplog: pytest.LogCaptureFixture
) -> None:
    """While the server is unreachable, listed names and measured sizes stay, and that is logged once."""
    world.listed()
    world.tree.stat(A)
    world.clock.go_on(FRESH + 1)
    world.listing.refusals[DATA] = error
    world.listed()
    with caplog.at_level(logging.WARNING):
        world.run_later()
    assert world.listed() == ["a.mrc", "b.mrc"]
    assert world.tree.stat(A) == world.origin.file(A)
    assert len(caplog.records) == 1
    caplog.clear()


def test_a_listing_recovers_by_itself(world: World) -> None:
    """Once the server is back, the next attempt shows the new listing."""
    world.listed()
    world.clock.go_on(FRESH + 1)
    world.listing.refusals[DATA] = Unavailable(DATA)
    world.listed()
    world.run_later()
    world.listing.refusals.clear()
    world.listing.children[DATA].append(stub(f"{DATA}/c.mrc"))
    world.clock.go_on(61)
    world.listed()
    world.run_later()
    assert "c.mrc" in world.listed()


@pytest.mark.parametrize("jump", [-1.0, -3600.0, -86_400.0 * 3650, 86_400.0 * 3650])
def test_a_clock_that_is_set_makes_no_listing_eternal(world: World, jump: float) -> None:
    """A listing with a time in the future is refreshed soon after the clock was set."""
    world.listed()
    world.clock.go_on(jump)
    world.listing.children[DATA].append(stub(f"{DATA}/c.mrc"))
    assert world.listed() == ["a.mrc", "b.mrc"]
    assert world.run_later() == 1
    assert world.listed() == ["a.mrc", "b.mrc", "c.mrc"]
    assert world.later == []


@pytest.mark.parametrize("jump", [-FRESH - 60.0, -86_400.0 * 3650])
def test_a_clock_that_is_set_back_holds_no_refresh_up(world: World, jump: float) -> None:
    """The pause between two attempts is a minute by the new clock too."""
    world.listed()
    world.clock.go_on(FRESH + 1)
    world.listing.refusals[DATA] = Unavailable(DATA)
    world.listed()
    world.run_later()
    world.clock.go_on(jump)
    world.listed()
    assert world.run_later() == 1


@pytest.mark.parametrize("jump", [-1.0, -86_400.0 * 3650, 86_400.0])
def test_a_clock_that_is_set_makes_nothing_absent_or_closed_for_ever(world: World, jump: float) -> None:
    """An absent name and a forbidden directory with a time in the future are requested again."""
    world.listing.refusals["10934"] = Forbidden("10934")
    with pytest.raises(Forbidden):
        world.listings.known("10934")
    world.listings.mark_absent(f"{DATA}/new")
    assert world.listings.is_absent(f"{DATA}/new")
    world.clock.go_on(jump)
    world.listing.refusals.clear()
    assert not world.listings.is_absent(f"{DATA}/new")
    assert world.listed("10934") == []


def refreshed(world: World, *entries: Node) -> list[str]:
    """Let a day pass and `DATA` be listed as `entries`; return the names shown then."""
    world.listing.children[DATA] = list(entries)
    world.clock.go_on(FRESH + 1)
    world.listed()
    assert world.run_later() == 1
    return world.listed()


def test_a_name_is_removed_after_two_listings_without_it(world: World) -> None:
    """One listing that lacks a name does not remove it; two consecutive ones do."""
    world.listed()
    assert refreshed(world, stub(A)) == ["a.mrc", "b.mrc"]
    assert refreshed(world, stub(A)) == ["a.mrc"]


def test_only_consecutive_listings_remove_a_name(world: World) -> None:
    """A listing with the name resets the count of listings without it."""
    world.listed()
    refreshed(world, stub(A))
    refreshed(world, stub(A), stub(B))
    assert refreshed(world, stub(A)) == ["a.mrc", "b.mrc"]


def test_a_refresh_keeps_what_was_measured(world: World) -> None:
    """A file with the same listed size and date is not measured again."""
    world.listed()
    world.tree.stat(A)
    refreshed(world, stub(A), stub(B))
    assert world.tree.stat(A) == world.origin.file(A)
    assert world.origin.measured == [A]


@pytest.mark.promise("`stat` and `open` cost one request for a file, ever (until its listed size or date changes).")
def test_a_file_with_another_listing_is_measured_again(world: World) -> None:
    """Another listed size or date is another file."""
    world.listed()
    world.tree.stat(A)
    world.origin.files[A] = noise(5000)
    refreshed(world, stub(A, "4.9K", "2025-05-05 05:05"), stub(B))
    assert world.tree.stat(A) == File(A, 5000, world.origin.modified)


def test_a_directory_without_listing_is_forbidden(world: World) -> None:
    """HTTP 403 for a listing raises Forbidden."""
    world.listing.refusals[DATA] = Forbidden(DATA)
    with pytest.raises(Forbidden):
        world.listings.known(DATA)


def test_an_exact_date_is_stored(world: World) -> None:
    """A file that stays the same version gets its exact date, in the next run too."""
    world.listed()
    file = world.tree.stat(A)
    assert isinstance(file, File)
    world.listings.record_date(file, MODIFIED + 37)
    world.run_later()
    for _ in range(2):
        dated = world.tree.stat(A)
        assert isinstance(dated, File)
        assert (dated, dated.mtime) == (file, MODIFIED + 37)
        world.tree = world.opened()


def test_the_exact_date_of_a_file_that_has_changed_is_dropped(world: World) -> None:
    """A file that has changed before its exact date is stored stays unmeasured, in the next run too."""
    world.listed()
    file = world.tree.stat(A)
    assert isinstance(file, File)
    world.listings.record_date(file, MODIFIED + 37)
    world.listings.mark_changed(file)
    world.run_later()
    assert world.listings.node(A) == stub(A)
    world.tree = world.opened()
    assert world.listings.node(A) == stub(A)


def test_a_change_is_not_lost_while_an_exact_date_is_stored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is found to have changed while its exact date is stored is unmeasured after that."""
    world.listed()
    file = world.tree.stat(A)
    assert isinstance(file, File)
    changing = threading.Thread(target=world.listings.mark_changed, args=[file])
    add = world.index.add

    def overtaken(node: File | Directory) -> None:
        changing.start()
        changing.join(0.05)
        add(node)

    monkeypatch.setattr(world.index, "add", overtaken)
    world.listings.record_date(file, MODIFIED + 37)
    world.run_later()
    changing.join(SOON)
    assert world.listings.node(A) == stub(A)
    world.tree = world.opened()
    assert world.listings.node(A) == stub(A)
