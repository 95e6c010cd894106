"""`PoolLedger`: who has which slot of the pool, who sleeps, who waits, and who is next.

It only decides and counts. Every method is called under the pool's lock, costs no more than a look
through lists, and touches no instance: what follows from a decision is the pool's to carry out.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from nexus_core.engine.image import HeapImage
from nexus_core.errors import InternalError, PoolExhausted
from nexus_core.leases import InstanceState, PooledInstance, PoolSettings, Slot


class Waiter:
    """One call in the line. A returning call has slept, and waits as long as it must."""

    __slots__ = ("future", "image", "returning")

    def __init__(self, image: HeapImage, *, returning: bool) -> None:
        self.future: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self.image = image
        self.returning = returning

    @property
    def given(self) -> Slot | None:
        """The slot that was handed to this call, if one was."""
        future = self.future
        return (
            future.result() if future.done() and not future.cancelled() and not future.exception() else None
        )


class PoolLedger:
    """The state of one pool."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self.counts = [0] * len(InstanceState)
        self.memory = 0
        self.peak_memory = 0
        self._free: dict[HeapImage | None, list[Slot]] = {}
        # Sleeping calls that still have their instance, longest asleep first.
        self._seated: dict[str, PooledInstance] = {}
        self.parked: dict[str, PooledInstance] = {}
        """All sleeping calls by id."""
        self.saved = 0
        """Calls whose instance was taken, whether they still sleep or wait for another."""
        self.saved_bytes = 0
        self.to_save: list[Slot] = []
        """Slots taken from sleeping calls whose pages are still in them."""
        self.line: deque[Waiter] = deque()

    @property
    def live(self) -> int:
        """Instances there are, those that are being made included."""
        counts = self.counts
        return sum(counts) - counts[InstanceState.TERMINATED]

    @property
    def active(self) -> int:
        """Instances reserved or running."""
        return self.counts[InstanceState.RESERVED] + self.counts[InstanceState.RUNNING]

    @property
    def quiet(self) -> bool:
        """Whether no call runs, sleeps or waits."""
        return not (self.active or self.parked or self.line)

    def move(self, slot: Slot, state: InstanceState) -> Slot:
        """Put a slot into another state."""
        self.counts[slot.state] -= 1
        self.counts[state] += 1
        slot.state = state
        return slot

    def account(self, slot: Slot) -> None:
        """Count the memory a slot's instance has now."""
        memory = slot.instance.memory_used if slot.instance is not None else 0
        self.memory += memory - slot.memory
        slot.memory = memory
        self.peak_memory = max(self.peak_memory, self.memory)

    # ---- who gets what -----------------------------------------------------------------------

    def take(self, image: HeapImage, *, returning: bool) -> Slot | None:
        """Reserve a slot for a call; None when everything is busy.

        In this order: a free instance with the image, another free one it fits, a new one, any free
        one, the instance of a sleeping call.
        """
        stack = self._free.get(image)
        if stack:
            slot = stack.pop()
            if not stack:
                del self._free[image]
            return self.move(slot, InstanceState.RESERVED)
        free = self.take_free(image.memory_size)
        if free is not None:
            return free
        if self.may_create(image.memory_size):
            return self.new_slot(image.memory_size)
        return self.take_free(None) or self._take_seat(returning=returning)

    def may_create(self, size: int) -> bool:
        """Whether one more instance, of `size` bytes, is within the bounds. The first one always is."""
        budget, live = self._settings.max_total_memory_bytes, self.live
        fits = not budget or not live or self.memory + self.saved_bytes + size <= budget
        return live < self._settings.max_instances and fits

    def new_slot(self, size: int) -> Slot:
        """A reserved slot; its `size` counts before its instance is made, so that two cannot share it."""
        self.counts[InstanceState.RESERVED] += 1
        self.memory += size
        return Slot(size)

    def take_free(self, size: int | None) -> Slot | None:
        """Reserve a free instance of whatever image, of at most `size` bytes; None = of any size.

        Memory never shrinks: an instance too large for an image can only be replaced.
        """
        for key, stack in self._free.items():
            if size is None or stack[0].memory <= size:
                slot = stack.pop(0)
                if not stack:
                    del self._free[key]
                return self.move(slot, InstanceState.RESERVED)
        return None

    def take_idle(self, oldest: float) -> list[Slot]:
        """Reserve the instances that have been free since before `oldest`, but leave `min_instances`."""
        gone: list[Slot] = []
        spare = self.live - self._settings.min_instances
        for key in list(self._free):
            stack = self._free[key]
            while stack and len(gone) < spare and stack[0].idle_since <= oldest:
                gone.append(self.move(stack.pop(0), InstanceState.RESERVED))
            if not stack:
                del self._free[key]
        return gone

    def take_surplus(self) -> list[Slot]:
        """Reserve free instances to give up, because those in use have grown past the budget."""
        gone: list[Slot] = []
        budget = self._settings.max_total_memory_bytes
        excess = self.memory + self.saved_bytes - budget if budget else 0
        while excess > 0 and (slot := self.take_free(None)) is not None:
            excess -= slot.memory
            gone.append(slot)
        return gone

    def give_back(self, slot: Slot) -> None:
        """Take in a slot that nobody uses now: free when it has an instance, else gone.

        Its memory has been accounted for by whoever changed it.
        """
        if slot.instance is None:
            self.move(slot, InstanceState.TERMINATED)
        else:
            slot.idle_since = time.monotonic()
            self.move(slot, InstanceState.FREE)
            self._free.setdefault(slot.instance.image, []).append(slot)
        if self.line:
            self.serve_line()

    # ---- who waits ---------------------------------------------------------------------------

    def join_line(self, image: HeapImage, *, returning: bool) -> Waiter:
        """A place in the line. A returning call always gets one; else `PoolExhausted` when it is full."""
        settings = self._settings
        if not returning:
            busy = f"all {self.live} instances are busy"
            if not settings.acquire_timeout_seconds:
                raise PoolExhausted(f"{busy} and acquire_timeout_ms is 0")
            if sum(not waiter.returning for waiter in self.line) >= settings.max_waiting:
                raise PoolExhausted(f"{busy} and max_waiting ({settings.max_waiting}) calls wait already")
        waiter = Waiter(image, returning=returning)
        self.line.append(waiter)
        self.serve_line()
        return waiter

    def leave_line(self, waiter: Waiter) -> None:
        """Give up a place in the line, if it is still held."""
        if waiter in self.line:
            self.line.remove(waiter)
            self.serve_line()

    def serve_line(self) -> None:
        """Give what can be had to those who wait, in their order; follows every change."""
        blocked = False
        for waiter in tuple(self.line):
            if blocked and not waiter.returning:
                continue
            slot = None
            if not waiter.future.done():
                slot = self.take(waiter.image, returning=waiter.returning)
                if slot is None:
                    # A returning call behind this one may take a sleeper's instance where a new one may not.
                    blocked = True
                    continue
            self.line.remove(waiter)
            if slot is not None:
                waiter.future.set_result(slot)

    def refuse(self, *, returning: bool) -> None:
        """End the waiting of new calls, and of returning ones too when `returning`."""
        for waiter in tuple(self.line):
            if returning or not waiter.returning:
                self.line.remove(waiter)
                if not waiter.future.done():
                    waiter.future.set_exception(PoolExhausted("the pool is shutting down"))

    # ---- who sleeps --------------------------------------------------------------------------

    def park(self, lease: PooledInstance, call_id: str) -> None:
        """Let a running call sleep; its instance can be taken from now on."""
        slot = lease.slot
        if slot is None or lease.parked_as is not None or call_id in self.parked:
            raise InternalError("only a call that runs can be parked, and under an id nobody has")
        self.account(slot)
        self.move(slot, InstanceState.SUSPENDED)
        lease.parked_as = call_id
        self.parked[call_id] = self._seated[call_id] = lease
        self.serve_line()

    def wake(self, lease: PooledInstance) -> None:
        """Take a call from those that sleep; when it has its instance still, it runs."""
        call_id, lease.parked_as = lease.parked_as or "", None
        del self.parked[call_id]
        if lease.slot is not None:
            del self._seated[call_id]
            self.move(lease.slot, InstanceState.RUNNING)

    def drop_saved(self, size: int) -> None:
        """Stop counting what was kept of a call without an instance."""
        self.saved -= 1
        self.saved_bytes -= size
        self.serve_line()

    def _take_seat(self, *, returning: bool) -> Slot | None:
        """Reserve the instance of the call that has slept longest.

        What is kept of calls without an instance is bounded: past it new calls wait instead. A
        returning call is let through, since what is kept of itself goes.
        """
        call_id = next(iter(self._seated), None)
        if call_id is None or (self._is_full() and not returning):
            return None
        lease = self._seated.pop(call_id)
        slot, lease.slot = lease.slot, None
        if slot is None:
            raise InternalError("a sleeping call was counted as having an instance")
        slot.sleeper = lease
        self.saved += 1
        self.to_save.append(slot)
        return self.move(slot, InstanceState.RESERVED)

    def _is_full(self) -> bool:
        settings = self._settings
        return (
            self.saved >= settings.max_saved
            or 0 < settings.max_saved_bytes <= self.saved_bytes
            or 0 < settings.max_total_memory_bytes < self.memory + self.saved_bytes
        )
