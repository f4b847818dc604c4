"""What a cache keeps on disk, as a test sees it from outside, while a daemon may be at work in it."""

import os
from pathlib import Path

from empiarfs.model import Block
from empiarfs.ports import BlockStore


def get(store: BlockStore, block: Block) -> bytes | None:
    """Return one block; None where the store does not have it."""
    return store.get(block.file, range(block.number, block.number + 1)).get(block.number)


def put(store: BlockStore, first: Block, *data: bytes) -> None:
    """Store `data` as `first` and the blocks behind it."""
    store.put(first.file, dict(enumerate(data, first.number)))


def chunks(folder: Path) -> list[Path]:
    """Return the files below a folder that hold blocks; a folder that goes away meanwhile is no error."""
    found = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return sorted(file for file in found if file.suffix == ".val")


def volume(folder: Path) -> int:
    """Return their bytes."""
    total = 0
    for file in chunks(folder):
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # just removed
            continue
    return total
