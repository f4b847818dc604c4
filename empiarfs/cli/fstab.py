"""`mount.fuse.empiarfs`: what mount(8) calls for a line of fstab, or for `mount -t fuse.empiarfs`."""

import re
import sys

import click

from empiarfs.cli import main, streams
from empiarfs.mount.mountpoints import KIND

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
@click.option("-s", "sloppy", is_flag=True, help="Taken and not needed.")
@click.option("-n", "no_table", is_flag=True, help="Taken and not needed.")
@click.option("-f", "fake", is_flag=True, help="Do all but the mount itself.")
def helper(source: str, mountpoint: str, extra: tuple[str, ...], kind: str, **flags: bool) -> None:
    """Mount the archive on MOUNTPOINT as mount(8) asks; link this program into /sbin for that.

    SOURCE is empiar for the whole archive, or the entries to show, like 10028,10934 or 10028+10934
    (which mount -a knows again).
    """
    del kind
    if flags["fake"]:
        return
    # mount(8) makes a path of a source that is also the name of a file where it runs
    name = source.rpartition("/")[2]
    entries = [] if name in _ALL else re.split("[,+]", name)
    given = ",".join(extra).split(",")
    # mount(8) says rw wherever a line does not say ro, and nobody has asked for it
    words = [
        "-o",
        ",".join((*(option for option in given if option not in {"", "rw"}), f"fsname={source.replace(',', '+')}")),
    ]
    verbose = ["--verbose"] if flags["verbose"] else []
    main(["mount", *words, *verbose, "--", mountpoint, *entries], prog_name="empiarfs")


def mount_helper() -> None:
    """Start; mount(8) puts the options behind the two names."""
    helper(sys.argv[1:], prog_name=f"mount.{KIND}")
