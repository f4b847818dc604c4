"""What a cache holds on disk, as a test sees it from outside, while a daemon may be at work in it."""

import os
from pathlib import Path

from empiarfs.model import Block
from empiarfs.ports import BlockStore
from support.mounting import Account

BLOCKS = Path("cache", "empiarfs", "v1", "blocks")  # below the home of an account


def of(account: Account) -> list[Path]:
    """Return the files of the account's cache that hold blocks."""
    return chunks(account.home / BLOCKS)


def volume_of(account: Account) -> int:
    """Return the bytes of all blocks of the account's cache."""
    return volume(account.home / BLOCKS)


def get(store: BlockStore, block: Block) -> bytes | None:
    """Return one block; None where the store does not have it."""
    return store.get(block.file, range(block.number, block.number + 1)).get(block.number)


def put(store: BlockStore, first: Block, *data: bytes) -> None:
    """Store `data` as `first` and the blocks behind it."""
    store.put(first.file, dict(enumerate(data, first.number)))


def chunks(folder: Path) -> list[Path]:
    """Return the files below a directory that hold blocks; one that disappears meanwhile is no error."""
    found = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return sorted(file for file in found if file.suffix == ".val")


def volume(folder: Path) -> int:
    """Return the bytes of the files below a directory that hold blocks."""
    total = 0
    for file in chunks(folder):
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # just removed
            continue
    return total
