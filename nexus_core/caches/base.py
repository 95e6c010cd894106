"""What every cache of bytes offers, and how it tells what happened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, Protocol

CacheResult = Literal["hit", "miss", "error"]

OnEvent = Callable[[str, str], None]
"""(tier, a `CacheResult`), once for each look into a tier; `MetricsCollector.record_cache` fits."""

OnDegraded = Callable[[str], None]
"""(reason, a `Reason`), once for each reason; `MetricsCollector.cache_degraded` fits."""

HIT: Final = "hit"
MISS: Final = "miss"
ERROR: Final = "error"


class ByteCache(Protocol):
    """Keeps bytes under a key between processes. Callers execute what it returns: it is verified to be ours.

    A key is 1 to 200 letters, digits, `.`, `_` and `-`, and starts with a letter or digit. All
    implementations may be called from any thread.
    """

    def load(self, key: str) -> bytes | None:
        """What was stored under `key`, whole and verified, or None. Never raises for trouble with files."""

    def store(self, key: str, data: bytes) -> None:
        """Keep `data`. Never raises for trouble with files: to keep nothing is always right."""
