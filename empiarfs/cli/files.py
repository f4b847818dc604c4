"""`empiarfs ls`, `stat` and `cat`: read the archive without a mount."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from empiarfs.cli import complete, options, progress
from empiarfs.cli.places import Mount, Places, Remote
from empiarfs.cli.places import place as place_of
from empiarfs.cli.text import printable, reason, short_size
from empiarfs.model import Directory, File, Node, Stub, base_name


@click.command(
    context_settings={"help_option_names": ["--help"]},  # -h is taken, as in GNU ls
    epilog="Example: empiarfs ls -lh 10028/data/Micrographs",
)
@click.argument("paths", nargs=-1, metavar="[PATH]...", shell_complete=complete.archive_paths)
@click.option(
    "--long",
    "-l",
    is_flag=True,
    help="Show sizes and dates; ~ marks a size that the server rounds, dates without UTC are in its time zone.",
)
@click.option("--human-readable", "-h", "human", is_flag=True, help="With -l: show sizes like 1.2G.")
@click.option("--recursive", "-R", is_flag=True, help="List subdirectories too; one request for each.")
@click.option(
    "--all", "-a", is_flag=True, expose_value=False, help="Accepted for compatibility; all names are shown anyway."
)
@options.archive_options
def ls(paths: tuple[str, ...], *, long: bool, human: bool, recursive: bool, **flags: Any) -> None:
    """List directories, one name a line; without PATH the entries of EMPIAR.

    PATH is 10028/data, EMPIAR-10028/data, empiar://10028/data, a URL, the web page of an entry, or a path inside a
    mount. Costs one request for a directory, or none if its listing is cached.
    """
    many = recursive or len(paths) > 1
    failed: list[str] = []
    with Places(flags) as places:
        files: list[tuple[str, Node]] = []
        directories: list[tuple[str, Mount | Remote, str, list[Node] | None]] = []
        for text in paths or ("",):
            with _going_on(failed, among=len(paths) > 1), places.find(text) as (place, where):
                if recursive and not where and isinstance(place, Remote) and not flags["sample"]:
                    raise click.UsageError("EMPIAR holds 20 million files; name an entry: empiarfs ls -R 10028")
                try:
                    directories.append((text, place, where, place.entries(where)))
                except NotADirectoryError:
                    file = place.stat(where)
                    files.append((text if many else base_name(file.path), file))
        _print(files, long=long, human=human)
        blank = "\n" if files else ""
        while directories:
            text, place, where, listed = directories.pop(0)
            with _going_on(failed, among=many):
                listed = place.entries(where) if listed is None else listed
            if listed is None:
                continue
            if many:
                click.echo(f"{blank}{printable(text)}:")
                blank = "\n"
            _print(((base_name(node.path), node) for node in listed), long=long, human=human)
            if recursive:
                above = text and f"{text.rstrip('/')}/"
                below = (node.path for node in listed if isinstance(node, Directory))
                directories[:0] = [(f"{above}{base_name(path)}", place, path, None) for path in below]
    if failed:
        click.get_current_context().exit(1)


@contextmanager
def _going_on(failed: list[str], *, among: bool) -> Iterator[None]:
    """Report an error of the block and go on, if it is one `among` several; else raise it."""
    try:
        yield
    except (click.ClickException, OSError) as error:
        if not among:
            raise
        failed.append(error.format_message() if isinstance(error, click.ClickException) else reason(error))
        click.echo(f"Error: {failed[-1]}", err=True)


def _print(named: Iterable[tuple[str, Node]], *, long: bool, human: bool) -> None:
    # plain lines: a table of rich's takes half a minute for 100,000 rows
    rows = [(_size(node, human=human), _date(node), _shown(name, node)) for name, node in named]
    width = max((len(size) for size, *_ in rows), default=0)
    date_width = max((len(date) for _, date, _ in rows), default=0)
    for size, date, shown in rows:
        click.echo(f"{size:>{width}}  {date:{date_width}}  {shown}" if long else shown)


@click.command(epilog="Example: empiarfs stat EMPIAR-10028/10028.xml")
@click.argument("path", shell_complete=complete.archive_paths)
@options.archive_options
def stat(path: str, **flags: Any) -> None:
    """Show the kind, exact size, date and address of PATH; a file costs one request, once."""
    with place_of(path, flags) as (place, where):
        found = place.stat(where)
    lines = {
        "path": printable(found.path) or "/",
        "kind": "directory" if isinstance(found, Directory) else "file",
    }
    if isinstance(found, File):
        lines["size"] = f"{found.size} bytes"
    if date := _date(found, "%Y-%m-%d %H:%M:%S"):
        lines["modified"] = date
    lines["address"] = f"empiar://{printable(found.path)}"
    for name, value in lines.items():
        click.echo(f"{name + ':':10}{value}")


@click.command(epilog="Example: empiarfs cat 10028/data/Particles/shiny_2sets.star > shiny_2sets.star")
@click.argument("path", shell_complete=complete.archive_paths)
@options.archive_options
def cat(path: str, **flags: Any) -> None:
    """Write the file PATH to standard output; with a progress bar if that is a file or a pipe.

    Binary data are not written to a terminal, because they would change its modes and colours.
    """
    to_terminal = sys.stdout.isatty()
    with place_of(path, flags) as (place, where):
        found = place.stat(where)
        size = found.size if isinstance(found, File) else 0
        with progress.shown(size, wanted=not to_terminal) as advance:
            for piece in place.pieces(where):
                if to_terminal and b"\0" in piece:
                    raise click.ClickException(
                        f"{printable(path)} is binary; write it to a file (empiarfs cat PATH > FILE) or a pipe"
                    )
                sys.stdout.buffer.write(piece)
                advance(len(piece))


def _shown(name: str, node: Node) -> str:
    return printable(name) + ("/" if isinstance(node, Directory) and not name.endswith("/") else "")


def _size(node: Node, *, human: bool) -> str:
    match node:
        case Directory():
            return "-"
        case File():
            return short_size(node.size) if human else str(node.size)
        case Stub():
            return f"~{node.listed_size}" if node.listed_size else "?"


def _date(node: Node, form: str = "%Y-%m-%d %H:%M") -> str:
    if isinstance(node, Stub):
        return printable(node.listed_date)  # as the server wrote it
    date = node.mtime if isinstance(node, File) else node.modified
    is_exact = isinstance(node, File) and (not node.coarse_mtime or node.exact_mtime is not None)
    # a listing does not name its zone
    return "" if date is None else time.strftime(form, time.gmtime(date)) + " UTC" * is_exact
