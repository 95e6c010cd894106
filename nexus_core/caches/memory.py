"""`MemoryCache`: live values of this process, bounded by their bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from nexus_core.statistics import CacheStatistics

K = TypeVar("K")
V = TypeVar("V")


class _Entry(NamedTuple, Generic[V]):
    value: V
    size: int


class MemoryCache(Generic[K, V]):
    """A thread-safe map that drops the least recently used values beyond `max_bytes`.

    `size_of` is asked once, when a value is put: its size must not change after. Dropping a value
    only forgets it; whoever still holds it may go on using it. A value larger than the bound is not
    kept.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[V], int]) -> None:
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        found = self.statistics()
        return f"<MemoryCache {found.entries} entries, {found.bytes} of {found.max_bytes} bytes>"

    def get(self, key: K) -> V | None:
        """The value of `key`, now the most recently used, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry.value

    def put(self, key: K, value: V) -> None:
        """Keep `value` in place of what `key` had, and drop what no longer fits."""
        entry = _Entry(value, self._size_of(value))
        # Dropped values end with this list, outside the lock: what ends with them may take a while.
        dropped: list[_Entry[V] | None] = []
        with self._lock:
            dropped.append(self._take(key))
            if entry.size > self._max_bytes:
                return
            self._entries[key] = entry
            self._bytes += entry.size
            while self._bytes > self._max_bytes:
                _, oldest = self._entries.popitem(last=False)
                self._bytes -= oldest.size
                dropped.append(oldest)

    def discard(self, key: K) -> None:
        """Drop `key` if it is there."""
        with self._lock:
            dropped = self._take(key)
        del dropped

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            dropped, self._entries = self._entries, OrderedDict()
            self._bytes = 0
        del dropped

    def statistics(self) -> CacheStatistics:
        """How much is held now."""
        with self._lock:
            return CacheStatistics(entries=len(self._entries), bytes=self._bytes, max_bytes=self._max_bytes)

    def _take(self, key: K) -> _Entry[V] | None:
        """Remove and return the entry of `key`; the lock is held."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size
        return entry
