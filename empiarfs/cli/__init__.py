"""The command line: a thin face over the archive, with one module for each family of commands."""

import click

from empiarfs.cli import about, cache, doctor, files, mounts, status, streams
from empiarfs.cli.groups import Group
from empiarfs.cli.text import reason
from empiarfs.settings import BadSetting

_SILENT = {"mount", "umount"}  # they write nothing to standard output


class _Program(streams.Guarded, Group):
    """The group of all commands; turns an error of any of them into one line and an exit status."""

    def invoke(self, context: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(context)
        except BrokenPipeError:
            context.exit(streams.BROKEN_PIPE)
        except BadSetting as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(reason(error)) from error


@click.group(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Try it without a network: empiarfs ls --sample",
)
@click.version_option(None, "--version", "-V", package_name="empiarfs", message="empiarfs %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """EMPIAR, the public archive of raw cryo-EM images, as a file system.

    \b
    empiarfs mount ~/empiar 10028     then read ~/empiar/10028/data/... with any program
    empiarfs ls 10028/data            look without mounting
    empiarfs umount ~/empiar          when you are done
    """  # noqa: D301 - click wants the character itself
    if streams.is_closed() and context.invoked_subcommand not in _SILENT:
        raise click.ClickException("standard output is closed; redirect it to a file or a pipe")


for _command in (
    mounts.mount, mounts.umount, status.status, files.ls, files.stat, files.cat, cache.cache, doctor.doctor,
    about.show_help, about.version,
):  # fmt: skip
    main.add_command(_command)
