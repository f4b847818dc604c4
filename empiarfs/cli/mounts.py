"""`empiarfs mount` and `empiarfs umount`."""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import platformdirs

from empiarfs.cli import complete, options, places
from empiarfs.cli.text import printable
from empiarfs.errors import UnknownListing
from empiarfs.model import is_entry_number
from empiarfs.mount import daemon, kernel_limit, mountpoints, names, status
from empiarfs.paths import entry_number, entry_of
from empiarfs.settings import ROWS, BadSetting, Settings

if TYPE_CHECKING:
    from empiarfs.archive import Archive

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0  # how long the command waits for the server to confirm the named entries

# errors of an entry, or of the root, that do not pass by waiting
_LASTING = (PermissionError, UnknownListing)

# options of libfuse that leave every promise of SEMANTICS.md as it is
_FOR_LIBFUSE = {
    "allow_root", "auto_unmount", "clone_fd", "context", "debug", "defcontext", "fscontext", "fsname",
    "rootcontext",
}  # fmt: skip

# options that mount(8), fstab and systemd pass on, and those that a read-only mount has anyway
_IDLE = {
    "ro", "nosuid", "nodev", "noexec", "exec", "suid", "dev", "noatime", "relatime", "auto", "noauto", "user",
    "users", "nouser", "defaults", "_netdev", "nofail", "owner", "group", "async", "sync",
}  # fmt: skip


@click.command(
    epilog="Example: empiarfs mount ~/empiar 10028 10934, then: ls ~/empiar/10028/data",
)
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.argument("entry", nargs=-1, shell_complete=complete.entries)
@options.archive_options
@options.mount_options
@click.option("--foreground", "-f", is_flag=True, help="Stay in the foreground; Ctrl-C unmounts.")
@click.option("-o", "extra", multiple=True, metavar="OPT", help="Options as in fstab: cache_size=50G,allow_other.")
def mount(mountpoint: Path, entry: tuple[str, ...], extra: tuple[str, ...], **flags: Any) -> None:
    """Mount the archive, or only the given entries, on MOUNTPOINT, which is created if it is missing.

    Returns when the mount answers. Name the entries if programs may search the tree: a find through all of
    EMPIAR would request 20 million files.
    """
    daemon.reserve_standard_descriptors()
    flags, for_libfuse = _with_extra(flags, ",".join(extra))
    chosen = options.load(flags)
    only = options.entry_numbers(entry, chosen)
    chosen = _within_limit(chosen)
    recent_warnings = status.RecentWarnings()
    was_there = os.path.lexists(mountpoint)
    path = _free(mountpoint, chosen.base_url, alone=not only)
    if chosen.allow_other:
        for_libfuse.append("allow_other")

    def start(ready: Callable[[], None]) -> None:
        opened, close = options.opener(chosen, sample=flags["sample"])

        def checked() -> "Archive":
            archive = opened(only)
            _repeat(() if flags["foreground"] else recent_warnings.newest())  # in the foreground the log is seen
            _check(archive, only, chosen, recent_warnings, sample=flags["sample"])
            return archive

        def prepared() -> None:
            if chosen.kernel_readahead:
                _read_ahead(path, chosen.kernel_readahead)
            ready()

        try:
            daemon.serve(checked, path, ready=prepared, recent_warnings=recent_warnings, options=for_libfuse)
        finally:
            close()

    try:
        if flags["foreground"]:
            _log(chosen, None, recent_warnings)
            daemon.in_foreground(
                start, lambda: click.echo(f"mounted on {path}; Ctrl-C unmounts it", err=True), path
            )
        else:
            _log(chosen, _log_file(path), recent_warnings)
            daemon.in_background(start, path)
    except BaseException as error:
        if not was_there:
            with suppress(OSError):
                Path(path).rmdir()
        if isinstance(error, daemon.Failed):
            raise click.ClickException(str(error)) from error
        raise


