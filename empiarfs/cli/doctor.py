"""`empiarfs doctor`: check what a mount needs, and advise on what is missing."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import click

from empiarfs.cli import fuse_checks, machine, network, options
from empiarfs.cli.findings import State
from empiarfs.cli.text import printable


@click.command(epilog="Example: empiarfs doctor")
@click.argument("mountpoint", type=click.Path(path_type=Path), required=False)
@options.some("base_url", "ftp_url", "no_ftp", "cache_dir", "offline", "ca_bundle", "verbose")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable JSON output.")
def doctor(mountpoint: Path | None, *, as_json: bool, **flags: Any) -> None:
    """Check that this machine can mount and reach the archive; say what to do if it cannot.

    Tries a mount in a temporary directory, and one on MOUNTPOINT. Takes up to 20 seconds. The exit status is 1 if
    a check is bad, and 0 if there are only warnings.
    """
    chosen = options.load(flags)
    options.log_to(None, verbose=chosen.verbose)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # not without undoing the trial
    found = [*fuse_checks.findings(chosen, mountpoint), *machine.findings(chosen), *network.findings(chosen)]
    healthy = all(one.state != "bad" for one in found)
    if as_json:
        rows = [{"state": one.state, "what": one.what, "advice": one.advice} for one in found]
        click.echo(json.dumps({"healthy": healthy, "findings": rows}, indent=2))
    else:
        for one in found:
            click.echo(f"{one.state:<5} {printable(one.what)}")
            if one.advice:
                click.echo(f"      {printable(one.advice)}")
        click.echo(_verdict([one.state for one in found]))
    if not healthy:
        click.get_current_context().exit(1)


def _verdict(states: list[State]) -> str:
    """Return the last line: how many checks are bad, or how many are warnings."""
    bad = states.count("bad")
    if bad:
        return f'{bad} problem{"s" * (bad > 1)} found (see "bad" above)'
    warnings = states.count("warn")
    return f"a mount will work; {warnings} warning{'s' * (warnings > 1)}" if warnings else "all is well"
