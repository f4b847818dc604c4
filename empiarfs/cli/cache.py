"""`empiarfs cache`: what is kept on disk, whether it is whole, and how to be rid of it."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from empiarfs.cli import options, progress
from empiarfs.cli.groups import Group
from empiarfs.cli.text import local_time, printable, size
from empiarfs.errors import NotFound, Stale
from empiarfs.model import Span
from empiarfs.settings import PROMPT_PATIENCE, SAMPLE, Settings, archive_name
from empiarfs.urls import without_credentials

if TYPE_CHECKING:
    from empiarfs.storage.contents import Contents, SampledBlock
    from empiarfs.storage.maintenance import CacheMaintenance

MAX_UNRECOGNISED = 10  # names of foreign files that are shown


@click.group(cls=Group, epilog="Example: empiarfs cache info")
def cache() -> None:
    """Look after what is kept on disk: blocks of files, and listings. Mounts may go on meanwhile."""


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
    """Tell how much is kept, of which entries, and how much room there is."""
    chosen = options.load(flags)
    if not as_json and not chosen.cache_dir.is_dir():
        click.echo(_no_cache(chosen))
        return
    found = _maintenance(chosen).contents()
    if as_json:
        click.echo(json.dumps(_as_json(found, chosen), indent=2))
        return
    click.echo(f"folder:    {chosen.cache_dir}")
    click.echo(
        f"kept:      {size(found.bytes)} of at most {size(chosen.cache_size)}: "
        f"{found.blocks} blocks of {found.files} files"
    )
    if found.oldest is not None and found.newest is not None:
        click.echo(f"used:      {local_time(found.oldest)} to {local_time(found.newest)}")
    click.echo(
        f"listings:  {size(found.index_bytes)}: {found.directories} directories, "
        f"the exact sizes of {found.measured} files"
    )
    click.echo(f"room:      {size(found.free)} free, of which {size(found.min_free)} are always left")
    for part in sorted(found.parts, key=lambda part: -part.bytes):
        kept = f"{size(part.bytes):>9} in {part.blocks} blocks of {part.files} files"
        click.echo(f"{part.entry or '?':<10} {kept}{_whose(part.archive, chosen)}")
    _tell(found.errors, found.unrecognised)


@cache.command(epilog="Example: empiarfs cache verify --against-origin 20")
@options.archive_options
@click.option(
    "--against-origin",
    "count",
    metavar="N",
    type=click.IntRange(0),
    default=0,
    help="Fetch N blocks chosen at random once more, and compare.",
)
def verify(count: int, **flags: Any) -> None:
    """Read every block and check it; remove what is damaged, which mounts then fetch again.

    The status is 1 if anything was.
    """
    chosen = options.load(flags, Settings(patience=PROMPT_PATIENCE))
    if count and chosen.offline:
        raise click.UsageError("--against-origin asks the server, and --offline leaves it alone")
    if not chosen.cache_dir.is_dir():
        raise click.ClickException(_no_cache(chosen))
    maintenance = _maintenance(chosen)
    found = maintenance.verify(progress.shown)
    click.echo(
        f"{found.blocks} blocks, {size(found.bytes)}: {found.damaged} damaged, {found.missing} without a file"
    )
    if found.orphans:
        click.echo(f"{found.orphans} files that belonged to no block are removed")
    _tell(found.errors, found.unrecognised)
    sound = found.is_sound
    if count:
        sound = _compare(maintenance, chosen, count, sample=flags["sample"]) and sound
    if not sound:
        click.get_current_context().exit(1)


@cache.command(epilog="Example: empiarfs cache clear 10028 10934")
@click.argument("entry", nargs=-1)
@options.some("cache_dir")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def clear(entry: tuple[str, ...], *, yes: bool, **flags: Any) -> None:
    """Remove what is kept: everything, or the blocks and listings of the given entries.

    Mounts that use the folder go on, and fetch again what they need.
    """
    chosen = options.load(flags)
    entries = options.entry_numbers(entry, chosen)
    what = f"what is kept of {', '.join(entries)}" if entries else "all that is kept"
    if not chosen.cache_dir.is_dir():
        raise click.ClickException(_no_cache(chosen))
    if not yes:
        if not _is_interactive():
            raise click.ClickException(f"refusing to delete {what} without confirmation; use --yes")
        click.confirm(f"Remove {what} in {chosen.cache_dir}?", abort=True)
    maintenance = _maintenance(chosen)
    before = maintenance.contents()
    count = maintenance.clear(entries)
    after = maintenance.contents()
    is_less = count or (before.directories, before.measured) != (after.directories, after.measured)
    click.echo(f"{size(count)} removed" if is_less or not entries else f"nothing of {', '.join(entries)} was kept")
    _tell((), tuple(maintenance.unrecognised()))
    from empiarfs.mount import mountpoints  # noqa: PLC0415 - Linux alone has the table it reads

    if any(mounted.kind == mountpoints.KIND for mounted in mountpoints.table()):
        click.echo(
            "mounts that are running go on, and fetch again what they need; what the kernel holds is not fetched "
            "anew: unmount and mount again before you go offline"
        )


def _whose(archive: str, chosen: Settings) -> str:
    """Return what to say of an entry of another archive than the one that is set."""
    if archive == archive_name(chosen.base_url):
        return ""
    return ", of the sample" if archive == SAMPLE else ", of another --base-url"


def _no_cache(chosen: Settings) -> str:
    return f"there is no cache in {printable(str(chosen.cache_dir))}"


def _maintenance(chosen: Settings) -> "CacheMaintenance":
    from empiarfs.storage.maintenance import CacheMaintenance  # noqa: PLC0415 - brings diskcache, which `--help` need not wait for

    options.log_to(None, verbose=chosen.verbose)
    return CacheMaintenance(chosen.cache_dir)


def _compare(maintenance: "CacheMaintenance", chosen: Settings, count: int, *, sample: bool) -> bool:
    """Fetch blocks once more, one after the other, and drop those that differ; tell whether none did."""
    from empiarfs import wire  # noqa: PLC0415 - brings requests, which `--help` need not wait for

    same = changed = 0
    different: list[SampledBlock] = []
    with options.located(chosen, sample=sample) as (there, name):
        kept = maintenance.sample(name or archive_name(there.base_url), count)
        if not kept:
            whose = "the sample" if sample else without_credentials(there.base_url)
            click.echo(f"no block of {whose} is kept: nothing could be compared; --base-url names another archive")
            return False
        with wire.origin_of(there) as origin:
            for one in kept:
                begin = one.number * one.segment.block_bytes
                span = Span(begin, begin + len(one.data))
                try:
                    fetched = b"".join(origin.fetch(one.segment.file, span))
                except (Stale, NotFound):  # it is another version's, which a mount will not ask for again
                    changed += 1
                    continue
                if fetched == one.data:
                    same += 1
                else:
                    different.append(one)
    maintenance.drop([one.row for one in different])
    click.echo(
        f"{len(kept)} blocks compared with the server's: {same} the same, {changed} of files that changed there"
    )
    for one in different:
        click.echo(f"{printable(one.segment.file.path)}: block {one.number} differs; it is removed")
    return not different


def _as_json(found: "Contents", chosen: Settings) -> dict[str, Any]:
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
        "errors": list(found.errors),
        "unrecognised": [str(path) for path in found.unrecognised],
    }


def _tell(errors: tuple[str, ...], unrecognised: tuple[Any, ...]) -> None:
    for fault in errors:
        click.echo(f"cannot be used: {printable(fault)}; the next mount begins it anew, or: empiarfs cache clear")
    for path in unrecognised[:MAX_UNRECOGNISED]:
        click.echo(f"not of empiarfs, and left alone: {printable(str(path))}")
    if len(unrecognised) > MAX_UNRECOGNISED:
        click.echo(f"and {len(unrecognised) - MAX_UNRECOGNISED} more that are not of empiarfs")


def _is_interactive() -> bool:
    """Return whether somebody sits there who can answer."""
    return sys.stdin is not None and sys.stdin.isatty()
