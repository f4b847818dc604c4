"""`empiarfs status`: the statistics of mounts."""

import json
import textwrap
from pathlib import Path
from typing import Any

import click

from empiarfs.cli import complete, prometheus
from empiarfs.cli.text import counted, local_time, printable, size
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
    "--json",
    "as_json",
    is_flag=True,
    help="Machine-readable JSON output: one object, or a list without MOUNTPOINT.",
)
@click.option("--prometheus", "for_prometheus", is_flag=True, help="Output in the text format of Prometheus.")
@click.pass_context
def status(context: click.Context, mountpoint: Path | None, *, as_json: bool, for_prometheus: bool) -> None:
    """Show statistics of the mount on MOUNTPOINT, or of all mounts that you can read.

    A mount that is dead or does not answer is shown as such, and makes the exit status 1.
    """
    if as_json and for_prometheus:
        raise click.UsageError("choose --json or --prometheus, not both")
    try:
        results = probe.probe_all(probe.mounts() if mountpoint is None else [probe.with_status(mountpoint)])
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
    """Return the JSON object of one mount; `trouble` is empty if the mount answers."""
    return {**(flat(one.status) if one.status else {}), "mountpoint": one.mountpoint, "trouble": one.trouble}


def table(one: ProbeResult) -> str:
    """Return the lines of one mount for people, at most 80 columns wide if no name in it is longer."""
    if one.status is None:
        return _wrapped(f"{one.mountpoint} {one.trouble}")
    rows = {**_of_the_mount(one.status), **_of_the_archive(one.status.counters)}
    names, reads = counted(one.status.names_waiting, "name"), counted(one.status.reads_waiting, "read")
    rows["waiting"].insert(0, f"programs wait for {names} and {reads}")
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
        "read": [f"{size(of.served_bytes)} in {counted(of.reads, 'read')}; {counted(of.open_files, 'open file')}"],
    }


def _of_the_archive(of: Counters) -> dict[str, list[str]]:
    """Return the lines of text by label."""
    brought = of.blocks_from_disk + of.blocks_fetched
    retries = counted(of.retries, "retry", "retries")
    in_flight, queued = counted(of.blocks_in_flight, "block"), counted(of.background_queue_length, "task")
    return {
        "fetched": [
            f"{size(of.fetched_bytes)} in {counted(of.requests, 'request')}",
            f"{retries}, {of.hedged_requests:,} hedged, {counted(of.stalls, 'timeout')}",
        ],
        "blocks": [
            f"{share(of.blocks_from_memory, of.blocks_read)} of {of.blocks_read:,} read were in memory",
            f"{share(of.blocks_from_disk, brought)} of {brought:,} loaded into memory came from disk",
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
            f"{counted(of.dropped_writes, 'block')} not written in time, {of.corrupt_blocks:,} found damaged",
        ],
        "waiting": [
            f"{counted(of.readers_waiting, 'request')} for a connection",
            f"{in_flight} in flight, {queued} queued",
            f"{size(of.write_queue_bytes)} to be written to disk",
        ],
    }


def _is_offline(of: Counters) -> bool:
    """Return whether the archive is offline."""
    return bool(of.base_url) and not of.connections_limit


def _of_the_server(of: Counters) -> list[str]:
    if _is_offline(of):
        return ["offline"]
    if not of.first_byte_seconds:
        return ["has not answered yet"]
    rate = of.connection_bytes_per_second
    return [
        f"first byte after {of.first_byte_seconds:.3f} s (median), {of.slow_first_byte_seconds:.3f} s (95 %)",
        f"{size(rate)}/s over a connection" if rate else "transfer rate not known yet",
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
    """Return `part` of `whole` in per cent; none if `whole` is 0."""
    return f"{100 * part / whole:.1f} %" if whole else "none"
