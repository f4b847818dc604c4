"""The embedded archive, opened like any other."""

import dataclasses
from collections.abc import Callable, Sequence

from empiarfs import wire
from empiarfs.archive import Archive
from empiarfs.sample import content
from empiarfs.sample.server import SampleServer
from empiarfs.settings import SAMPLE, Settings


def opener(settings: Settings) -> tuple[Callable[[Sequence[str]], Archive], Callable[[], None]]:
    """Give what opens the sample archive, made now if it is not there, and what closes its server.

    The server starts when the archive is opened, so that a daemon can fork in between.
    """
    server = SampleServer(content.build(settings.cache_dir / "sample"))

    def opened(only: Sequence[str]) -> Archive:
        server.start()
        return wire.archive(dataclasses.replace(settings, base_url=server.base_url), only, SAMPLE)

    return opened, server.stop
