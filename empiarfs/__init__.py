"""EMPIAR, the public archive of raw cryo-EM images, as a read-only file system.

The public names; each is imported from its module when it is first used, so that `import empiarfs` costs nothing.
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
    )
    from empiarfs.files import ArchiveFile
    from empiarfs.model import Directory, File, Span, Stub
    from empiarfs.settings import BadSetting, Settings

    __version__: str
else:
    # the type checker sees the imports above, and no __getattr__ that would have it believe in any name
    _MODULES = {
        "api": ("default_archive", "open", "open_archive", "set_default"),
        "archive": ("Archive",),
        "files": ("ArchiveFile",),
        "model": ("Directory", "File", "Span", "Stub"),
        "settings": ("BadSetting", "Settings"),
    }
    _HOMES = {name: module for module, names in _MODULES.items() for name in names}

    def __getattr__(name):  # noqa: ANN001, ANN202 - of whatever type the name is
        """Return the public name `name`, and keep it."""
        from importlib import import_module, metadata  # noqa: PLC0415 - what this module is lazy for

        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "__version__":
            value = metadata.version("empiarfs")
        else:
            value = getattr(import_module(f"empiarfs.{_HOMES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value

    def __dir__():  # noqa: ANN202 - as above
        """Return the public names, also those that were not used yet."""
        return sorted({*globals(), *__all__})
