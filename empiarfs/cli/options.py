"""The options that commands share: settings from flags, the environment and the configuration file."""

import errno
import logging
import math
import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from empiarfs import paths, setting_sources, units
from empiarfs.cli.text import printable, short_size
from empiarfs.settings import ROWS, SAMPLE, Row, Settings

if TYPE_CHECKING:
    from empiarfs.archive import Archive

F = TypeVar("F", bound=Callable[..., Any])

LOG_BYTES = 10 * units.MIB
FEW_FILES_SECONDS = 60.0


class _Printable(logging.Formatter):
    """Formats log records so that a name from the server neither begins another line nor moves a cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))


class FewFiles(logging.Filter):
    """Passes errors about too many open files as one line a minute: all requests fail so, each with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._last = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether `record` is to be written; rewrite it if it is about too many open files."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, OSError) or error.errno not in {errno.EMFILE, errno.ENFILE}:
            return True
        if record.created < self._last + FEW_FILES_SECONDS:
            return False
        self._last = record.created
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        record.msg = f"requests fail: {error.strerror} (ulimit -n {most}); raise the limit: ulimit -n 1024"
        record.args = record.exc_info = None
        return True


def load(flags: dict[str, Any], defaults: Settings | None = None) -> Settings:
    """Return the settings, from those of `flags` that are settings and were given, and the other sources.

    Args:
        flags: of a command.
        defaults: see `setting_sources.load`.

    Raises:
        BadSetting: a value is invalid, or the file cannot be read.
    """
    given = {name: str(flags[name]) for name in ROWS if flags.get(name) not in {None, False}}
    return setting_sources.load_here(given, defaults)


def _default(row: Row) -> str:
    """Return the default of a setting as a user would write it; empty if there is none."""
    value = getattr(Settings(), row.name)
    match value:
        case bool() | "" | None:
            return ""
        case Path():
            home = str(Path.home())
            return f"~{str(value).removeprefix(home)}" if str(value).startswith(home) else str(value)
        case float():
            return f"{value:.0f}s"
        case int() if row.metavar == "SIZE":
            return short_size(value)
        case _:
            return str(value)


def _option(row: Row) -> Callable[[F], F]:
    """Return the option of a setting; its help ends with the default and the environment variable."""
    default = ", ".join(filter(None, (_default(row), row.otherwise)))
    known = "; ".join(filter(None, (f"default: {default}" if default else "", row.variable)))
    kind: dict[str, Any] = {"metavar": row.metavar} if row.metavar else {"is_flag": True}
    names = filter(None, (row.flag, row.short))
    return click.option(*names, help=f"{row.summary} [{known}]", **kind)


_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "sample": click.option("--sample", is_flag=True, help="Use the small built-in archive; needs no network."),
    **{name: _option(row) for name, row in ROWS.items() if row.takes},
}


def some(*names: str) -> Callable[[F], F]:
    """Return a decorator that adds these options to a command."""

    def with_options(command: F) -> F:
        for name in reversed(names):
            command = _OPTIONS[name](command)
        return command

    return with_options


def archive_options(command: F) -> F:
    """Return `command` with the options that choose the archive, and what it may use."""
    return some("sample", *(name for name, row in ROWS.items() if row.takes == "archive"))(command)


def mount_options(command: F) -> F:
    """Return `command` with the options of a mount alone."""
    return some(*(name for name, row in ROWS.items() if row.takes == "mount"))(command)


@contextmanager
def archive(chosen: Settings, *, sample: bool) -> Iterator["Archive"]:
    """Open the archive, or the built-in one, for one command."""
    log_to(None, verbose=chosen.verbose)
    opened, close = opener(chosen, sample=sample, interactive=True)
    try:
        with closing(opened(())) as archive:
            yield archive
    finally:
        close()


def opener(
    chosen: Settings, *, sample: bool, interactive: bool = False
) -> tuple[Callable[[tuple[str, ...]], "Archive"], Callable[[], None]]:
    """Return a function that opens the archive, and one to call when it is closed.

    The sample's server starts when the archive is opened: a daemon forks before.
    """
    from empiarfs import wire  # noqa: PLC0415 - brings requests, which `--help` need not wait for

    if not sample:
        return (lambda only: wire.archive(chosen, only, interactive=interactive)), lambda: None
    from empiarfs.sample import embedded  # noqa: PLC0415 - the same

    return embedded.opener(chosen)


@contextmanager
def located(chosen: Settings, *, sample: bool) -> Iterator[tuple[Settings, str]]:
    """Yield settings whose base URL answers inside the block, and the name of the archive in the cache."""
    if not sample:
        yield chosen, ""
        return
    from empiarfs.sample import embedded  # noqa: PLC0415 - brings requests, which `--help` need not wait for

    with embedded.served(chosen) as there:
        yield there, SAMPLE


def entry_numbers(texts: Iterable[str], chosen: Settings) -> tuple[str, ...]:
    """Return the numbers of the entries that `texts` name, each once, in their order.

    Raises:
        click.BadParameter: one of them is not an entry.
    """
    try:
        return tuple(dict.fromkeys(paths.entry_number(text, chosen.base_url) for text in texts))
    except ValueError as error:
        raise click.BadParameter(printable(str(error))) from error


def log_to(file: Path | None, *others: logging.Handler, verbose: bool) -> None:
    """Send the log of empiarfs to `file` or to standard error, warnings or everything, and to `others`."""
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Printable("empiarfs: %(message)s"))
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8", errors="replace")
        handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(FewFiles())
    logger = logging.getLogger("empiarfs")
    logger.handlers[:] = [handler, *others]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.INFO if file else logging.WARNING)
