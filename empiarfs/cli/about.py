"""`empiarfs help` and `empiarfs version`: the options --help and --version as commands."""

from importlib.metadata import version as installed_version

import click


@click.command("help", epilog="Example: empiarfs help cache info")
@click.argument("command", nargs=-1)
@click.pass_context
def show_help(context: click.Context, command: tuple[str, ...]) -> None:
    """Show the help of COMMAND, as COMMAND --help does; without COMMAND the list of all commands."""
    shown = context.find_root()
    for word in command:
        if not isinstance(shown.command, click.Group):
            raise click.UsageError(f"{shown.command_path} has no command {word!r}", shown)
        name, found, _ = shown.command.resolve_command(shown, [word])
        assert found is not None  # noqa: S101 - resolve_command raises for a word that is no command
        shown = click.Context(found, parent=shown, info_name=name, **found.context_settings)
    click.echo(shown.get_help())


@click.command(epilog="Example: empiarfs version")
def version() -> None:
    """Show the version, as --version does."""
    click.echo(f"empiarfs {installed_version('empiarfs')}")
