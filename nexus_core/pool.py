"""`InstancePool`: warm instances that belong to nobody between calls.

Every change of state happens under one lock and only *decides* (`PoolLedger`); what is slow
(creating, attaching, saving, resetting, closing an instance) is done afterwards, on a slot that is
already reserved for it. The pool serves one event loop, and what was decided is carried out before
that loop goes on: no call ever meets a decision half done.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from nexus_core.engine.image import HeapImage
from nexus_core.engine.instance import WasmInstance
from nexus_core.errors import InternalError, PoolExhausted, SuspensionNotFound
from nexus_core.leases import InstanceState, PooledInstance, PoolSettings, Slot
from nexus_core.metrics import MetricsCollector
from nexus_core.pool_ledger import PoolLedger, Waiter
from nexus_core.statistics import PoolStatistics

__all__ = ["InstancePool", "InstanceState", "PoolSettings", "PooledInstance"]

_log = logging.getLogger(__name__)


class InstancePool:
    """Hands out instances for one event loop. `statistics()` is safe from any thread."""

    def __init__(
        self, new_instance: Callable[[], WasmInstance], settings: PoolSettings, metrics: MetricsCollector
    ) -> None:
        self._new_instance = new_instance
        self._settings = settings
        self._metrics = metrics
        self._lock = threading.Lock()
        self._ledger = PoolLedger(settings)
        self._deciding = _Deciding(self._lock, self._carry_out)
        self._created = 0
        self._retired = 0
        self._closing = False
        self._closed = False
        self._moved = asyncio.Event()

    # ---- what operators see ------------------------------------------------------------------

    @property
    def active_count(self) -> int:
        """Instances reserved or running."""
        return self._ledger.active

    @property
    def available_count(self) -> int:
        """Instances free now."""
        return self._ledger.counts[InstanceState.FREE]

    @property
    def suspended_count(self) -> int:
        """Calls that sleep, with or without an instance of their own."""
        return len(self._ledger.parked)

    @property
    def total_memory(self) -> int:
        """Bytes of linear memory of all instances."""
        return self._ledger.memory

    @property
    def instances_created(self) -> int:
        """Instances made since the start."""
        return self._created

    def statistics(self) -> PoolStatistics:
        """Counts now; a frozen copy."""
        with self._lock:
            ledger = self._ledger
            return PoolStatistics(
                free=ledger.counts[InstanceState.FREE],
                reserved=ledger.counts[InstanceState.RESERVED],
                running=ledger.counts[InstanceState.RUNNING],
                suspended=ledger.counts[InstanceState.SUSPENDED],
                asleep=len(ledger.parked),
                waiting=len(ledger.line),
                memory_bytes=ledger.memory,
                peak_memory_bytes=ledger.peak_memory,
                saved_bytes=ledger.saved_bytes,
                created_total=self._created,
                retired_total=self._retired,
            )

    def __repr__(self) -> str:
        """The counts, as tests and logs read them."""
        now = self.statistics()
        return (
            f"<InstancePool free={now.free} reserved={now.reserved} running={now.running} "
            f"suspended={now.suspended} asleep={now.asleep} waiting={now.waiting}>"
        )

    # ---- acquire and release -----------------------------------------------------------------

    async def acquire(self, image: HeapImage, within: float | None = None) -> PooledInstance:
        """A lease on an instance with `image` attached.

        In this order: a free instance that has the image, another free one, a new one, the instance
        of a sleeping call, and else a place in the line. Raises `PoolExhausted` when the line is
        full, the wait too long (past the acquire timeout or `within` seconds), or the pool is
        shutting down.
        """
        started = time.perf_counter()
        slot = await self._reserve(image, within, returning=False)
        self._metrics.observe_pool_wait(time.perf_counter() - started)
        return self._prepare(slot, image)

    async def _reserve(self, image: HeapImage, within: float | None, *, returning: bool) -> Slot:
        ledger = self._ledger
        with self._deciding:
            if self._closed or (self._closing and not returning):
                raise PoolExhausted("the pool is shutting down")
            # Nobody passes those who wait.
            slot = None if ledger.line else ledger.take(image, returning=returning)
            place = slot or ledger.join_line(image, returning=returning)
        return await self._wait(place, within) if isinstance(place, Waiter) else place

    async def _wait(self, waiter: Waiter, within: float | None) -> Slot:
        bounds = [] if waiter.returning else [self._settings.acquire_timeout_seconds]
        bounds += [] if within is None else [within]
        try:
            async with asyncio.timeout(min(bounds, default=None)):
                return await waiter.future
        except BaseException as error:
            with self._deciding:
                self._ledger.leave_line(waiter)
            if (slot := waiter.given) is not None:
                # It came in the moment of giving up: it goes to the next in line.
                self._hand_over(slot)
            if isinstance(error, TimeoutError):
                bound = "the call's time" if within == min(bounds) else "acquire_timeout_ms"
                milliseconds = min(bounds) * 1000
                raise PoolExhausted(f"no instance came free within {bound} ({milliseconds:.0f})") from None
            raise

    def _prepare(self, slot: Slot, image: HeapImage) -> PooledInstance:
        """Make the reserved slot's instance ready for `image`; on failure the slot is given up."""
        created = False
        try:
            instance = slot.instance
            if instance is not None and not instance.fits(image):
                self._empty(slot, "size")
                instance = None
            if instance is None:
                instance = self._create(slot)
                created = True
            if instance.image is not image:
                instance.attach(image)
                with self._lock:
                    self._ledger.account(slot)
        except BaseException:
            self._empty(slot, "broken")
            self._hand_over(slot)
            raise
        with self._deciding:
            self._ledger.move(slot, InstanceState.RUNNING)
            surplus = self._ledger.take_surplus()
        self._close(surplus, "budget")
        return PooledInstance(self, slot, image, created=created)

    def release(self, lease: PooledInstance) -> None:
        """End a lease: reset its instance to the image, or retire it when that cannot be proven."""
        if lease.parked_as is not None:
            self.forget(lease.parked_as)
        slot, lease.slot = lease.slot, None
        if slot is None or slot.instance is None:
            return
        lease.outgrew_image = slot.instance.memory_used != lease.image.memory_size
        if lease.outgrew_image:
            with self._lock:
                self._ledger.account(slot)
        if not _is_reset(slot.instance):
            self._empty(slot, "outgrown" if lease.outgrew_image else "reset")
        self._hand_over(slot)

    # ---- sleeping calls ----------------------------------------------------------------------

    def park(self, lease: PooledInstance, call_id: str) -> None:
        """Let a call sleep under an id of its own. Its instance stays with it until somebody needs one."""
        with self._deciding:
            self._ledger.park(lease, call_id)
            self._metrics.set_suspensions("memory", len(self._ledger.parked))

    def get_suspended(self, call_id: str) -> PooledInstance:
        """The lease of a sleeping call; raises `SuspensionNotFound`."""
        lease = self._ledger.parked.get(call_id)
        if lease is None:
            raise SuspensionNotFound(f"no suspended call has the id {call_id[:100]!r}")
        return lease

    async def unpark(self, call_id: str, within: float | None = None) -> PooledInstance:
        """Wake a call: its lease with an instance again, its own or another with its pages restored.

        It waits in the line as long as it must, also while the pool shuts down: the call is half
        done. Raises `PoolExhausted` when `within` seconds passed, or the pool has closed meanwhile.
        """
        lease = self.get_suspended(call_id)
        self._wake(lease)
        if lease.slot is not None:
            return lease
        saved, lease.saved = lease.saved, None
        try:
            if saved is None:
                raise InternalError("the memory of the sleeping call could not be saved")
            fresh = self._prepare(await self._reserve(lease.image, within, returning=True), lease.image)
            lease.slot, fresh.slot = fresh.slot, None
            lease.instance.restore(saved)
        finally:
            self._drop_saved(lease)
        return lease

    def forget(self, call_id: str) -> None:
        """Drop a sleeping call, if it sleeps: its lease is released by its owner."""
        lease = self._ledger.parked.get(call_id)
        if lease is None:
            return
        self._wake(lease)
        if lease.slot is None:
            lease.saved = None
            self._drop_saved(lease)

    def _wake(self, lease: PooledInstance) -> None:
        with self._deciding:
            self._ledger.wake(lease)
            self._metrics.set_suspensions("memory", len(self._ledger.parked))

    def _drop_saved(self, lease: PooledInstance) -> None:
        size, lease.saved_bytes = lease.saved_bytes, 0
        with self._deciding:
            self._ledger.drop_saved(size)

    # ---- keeping house -----------------------------------------------------------------------

    def prewarm(self) -> None:
        """Create free instances up to `min_instances`."""
        while True:
            with self._deciding:
                ledger = self._ledger
                if ledger.live >= self._settings.min_instances or not ledger.may_create(0):
                    return
                slot = ledger.new_slot(0)
            try:
                self._create(slot)
            finally:
                with self._lock:
                    self._ledger.account(slot)
                self._hand_over(slot)

    def retire_idle(self) -> int:
        """Close free instances that have been idle too long, down to `min_instances`; how many."""
        seconds = self._settings.idle_timeout_seconds
        if not seconds:
            return 0
        with self._deciding:
            gone = self._ledger.take_idle(time.monotonic() - seconds)
        self._close(gone, "idle")
        return len(gone)

    async def shutdown(self, deadline_seconds: float) -> bool:
        """Take no more calls, let those that run or sleep end, close everything. False when some did not."""
        with self._deciding:
            self._closing = True
            self._ledger.refuse(returning=False)
        end = time.monotonic() + deadline_seconds
        while not self._ledger.quiet and (left := end - time.monotonic()) > 0:
            self._moved.clear()
            try:
                await asyncio.wait_for(self._moved.wait(), left)
            except TimeoutError:
                break
        clean = self._ledger.quiet
        gone: list[Slot] = []
        with self._deciding:
            self._closed = True
            self._ledger.refuse(returning=True)
            while (slot := self._ledger.take_free(None)) is not None:
                gone.append(slot)
        self._close(gone, "shutdown")
        return clean

    # ---- carrying out, outside the lock ------------------------------------------------------

    def _carry_out(self) -> None:
        """Save the pages of calls whose instance was just taken, and clean it for its next call."""
        self._moved.set()
        while self._ledger.to_save:
            slot = self._ledger.to_save.pop()
            lease, slot.sleeper = slot.sleeper, None
            instance = slot.instance
            if lease is None or instance is None:
                continue
            try:
                lease.saved = instance.save()
            except Exception:  # noqa: BLE001 - only this call is lost; it learns so when it wakes
                _log.exception("saving a sleeping call failed")
            else:
                lease.saved_bytes = sum(map(len, lease.saved.pages.values()))
            if not _is_reset(instance):
                self._empty(slot, "outgrown")
            with self._lock:
                self._ledger.saved_bytes += lease.saved_bytes

    def _create(self, slot: Slot) -> WasmInstance:
        instance = slot.instance = self._new_instance()
        self._created += 1
        self._metrics.instance_created()
        return instance

    def _empty(self, slot: Slot, reason: str) -> None:
        """Close a slot's instance; the slot keeps its place until it is handed over."""
        instance, slot.instance = slot.instance, None
        if instance is not None:
            instance.terminate()
            self._retired += 1
            self._metrics.instance_retired(reason)
        with self._lock:
            self._ledger.account(slot)

    def _close(self, slots: Iterable[Slot], reason: str) -> None:
        for slot in slots:
            self._empty(slot, reason)
            self._hand_over(slot)

    def _hand_over(self, slot: Slot) -> None:
        """Give up a slot that nobody uses now: to the free ones, and so to the next in line."""
        if self._closed:
            self._empty(slot, "shutdown")
        with self._deciding:
            self._ledger.give_back(slot)


def _is_reset(instance: WasmInstance) -> bool:
    try:
        return instance.reset()
    except Exception:  # noqa: BLE001 - the slot must not be lost, whatever makes its instance unusable
        _log.exception("resetting an instance failed; it is retired")
        return False


class _Deciding:
    """Holds the pool's lock for a decision; what was decided is carried out when it is left."""

    __slots__ = ("_carry_out", "_lock")

    def __init__(self, lock: threading.Lock, carry_out: Callable[[], None]) -> None:
        self._lock = lock
        self._carry_out = carry_out

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        self._carry_out()
