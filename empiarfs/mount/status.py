"""The status of a mount: a value, and its text in a hidden file."""

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from typing import Any

from empiarfs.archive import Archive
from empiarfs.counters import Counters
from empiarfs.errors import ArchiveError

NAME = ".empiarfs-status"  # of the file at the root of every mount, which no listing shows
MAX_WARNINGS = 20
MAX_WARNING_LENGTH = 1000  # characters
MOST_ENTRIES = 100


@dataclass(frozen=True, slots=True)
class LoggedWarning:
    """A warning of the log.

    Attributes:
        time: when it was logged, in seconds since 1970.
        text: its message.
    """

    time: float
    text: str


@dataclass(frozen=True, slots=True)
class Status:
    """The statistics of a mount at one moment.

    Attributes:
        mountpoint: its path.
        version: the version of empiarfs.
        binding: the FUSE binding and its libfuse.
        pid: the process id of the daemon.
        since: when it was mounted, in seconds since 1970.
        now: the time of these statistics, in seconds since 1970.
        entries: the entries in which files were opened, the newest first.
        open_files: the number of open files.
        reads: the number of the kernel's reads that were answered.
        served_bytes: the bytes returned to it.
        names_waiting: the number of lookups, opens and listings that programs wait for now.
        reads_waiting: the number of reads they wait for now.
        warnings: the newest warnings of the log, the newest last.
        counters: the counters of the archive.
    """

    mountpoint: str = ""
    version: str = ""
    binding: str = ""
    pid: int = 0
    since: float = 0.0
    now: float = 0.0
    entries: tuple[str, ...] = ()
    open_files: int = 0
    reads: int = 0
    served_bytes: int = 0
    names_waiting: int = 0
    reads_waiting: int = 0
    warnings: tuple[LoggedWarning, ...] = ()
    counters: Counters = field(default_factory=Counters)


def flat(status: Status) -> dict[str, Any]:
    """Return all values of `status` by name, the counters among them."""
    values = asdict(status)
    counters = values.pop("counters")
    return {**values, **counters, "warnings": values["warnings"]}


def as_text(status: Status) -> str:
    """Return `status` as JSON, one value a line, in plain ASCII whatever bytes a name consists of."""
    return json.dumps(flat(status), indent=2) + "\n"


def from_text(text: str) -> Status:
    """Return the status that `as_text` wrote, maybe in another version; a missing value is empty.

    Raises:
        ValueError: the text is something else.
    """
    values = json.loads(text)
    try:
        chosen = _chosen(Status, values)
        troubles = tuple(LoggedWarning(**_chosen(LoggedWarning, one)) for one in values.get("warnings", ()))
        return Status(
            **{**chosen, "entries": tuple(values.get("entries", ())), "warnings": troubles},
            counters=Counters(**_chosen(Counters, values)),
        )
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a status: {error}") from error


def _chosen(kind: type[Status | LoggedWarning | Counters], values: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)} - {"counters"}
    return {name: value for name, value in values.items() if name in names}


class RecentWarnings(logging.Handler):
    """Keeps the newest warnings of a log.

    Attributes:
        error: the newest error that a warning was about; None if there was none.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._newest: deque[LoggedWarning] = deque(maxlen=MAX_WARNINGS)
        self.error: ArchiveError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Store the message of `record`, in one line."""
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            text = f"{text}: {type(error).__name__}: {error}"
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, ArchiveError):
                self.error = argument
        self._newest.append(LoggedWarning(record.created, " ".join(text[:MAX_WARNING_LENGTH].split())))

    def newest(self) -> tuple[LoggedWarning, ...]:
        """Return the stored warnings, the newest last."""
        return tuple(self._newest)


class Inside:
    """The set of threads that are in a block of code now; not reentrant.

    Attributes:
        longest: the seconds that the slowest has taken, of those that have left.
    """

    def __init__(self) -> None:
        self._threads: dict[int, float] = {}  # and when each entered; adding or removing one is atomic
        self.longest = 0.0

    def __len__(self) -> int:
        return len(self._threads)

    def __enter__(self) -> None:
        self._threads[threading.get_ident()] = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.longest = max(self.longest, time.monotonic() - self._threads.pop(threading.get_ident()))


class MountStats:
    """The counters of one mount, and its status together with the counters of the archive.

    Args:
        mountpoint: its path.
        recent_warnings: the newest warnings.

    Attributes:
        archive: the archive that is mounted; None until it is open.
        binding: the FUSE binding and its libfuse; empty until it is loaded.
        open_files: returns the number of open files.
        reads, served_bytes: increased by each thread that answers a read. Threads switch between calls of
            functions, not within the addition of a number.
        names_waiting, reads_waiting: entered by each thread that answers the kernel, for as long as that takes.
    """

    def __init__(self, mountpoint: str, recent_warnings: RecentWarnings) -> None:
        self._mountpoint = mountpoint
        self._recent_warnings = recent_warnings
        self._since = time.time()
        self._lock = threading.Lock()
        self._entries: dict[str, None] = {}
        self.archive: Archive | None = None
        self.binding = ""
        self.open_files: Callable[[], int] = lambda: 0
        self.reads = self.served_bytes = 0
        self.names_waiting, self.reads_waiting = Inside(), Inside()

    def record_open(self, path: str) -> None:
        """Record that the file `path` was opened."""
        entry = path.partition("/")[0]
        with self._lock:
            self._entries.pop(entry, None)
            self._entries[entry] = None
            if len(self._entries) > MOST_ENTRIES:
                del self._entries[next(iter(self._entries))]

    def status(self) -> Status:
        """Return the status of this moment; never waits for the server."""
        with self._lock:
            entries = tuple(reversed(self._entries))
        return Status(
            mountpoint=self._mountpoint,
            version=version("empiarfs"),
            binding=self.binding,
            pid=os.getpid(),
            since=self._since,
            now=time.time(),
            entries=entries,
            open_files=self.open_files(),
            reads=self.reads,
            served_bytes=self.served_bytes,
            names_waiting=len(self.names_waiting),
            reads_waiting=len(self.reads_waiting),
            warnings=self._recent_warnings.newest(),
            counters=Counters() if self.archive is None else self.archive.counters(),
        )
