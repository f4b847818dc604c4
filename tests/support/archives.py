"""Archives of a test's own: the program's parts as `wire` composes them, with a cache in a folder of the test."""

import dataclasses
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from empiarfs import wire
from empiarfs.archive import Archive
from empiarfs.settings import Settings


@contextmanager
def archive_of(base_url: str, folder: Path, **changes: Any) -> Iterator[Archive]:
    """Open the archive at `base_url`, with its cache below `folder` and the patience of a mount.

    Args:
        base_url: the directory that holds the entries.
        folder: of the test; a second archive in it finds the cache of the first.
        changes: other settings.
    """
    settings = dataclasses.replace(Settings(), base_url=base_url, cache_dir=folder / "cache", no_ftp=True)
    with closing(wire.archive(dataclasses.replace(settings, **changes))) as archive:
        yield archive
