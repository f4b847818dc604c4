"""Trouble with what is kept on disk: told once, left alone for a while, and looked at again."""

import errno
import logging
import sqlite3
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

FIRST_REST = 5.0  # seconds; a look at a locked database costs its timeout
LONGEST_REST = 20.0
# Not WAL: its index is mapped into memory, and where that cannot be read (a bad disk, a server of homes that went
# away) the kernel ends the process with SIGBUS; nor is it for several hosts that share a home.
JOURNAL = "truncate"
CALM_SECONDS = 60.0  # without trouble, after which it counts as over: a disk that is nearly full comes and goes


class CircuitBreaker:
    """What is wrong with `what` now. Each use of it rests for itself: a full disk can still be read.

    Args:
        what: for the log.
        clock: seconds that only grow.
    """

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._logged = False
        self._last = float("-inf")
        self._rest = FIRST_REST
        self._until: dict[str, float] = {}

    def failure(self, error: Exception, use: str) -> None:
        """Record that `use` of it failed: the first time is a line in the log, and it rests for a while."""
        now = self._clock()
        if not self._logged:
            log.warning(
                "%s cannot be used (%s); reads go on without it, and it is tried again from time to time",
                self._what,
                str(error) or type(error).__name__,
            )
        if now >= self._until.get(use, now):  # those who failed together count once
            self._until[use] = now + self._rest
            self._rest = min(2 * self._rest, LONGEST_REST)
        self._logged, self._last = True, now

    def is_open(self, use: str) -> bool:
        """Return whether `use` of it failed so lately that it is not to be tried now."""
        return self._logged and self._clock() < self._until.get(use, 0.0)

    def success(self) -> None:
        """Record that all is well; after a while without trouble the next one is news again."""
        if self._logged and self._clock() - self._last > CALM_SECONDS:
            self._logged, self._rest = False, FIRST_REST
            self._until.clear()
            log.info("%s is in use again", self._what)


def is_damage(error: OSError) -> bool:
    """Return whether `error`, met while a file was read, is the file's own; others may be read no better now."""
    return error.errno in {errno.EIO, errno.EISDIR, errno.ELOOP, errno.ENOTDIR}


def may_be_whole(error: sqlite3.Error) -> bool:
    """Return whether a database that does not open may be whole: locked, full, not to be written."""
    return isinstance(error, sqlite3.OperationalError) and _code(error) != sqlite3.SQLITE_ERROR


def is_wrong(error: Exception) -> bool:
    """Return whether `error`, met while a database was in use, says that its content is wrong."""
    return _code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # the rest is detail
