"""`mount.fuse.empiarfs`: the helper that mount(8) runs for a line of fstab, or for `mount -t fuse.empiarfs`."""

import re
import sys

import click

from empiarfs.cli import main, streams
from empiarfs.mount.mount_table import KIND

_ALL = {"", "none", "empiar", "empiarfs"}


@click.command(
    cls=streams.Guarded,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example line of /etc/fstab: 10028,10934  /mnt/empiar  fuse.empiarfs  ro,_netdev,allow_other  0 0",
)
@click.argument("source")
@click.argument("mountpoint")
@click.option("-o", "extra", multiple=True, metavar="OPT", help="The options, as in fstab.")
@click.option("-t", "kind", metavar="TYPE", help=f"The type, {KIND}.")
@click.option("-v", "verbose", is_flag=True, help="Log every request.")
@click.option("-s", "sloppy", is_flag=True, help="Accepted and ignored.")
@click.option("-n", "no_table", is_flag=True, help="Accepted and ignored.")
@click.option("-f", "fake", is_flag=True, help="Do everything except the mount itself.")
def helper(source: str, mountpoint: str, extra: tuple[str, ...], kind: str, **flags: bool) -> None:
    """Mount the archive on MOUNTPOINT; mount(8) runs this program once it is linked into /sbin.

    SOURCE is empiar for the whole archive, or the entries to show, like 10028,10934 or 10028+10934
    (which mount -a recognises when it is mounted).
    """
    del kind
    if flags["fake"]:
        return
    # mount(8) makes a path of a source that is also the name of a file where it runs
    name = source.rpartition("/")[2]
    entries = [] if name in _ALL else re.split("[,+]", name)
    given = ",".join(extra).split(",")
    # mount(8) adds rw if a line does not say ro; the user did not choose it
    words = [
        "-o",
        ",".join((*(option for option in given if option not in {"", "rw"}), f"fsname={source.replace(',', '+')}")),
    ]
    verbose = ["--verbose"] if flags["verbose"] else []
    main(["mount", *words, *verbose, "--", mountpoint, *entries], prog_name="empiarfs")


def mount_helper() -> None:
    """Run the helper; mount(8) puts the options after the two names."""
    helper(sys.argv[1:], prog_name=f"mount.{KIND}")
