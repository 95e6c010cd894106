"""`TieredCache`: the disk, then the seed, as one cache."""

from __future__ import annotations

from nexus_core.caches.base import ByteCache
from nexus_core.caches.seed import SeedCache


class TieredCache:
    """A `ByteCache`, and the engine's `CodeCache`: loads from disk, else from the seed; stores to disk."""

    def __init__(self, disk: ByteCache, seed: SeedCache) -> None:
        self._disk = disk
        self._seed = seed

    def load(self, key: str) -> bytes | None:
        """What is kept under `key` in the first tier that has it, or None. Each tier counts its own look."""
        data = self._disk.load(key)
        return self._seed.load(key) if data is None else data

    def store(self, key: str, data: bytes) -> None:
        """Keep `data` on disk; see `DiskCache.store`."""
        self._disk.store(key, data)
