"""What a PATH of the command line names: a path in the archive, or in a mount of it."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from empiarfs.cli import options
from empiarfs.cli.text import printable
from empiarfs.model import Directory, File, Node, Stub
from empiarfs.paths import archive_path, is_local
from empiarfs.settings import PROMPT_PATIENCE, Settings

if TYPE_CHECKING:
    from empiarfs.archive import Archive

PIECE = 4 * 1024 * 1024  # bytes of a file that one call reads


class Mount:
    """A mount of empiarfs, read through its files: the same three methods as `Remote`."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def entries(self, directory: str) -> list[Node]:
        """Return the children of `directory`, in the mount's order; files as stubs, which costs no request."""
        base = f"{directory}/" if directory else ""
        with os.scandir(self._root / directory) as children:
            return [
                # the listing itself has the kind; following a link would have the mount measure a file
                Directory(base + child.name) if child.is_dir(follow_symlinks=False) else Stub(base + child.name)
                for child in children
            ]

    def stat(self, path: str) -> File | Directory:
        """Return what is at `path`."""
        status = (self._root / path).stat()
        if (self._root / path).is_dir():
            return Directory(path, int(status.st_mtime))
        return File(path, status.st_size, int(status.st_mtime))

    def pieces(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of the file at `path`."""
        with (self._root / path).open("rb") as file:
            while piece := file.read(PIECE):
                yield piece


class Remote:
    """The archive itself, whose files are read in pieces."""

    def __init__(self, archive: "Archive") -> None:
        self.entries = archive.listdir
        self.stat = archive.stat
        self._archive = archive

    def pieces(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of the file at `path`."""
        opened = self._archive.open(path)
        while piece := opened.read(PIECE):
            yield piece


def _is_of_archive(text: str, flags: dict[str, Any]) -> bool:
    """Return whether `text` means the archive even if the current directory holds a file of that name."""
    if text.startswith((".", "/")):
        return False
    return bool(flags["sample"] or flags["base_url"]) or not is_local(text)


class Places:
    """Resolves the PATHs of one command; the archive is opened once, when the first PATH needs it.

    Args:
        flags: those of the command.
    """

    def __init__(self, flags: dict[str, Any]) -> None:
        self._flags = flags
        self._settings = options.load(flags, Settings(patience=PROMPT_PATIENCE))
        self._stack = ExitStack()
        self._opened: Archive | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @contextmanager
    def find(self, text: str) -> Iterator[tuple[Mount | Remote, str]]:
        """Yield the place that `text` names, and the path there; explain a path that is not found.

        Raises:
            click.ClickException: it names no such place.
        """
        if "://" not in text:
            from empiarfs.mount import mountpoints  # noqa: PLC0415 - Linux alone has the table it reads

            root = None if not text or _is_of_archive(text, self._flags) else mountpoints.holder(Path(text))
            if root is not None:
                if mountpoints.is_dead(root):
                    raise click.ClickException(
                        f"{printable(root)}: the daemon of this mount is dead; unmount it with: "
                        f"empiarfs umount {printable(root)}"
                    )
                yield (
                    Mount(root),
                    Path(mountpoints.absolute(Path(text))).relative_to(root).as_posix().removeprefix("."),
                )
                return
            if text.startswith("/"):
                raise click.ClickException(
                    f"{printable(text)} is not in a mount of empiarfs; write it like 10028/data"
                )
        try:
            path = archive_path(text, self._settings.base_url)
        except ValueError as error:
            raise click.UsageError(printable(str(error))) from error
        archive = self._archive()
        try:
            yield Remote(archive), path
        except FileNotFoundError as error:
            raise _explained(error, path, archive, sample=self._flags["sample"]) from error

    def _archive(self) -> "Archive":
        if self._opened is None:
            opening = options.archive(self._settings, sample=self._flags["sample"])
            self._opened = self._stack.enter_context(opening)
        return self._opened


@contextmanager
def place(text: str, flags: dict[str, Any]) -> Iterator[tuple[Mount | Remote, str]]:
    """Yield the place that the one PATH of a command names, and the path there."""
    with Places(flags) as places, places.find(text) as found:
        yield found


def no_entry(names: str, *, sample: bool) -> str:
    """Return a message that there are no such entries, and which command lists those that exist."""
    why = "" if sample else " (mistyped, or not yet public?)"
    return f"there is no entry {names}{why}; empiarfs ls{' --sample' * sample} lists all entries"


def _explained(
    error: FileNotFoundError, path: str, archive: "Archive", *, sample: bool
) -> FileNotFoundError | click.ClickException:
    """Return the error for a path that is not found: its entry may not exist, or be mistyped."""
    first = path.partition("/")[0]
    digits = re.sub(r"(?i)^empiar[\W_]*", "", first)
    if digits != first and digits.isascii() and digits.isdigit():
        return click.ClickException(f"{printable(path)}: write it like {digits} or EMPIAR-{digits}")
    if not (first.isascii() and first.isdigit()):
        return error
    try:
        archive.listdir(first)
    except FileNotFoundError:
        return click.ClickException(f"{printable(path)}: {no_entry(first, sample=sample)}")
    except OSError:
        pass
    return error
