"""The Python API: the default archive of a process, and files opened by path, accession or URL.

The names are available in `empiarfs` itself, which imports them at their first use.
"""

import atexit
import io
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empiarfs import setting_sources, wire
from empiarfs.archive import Archive
from empiarfs.files import ArchiveFile
from empiarfs.mount import mountpoints, status
from empiarfs.paths import archive_path, entry_number, is_local
from empiarfs.settings import BadSetting, Settings
from empiarfs.urls import without_credentials


@dataclass(frozen=True, slots=True)
class Recipe:
    """The arguments of an archive; a call returns the archive of this process that was opened with them.

    Attributes:
        settings: the address and the limits of the archive.
        only: the entries to show; empty for all.
    """

    settings: Settings
    only: tuple[str, ...] = ()

    def __call__(self) -> Archive:
        """Return the default archive of this process if it has this recipe, else another that is opened once."""
        return _process.shared(self)

    def open(self) -> Archive:
        """Open a new archive."""
        archive = wire.archive(self.settings, self.only)
        archive.recipe = self
        return archive


class _Process:
    """The archives of one process.

    Args:
        default: the default archive, if there is one.
        recipe: the recipe of the default archive, if it is known.
        parent: the archives of the process that this one was forked from. They are never collected, as that would
            end transactions and connections of the parent.
    """

    def __init__(
        self,
        default: Archive | None = None,
        recipe: Recipe | None = None,
        parent: "_Process | None" = None,
    ) -> None:
        self._lock = threading.Lock()
        self._default = default
        self._recipe = recipe
        self._parent = parent
        self._shared: dict[Recipe, Archive] = {}

    def forked(self) -> "_Process":
        """Return the archives of a child; a default archive without a recipe stays, and raises Closed when used."""
        return _Process(self._default if self._recipe is None else None, self._recipe, self)

    def default(self) -> Archive:
        """Return the default archive; open it if necessary."""
        with self._lock:
            if self._default is None or (self._default.closed and self._recipe is not None):
                self._recipe = self._recipe or Recipe(setting_sources.load_here({}))
                self._default = self._opened(self._recipe)
            return self._default

    def set_default(self, archive: Archive | None) -> None:
        """Set the default archive; with None it is opened at its next use."""
        recipe = archive.recipe if archive is not None else None
        with self._lock:
            self._default = archive
            self._recipe = recipe if isinstance(recipe, Recipe) else None

    def shared(self, recipe: Recipe) -> Archive:
        """Return the archive of `recipe`: the default archive if it has that recipe, else one opened once."""
        with self._lock:
            default = self._default
            if default is not None and self._recipe == recipe and not default.closed:
                return default
            return self._opened(recipe)

    def close(self) -> None:
        """Close all archives that were opened here."""
        with self._lock:
            for archive in self._shared.values():
                archive.close()

    def _opened(self, recipe: Recipe) -> Archive:
        archive = self._shared.get(recipe)
        if archive is None or archive.closed:
            archive = self._shared[recipe] = recipe.open()
        return archive


_process = _Process()


def _forked() -> None:
    global _process  # noqa: PLW0603 - there is one for each process
    _process = _process.forked()


os.register_at_fork(after_in_child=_forked)


def _exit() -> None:
    _process.close()


atexit.register(_exit)


def open_archive(*, only: str | int | Iterable[str | int] = (), **keywords: Any) -> Archive:
    """Open an archive, which the caller closes.

    Settings that are not given come from an `EMPIARFS_*` variable, the configuration file or the default, as for
    the command line. The archive and its files pickle as their settings, with user names and passwords in URLs.

    >>> import empiarfs
    >>> with empiarfs.open_archive(only="EMPIAR-99001", memory_cache_size="64M") as archive:
    ...     [node.path for node in archive.listdir("")]
    ['99001']

    Args:
        only: the entries to show, like 10028 or `"EMPIAR-10028"`; empty for all.
        keywords: settings by the names of `Settings`, as values or as text in the form of the command line:
            `cache_size="50G"`, `offline=True`, `cache_dir=Path("/scratch/cache")`.

    Raises:
        BadSetting: a name or a value is invalid; the message names it.
        OSError: the cache folder is not a folder, or others may write to it.
    """
    chosen = setting_sources.from_keywords(keywords)
    entries = (only,) if isinstance(only, str | int) else only
    try:
        numbers = tuple(dict.fromkeys(entry_number(str(entry), chosen.base_url) for entry in entries))
    except ValueError as error:
        raise BadSetting(f"only: {error}") from error
    return Recipe(chosen, numbers).open()


def default_archive() -> Archive:
    """Return the default archive of this process, opened at its first use with the settings of the command line.

    A child of a fork opens its own with the same settings. The archive is closed when the process ends.

    >>> import empiarfs
    >>> empiarfs.default_archive().stat("99001/data/micrographs.star").size
    495

    Raises:
        BadSetting: the environment or the configuration file contains an invalid setting.
        OSError: the cache folder is not a folder, or others may write to it.
    """
    return _process.default()


def set_default(archive: Archive | None) -> None:
    """Set the default archive of this process; children of a fork open their own with the same settings.

    Args:
        archive: an archive of `open_archive`, which the caller closes; None for one with the settings of the
            command line, opened at its next use.
    """
    _process.set_default(archive)


def open(source: str | os.PathLike[str]) -> ArchiveFile | io.FileIO:  # noqa: A001 - as in gzip and tarfile
    r"""Open a file of the archive or of this machine for reading, unbuffered.

    A file on a mount of empiarfs is read from the default archive and not through the kernel, if the mount shows
    the same archive.

    >>> import empiarfs
    >>> with empiarfs.open("empiar://99001/data/micrographs.star") as file:
    ...     file.readline()
    b'# version 30001\n'

    Args:
        source: `10028/data/...`, `EMPIAR-10028/data/...`, `empiar://10028/data/...`, a URL below the archive's, or
            a path of this machine. A relative path that begins with a number is one of the archive; write `./10028`
            for one of this machine.

    Raises:
        ValueError: it is a URL of another server, or contains `..`.
        ArchiveError: NotFound, IsADirectory, Forbidden, Unavailable.
        OSError: a file of this machine cannot be opened.
        BadSetting: as `default_archive`.
    """
    text = os.fspath(source)
    if is_local(text):
        return _on_mount(text) or io.FileIO(text)
    archive = default_archive()
    return archive.open(archive_path(text, _base_url(archive)))


def _on_mount(text: str) -> ArchiveFile | None:
    """Open the file at the local path `text` from the default archive; return None if it is not on such a mount."""
    path = Path(os.path.abspath(text))  # noqa: PTH100 - a Path keeps ".."
    root = mountpoints.holder(path)
    below = os.path.relpath(mountpoints.absolute(path), root) if root is not None else ""
    if root is None or is_local(below):
        return None
    try:
        served = status.from_text((Path(root) / status.NAME).read_text("ascii")).counters.base_url
    except (OSError, ValueError):
        return None
    archive = default_archive()
    if served != without_credentials(_base_url(archive)):
        return None
    try:
        return archive.open(archive_path(below, ""))
    except FileNotFoundError:
        return None


def _base_url(archive: Archive) -> str:
    return archive.recipe.settings.base_url if isinstance(archive.recipe, Recipe) else archive.counters().base_url
