"""The command line; a thin face, each family of commands in a module of its own."""

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import click

from empiarfs.cli import cache, doctor, files, mounts, status
from empiarfs.cli.groups import Group
from empiarfs.cli.text import reason
from empiarfs.settings import BadSetting

_SILENT = {"mount", "umount"}  # they write nothing to standard output
_CLOSED = "standard output is closed; there is nowhere to write to"
_PIPE_CLOSED = 141  # as a shell reports a program that SIGPIPE ended


class _Program(Group):
    """The group of all commands; what goes wrong in any of them is one line and a status."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run, and flush standard output, where a failure is still an error: later Python makes it status 120."""
        result: Any = None
        code: Any = 0
        try:
            result = super().main(*arguments, **options)
        except SystemExit as end:
            code = end.code
        except OSError:  # of standard error: nothing can be said
            code = 1
        failure = _flush(sys.stdout)
        if failure is not None and not code:
            code = _PIPE_CLOSED if failure.errno == errno.EPIPE else 1
            if code != _PIPE_CLOSED:
                with suppress(OSError):
                    click.echo(f"Error: {failure.strerror}", err=True)
        _flush(sys.stderr)
        if code or options.get("standalone_mode", True):
            sys.exit(code)
        return result

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **options: Any) -> click.Context:
        """Read the command line; `--help` and `--version` already write."""
        with _errors_in_one_line():
            return super().make_context(info_name, _usual(args), *more, **options)

    def invoke(self, context: click.Context) -> object:
        """Run the command."""
        with _errors_in_one_line():
            return super().invoke(context)


def _usual(words: Sequence[str]) -> list[str]:
    """Return the command line with `help COMMAND` and `version` as the options that they mean."""
    match words:
        case ["help", *rest]:
            return [*rest, "--help"]
        case ["version"]:
            return ["--version"]
        case _:
            return list(words)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        _discard(sys.stdout)
        raise click.exceptions.Exit(_PIPE_CLOSED) from error
    except BadSetting as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(reason(error)) from error
    except click.exceptions.Exit as end:  # after --help or --version
        if sys.stdout is None and not end.exit_code:
            raise click.ClickException(_CLOSED) from end
        raise


def _flush(stream: TextIO | None) -> OSError | None:
    """Flush what was written; return what went wrong, after which the rest is dropped."""
    try:
        if stream is not None:
            stream.flush()
    except OSError as error:
        _discard(stream)
        return error
    return None


def _discard(stream: TextIO | None) -> None:
    """Send what is still to be written nowhere: Python would try once more at its end."""
    if stream is not None:
        with suppress(OSError):  # one that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
    if sys.stdout is None and context.invoked_subcommand not in _SILENT:
        raise click.ClickException(_CLOSED)


for _command in (
    mounts.mount, mounts.umount, status.status, files.ls, files.stat, files.cat, cache.cache, doctor.doctor,
):  # fmt: skip
    main.add_command(_command)
