"""The progress bar of a command."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def shown(size: int, *, wanted: bool = True) -> Iterator[Callable[[int], object]]:
    """Show the progress through `size` bytes, if `wanted` and standard error is a terminal."""
    if not wanted or sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich import console, progress  # noqa: PLC0415 - takes 0.1 s that other commands save

    with progress.Progress(
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console.Console(stderr=True),
    ) as bar:
        task = bar.add_task("", total=size)
        yield lambda count: bar.advance(task, count)
