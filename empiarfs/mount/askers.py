"""Answers that may take long: who asked may be ended meanwhile, and is not held until the server answers.

The kernel lets a program that waits for a name go only with an answer (request_wait_answer in fs/fuse/dev.c).
"""

import contextlib
import errno
import os
import re
import signal
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from empiarfs.engine.flights import again
from empiarfs.errors import ArchiveError

T = TypeVar("T")

LOOK_SECONDS = 0.2
MOST_ASKED = 500  # at once, each in a thread of its own; those who ask for more cannot be ended

# a program may catch some of these, but whoever sends them wants an end. Of all that ends a program at once the
# kernel makes SIGKILL (complete_signal in kernel/signal.c)
_ENDING = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_MASKS = re.compile(r"^(SigPnd|ShdPnd|SigBlk|SigIgn):\s*([0-9a-f]+)$", re.MULTILINE)


class Abandoned(InterruptedError):
    """Who asked is to end, and waits no more."""

    def __init__(self) -> None:
        super().__init__(errno.EINTR, os.strerror(errno.EINTR))


class Askers:
    """Waits for answers, for programs that may be ended.

    Args:
        asker: gives the id of the thread that the kernel asks for, when called in the thread that answers it; 0
            where it is not known.
    """

    def __init__(self, asker: Callable[[], int]) -> None:
        self._asker = asker
        self._lock = threading.Lock()
        self._asked: dict[Hashable, Future[Any]] = {}

    def answer(self, key: Hashable, ask: Callable[[], T]) -> T:
        """Give what `ask` gives. It is asked to its end, for whoever wants the same next.

        Raises:
            Abandoned: who asked is to end.
        """
        asker = self._asker()
        with self._lock:
            future: Future[T] | None = self._asked.get(key)
            is_news = future is None
            if future is None:
                future = self._asked[key] = Future()
        if is_news:
            self._begin(partial(self._ask, key, ask, future))
        while not wait_for((future,), LOOK_SECONDS).done:
            if is_to_end(asker):
                raise Abandoned
        error = future.exception()
        if isinstance(error, ArchiveError):
            raise again(error)
        return future.result()

    def _begin(self, task: Callable[[], None]) -> None:
        if len(self._asked) <= MOST_ASKED:
            with contextlib.suppress(RuntimeError):  # no more threads to be had
                threading.Thread(target=task, name="name", daemon=True).start()
                return
        task()

    def _ask(self, key: Hashable, ask: Callable[[], T], future: Future[T]) -> None:
        try:
            answer = ask()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            self._forget(key)
            future.set_exception(error)
        else:
            self._forget(key)
            future.set_result(answer)

    def _forget(self, key: Hashable) -> None:
        with self._lock:
            del self._asked[key]


def is_to_end(thread: int) -> bool:
    """Tell whether a signal that means the end waits for a thread, and would reach it (proc(5), `status`)."""
    try:
        text = Path(f"/proc/{thread}/status").read_text("ascii", "replace")
    except OSError:  # of another namespace, or gone
        return False
    of = {name: int(mask, 16) for name, mask in _MASKS.findall(text)}
    waiting = (of["SigPnd"] | of["ShdPnd"]) & ~(of["SigBlk"] | of["SigIgn"])
    return any(waiting >> (number - 1) & 1 for number in _ENDING)
