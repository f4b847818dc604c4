"""Bounds how long a program waits for a name: until it ends, and 30 s while the server has never answered."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from empiarfs.cancellation import cancel_scope
from empiarfs.errors import Cancelled, Unavailable
from empiarfs.lru import LruCache
from empiarfs.mount.caller_signals import is_ending

SECONDS = 30.0  # a shell that completes a name hangs for as long; the patience is meant for reads
# A shell tries a name that failed once or twice more, in another way (bash: stat, then chdir, twice): each time the
# user would have to wait again, or to interrupt it.
AGAIN_SECONDS = 2.0
MOST_THREADS = 10_000  # whose last wait for a name failed a moment ago


class WaitedInVain(Unavailable):
    """A thread looks a name up right after its wait for another one has failed."""


class NameWaits:
    """Bounds how long programs wait for names, wherever in the engine they wait.

    The patience bounds the pauses between requests; this bounds everything: also the wait for a connection, for a
    request of another thread and for the reply. The bound ends with the first answer of the server.

    Args:
        has_answered: returns whether the server has answered since the mount.
        asker: returns the id of the thread whose request is answered, in the thread that answers; 0 if unknown.
        clock: monotonic seconds.
        most: the seconds after which every wait ends, whether the server has answered or not.
    """

    def __init__(
        self,
        has_answered: Callable[[], bool],
        asker: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        most: float = math.inf,
    ) -> None:
        self._has_answered = has_answered
        self._asker = asker
        self._clock = clock
        self._longest = most
        self._gave_up: LruCache[int, float] = LruCache(MOST_THREADS, lambda _: 1)  # when each thread did

    @contextmanager
    def bounded(self, path: str) -> Iterator[None]:
        """Bound all waiting for the name `path` in this block and thread.

        Raises:
            Cancelled: the program is about to end.
            Unavailable: the server has not answered since the mount, and `SECONDS` have passed; or `most`.
            WaitedInVain: the same, and the wait of this thread for another name failed a moment ago.
        """
        begun = self._clock()
        thread = self._asker()

        def is_wanted() -> bool:
            if is_ending(thread):
                return False
            if self._clock() >= begun + self._longest:
                return False
            return self._has_answered() or self._clock() < begun + self._most(thread, begun)

        try:
            with cancel_scope(is_wanted):
                yield
        except Cancelled as error:
            most = self._most(thread, begun)
            if thread and most and not self._has_answered():
                self._gave_up.put(thread, self._clock())
            if is_ending(thread):
                raise
            if self._has_answered() and self._clock() >= begun + self._longest:
                raise Unavailable(path, f"not found out within {self._longest:.0f} s") from error
            if not most:
                raise WaitedInVain(path, "the server has not answered since the mount") from error
            waited = min(SECONDS, self._longest)
            raise Unavailable(
                path,
                f"the server has not answered since the mount; until it does, names fail after {waited:.0f} s; "
                "for the cause run: empiarfs doctor",
            ) from error

    def _most(self, thread: int, begun: float) -> float:
        """Return for how many seconds `thread` may wait for a name whose look-up began at `begun`."""
        gave_up = self._gave_up.get(thread)
        return SECONDS if gave_up is None or begun - gave_up >= AGAIN_SECONDS else 0.0
