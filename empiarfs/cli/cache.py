"""`empiarfs cache`: show, verify and clear the disk cache."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from empiarfs.cli import options, progress
from empiarfs.cli.groups import Group
from empiarfs.cli.text import counted, local_time, printable, size
from empiarfs.errors import NotFound, Stale
from empiarfs.model import Span
from empiarfs.settings import PROMPT_PATIENCE, SAMPLE, Settings, archive_name
from empiarfs.urls import without_credentials

if TYPE_CHECKING:
    from empiarfs.maintenance.cache import CacheMaintenance
    from empiarfs.maintenance.contents import Contents, SampledBlock

MAX_UNRECOGNISED = 10  # names of files that empiarfs did not write


@click.group(cls=Group, epilog="Example: empiarfs cache info")
def cache() -> None:
    """Show, verify or clear the disk cache: blocks of files, and listings. Mounts may use it meanwhile."""


@cache.command(epilog="Example: du -sh $(empiarfs cache path)")
@options.some("cache_dir")
def path(**flags: Any) -> None:
    """Print the cache folder."""
    click.echo(options.load(flags).cache_dir)


@cache.command(epilog="Example: empiarfs cache info --json")
@options.some("cache_dir", "cache_size")
@click.option(
    "--json", "as_json", is_flag=True, help="Machine-readable JSON output, in bytes and seconds since 1970."
)
def info(*, as_json: bool, **flags: Any) -> None:
    """Show the size of the cache, by entry, and the free space."""
    chosen = options.load(flags)
    if not as_json and not chosen.cache_dir.is_dir():
        click.echo(_no_cache(chosen))
        return
    maintenance = _maintenance(chosen)
    found = maintenance.contents()
    if as_json:
        click.echo(json.dumps(_as_json(maintenance, found, chosen), indent=2))
        return
    click.echo(f"folder:    {chosen.cache_dir}")
    click.echo(
        f"cached:    {size(found.bytes)} of at most {size(chosen.cache_size)}: "
        f"{counted(found.blocks, 'block')} of {counted(found.files, 'file')}"
    )
    if found.oldest is not None and found.newest is not None:
        click.echo(f"last used: {local_time(found.oldest)} to {local_time(found.newest)}")
    click.echo(
        f"listings:  {size(found.index_bytes)}: {counted(found.directories, 'directory', 'directories')}, "
        f"the exact sizes of {counted(found.measured, 'file')}"
    )
    click.echo(f"free:      {size(found.free)}, of which {size(found.min_free)} are always left")
    for part in sorted(found.parts, key=lambda part: -part.bytes):
        cached = f"{size(part.bytes):>9} in {counted(part.blocks, 'block')} of {counted(part.files, 'file')}"
        click.echo(f"{part.entry or '?':<10} {cached}{_whose(part.archive, chosen)}")
    _tell(maintenance)


@cache.command(epilog="Example: empiarfs cache verify --against-origin 20")
@options.archive_options
@click.option(
    "--against-origin",
    "count",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    help="Also fetch N blocks, chosen at random, again and compare.",
)
def verify(count: int, **flags: Any) -> None:
    """Read and check every block; remove damaged ones, which mounts then fetch again.

    The exit status is 1 if any was damaged.
    """
    chosen = options.load(flags, Settings(patience=PROMPT_PATIENCE))
    if count and chosen.offline:
        raise click.UsageError("--against-origin needs the server, and --offline forbids it")
    if not chosen.cache_dir.is_dir():
        raise click.ClickException(_no_cache(chosen))
    maintenance = _maintenance(chosen)
    found = maintenance.verify(progress.shown)
    click.echo(
        f"{counted(found.blocks, 'block')}, {size(found.bytes)}: "
        f"{found.damaged} damaged, {found.missing} without a file"
    )
    if found.foreign:
        click.echo(f"removed {counted(found.foreign, 'row')} of the database that another program wrote")
    if found.orphans:
        click.echo(f"removed {counted(found.orphans, 'file')} that belonged to no block")
    _tell(maintenance)
    sound = found.is_sound and not maintenance.errors
    if count:
        sound = _compare(maintenance, chosen, count, sample=flags["sample"]) and sound
    if not sound:
        click.get_current_context().exit(1)


@cache.command(epilog="Example: empiarfs cache clear 10028 10934")
@click.argument("entry", nargs=-1)
@options.some("cache_dir")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
def clear(entry: tuple[str, ...], *, yes: bool, **flags: Any) -> None:
    """Delete the cache: everything, or the blocks and listings of the given entries.

    Mounts that use it continue, and fetch again what they need.
    """
    chosen = options.load(flags)
    entries = options.entry_numbers(entry, chosen)
    what = f"the cached data of {', '.join(entries)}" if entries else "the whole cache"
    if not chosen.cache_dir.is_dir():
        raise click.ClickException(_no_cache(chosen))
    if not yes:
        if not _is_interactive():
            raise click.ClickException(f"refusing to delete {what} without confirmation; use --yes")
        click.confirm(f"Delete {what} in {chosen.cache_dir}?", abort=True)
    maintenance = _maintenance(chosen)
    before = maintenance.contents()
    count = maintenance.clear(entries)
    after = maintenance.contents()
    is_less = count or (before.directories, before.measured) != (after.directories, after.measured)
    click.echo(
        f"{size(count)} removed" if is_less or not entries else f"nothing of {', '.join(entries)} was cached"
    )
    _tell_unrecognised(maintenance)
    from empiarfs.mount import mount_table  # noqa: PLC0415 - Linux alone has the table it reads

    if any(mounted.kind == mount_table.KIND for mounted in mount_table.table()):
        click.echo(
            "running mounts fetch again what they need, but not what the kernel has cached: "
            "unmount and mount again before you go offline"
        )


def _whose(archive: str, chosen: Settings) -> str:
    """Return the note for an entry of another archive than the chosen one."""
    if archive == archive_name(chosen.base_url):
        return ""
    return ", of the sample" if archive == SAMPLE else ", of another --base-url"


def _no_cache(chosen: Settings) -> str:
    return f"there is no cache in {printable(str(chosen.cache_dir))}"


def _maintenance(chosen: Settings) -> "CacheMaintenance":
    from empiarfs.maintenance.cache import CacheMaintenance  # noqa: PLC0415 - brings diskcache, which `--help` need not wait for

    options.log_to(None, verbose=chosen.verbose)
    return CacheMaintenance(chosen.cache_dir)


def _compare(maintenance: "CacheMaintenance", chosen: Settings, count: int, *, sample: bool) -> bool:
    """Fetch cached blocks again, one after the other, and drop those that differ; return whether none did."""
    from empiarfs.host import open_host  # noqa: PLC0415 - brings requests, which `--help` need not wait for

    same = changed = 0
    different: list[SampledBlock] = []
    with options.located(chosen, sample=sample) as (there, name):
        sampled = maintenance.sample(name or archive_name(there.base_url), count)
        if not sampled:
            whose = "the sample" if sample else without_credentials(there.base_url)
            click.echo(
                f"no block of {whose} is cached, so nothing was compared; choose the archive with --base-url"
            )
            return False
        with open_host(there.base_url, there) as host:
            for one in sampled:
                begin = one.number * one.chunk.block_bytes
                span = Span(begin, begin + len(one.data))
                try:
                    fetched = b"".join(host.origin.fetch(one.chunk.file, span))
                except (Stale, NotFound):  # it belongs to an old version, which a mount will not read again
                    changed += 1
                    continue
                if fetched == one.data:
                    same += 1
                else:
                    different.append(one)
    maintenance.drop(different)
    click.echo(
        f"{counted(len(sampled), 'block')} compared with the server: "
        f"{same} identical, {changed} of files that have changed there"
    )
    for one in different:
        name = printable(one.chunk.file.path)
        click.echo(f"{name}: block {one.number} differs; it was removed, and the blocks stored with it")
    return not different


def _as_json(maintenance: "CacheMaintenance", found: "Contents", chosen: Settings) -> dict[str, Any]:
    return {
        "folder": str(chosen.cache_dir),
        "bytes": found.bytes,
        "limit": chosen.cache_size,
        "blocks": found.blocks,
        "files": found.files,
        "oldest": found.oldest,
        "newest": found.newest,
        "entries": [
            {"archive": p.archive, "entry": p.entry, "bytes": p.bytes, "blocks": p.blocks, "files": p.files}
            for p in found.parts
        ],
        "index": {"bytes": found.index_bytes, "directories": found.directories, "measured": found.measured},
        "free": found.free,
        "min_free": found.min_free,
        "errors": [f"{path}: {reason}" for path, reason in maintenance.errors.items()],
        "unrecognised": [str(path) for path in maintenance.unrecognised()],
    }


def _tell(maintenance: "CacheMaintenance") -> None:
    for path, reason in maintenance.errors.items():
        fault = printable(f"{path}: {reason}")
        click.echo(f"cannot be used: {fault}; a mount replaces it if it is corrupt, or: empiarfs cache clear")
    _tell_unrecognised(maintenance)


def _tell_unrecognised(maintenance: "CacheMaintenance") -> None:
    unrecognised = list(maintenance.unrecognised())
    for path in unrecognised[:MAX_UNRECOGNISED]:
        click.echo(f"not written by empiarfs, left alone: {printable(str(path))}")
    if len(unrecognised) > MAX_UNRECOGNISED:
        click.echo(f"and {len(unrecognised) - MAX_UNRECOGNISED} more that empiarfs did not write")


def _is_interactive() -> bool:
    """Return whether a person can answer a question on standard input."""
    return sys.stdin is not None and sys.stdin.isatty()
