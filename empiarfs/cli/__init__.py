"""The command line; a thin face, each family of commands in a module of its own."""

import os
import sys
from typing import Any

import click

from empiarfs.cli import cache, doctor, files, mounts, status
from empiarfs.cli.text import printable
from empiarfs.errors import ArchiveError
from empiarfs.settings import BadSetting

_SILENT = {"mount", "umount"}  # they write nothing to standard output


class _Program(click.Group):
    """The group of all commands; what goes wrong in any of them is one line and a status."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run; the last door for what goes wrong with `--help` and `--version`, before any command."""
        try:
            return super().main(*arguments, **options)
        except OSError as error:
            click.echo(f"Error: {error.strerror or error}", err=True)
            sys.exit(1)

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            context.exit(141)  # as a shell reports a program that SIGPIPE ended
        except BadSetting as error:
            raise click.ClickException(str(error)) from error
        except ArchiveError as error:
            raise click.ClickException(printable(str(error))) from error
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(printable(f"{where}{error.strerror or error}")) from error


@click.group(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Try it without a network: empiarfs ls --sample",
)
@click.version_option(package_name="empiarfs", message="empiarfs %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """EMPIAR, the public archive of raw cryo-EM images, as a file system.

    \b
    empiarfs mount ~/empiar 10028     then read ~/empiar/10028/data/... with any program
    empiarfs ls 10028/data            look without mounting
    empiarfs umount ~/empiar          when you are done
    """  # noqa: D301 - click wants the character itself
    if sys.stdout is None and context.invoked_subcommand not in _SILENT:
        raise click.ClickException("standard output is closed; there is nowhere to write to")


for _command in (
    mounts.mount, mounts.umount, status.status, files.ls, files.stat, files.cat, cache.cache, doctor.doctor,
):  # fmt: skip
    main.add_command(_command)
