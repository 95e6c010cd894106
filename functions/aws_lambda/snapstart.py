"""SnapStart: what is done before Lambda takes its picture of this process, and in each process made from it.

All of those go on with the same memory, so nothing in it may be random: whatever draws its numbers in this
process, and not from the kernel at each use, is seeded anew. Our own identifiers and a guest's seeds are
drawn from the kernel, which Lambda seeds at each restore.
"""

from __future__ import annotations

import os
import random
import sys
from typing import Final, Protocol

from functions.aws_lambda.observer import Observer

_WARM_SECONDS: Final = 60.0
"""Lambda gives INIT before a snapshot at least 130 s, and nobody waits for it."""

_SEED_BYTES: Final = 32


class Pictured(Protocol):
    """The adapter, as far as a snapshot is concerned. No event is under way when it is called."""

    def warm(self, budget_seconds: float) -> int:
        """Bring handlers' images into memory until the time is over; how many those were."""

    def before_snapshot(self) -> None:
        """Let go of what a picture must not hold."""

    def after_restore(self) -> None:
        """Go on in a process made from the picture."""


def register_hooks(adapter: Pictured, observer: Observer) -> bool:
    """Have both done when Lambda says so; False where its library of hooks is not there, as in a container.

    An error of a hook ends the process: Lambda then makes another snapshot, or restores it again.
    """
    try:
        from snapshot_restore_py import (  # type: ignore[import-untyped]
            register_after_restore,
            register_before_snapshot,
        )
    except ImportError:
        return False
    register_before_snapshot(_before_snapshot, adapter)
    register_after_restore(_after_restore, adapter, observer)
    return True


def reseed() -> None:
    """Seed anew what draws random numbers from memory: Python's generator and, when loaded, OpenSSL's."""
    random.seed()
    # Not imported for this: where there is no TLS there is nothing to seed.
    ssl = sys.modules.get("ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(_SEED_BYTES), _SEED_BYTES)


def _before_snapshot(adapter: Pictured) -> None:
    adapter.warm(_WARM_SECONDS)
    adapter.before_snapshot()


def _after_restore(adapter: Pictured, observer: Observer) -> None:
    reseed()
    adapter.after_restore()
    observer.restored()
