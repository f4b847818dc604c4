"""Opens the built-in archive like any other."""

import dataclasses
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from empiarfs import wire
from empiarfs.archive import Archive
from empiarfs.private_dirs import FOLDER, UnsafePath, check_holder, ensure_private
from empiarfs.sample import content
from empiarfs.sample.server import SampleServer
from empiarfs.settings import SAMPLE, Settings


def opener(settings: Settings) -> tuple[Callable[[Sequence[str]], Archive], Callable[[], None]]:
    """Return a function that opens the built-in archive, and one that stops its server; build its files now.

    The server starts when the archive is opened, so that a daemon can fork in between. Offline there is none.
    """
    if settings.offline:
        return (lambda only: wire.archive(settings, only, SAMPLE)), lambda: None
    server = _server(settings)

    def opened(only: Sequence[str]) -> Archive:
        server.start()
        return wire.archive(dataclasses.replace(settings, base_url=server.base_url), only, SAMPLE)

    return opened, server.stop


@contextmanager
def served(settings: Settings) -> Iterator[Settings]:
    """Yield `settings` with the base URL of the server of the built-in archive, which runs inside the block."""
    with _server(settings) as server:
        yield dataclasses.replace(settings, base_url=server.base_url)


def _server(settings: Settings) -> SampleServer:
    """Return the server of the built-in archive, whose files are built in the cache folder if they do not exist.

    Raises:
        UnsafePath: others may write to the cache folder.
        OSError: the files cannot be built there; the text says what to do.
    """
    folder = settings.cache_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_holder(folder)
        if (folder / FOLDER).exists():
            ensure_private(folder / FOLDER)
        return SampleServer(content.build(folder / "sample"))
    except UnsafePath:
        raise
    except OSError as error:
        advice = f"{error.strerror or error}; choose another folder: --cache-dir"
        raise OSError(error.errno or errno.EIO, advice, os.fspath(folder)) from error
