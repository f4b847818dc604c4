"""`empiarfs ls`, `stat` and `cat`: looking without a mount."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from empiarfs.cli import complete, options, progress
from empiarfs.cli.text import printable
from empiarfs.model import Directory, Entry, File, Stub, is_entry_number, name_of
from empiarfs.paths import archive_path, entry_of
from empiarfs.settings import Settings

if TYPE_CHECKING:
    from empiarfs.archive import Archive

CAT_PIECE = 4 * 1024 * 1024


class _Mount:
    """A mount of empiarfs, read by its own files: the same three methods as the archive's."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def entries(self, directory: str) -> list[Entry]:
        """Give the children of `directory`, in the mount's order; files as stubs, which costs no request."""
        base = f"{directory}/" if directory else ""
        with os.scandir(self._root / directory) as children:
            return [
                # the listing itself tells the kind; following a link would have the mount measure a file
                Directory(base + child.name) if child.is_dir(follow_symlinks=False) else Stub(base + child.name)
                for child in children
            ]

    def stat(self, path: str) -> File | Directory:
        """Give what is at `path`."""
        status = (self._root / path).stat()
        if (self._root / path).is_dir():
            return Directory(path, int(status.st_mtime))
        return File(path, status.st_size, int(status.st_mtime))

    def pieces(self, path: str) -> Iterator[bytes]:
        """Give the bytes of the file at `path`."""
        with (self._root / path).open("rb") as file:
            while piece := file.read(CAT_PIECE):
                yield piece


class _Remote:
    """The archive itself, with whole files in pieces."""

    def __init__(self, archive: "Archive") -> None:
        self.entries = archive.entries
        self.stat = archive.stat
        self._archive = archive

    def pieces(self, path: str) -> Iterator[bytes]:
        """Give the bytes of the file at `path`."""
        opened = self._archive.open(path)
        for offset in range(0, opened.file.size, CAT_PIECE):
            yield opened.read(offset, CAT_PIECE)


def _is_of_archive(text: str, flags: dict[str, Any]) -> bool:
    """Tell whether `text` means the archive also where a file in the current directory is called so."""
    if text.startswith((".", "/")):
        return False
    first = text.partition("/")[0]
    return bool(flags["sample"] or flags["base_url"]) or is_entry_number(entry_of(first) or first)


@contextmanager
def _place(text: str, flags: dict[str, Any]) -> Iterator[tuple[_Mount | _Remote, str]]:
    """Give where `text` points: a mount or the archive, and the path there."""
    if "://" not in text:
        from empiarfs.mount import points  # noqa: PLC0415 - Linux alone has the table it reads

        root = None if not text or _is_of_archive(text, flags) else points.holder(Path(text))
        if root is not None:
            if points.is_dead(root):
                raise click.ClickException(
                    f"{printable(root)}: the daemon of this mount is dead; take it away with: "
                    f"empiarfs umount {printable(root)}"
                )
            yield (
                _Mount(root),
                Path(points.absolute(Path(text))).relative_to(root).as_posix().removeprefix("."),
            )
            return
        if text.startswith("/"):
            raise click.ClickException(f"{printable(text)} is in no mount of empiarfs; write it like 10028/data")
    chosen = options.load(flags, Settings(patience=options.PROMPT_PATIENCE))
    try:
        path = archive_path(text, chosen.base_url)
    except ValueError as error:
        raise click.UsageError(printable(str(error))) from error
    with options.archive(chosen, sample=flags["sample"]) as archive:
        try:
            yield _Remote(archive), path
        except FileNotFoundError as error:
            raise _explained(error, path, archive, sample=flags["sample"]) from error


def no_entry(names: str, *, sample: bool) -> str:
    """Say that there are no such entries, and which command shows those there are."""
    return f"no entry {names} here; empiarfs ls{' --sample' * sample} shows those there are"


