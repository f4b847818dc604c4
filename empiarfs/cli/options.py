"""What all commands take: settings from flags, the environment and the configuration file."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from empiarfs import paths, settings, units
from empiarfs.cli.text import printable, short_size

if TYPE_CHECKING:
    from empiarfs.archive import Archive

F = TypeVar("F", bound=Callable[..., Any])

LOG_BYTES = 10 * units.MIB
PROMPT_PATIENCE = 30.0  # seconds; who sits at a prompt can ask again, the programs behind a mount cannot


class _Printable(logging.Formatter):
    """Lines in which a name from the server neither begins another line nor moves a cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))


def load(flags: dict[str, Any], defaults: settings.Settings | None = None) -> settings.Settings:
    """Return the settings; of `flags` those that are settings and were given.

    Args:
        flags: of a command.
        defaults: see `settings.load`.

    Raises:
        BadSetting: a value makes no sense, or the file cannot be read.
    """
    given = {name: str(flags[name]) for name in settings.READERS if flags.get(name) not in {None, False}}
    return settings.load_here(given, defaults)


def _default(name: str) -> str:
    """Return the default of a setting as a user would write it; empty where there is none worth a word."""
    value = getattr(settings.Settings(), name)
    match value:
        case bool() | "" | None:
            return ""
        case Path():
            home = str(Path.home())
            return f"~{str(value).removeprefix(home)}" if str(value).startswith(home) else str(value)
        case float():
            return f"{value:.0f}s"
        case int() if name in _SIZES:
            return short_size(value)
        case _:
            return str(value)


def setting(name: str, description: str, metavar: str = "", *more: str) -> Callable[[F], F]:
    """Return the option of the setting `name`; its help ends with the default and the environment variable.

    Args:
        name: as in `Settings`.
        description: what it is, a sentence.
        metavar: what its value is called; a flag where it is empty.
        more: other names of the option.
    """
    default = ", ".join(filter(None, (_default(name), _OTHERWISE.get(name))))
    known = "; ".join(filter(None, (f"default: {default}" if default else "", f"EMPIARFS_{name.upper()}")))
    kind: dict[str, Any] = {"metavar": metavar} if metavar else {"is_flag": True}
    return click.option(f"--{name.replace('_', '-')}", *more, help=f"{description} [{known}]", **kind)


_SIZES = {"cache_size", "memory_cache_size"}
_OTHERWISE = {
    "patience": f"at a prompt {PROMPT_PATIENCE:.0f}s",
    "kernel_readahead": "the kernel's own 128",
    "ftp_url": "derived where the host is called ftp.",
    "ca_bundle": "certifi's",
    "log_file": "in ~/.local/state/empiarfs/log",
}
_ARCHIVE = {
    "sample": click.option(
        "--sample", is_flag=True, help="Use the small archive that comes with empiarfs; no network."
    ),
    "base_url": setting("base_url", "The directory that holds the numbered entries.", "URL"),
    "ftp_url": setting("ftp_url", "The same directory on FTP, for exact sizes in bulk.", "URL"),
    "no_ftp": setting("no_ftp", "Do not ask FTP for sizes."),
    "cache_dir": setting("cache_dir", "Where blocks and listings are kept.", "DIR"),
    "cache_size": setting("cache_size", "Maximum disk cache (LRU); 0 disables it.", "SIZE"),
    "memory_cache_size": setting("memory_cache_size", "Maximum memory for cached blocks.", "SIZE"),
    "max_connections": setting("max_connections", "Maximum number of connections at once, 1 to 12.", "N"),
    "patience": setting("patience", "How long to keep retrying an unresponsive server.", "TIME"),
    "offline": setting("offline", "Leave the network alone; show what is kept on disk."),
    "ca_bundle": setting("ca_bundle", "The certificate authorities to trust, in PEM form.", "FILE"),
    "verbose": setting("verbose", "Log every request.", "", "-v"),
}


def archive_options(command: F) -> F:
    """Return `command` the options that tell which archive, and what it may use."""
    return some(*_ARCHIVE)(command)


def some(*names: str) -> Callable[[F], F]:
    """Return what gives a command some of these options."""

    def with_options(command: F) -> F:
        for name in reversed(names):
            command = _ARCHIVE[name](command)
        return command

    return with_options


@contextmanager
def archive(chosen: settings.Settings, *, sample: bool) -> Iterator["Archive"]:
    """Open the archive, or the embedded one, for one command."""
    log_to(None, verbose=chosen.verbose)
    opened, close = opener(chosen, sample=sample, interactive=True)
    try:
        with closing(opened(())) as archive:
            yield archive
    finally:
        close()


def opener(
    chosen: settings.Settings, *, sample: bool, interactive: bool = False
) -> tuple[Callable[[tuple[str, ...]], "Archive"], Callable[[], None]]:
    """Return what opens the archive, and what is to be called when it is closed.

    The sample's server starts when the archive is opened: a daemon forks before.
    """
    from empiarfs import wire  # noqa: PLC0415 - brings requests, which `--help` need not wait for

    if not sample:
        return (lambda only: wire.archive(chosen, only, interactive=interactive)), lambda: None
    from empiarfs.sample import embedded  # noqa: PLC0415 - the same

    return embedded.opener(chosen)


@contextmanager
def located(chosen: settings.Settings, *, sample: bool) -> Iterator[tuple[settings.Settings, str]]:
    """Yield settings whose base URL answers while this lasts, and what the cache knows the archive by."""
    if not sample:
        yield chosen, ""
        return
    from empiarfs.sample import embedded  # noqa: PLC0415 - brings requests, which `--help` need not wait for

    with embedded.served(chosen) as there:
        yield there, settings.SAMPLE


def entry_numbers(texts: Iterable[str], chosen: settings.Settings) -> tuple[str, ...]:
    """Return the numbers of the entries that `texts` name, each once, in their order.

    Raises:
        click.BadParameter: one of them names none.
    """
    try:
        return tuple(dict.fromkeys(paths.entry_number(text, chosen.base_url) for text in texts))
    except ValueError as error:
        raise click.BadParameter(printable(str(error))) from error


def log_to(file: Path | None, *others: logging.Handler, verbose: bool) -> None:
    """Send the log of empiarfs to `file`, or to standard error: warnings, or everything; and to `others`."""
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Printable("empiarfs: %(message)s"))
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8", errors="replace")
        handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("empiarfs")
    logger.handlers[:] = [handler, *others]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.INFO if file else logging.WARNING)
