"""Background tasks, which no reader waits for, or only briefly, in threads of a pool."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable

from empiarfs.engine.single_flight import Submit
from empiarfs.errors import ArchiveError

log = logging.getLogger(__name__)

MAX_TASKS = 2000  # the longest queue; further tasks are dropped
LOOK_SECONDS = 0.2  # how long a caller waits for a new value


class BackgroundWorkers:
    """Runs queued tasks, a limited number at once; tasks beyond `MAX_TASKS` are dropped.

    Args:
        submit: runs a task in another thread.
        most: the maximum number of tasks that run at once.
    """

    def __init__(self, submit: Submit, most: int) -> None:
        self._submit = submit
        self._most = most
        self._lock = threading.Lock()
        self._tasks: deque[tuple[Hashable, Callable[[], object]]] = deque()
        self._running = 0
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """The number of queued tasks."""
        return len(self._tasks)

    def __call__(self, task: Callable[[], object], about: Hashable = None) -> None:
        """Queue `task`; drop it if the queue is full or closed.

        Args:
            task: the task.
            about: what it is done for; see `drop`.
        """
        with self._lock:
            if self._is_closed or len(self._tasks) >= MAX_TASKS:
                return
            self._tasks.append((about, task))
            if self._running >= self._most:
                return
            self._running += 1
        self._submit(self._work)

    def drop(self, about: Hashable) -> None:
        """Drop the queued tasks that were queued for `about`; those that run are not stopped."""
        with self._lock:
            self._tasks = deque(queued for queued in self._tasks if queued[0] != about)

    def close(self) -> None:
        """Drop the queued tasks, and all later ones."""
        with self._lock:
            self._is_closed = True
            self._tasks.clear()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._tasks:
                    self._running -= 1
                    return
                _, task = self._tasks.popleft()
            try:
                task()
            except ArchiveError as error:
                log.debug("%s", error)  # the reader that needs it will get the error
            except Exception:
                log.exception("a background task failed")


class PolledValue:
    """A number whose lookup may hang: the newest value that was read.

    Args:
        look: returns the value; None if it is not available now.
        background: runs a task in a thread of its own.
    """

    def __init__(self, look: Callable[[], int | None], background: Callable[[Callable[[], object]], None]) -> None:
        self._look = look
        self._background = background
        self._value = 0

    def __call__(self) -> int:
        """Poll, and return the new value if it arrives within `LOOK_SECONDS`, else the previous one."""
        looked = threading.Event()

        def look() -> None:
            seen = self._look()
            if seen is not None:
                self._value = seen
            looked.set()

        self._background(look)
        looked.wait(LOOK_SECONDS)
        return self._value
