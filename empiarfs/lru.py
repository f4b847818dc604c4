"""The values used last, up to a weight; the only module that knows cachetools."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import cachetools

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """The values used last, up to a total weight; safe for threads.

    Args:
        most: the total weight it holds.
        weight: what one value weighs; one that weighs more than `most` is not kept.
    """

    def __init__(self, most: int, weight: Callable[[V], int]) -> None:
        self._lock = threading.Lock()
        self._values: cachetools.LRUCache[K, V] = cachetools.LRUCache(maxsize=most, getsizeof=weight)
        self._demoted: dict[K, None] = {}  # those that go before all others, in this order
        self._weight = weight

    def __contains__(self, key: K) -> bool:
        with self._lock:
            return key in self._values

    def get(self, key: K) -> V | None:
        """Return the value of `key`, now the one used last; None if it is not here."""
        with self._lock:
            self._demoted.pop(key, None)
            return self._values.get(key)

    def demote(self, key: K) -> V | None:
        """Return the value of `key`, which makes room from now on before any other; None if it is not here."""
        with self._lock:
            if key not in self._values:
                return None
            self._demoted[key] = None
            found: V = cachetools.Cache.__getitem__(self._values, key)  # leaves the order as it is
            return found

    def put(self, key: K, value: V) -> None:
        """Keep `value`, and drop what was spent, then what was not used for longest."""
        weight = self._weight(value)
        if weight > self._values.maxsize:
            return
        with self._lock:
            self._demoted.pop(key, None)
            while self._demoted and self._values.currsize + weight > self._values.maxsize:
                spent = next(iter(self._demoted))
                del self._demoted[spent], self._values[spent]
            self._values[key] = value

    def setdefault(self, key: K, value: V) -> V:
        """Return the value of `key`; `value`, which is kept, where there was none."""
        with self._lock:
            return self._values.setdefault(key, value)

    @property
    def size(self) -> int:
        """The weight of what is kept."""
        with self._lock:
            return int(self._values.currsize)
