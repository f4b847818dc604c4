"""How long callers wait for the sizes of a whole directory, which are on their way."""

import threading
import time

from empiarfs.cancellation import wait

BULK_SECONDS = 5.0  # how long callers wait for a bulk request


class BulkSizes:
    """A request for all sizes of one listing of a directory.

    Args:
        scanned: when the directory was listed.
    """

    def __init__(self, scanned: float) -> None:
        self.scanned = scanned
        self._until = time.monotonic() + BULK_SECONDS
        self._unheeded = threading.Event()

    def is_awaited(self) -> bool:
        """Return whether callers still wait for the sizes."""
        return not self._unheeded.is_set() and time.monotonic() < self._until

    def wait(self) -> None:
        """Wait for the sizes until `BULK_SECONDS` after the request."""
        wait(self._unheeded.wait, max(0.0, self._until - time.monotonic()))

    def forgo(self) -> None:
        """End all waits: the sizes are here, or single requests are faster."""
        self._unheeded.set()
