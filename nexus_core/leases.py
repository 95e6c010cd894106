"""What the pool hands out: leases on instances, and the slots these stand in."""

from __future__ import annotations

from enum import IntEnum
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from nexus_core.engine.heap import HeapDelta
from nexus_core.engine.image import HeapImage
from nexus_core.engine.instance import WasmInstance
from nexus_core.errors import NexusError

if TYPE_CHECKING:
    from nexus_core.pool import InstancePool


class InstanceState(IntEnum):
    """Where an instance is. RESERVED: promised to one caller, who prepares it.

    Numbers, since each call counts four moves: a plain enumeration's members are hashed in Python.
    """

    FREE = 0
    RESERVED = 1
    RUNNING = 2
    SUSPENDED = 3
    TERMINATED = 4


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of a pool; see `RuntimeConfig` for those of the same name."""

    max_instances: int
    min_instances: int = 0
    max_waiting: int = 100
    acquire_timeout_seconds: float = 5.0
    idle_timeout_seconds: float = 60.0
    max_total_memory_bytes: int = 0
    max_saved: int = 1_000
    """Sleeping calls whose instance may have gone to others; past it new calls wait for an instance."""
    max_saved_bytes: int = 0
    """The same by the bytes kept of such calls; 0 = no bound."""


class Slot:
    """One place of the pool; its instance is made by whoever reserved it first."""

    __slots__ = ("idle_since", "instance", "memory", "sleeper", "state")

    def __init__(self, memory: int = 0) -> None:
        self.instance: WasmInstance | None = None
        self.state = InstanceState.RESERVED
        self.memory = memory
        """Bytes accounted for it: its instance's, or what the instance to be made will have."""
        self.idle_since = 0.0
        self.sleeper: PooledInstance | None = None
        """The call that slept in it and whose pages are still to be saved."""


class PooledInstance:
    """A lease on an instance, for one call. A context manager: leaving it releases, whatever happened.

    A call that sleeps parks its lease: the pool may then take the instance for others and keep only
    the pages the call changed; `InstancePool.unpark` brings it back, perhaps in another instance.
    """

    def __init__(self, pool: InstancePool, slot: Slot, image: HeapImage, *, created: bool) -> None:
        self._pool = pool
        self.slot: Slot | None = slot
        self.image = image
        self.created = created
        self.parked_as: str | None = None
        """The id under which the call sleeps now."""
        self.saved: HeapDelta | None = None
        self.saved_bytes = 0
        self.outgrew_image = False

    @property
    def instance(self) -> WasmInstance:
        """The instance; only while the lease is neither parked without one nor released."""
        if self.slot is None or self.slot.instance is None:
            raise NexusError("this lease holds no instance now")
        return self.slot.instance

    def release(self) -> None:
        """Give the instance back: it is reset to its image, or retired. May be called twice."""
        self._pool.release(self)

    def __enter__(self) -> Self:
        """The lease itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release, also on cancellation."""
        self.release()
