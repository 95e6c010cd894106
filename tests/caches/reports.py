"""What caches report, caches that report it, and who may be played here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nexus_core.caches.disk import DiskCache
from nexus_core.caches.seed import SeedCache

NOBODY = 65534
MIB = 1024 * 1024

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


class Reports:
    """Collects the events and reasons of the caches it makes."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.reasons: list[str] = []

    def disk(self, directory: Path, *, secret: bytes | None = None, max_bytes: int = MIB) -> DiskCache:
        """A disk cache that reports here."""
        return DiskCache(
            directory,
            secret=secret,
            max_bytes=max_bytes,
            on_event=self._event,
            on_degraded=self.reasons.append,
        )

    def seed(self, directory: Path | None, *, secret: bytes | None = None) -> SeedCache:
        """A seed cache that reports here."""
        return SeedCache(directory, secret=secret, on_event=self._event, on_degraded=self.reasons.append)

    def _event(self, tier: str, result: str) -> None:
        self.events.append((tier, result))


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    """Give up root's rights: until the end, the kernel checks this process as it checks `user`."""
    before = os.geteuid()
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(before)
