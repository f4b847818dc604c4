"""How long a program waits for a name: until it is to end, and not for long while the server has never answered."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from empiarfs.cancellation import cancel_scope
from empiarfs.errors import Cancelled, Unavailable
from empiarfs.lru import LruCache
from empiarfs.mount.caller_signals import is_ending

SECONDS = 30.0  # a prompt that completes a name, and a `cd`, stand still as long; patience is meant for reads
# A shell tries a name that failed once or twice more, another way (bash: stat, then chdir, twice): it would have to
# be interrupted, or waited for, each time.
AGAIN_SECONDS = 2.0
MOST_THREADS = 10_000  # that have waited in vain a short while ago


class WaitedInVain(Unavailable):
    """A name that a thread asks for right after it has waited in vain for one."""


class NameWaits:
    """Bounds how long programs wait for names, wherever in the engine they wait.

    Patience bounds the pauses between requests; this bounds all of it, the wait for a connection, for a request of
    another thread and for the reply too. It ends with the first answer of the server: it is known to be there then.

    Args:
        has_answered: returns whether the server has answered since the mount.
        asker: returns the id of the thread that the kernel asks for, in the thread that answers; 0 if unknown.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        has_answered: Callable[[], bool],
        asker: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._has_answered = has_answered
        self._asker = asker
        self._clock = clock
        self._gave_up: LruCache[int, float] = LruCache(MOST_THREADS, lambda _: 1)  # when each thread did

    @contextmanager
    def bounded(self, path: str) -> Iterator[None]:
        """Bound all waiting for the name `path` in this block and thread.

        Raises:
            Cancelled: the program is to end.
            Unavailable: the server has not answered since the mount, and `SECONDS` have passed.
            WaitedInVain: the same, where the thread has waited for another name until a moment ago.
        """
        begun = self._clock()

        def is_wanted() -> bool:
            thread = self._asker()
            if is_ending(thread):
                return False
            return self._has_answered() or self._clock() < begun + self._most(thread, begun)

        try:
            with cancel_scope(is_wanted):
                yield
        except Cancelled as error:
            thread = self._asker()
            most = self._most(thread, begun)
            if thread and most and not self._has_answered():
                self._gave_up.put(thread, self._clock())
            if is_ending(thread):
                raise
            if not most:
                raise WaitedInVain(path, "the server has not answered since the mount") from error
            raise Unavailable(
                path,
                f"the server has not answered since the mount, and until it does names fail after {SECONDS:.0f} s; "
                "why: empiarfs doctor",
            ) from error

    def _most(self, thread: int, begun: float) -> float:
        """Return for how many seconds `thread` may wait for a name that it has asked for at `begun`."""
        gave_up = self._gave_up.get(thread)
        return SECONDS if gave_up is None or begun - gave_up >= AGAIN_SECONDS else 0.0
