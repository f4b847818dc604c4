"""The contract of every block store."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from support.cache_files import get, put
from support.fakes import BrokenStore, MemoryStore, at_once, noise

from empiarfs import wire
from empiarfs.model import Block, File
from empiarfs.ports import BlockStore
from empiarfs.storage.disk import DiskStore
from empiarfs.units import MIB

FILE = File("10028/data/a.mrc", 10_000, 5)


@pytest.fixture(params=["disk", "memory"])
def keeping(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlockStore]:
    """Return every store that stores blocks, empty."""
    if request.param == "memory":
        yield MemoryStore()
        return
    with closing(DiskStore(tmp_path / "blocks", 50 * MIB, archive="a", block_bytes=1000)) as store:
        yield store


@pytest.fixture(params=["disk", "memory", "broken", "none"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlockStore]:
    """Return every store, empty."""
    match request.param:
        case "memory":
            yield MemoryStore()
        case "broken":
            yield BrokenStore()
        case "none":
            yield wire._NoStore()
        case _:
            with closing(DiskStore(tmp_path / "blocks", 50 * MIB, archive="a", block_bytes=1000)) as store:
                yield store


def test_a_block_that_was_never_put_is_missing(store: BlockStore) -> None:
    """A block that was never put is not returned."""
    assert get(store, Block(FILE, 0)) is None


def test_a_block_is_returned_unchanged_or_missing(store: BlockStore) -> None:
    """A store may lose a block, and never changes one."""
    for number in range(5):
        put(store, Block(FILE, number), noise(1000, number))
    for number in range(5):
        assert get(store, Block(FILE, number)) in {None, noise(1000, number)}


def test_a_storing_store_returns_its_blocks(keeping: BlockStore) -> None:
    """Each block is returned with its own bytes, also an empty one, and the last put of two."""
    put(keeping, Block(FILE, 0), b"old")
    put(keeping, Block(FILE, 0), noise(1000))
    put(keeping, Block(FILE, 1), b"")
    assert get(keeping, Block(FILE, 0)) == noise(1000)
    assert get(keeping, Block(FILE, 1)) == b""


def test_blocks_of_other_files_and_versions_are_others(store: BlockStore) -> None:
    """No block is returned for another path, size, date or number."""
    put(store, Block(FILE, 0), b"1")
    for file in (File("10028/b", 10_000, 5), File(FILE.path, 9999, 5), File(FILE.path, 10_000, None)):
        assert get(store, Block(file, 0)) is None
    assert get(store, Block(FILE, 1)) is None


def test_a_store_is_safe_for_threads(store: BlockStore) -> None:
    """Threads that put and get at once get the right bytes or None."""

    def work(seed: int) -> bool:
        blocks = [Block(FILE, (seed + turn) % 5) for turn in range(20)]
        for block in blocks:
            put(store, block, noise(1000, block.number))
        return all(get(store, block) in {None, noise(1000, block.number)} for block in blocks)

    assert at_once([partial(work, seed) for seed in range(4)]) == [True] * 4
