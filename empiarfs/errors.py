"""The errors of the archive, each an OSError with its errno, so that any face can pass it on as it is."""

import errno
import os
from typing import Any, ClassVar


class ArchiveError(OSError):
    """An operation on `path` failed, for `reason`; only its subclasses are raised.

    Args:
        path: the path of the operation, relative to the archive's root.
        reason: one line for a person: what happened and, where it helps, what to do.
    """

    number: ClassVar[int] = errno.EIO

    def __init__(self, path: str, reason: str = "") -> None:
        super().__init__(self.number, reason or os.strerror(self.number), path)
        self.path = path
        self.reason = reason or os.strerror(self.number)

    def __str__(self) -> str:
        return f"{self.path or '/'}: {self.reason}"

    def __reduce__(self) -> tuple[type["ArchiveError"], tuple[Any, ...]]:
        return type(self), (self.path, self.reason)


class NotFound(ArchiveError, FileNotFoundError):
    """The server answers that exactly this URL does not exist (404, 410)."""

    number = errno.ENOENT


class NotADirectory(ArchiveError, NotADirectoryError):
    """A file was used as a directory."""

    number = errno.ENOTDIR


class IsADirectory(ArchiveError, IsADirectoryError):
    """A directory was used as a file."""

    number = errno.EISDIR


class Forbidden(ArchiveError, PermissionError):
    """The server forbids access (401, 403, 451): a directory without listing, or a file that is not public."""

    number = errno.EACCES


class Stale(ArchiveError):
    """The file at the origin is no longer the version that was opened (416, another total or date)."""

    number = errno.ESTALE


class Unavailable(ArchiveError):
    """The server did not answer properly (429, 5xx, lost connection, silence, short body): the only one retried."""

    number = errno.EIO


class Throttled(Unavailable):
    """The server throttles (429, 503, refused connections); a retry is allowed after `pause` seconds."""

    def __init__(self, path: str, reason: str = "", pause: float = 0.0) -> None:
        super().__init__(path, reason)
        self.pause = pause

    def __reduce__(self) -> tuple[type[ArchiveError], tuple[Any, ...]]:
        return type(self), (self.path, self.reason, self.pause)


class CertificateError(Unavailable):
    """The server's certificate cannot be verified; retried, because a captive portal may be in the way."""


class UnknownListing(ArchiveError):
    """The server lists directories in a form that empiarfs cannot read, or not at all."""

    number = errno.EIO


class WrongRange(Unavailable):
    """The reply is another part of the file than was requested: a cache between here and the server answers."""


class Offline(ArchiveError):
    """Not in the cache, and the network must not be used."""

    number = errno.EHOSTUNREACH


class Cancelled(ArchiveError, InterruptedError):
    """The caller is about to end, and its wait was cancelled."""

    number = errno.EINTR


class Closed(ArchiveError):
    """The archive was closed, or belongs to another process."""

    number = errno.EIO
