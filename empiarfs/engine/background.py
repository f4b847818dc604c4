"""Work that no reader waits for, or not for long, in threads of a pool."""

import logging
import threading
from collections import deque
from collections.abc import Callable

from empiarfs.engine.single_flight import Submit
from empiarfs.errors import ArchiveError

log = logging.getLogger(__name__)

MAX_TASKS = 2000  # that wait; those beyond are dropped
LOOK_SECONDS = 0.2  # how long a look may take that is waited for


class BackgroundWorkers:
    """Runs tasks, at most so many at once. Too many tasks are dropped.

    Args:
        submit: runs a task in another thread.
        most: how many at once.
    """

    def __init__(self, submit: Submit, most: int) -> None:
        self._submit = submit
        self._most = most
        self._lock = threading.Lock()
        self._tasks: deque[Callable[[], object]] = deque()
        self._running = 0
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """How many tasks wait for a thread."""
        return len(self._tasks)

    def __call__(self, task: Callable[[], object]) -> None:
        """Run `task` soon, or never."""
        with self._lock:
            if self._is_closed or len(self._tasks) >= MAX_TASKS:
                return
            self._tasks.append(task)
            if self._running >= self._most:
                return
            self._running += 1
        self._submit(self._work)

    def close(self) -> None:
        """Drop what waits."""
        with self._lock:
            self._is_closed = True
            self._tasks.clear()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._tasks:
                    self._running -= 1
                    return
                task = self._tasks.popleft()
            try:
                task()
            except ArchiveError as error:
                log.debug("%s", error)  # left to the reader that will need it
            except Exception:
                log.exception("a background task")


class PolledValue:
    """A number that must be looked up where the looking may hang: the newest that came.

    Args:
        look: looks; None where there is no telling now.
        background: runs a task in a thread of its own.
    """

    def __init__(self, look: Callable[[], int | None], background: Callable[[Callable[[], object]], None]) -> None:
        self._look = look
        self._background = background
        self._value = 0

    def __call__(self) -> int:
        """Look, and return what comes of it in a moment; else what came the last time."""
        looked = threading.Event()

        def look() -> None:
            seen = self._look()
            if seen is not None:
                self._value = seen
            looked.set()

        self._background(look)
        looked.wait(LOOK_SECONDS)
        return self._value