def _explained(
    error: FileNotFoundError, path: str, archive: "Archive", *, sample: bool
) -> FileNotFoundError | click.ClickException:
    """Give what to say of a path that is not there: it may be its entry that is not, or no entry at all."""
    first = path.partition("/")[0]
    digits = re.sub(r"(?i)^empiar[\W_]*", "", first)
    if digits != first and digits.isascii() and digits.isdigit():
        return click.ClickException(f"{printable(path)}: write it like {digits} or EMPIAR-{digits}")
    if not (first.isascii() and first.isdigit()):
        return error
    try:
        archive.entries(first)
    except FileNotFoundError:
        return click.ClickException(f"{printable(path)}: {no_entry(first, sample=sample)}")
    except OSError:
        pass
    return error


@click.command(epilog="Example: empiarfs ls -l 10028/data/Micrographs")
@click.argument("path", default="", shell_complete=complete.archive_paths)
@click.option("--long", "-l", is_flag=True, help="Sizes and dates too; ~ marks a size that the server rounds.")
@options.archive_options
def ls(path: str, *, long: bool, **flags: Any) -> None:
    """List the directory PATH, one name a line; the entries where PATH is left out.

    PATH is 10028/data, EMPIAR-10028/data, empiar://10028/data, a URL, or a path inside a mount. Costs one
    request, or none where the listing is known.
    """
    with _place(path, flags) as (place, where):
        try:
            entries = place.entries(where)
        except NotADirectoryError:
            entries = [place.stat(where)]
    # plain lines: a table of rich's takes half a minute for 100,000 rows
    rows = [(_size(entry), _date(entry), _shown(entry)) for entry in entries]
    width = max((len(size) for size, *_ in rows), default=0)
    lines = (f"{size:>{width}}  {date:16}  {name}" if long else name for size, date, name in rows)
    for line in lines:
        click.echo(line)


@click.command(epilog="Example: empiarfs stat EMPIAR-10028/10028.xml")
@click.argument("path", shell_complete=complete.archive_paths)
@options.archive_options
def stat(path: str, **flags: Any) -> None:
    """Tell the kind, exact size, date and address of PATH; a file is measured by one request, once."""
    with _place(path, flags) as (place, where):
        found = place.stat(where)
    lines = {
        "path": printable(found.path) or "/",
        "kind": "directory" if isinstance(found, Directory) else "file",
    }
    if isinstance(found, File):
        lines["size"] = f"{found.size} bytes"
    if found.modified is not None:
        lines["modified"] = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found.modified))
    lines["address"] = f"empiar://{printable(found.path)}"
    for name, value in lines.items():
        click.echo(f"{name + ':':10}{value}")


@click.command(epilog="Example: empiarfs cat 10028/data/Particles/shiny_2sets.star > shiny_2sets.star")
@click.argument("path", shell_complete=complete.archive_paths)
@options.archive_options
def cat(path: str, **flags: Any) -> None:
    """Write the bytes of the file PATH to standard output; with a progress bar where that is a file or a pipe."""
    with _place(path, flags) as (place, where):
        found = place.stat(where)
        size = found.size if isinstance(found, File) else 0
        with _progress(size) as advance:
            for piece in place.pieces(where):
                sys.stdout.buffer.write(piece)
                advance(len(piece))
        sys.stdout.buffer.flush()


def _shown(entry: Entry) -> str:
    return printable(name_of(entry.path)) + ("/" if isinstance(entry, Directory) else "")


def _size(entry: Entry) -> str:
    match entry:
        case Directory():
            return "-"
        case File():
            return str(entry.size)
        case Stub():
            return f"~{entry.listed_size}" if entry.listed_size else "?"


def _date(entry: Entry) -> str:
    if isinstance(entry, Stub):
        return printable(entry.listed_date)  # as the server wrote it
    return "" if entry.modified is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(entry.modified))


@contextmanager
def _progress(size: int) -> Iterator[Callable[[int], object]]:
    """Show how far `size` bytes have come, where somebody looks on and the bytes go elsewhere."""
    with progress.shown(size, wanted=not sys.stdout.isatty()) as advance:
        yield advance
