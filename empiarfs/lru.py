"""A thread-safe LRU cache with a weight limit; the only module that uses cachetools."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import cachetools

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """A mapping that evicts the least recently used values beyond a total weight; thread-safe.

    Args:
        most: the maximum total weight.
        weight: returns the weight of a value; one that weighs more than `most` is not stored.
    """

    def __init__(self, most: int, weight: Callable[[V], int]) -> None:
        self._lock = threading.Lock()
        self._values: cachetools.LRUCache[K, V] = cachetools.LRUCache(maxsize=most, getsizeof=weight)
        self._demoted: dict[K, None] = {}  # evicted before all others, in this order
        self._weight = weight

    def __contains__(self, key: K) -> bool:
        with self._lock:
            return key in self._values

    def get(self, key: K) -> V | None:
        """Return the value of `key`, and make it the most recently used; None if it is missing."""
        with self._lock:
            self._demoted.pop(key, None)
            return self._values.get(key)

    def demote(self, key: K) -> V | None:
        """Return the value of `key`, and make it the next to be evicted; None if it is missing."""
        with self._lock:
            if key not in self._values:
                return None
            self._demoted[key] = None
            found: V = cachetools.Cache.__getitem__(self._values, key)  # without a change of the order
            return found

    def drop(self, key: K) -> None:
        """Drop the value of `key`, if there is one."""
        with self._lock:
            self._demoted.pop(key, None)
            self._values.pop(key, None)

    def put(self, key: K, value: V) -> None:
        """Store `value`; evict demoted values, then the least recently used ones."""
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
        """Return the value of `key`; store and return `value` if it is missing."""
        with self._lock:
            return self._values.setdefault(key, value)

    @property
    def size(self) -> int:
        """The total weight of the stored values."""
        with self._lock:
            return int(self._values.currsize)
