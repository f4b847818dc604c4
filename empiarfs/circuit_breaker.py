"""A circuit breaker for the disk: a failure is logged once, and the disk is used again after a while."""

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

FIRST_REST = 5.0  # seconds; an attempt to use a locked database takes its timeout
LONGEST_REST = 20.0
CALM_SECONDS = 60.0  # without a failure, after which it counts as over: a nearly full disk fails intermittently


class CircuitBreaker:
    """Suspends a use of `what` after it failed. Each use has its own pause: a full disk can still be read.

    Args:
        what: the name of what is used, for the log.
        clock: monotonic seconds.
    """

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._logged = False
        self._last = float("-inf")
        self._rest = FIRST_REST
        self._until: dict[str, float] = {}

    def failure(self, error: Exception, use: str) -> None:
        """Record that `use` failed: log the first failure, and suspend that use for a while."""
        now = self._clock()
        if not self._logged:
            log.warning(
                "%s cannot be used (%s); reads go on without it, and it is tried again from time to time",
                self._what,
                str(error) or type(error).__name__,
            )
        if now >= self._until.get(use, now):  # simultaneous failures count once
            self._until[use] = now + self._rest
            self._rest = min(2 * self._rest, LONGEST_REST)
        self._logged, self._last = True, now

    def is_open(self, use: str) -> bool:
        """Return whether `use` is suspended now."""
        return self._logged and self._clock() < self._until.get(use, 0.0)

    def success(self) -> None:
        """Record a success; after `CALM_SECONDS` without a failure, the next failure is logged again."""
        if self._logged and self._clock() - self._last > CALM_SECONDS:
            self._logged, self._rest = False, FIRST_REST
            self._until.clear()
            log.info("%s is in use again", self._what)
