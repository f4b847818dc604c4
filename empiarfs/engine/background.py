"""Work that nobody waits for, or not for long; threads of its own."""

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress

from empiarfs.engine.origins import Enter
from empiarfs.errors import ArchiveError

log = logging.getLogger(__name__)

MAX_TASKS = 2000  # waiting ahead of the readers; those beyond are dropped
LOOK_SECONDS = 0.2  # how long a look may take that is waited for


class BackgroundWorkers:
    """Threads for requests that nobody waits for yet. Too many tasks are dropped.

    Those at the gate hold their place before they claim anything; else a reader would wait for a block whose owner
    waits behind all readers.
    """

    def __init__(self, threads: int, name: str, enter: Enter = nullcontext) -> None:
        self._enter = enter
        self._tasks: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._threads = threads
        for number in range(threads):
            threading.Thread(target=self._work, name=f"{name} {number}", daemon=True).start()

    @property
    def waiting(self) -> int:
        """How many tasks wait for a thread."""
        return self._tasks.qsize()

    def __call__(self, task: Callable[[], object]) -> None:
        """Run `task` soon, or never."""
        if self._tasks.qsize() < MAX_TASKS:
            self._tasks.put(task)

    def close(self) -> None:
        """Let the threads end; what still waits is dropped."""
        with suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in range(self._threads):
            self._tasks.put(None)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                with self._enter():
                    task()
            except ArchiveError as error:
                log.debug("%s", error)  # left to the reader who will need it
            except Exception:
                log.exception("a task ahead of the reader")


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
        """Look, and give what comes of it in a moment; else what came the last time."""
        looked = threading.Event()

        def look() -> None:
            seen = self._look()
            if seen is not None:
                self._value = seen
            looked.set()

        self._background(look)
        looked.wait(LOOK_SECONDS)
        return self._value
