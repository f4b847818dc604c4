"""What a cache keeps on disk, as a test sees it from outside, while a daemon may be at work in it."""

import os
from pathlib import Path


def segments(folder: Path) -> list[Path]:
    """Return the files below a folder that hold blocks; a folder that goes away meanwhile is no error."""
    found = (Path(place, name) for place, _, names in os.walk(folder) for name in names)
    return sorted(file for file in found if file.suffix == ".val")


def volume(folder: Path) -> int:
    """Return their bytes."""
    total = 0
    for file in segments(folder):
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # just removed
            continue
    return total
