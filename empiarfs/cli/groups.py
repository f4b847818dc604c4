"""Groups of commands, whose list of commands shows whole sentences."""

from gettext import gettext

import click

_WHOLE = 1000  # characters; click cuts a sentence that does not fit into a line


class Group(click.Group):
    """A group whose help shows the first sentence of each command's help, wrapped where click would cut it."""

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        commands = [(name, self.get_command(context, name)) for name in self.list_commands(context)]
        rows = [(name, one.get_short_help_str(_WHOLE)) for name, one in commands if one and not one.hidden]
        with formatter.section(gettext("Commands")):
            formatter.write_dl(rows)
