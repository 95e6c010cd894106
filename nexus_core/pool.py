"""`InstancePool`: warm instances that belong to nobody between calls.

Every change of state happens under one lock and only *decides*; what is slow (creating, attaching,
closing an instance) is done by the caller afterwards, on a slot that is already reserved for it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from enum import Enum
from types import TracebackType
from typing import Self

from nexus_core.engine.heap import HeapDelta
from nexus_core.engine.image import HeapImage
from nexus_core.engine.javascript_instance import JavaScriptInstance as WasmInstance
from nexus_core.errors import NexusError, PoolExhausted, SuspensionNotFound
from nexus_core.metrics import MetricsCollector
from nexus_core.statistics import PoolStatistics


class InstanceState(Enum):
    """Where an instance is. RESERVED: promised to one caller, who prepares it."""

    FREE = "free"
    RESERVED = "reserved"
    RUNNING = "running"
    SUSPENDED = "suspended"
    TERMINATED = "terminated"


class _Slot:
    """One place of the pool; its instance is made by whoever reserved it first."""

    __slots__ = ("idle_since", "instance", "memory", "state")

    def __init__(self) -> None:
        self.instance: WasmInstance | None = None
        self.state = InstanceState.RESERVED
        self.memory = 0
        self.idle_since = 0.0


class PoolSettings:
    """Bounds of a pool; see `RuntimeConfig` for each."""

    def __init__(
        self,
        *,
        max_instances: int,
        min_instances: int = 0,
        max_waiting: int = 100,
        acquire_timeout_seconds: float = 5.0,
        idle_timeout_seconds: float = 60.0,
        max_total_memory_bytes: int = 0,
    ) -> None:
        self.max_instances = max_instances
        self.min_instances = min_instances
        self.max_waiting = max_waiting
        self.acquire_timeout_seconds = acquire_timeout_seconds
        self.idle_timeout_seconds = idle_timeout_seconds
        self.max_total_memory_bytes = max_total_memory_bytes


class PooledInstance:
    """A lease on an instance, for one call. A context manager: leaving it releases, whatever happened.

    A call that sleeps parks its lease: the pool may then take the instance for others and keep only
    the pages the call changed; `InstancePool.unpark` brings it back, perhaps in another instance.
    """

    def __init__(self, pool: InstancePool, slot: _Slot, image: HeapImage, *, created: bool) -> None:
        self._pool = pool
        self.slot: _Slot | None = slot
        self.image = image
        self.created = created
        self.saved: HeapDelta | None = None
        self.outgrew_image = False

    @property
    def instance(self) -> WasmInstance:
        """The instance; only while the lease is neither parked nor released."""
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


class InstancePool:
    """Hands out instances for one event loop. `statistics()` is safe from any thread."""

    def __init__(
        self, new_instance: Callable[[], WasmInstance], settings: PoolSettings, metrics: MetricsCollector
    ) -> None:
        self._new_instance = new_instance
        self._settings = settings
        self._metrics = metrics
        self._lock = threading.Lock()
        self._counts: Counter[InstanceState] = Counter()
        self._memory = 0
        self._peak_memory = 0
        self._free: dict[HeapImage | None, list[_Slot]] = {}
        self._parked: dict[str, PooledInstance] = {}
        self._waiters: deque[asyncio.Future[_Slot]] = deque()
        self._created = 0
        self._retired = 0
        self._closing = False
        self._quiet = asyncio.Event()

    # ---- what operators see ------------------------------------------------------------------

    @property
    def active_count(self) -> int:
        """Instances reserved or running."""
        return self._counts[InstanceState.RESERVED] + self._counts[InstanceState.RUNNING]

    @property
    def available_count(self) -> int:
        """Instances free now."""
        return self._counts[InstanceState.FREE]

    @property
    def suspended_count(self) -> int:
        """Calls that are parked, with or without an instance of their own."""
        return len(self._parked)

    @property
    def total_memory(self) -> int:
        """Bytes of linear memory of all instances."""
        return self._memory

    @property
    def instances_created(self) -> int:
        """Instances made since the start."""
        return self._created

    def statistics(self) -> PoolStatistics:
        """Counts now; a frozen copy."""
        with self._lock:
            return PoolStatistics(
                free=self._counts[InstanceState.FREE],
                reserved=self._counts[InstanceState.RESERVED],
                running=self._counts[InstanceState.RUNNING],
                suspended=len(self._parked),
                waiting=len(self._waiters),
                memory_bytes=self._memory,
                peak_memory_bytes=self._peak_memory,
                created_total=self._created,
                retired_total=self._retired,
            )

    def __repr__(self) -> str:
        """The counts, as tests and logs read them."""
        now = self.statistics()
        return (
            f"<InstancePool free={now.free} reserved={now.reserved} running={now.running} "
            f"suspended={now.suspended} waiting={now.waiting}>"
        )

    # ---- acquire and release -----------------------------------------------------------------

    async def acquire(self, image: HeapImage) -> PooledInstance:
        """A lease on an instance with `image` attached.

        In this order: a free instance that has the image, another free one, a new one, the instance
        of a sleeping call, and else a place in the line. Raises `PoolExhausted` when the line is
        full, the wait too long, or the pool is shutting down.
        """
        started = time.perf_counter()
        with self._lock:
            place = self._take(image) or self._join_line()
        slot = place if isinstance(place, _Slot) else await self._wait(place)
        self._metrics.observe_pool_wait(time.perf_counter() - started)
        return self._prepare(slot, image)

    def _take(self, image: HeapImage) -> _Slot | None:
        """Reserve a slot, under the lock; None when everything is busy."""
        if self._closing:
            raise PoolExhausted("the pool is shutting down")
        stack = self._free.get(image)
        if stack:
            slot = stack.pop()
            if not stack:
                del self._free[image]
            return self._move(slot, InstanceState.RESERVED)
        free = self._take_any_free()
        if free is not None:
            return free
        if self._may_create():
            self._counts[InstanceState.RESERVED] += 1
            return _Slot()
        return self._take_parked()

    def _take_any_free(self) -> _Slot | None:
        """Reserve the instance that has been free longest among those of some image."""
        for key, stack in self._free.items():
            slot = stack.pop(0)
            if not stack:
                del self._free[key]
            return self._move(slot, InstanceState.RESERVED)
        return None

    def _may_create(self) -> bool:
        counts, budget = self._counts, self._settings.max_total_memory_bytes
        live = (
            counts[InstanceState.FREE]
            + counts[InstanceState.RESERVED]
            + counts[InstanceState.RUNNING]
            + counts[InstanceState.SUSPENDED]
        )
        return live < self._settings.max_instances and not (live and budget and self._memory >= budget)

    def _join_line(self) -> asyncio.Future[_Slot]:
        if len(self._waiters) >= self._settings.max_waiting:
            raise PoolExhausted(
                f"all {self._settings.max_instances} instances are busy and max_waiting "
                f"({self._settings.max_waiting}) calls wait already"
            )
        waiter: asyncio.Future[_Slot] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    async def _wait(self, waiter: asyncio.Future[_Slot]) -> _Slot:
        seconds = self._settings.acquire_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except BaseException as error:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    # The slot came in the moment of giving up: it goes to the next in line.
                    self._hand_over(waiter.result())
            if isinstance(error, TimeoutError):
                raise PoolExhausted(
                    f"no instance came free within acquire_timeout_ms ({seconds * 1000:.0f})"
                ) from None
            raise

    def _prepare(self, slot: _Slot, image: HeapImage) -> PooledInstance:
        """Make the reserved slot's instance ready for `image`; on failure the slot is given up."""
        created = False
        try:
            instance = slot.instance
            if instance is not None and not instance.fits(image):
                self._empty(slot, "size")
                instance = None
            if instance is None:
                instance = slot.instance = self._new_instance()
                self._created += 1
                self._metrics.instance_created()
                created = True
            if instance.image is not image:
                instance.attach(image)
        except BaseException:
            self._empty(slot, "broken")
            with self._lock:
                self._hand_over(slot)
            raise
        with self._lock:
            self._account(slot)
            self._move(slot, InstanceState.RUNNING)
        return PooledInstance(self, slot, image, created=created)

    def release(self, lease: PooledInstance) -> None:
        """End a lease: reset its instance to the image, or retire it when that cannot be proven."""
        slot, lease.slot = lease.slot, None
        lease.saved = None
        if slot is None or slot.instance is None:
            return
        lease.outgrew_image = slot.instance.memory_used != lease.image.memory_size
        if not slot.instance.reset():
            self._empty(slot, "outgrown" if lease.outgrew_image else "reset")
        with self._lock:
            self._account(slot)
            self._hand_over(slot)

    # ---- sleeping calls ----------------------------------------------------------------------

    def park(self, lease: PooledInstance, call_id: str) -> None:
        """Let a call sleep under an id. Its instance stays with it until somebody needs one."""
        with self._lock:
            if lease.slot is not None:
                self._move(lease.slot, InstanceState.SUSPENDED)
                if self._waiters:
                    self._hand_over(self._take_from(lease))
            self._parked[call_id] = lease

    def get_suspended(self, call_id: str) -> PooledInstance:
        """The lease of a sleeping call; raises `SuspensionNotFound`."""
        lease = self._parked.get(call_id)
        if lease is None:
            raise SuspensionNotFound(f"no suspended call has the id {call_id!r}")
        return lease

    async def unpark(self, call_id: str) -> PooledInstance:
        """Wake a call: its lease with an instance again, its own or another with its pages restored."""
        with self._lock:
            lease = self.get_suspended(call_id)
            del self._parked[call_id]
            if lease.slot is not None:
                self._move(lease.slot, InstanceState.RUNNING)
                return lease
        saved = lease.saved
        fresh = await self.acquire(lease.image)
        try:
            if saved is not None:
                fresh.instance.restore(saved)
        except BaseException:
            fresh.release()
            raise
        lease.slot, lease.saved, fresh.slot = fresh.slot, None, None
        return lease

    def forget(self, call_id: str) -> None:
        """Drop a sleeping call, if it sleeps: its lease is released by its owner."""
        with self._lock:
            lease = self._parked.pop(call_id, None)
            if lease is not None and lease.slot is not None:
                self._move(lease.slot, InstanceState.RUNNING)

    def _take_parked(self) -> _Slot | None:
        """Reserve the instance of the call that has slept longest."""
        for lease in self._parked.values():
            if lease.slot is not None:
                return self._take_from(lease)
        return None

    def _take_from(self, lease: PooledInstance) -> _Slot:
        """Save a sleeping call's pages and reserve its instance, with the image attached and clean."""
        slot = lease.slot
        if slot is None or slot.instance is None:
            raise NexusError("the sleeping call holds no instance")
        lease.saved, lease.slot = slot.instance.save(), None
        if not slot.instance.reset():
            slot.instance.terminate()
            slot.instance = None
            self._retire("outgrown")
        return self._move(slot, InstanceState.RESERVED)

    # ---- keeping house -----------------------------------------------------------------------

    def prewarm(self) -> None:
        """Create free instances up to `min_instances`."""
        for _ in range(self._settings.min_instances - self.available_count - self.active_count):
            slot = _Slot()
            slot.instance = self._new_instance()
            self._metrics.instance_created()
            with self._lock:
                self._created += 1
                self._counts[InstanceState.RESERVED] += 1
                self._account(slot)
                self._hand_over(slot)

    def retire_idle(self) -> int:
        """Close free instances that have been idle too long, down to `min_instances`; how many."""
        oldest = time.monotonic() - self._settings.idle_timeout_seconds
        gone: list[_Slot] = []
        with self._lock:
            spare = self._counts[InstanceState.FREE] + self.active_count - self._settings.min_instances
            for key in list(self._free):
                stack = self._free[key]
                while stack and len(gone) < spare and stack[0].idle_since <= oldest:
                    gone.append(self._move(stack.pop(0), InstanceState.RESERVED))
                if not stack:
                    del self._free[key]
        self._close(gone, "idle")
        return len(gone)

    async def shutdown(self, deadline_seconds: float) -> bool:
        """Take no more calls, let running ones end, close everything. False when some still ran."""
        with self._lock:
            self._closing = True
            waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(PoolExhausted("the pool is shutting down"))
        end = time.monotonic() + deadline_seconds
        while (self.active_count or self._parked) and time.monotonic() < end:
            self._quiet.clear()
            try:
                await asyncio.wait_for(self._quiet.wait(), max(0.0, end - time.monotonic()))
            except TimeoutError:
                break
        with self._lock:
            gone = [slot for stack in self._free.values() for slot in stack]
            self._free.clear()
            for slot in gone:
                self._move(slot, InstanceState.RESERVED)
        self._close(gone, "shutdown")
        return not self.active_count

    def _close(self, slots: Iterable[_Slot], reason: str) -> None:
        for slot in slots:
            self._empty(slot, reason)
            with self._lock:
                self._hand_over(slot)

    def _empty(self, slot: _Slot, reason: str) -> None:
        """Close a slot's instance; the slot keeps its place until it is handed over."""
        instance, slot.instance = slot.instance, None
        if instance is not None:
            instance.terminate()
            self._retire(reason)
        with self._lock:
            self._account(slot)

    def _retire(self, reason: str) -> None:
        self._retired += 1
        self._metrics.instance_retired(reason)

    # ---- state, under the lock ---------------------------------------------------------------

    def _move(self, slot: _Slot, state: InstanceState) -> _Slot:
        self._counts[slot.state] -= 1
        self._counts[state] += 1
        slot.state = state
        return slot

    def _account(self, slot: _Slot) -> None:
        memory = slot.instance.memory_used if slot.instance is not None else 0
        self._memory += memory - slot.memory
        slot.memory = memory
        self._peak_memory = max(self._peak_memory, self._memory)

    def _hand_over(self, slot: _Slot) -> None:
        """Give a slot that nobody uses now to the next in line, to the free ones, or up."""
        if slot.state is not InstanceState.RESERVED:
            self._move(slot, InstanceState.RESERVED)
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(slot)
                return
        if slot.instance is None:
            self._move(slot, InstanceState.TERMINATED)
        elif self._closing:
            slot.instance.terminate()
            self._retire("shutdown")
            self._memory -= slot.memory
            self._move(slot, InstanceState.TERMINATED)
        else:
            slot.idle_since = time.monotonic()
            self._free.setdefault(slot.instance.image, []).append(self._move(slot, InstanceState.FREE))
        if self._closing:
            self._quiet.set()
