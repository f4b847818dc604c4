"""`empiarfs status`: what the mounts tell of themselves."""

import json
import textwrap
from pathlib import Path
from typing import Any

import click

from empiarfs.cli import complete, prometheus
from empiarfs.cli.text import local_time, printable, size
from empiarfs.counters import Counters
from empiarfs.mount import mountpoints, probe
from empiarfs.mount.probe import ProbeResult
from empiarfs.mount.status import Status, flat

WIDTH = 80
LABEL = 14
WARNINGS_SHOWN = 5
MINUTE, HOUR, DAY = 60, 3600, 86400


@click.command(epilog="Example: empiarfs status ~/empiar")
@click.argument("mountpoint", type=click.Path(path_type=Path), required=False, shell_complete=complete.mount_points)
@click.option(
    "--json", "as_json", is_flag=True, help="As JSON: one object, or a list where no MOUNTPOINT is given."
)
@click.option("--prometheus", "for_prometheus", is_flag=True, help="As Prometheus reads it.")
@click.pass_context
def status(context: click.Context, mountpoint: Path | None, *, as_json: bool, for_prometheus: bool) -> None:
    """Show statistics of the mount on MOUNTPOINT, or of all that you may look into.

    One that is dead or does not answer is shown as such, and makes the exit status 1.
    """
    if as_json and for_prometheus:
        raise click.UsageError("--json or --prometheus, not both")
    try:
        results = probe.probe_all(probe.mounts() if mountpoint is None else [mountpoints.own(mountpoint)])
    except mountpoints.CannotMount as error:
        raise click.ClickException(printable(str(error))) from error
    if for_prometheus:
        click.echo(prometheus.exposition(results), nl=False)
    elif as_json:
        values = [_values(one) for one in results]
        click.echo(json.dumps(values if mountpoint is None else values[0], indent=2))
    elif results:
        click.echo("\n\n".join(table(one) for one in results))
    else:
        click.echo("nothing is mounted; mount with: empiarfs mount ~/empiar 10028", err=True)
    context.exit(int(any(one.status is None for one in results)))


def _values(one: ProbeResult) -> dict[str, Any]:
    """Return what a program wants to know; `trouble` is empty where the mount answers."""
    return {**(flat(one.status) if one.status else {}), "mountpoint": one.mountpoint, "trouble": one.trouble}


def table(one: ProbeResult) -> str:
    """Return the lines of one mount for people: 80 columns, where no name in it is longer."""
    if one.status is None:
        return _wrapped(f"{one.mountpoint} {one.trouble}")
    rows = {**_of_the_mount(one.status), **_of_the_archive(one.status.counters)}
    waiting = f"programs wait for {one.status.names_waiting:,} names and {one.status.reads_waiting:,} reads"
    rows["waiting"].insert(0, waiting)
    newest = one.status.warnings[-WARNINGS_SHOWN:]
    rows["warnings"] = [f"{local_time(trouble.time)} {trouble.text}" for trouble in newest] or ["none"]
    lines = [
        _wrapped(text, f"  {'' if number else label:{LABEL - 2}}", " " * LABEL)
        for label, texts in rows.items()
        for number, text in enumerate(texts)
    ]
    return "\n".join((printable(one.mountpoint), *lines))


def _wrapped(text: str, first: str = "", others: str = "  ") -> str:
    return textwrap.fill(
        printable(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _of_the_mount(of: Status) -> dict[str, list[str]]:
    """Return the lines of text by label."""
    return {
        "mounted": [f"{local_time(of.since)}, {duration(of.now - of.since)} ago; process {of.pid}"],
        "version": [f"{of.version}, {of.binding}"],
        "archive": [of.counters.base_url],
        "entries": [" ".join(of.entries) or "none opened yet"],
        "read": [f"{size(of.served_bytes)} in {of.reads:,} reads; {of.open_files:,} files are open"],
    }


def _of_the_archive(of: Counters) -> dict[str, list[str]]:
    """Return the lines of text by label."""
    brought = of.blocks_from_disk + of.blocks_fetched
    return {
        "fetched": [
            f"{size(of.fetched_bytes)} in {of.requests:,} requests",
            f"{of.retries:,} retries, {of.hedged_requests:,} hedged, {of.stalls:,} timeouts",
        ],
        "blocks": [
            f"{share(of.blocks_from_memory, of.blocks_read)} of {of.blocks_read:,} were in memory when asked for",
            f"{share(of.blocks_from_disk, brought)} of {brought:,} brought there came from disk",
            f"{share(of.blocks_fetched, brought)} came from the network",
        ],
        "connections": ["offline"]
        if _is_offline(of)
        else [
            f"{of.connections_busy} in use, {of.connections_peak} at most so far, {of.connections_open} open",
            f"{of.connections_allowed} of {of.connections_limit} allowed now",
        ],
        "server": _of_the_server(of),
        "memory": [f"{size(of.memory_bytes)} of {size(of.memory_limit_bytes)}"],
        "disk": [
            f"{size(of.disk_bytes)} of {size(of.disk_limit_bytes)}",
            f"{of.dropped_writes:,} blocks not written in time, {of.corrupt_blocks:,} found damaged",
        ],
        "waiting": [
            f"{of.readers_waiting:,} requests for a connection, {of.blocks_in_flight:,} blocks under way",
            f"{of.background_queue_length:,} tasks ahead of readers, {size(of.write_queue_bytes)} for the disk",
        ],
    }


def _is_offline(of: Counters) -> bool:
    """Return whether an archive was opened that may use no connection."""
    return bool(of.base_url) and not of.connections_limit


def _of_the_server(of: Counters) -> list[str]:
    if _is_offline(of):
        return ["offline"]
    if not of.first_byte_seconds:
        return ["has not answered yet"]
    rate = of.connection_bytes_per_second
    return [
        f"answers in {of.first_byte_seconds:.3f} s, 95 of 100 times in {of.slow_first_byte_seconds:.3f} s",
        f"{size(rate)}/s over a connection" if rate else "how fast it sends is not known yet",
    ]


def duration(seconds: float) -> str:
    """Return `seconds` in the two largest units that they fill."""
    whole = max(0, int(seconds))
    if whole >= DAY:
        return f"{whole // DAY} d {whole % DAY // HOUR} h"
    if whole >= HOUR:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE} min"
    if whole >= MINUTE:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    return f"{whole} s"


def share(part: int, whole: int) -> str:
    """Return which part of `whole` that is, in hundredths; none where there is no whole."""
    return f"{100 * part / whole:.1f} %" if whole else "none"
