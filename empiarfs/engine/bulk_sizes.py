"""How long callers wait for the sizes of a whole directory, which are on their way."""

import time
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from empiarfs.cancellation import wait_future

BULK_SECONDS = 5.0  # how long callers wait for a bulk request


class BulkSizes:
    """A request for all sizes of one listing of a directory.

    Args:
        scanned: when the directory was listed.
    """

    def __init__(self, scanned: float) -> None:
        self.scanned = scanned
        self._until = time.monotonic() + BULK_SECONDS
        self._unheeded: Future[None] = Future()

    def is_awaited(self) -> bool:
        """Return whether callers still wait for the sizes."""
        return not self._unheeded.done() and time.monotonic() < self._until

    def wait(self) -> None:
        """Wait for the sizes until `BULK_SECONDS` after the request."""
        wait_future(self._unheeded, max(0.0, self._until - time.monotonic()))

    def forgo(self) -> None:
        """End all waits: the sizes are here, or single requests are faster."""
        with suppress(InvalidStateError):  # ended before
            self._unheeded.set_result(None)
