"""The connections to one server: lent, kept, replaced and closed.

A line is lent to one thread at a time, the one used last first. Each holds a slot of the machine's budget from its
first request until it is closed.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from empiarfs.empiar.line import Line, Maker
from empiarfs.empiar.lost import Fate, Lost
from empiarfs.settings import without_credentials

SLOT_SECONDS = 15.0  # how long a connection is waited for when other processes hold them all
IDLE_SECONDS = 60.0  # after which an unused connection is closed and its slot given back


class Lines:
    """All lines to one server.

    Args:
        url: an address there; decides which proxy is used, and who logs in.
        slot: takes a slot of the machine's budget, waiting for so many seconds, and gives what gives it back.
        ca_bundle: the file of the authorities to trust; the environment's, or the machine's, where it is None.
    """

    def __init__(self, url: str, slot: Callable[[float], Callable[[], None]], ca_bundle: str | None = None) -> None:
        self._url = without_credentials(url)
        self._slot = slot
        self._maker = Maker(url, ca_bundle)
        self._lock = threading.Lock()
        self._idle: list[Line] = []
        self._lent: set[Line] = set()
        self._open = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<Lines open={self._open} idle={len(self._idle)}>"

    @property
    def open(self) -> int:
        """How many lines are open, lent or not."""
        return self._open

    @contextmanager
    def lent(self) -> Iterator[Line]:
        """Lend a line to one thread. One that was lost in its hands, or left with a reply unread, is closed.

        Raises:
            Lost: there is none to be had.
        """
        with self._lock:
            line = self._idle.pop() if self._idle else None
        if line is None:
            line = self._new(SLOT_SECONDS)
        sound = False
        self._lent.add(line)
        try:
            yield line
            sound = True
        finally:
            self._lent.discard(line)
            line.used = time.monotonic()
            # one that was cut may be shut under who has just finished with it
            if not (sound and not line.was_cut and self._kept(line, last=True)):
                self._close(line)
                if line.was_cut and not self._closed:
                    threading.Thread(target=self._replace, name="line", daemon=True).start()

    def close(self) -> None:
        """Close the lines; those that are lent when they come back."""
        with self._lock:
            self._closed = True
        self.shed(0.0)

    def shed(self, idle: float = IDLE_SECONDS) -> None:
        """Close the lines that were not used for `idle` seconds; cut those that wait for too long."""
        for line in tuple(self._lent):
            if time.monotonic() > line.due:
                line.cut()
        oldest = time.monotonic() - idle
        with self._lock:
            shed = [line for line in self._idle if line.used <= oldest]
            self._idle = [line for line in self._idle if line.used > oldest]
        for line in shed:
            self._close(line)

    def _replace(self) -> None:
        """Connect anew in the stead of a line that was cut, so that the next reader need not wait for it."""
        try:
            line = self._new(0.0)
        except Lost:
            return
        try:
            line.connect(self._url)
            sound = True
        except Lost:
            sound = False
        if not (sound and self._kept(line, last=False)):
            self._close(line)

    def _kept(self, line: Line, *, last: bool) -> bool:
        """Keep `line` for the next one, before or behind all others; tell whether that may still be."""
        with self._lock:
            if not self._closed:
                self._idle.insert(len(self._idle) if last else 0, line)
            return not self._closed

    def _new(self, patience: float) -> Line:
        if self._closed:
            raise Lost(Fate.BROKEN, "the connections were closed")
        try:
            release = self._slot(patience)
        except OSError as error:
            raise Lost(Fate.BROKEN, str(error)) from error
        with self._lock:
            self._open += 1
        return self._maker.made(release)

    def _close(self, line: Line) -> None:
        with self._lock:
            self._open -= 1
        line.close()