@click.command(epilog="Example: empiarfs umount ~/empiar")
@click.argument("mountpoint", type=click.Path(path_type=Path), shell_complete=complete.mount_points)
@click.option("--lazy", "-z", is_flag=True, help="Unmount even while programs use it.")
def umount(mountpoint: Path, *, lazy: bool) -> None:
    """Unmount MOUNTPOINT; also one whose daemon died ("Transport endpoint is not connected")."""
    try:
        warning = mountpoints.unmount(mountpoint, lazy=lazy)
    except mountpoints.CannotMount as error:
        raise click.ClickException(printable(str(error))) from error
    if warning:
        click.echo(f"empiarfs: warning: {printable(warning)}", err=True)


def _free(mountpoint: Path, base_url: str, *, alone: bool) -> str:
    """Return the full path of a mount point that may be used, created if it was missing, and lock it.

    Args:
        mountpoint: as it was written.
        base_url: the directory that holds the numbered entries.
        alone: whether no entries were named; then a number is more likely an entry than a directory.
    """
    text = os.fspath(mountpoint)
    entry = text if entry_of(text) or (alone and is_entry_number(text)) else _entry_at(text, base_url)
    if entry:
        raise click.UsageError(f"the mount point is missing; write it like: empiarfs mount ~/empiar {entry}")
    if not text.strip(".") or ":/" in text:
        here = "the current directory would be hidden" if text == "." else "not a valid mount point"
        raise click.UsageError(f"{text!r}: {here}; name an empty directory, or one to be created: ~/empiar")
    try:
        mountpoints.check_fuse()
        mountpoints.lock(mountpoints.absolute(mountpoint))
        return mountpoints.prepare(mountpoint)
    except mountpoints.CannotMount as error:
        raise click.ClickException(str(error)) from error


def _entry_at(text: str, base_url: str) -> str | None:
    """Return the entry whose URL was given in place of a mount point; None if it is no such URL."""
    url = text.replace(":/", "://", 1)  # a Path has lost one of the slashes
    try:
        return entry_number(url, base_url) if "://" in url else None
    except ValueError:
        return None


def _repeat(warnings: Sequence[status.LoggedWarning]) -> None:
    """Print warnings of the log, which the user does not see."""
    for warning in warnings:
        click.echo(f"empiarfs: warning: {printable(warning.text)}", err=True)


def _check(
    archive: "Archive",
    only: tuple[str, ...],
    chosen: Settings,
    recent_warnings: status.RecentWarnings,
    *,
    sample: bool,
) -> None:
    """Report a mistyped entry now, while the user can see it, and one that is not public.

    Neither an unreachable server nor one that refuses an entry is a reason not to mount.

    Args:
        archive: what is mounted.
        only: the entries that were named.
        chosen: whether the server may be contacted, and how long reads wait for it.
        recent_warnings: why requests are being retried.
        sample: whether it is the built-in archive.

    Raises:
        daemon.Failed: an entry does not exist.
    """
    errors, are_all_in = _errors_of(archive, only or ("",))
    missing = sorted(entry for entry, error in errors.items() if isinstance(error, FileNotFoundError))
    if missing:
        lacking = ", ".join(missing)
        what = places.no_entry(lacking, sample=sample) if lacking else "the server has no such directory"
        others = f"; without {lacking} the others can be mounted" if len(missing) < len(only) else ""
        raise daemon.Failed(what if sample else f"{what}{others}; choose another directory with --base-url")
    for error in (error for error in errors.values() if isinstance(error, _LASTING)):
        then = f"mounted anyway: it fails with {os.strerror(error.errno or 0)!r}"
        click.echo(f"empiarfs: warning: {printable(str(error))}; {then}", err=True)
    troubles = [str(error) for error in errors.values() if not isinstance(error, _LASTING)]
    troubles += [] if are_all_in else [str(recent_warnings.error or "the server does not answer")]
    if troubles:
        then = (
            "what is not cached fails with 'No route to host'"
            if chosen.offline
            else f"until it answers names fail after {min(chosen.patience, names.SECONDS):.0f} s, and reads after "
            f"{chosen.patience:.0f} s (--patience); for the cause run: empiarfs doctor"
        )
        click.echo(f"empiarfs: warning: {printable(troubles[0])}; mounted anyway: {then}", err=True)


