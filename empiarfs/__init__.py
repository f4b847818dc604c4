"""EMPIAR, the public archive of raw cryo-EM images, as a read-only file system.

Each public name is imported from its module at its first use, so that `import empiarfs` is fast.
"""

from typing import TYPE_CHECKING

__all__ = [
    "Archive",
    "ArchiveError",
    "ArchiveFile",
    "BadSetting",
    "Cancelled",
    "CertificateError",
    "Closed",
    "Directory",
    "File",
    "Forbidden",
    "IsADirectory",
    "NotADirectory",
    "NotFound",
    "Offline",
    "Settings",
    "Span",
    "Stale",
    "Stub",
    "Throttled",
    "Unavailable",
    "UnknownListing",
    "WrongRange",
    "__version__",
    "default_archive",
    "open",
    "open_archive",
    "set_default",
]

if TYPE_CHECKING:
    from empiarfs.api import default_archive, open, open_archive, set_default  # noqa: A004 - as in gzip and tarfile
    from empiarfs.archive import Archive
    from empiarfs.errors import (
        ArchiveError,
        Cancelled,
        CertificateError,
        Closed,
        Forbidden,
        IsADirectory,
        NotADirectory,
        NotFound,
        Offline,
        Stale,
        Throttled,
        Unavailable,
        UnknownListing,
        WrongRange,
    )
    from empiarfs.files import ArchiveFile
    from empiarfs.model import Directory, File, Span, Stub
    from empiarfs.settings import BadSetting, Settings

    __version__: str
else:
    # the type checker sees the imports above; with `__getattr__` it would accept any name
    _MODULES = {
        "api": ("default_archive", "open", "open_archive", "set_default"),
        "archive": ("Archive",),
        "files": ("ArchiveFile",),
        "model": ("Directory", "File", "Span", "Stub"),
        "settings": ("BadSetting", "Settings"),
    }
    _HOMES = {name: module for module, names in _MODULES.items() for name in names}

    def __getattr__(name):  # noqa: ANN001, ANN202 - the type depends on the name
        """Import the public name `name`, cache it and return it."""
        from importlib import import_module, metadata  # noqa: PLC0415 - imported lazily like the names

        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "__version__":
            value = metadata.version("empiarfs")
        else:
            value = getattr(import_module(f"empiarfs.{_HOMES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value

    def __dir__():  # noqa: ANN202 - as above
        """Return the names of the module, including public names that were not imported yet."""
        return sorted({*globals(), *__all__})