def _errors_of(archive: "Archive", entries: tuple[str, ...]) -> tuple[dict[str, OSError], bool]:
    """Request `entries`, the root if it is empty; return the errors, and whether all were answered in time."""
    errors: dict[str, OSError] = {}

    def ask(entry: str) -> None:
        try:
            if entry:
                archive.check(entry)
            else:
                archive.listdir("")
        except OSError as error:
            errors[entry] = error

    asking = [threading.Thread(target=ask, args=(entry,), daemon=True) for entry in entries]
    for one in asking:
        one.start()
    deadline = time.monotonic() + CHECK_SECONDS
    for one in asking:
        one.join(max(0.0, deadline - time.monotonic()))
    return dict(errors), not any(one.is_alive() for one in asking)


def _within_limit(chosen: Settings) -> Settings:
    """Return `chosen` with a patience within the limit of the kernel, and warn if that is shorter."""
    limit = kernel_limit.limit()
    if limit is None or chosen.patience <= limit.patience:
        return chosen
    click.echo(
        f"empiarfs: warning: reads fail after {limit.patience:.0f} s, not {chosen.patience:.0f} s (--patience): "
        f"the kernel ends a mount that does not answer for {limit.seconds:.0f} s ({limit.sysctl})",
        err=True,
    )
    return replace(chosen, patience=limit.patience)


def _read_ahead(path: str, kib: int) -> None:
    try:
        mountpoints.set_readahead(path, kib)
    except OSError as error:
        click.echo(f"empiarfs: warning: --kernel-readahead was not set ({error.strerror}); it needs root", err=True)


def _with_extra(flags: dict[str, Any], extra: str) -> tuple[dict[str, Any], list[str]]:
    """Sort the options of `-o` into settings, ignored ones, and those for libfuse; a flag takes precedence.

    Raises:
        BadSetting: one of them is unknown.
    """
    merged = dict(flags)
    rest = []
    for option in filter(None, (word.strip() for word in extra.split(","))):
        name, equals, value = option.partition("=")
        setting = name.replace("-", "_")
        if setting == "rw":
            raise BadSetting("-o rw: EMPIAR is read-only, and so is its mount")
        if setting in ROWS:
            if merged.get(setting) in {None, False}:
                merged[setting] = value if equals else "yes"
        elif setting == "sample":
            merged["sample"] = True
        elif name in _FOR_LIBFUSE:
            rest.append(option)
        elif name not in _IDLE and not name.lower().startswith(("x-", "comment")):
            raise BadSetting(f"-o {name}: unknown option; choose from {', '.join((*ROWS, *sorted(_FOR_LIBFUSE)))}")
    return merged, rest


def _log(chosen: Settings, otherwise: Path | None, recent_warnings: status.RecentWarnings) -> None:
    """Send the log to the chosen file, or else to `otherwise`; warn if that cannot be written, and go on."""
    file = chosen.log_file or otherwise
    try:
        options.log_to(file, recent_warnings, verbose=chosen.verbose)
    except OSError as error:
        reason = printable(f"{error.filename or file}: {error.strerror or error}")
        if chosen.log_file:
            raise click.ClickException(f"--log-file: {reason}") from error
        click.echo(
            f"empiarfs: warning: {reason}; there will be no log; choose another file with --log-file", err=True
        )
        options.log_to(None, recent_warnings, verbose=chosen.verbose)


def _log_file(mountpoint: str) -> Path:
    name = mountpoint.strip("/").replace("/", "-") or "root"
    return (
        Path(platformdirs.user_log_dir("empiarfs")) / f"{os.fsencode(name)[-200:].decode('ascii', 'replace')}.log"
    )
