"""The pool under random calls: run, sleep, wake, give up and fail in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_core.engine.image import HeapImage
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.metrics import MetricsCollector
from nexus_core.pool import InstancePool, PooledInstance
from tests.core.pools import Faults, execute, finish, pool_of, told

Step = tuple[str, int]

KINDS = ("call", "call", "sleep", "sleep", "wake", "end", "cancel", "retire", "fault")
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 9)), min_size=20, max_size=80)


class Story:
    """Carries out steps on calls that are chosen by number; what does not apply to a call is passed over."""

    def __init__(self, pool: InstancePool, faults: Faults, sleeper: HeapImage, most: int) -> None:
        self._pool = pool
        self._faults = faults
        self._image = sleeper
        self._most = most
        self._waiting: list[tuple[str, asyncio.Task[PooledInstance]]] = []
        self._running: dict[str, PooledInstance] = {}
        self._asleep: dict[str, PooledInstance] = {}
        self._begun: set[str] = set()
        self._calls = 0

    async def tell(self, steps: Sequence[Step]) -> None:
        """Take the steps, then end every call."""
        for step, number in steps:
            getattr(self, step)(number)
            await self._settle()
        while self._running or self._asleep or self._waiting:
            self.end(0)
            self.wake(0)
            await self._settle()

    def call(self, number: int) -> None:
        """A new call comes."""
        self._calls += 1
        name = f"call-{self._calls}"
        self._waiting.append((name, asyncio.create_task(self._pool.acquire(self._image))))

    def sleep(self, number: int) -> None:
        """A running call falls asleep."""
        if (name := _chosen(self._running, number)) is not None:
            lease = self._asleep[name] = self._running.pop(name)
            self._pool.park(lease, name)

    def wake(self, number: int) -> None:
        """A sleeping call wakes."""
        if (name := _chosen(self._asleep, number)) is not None:
            del self._asleep[name]
            self._waiting.append((name, asyncio.create_task(self._pool.unpark(name))))

    def end(self, number: int) -> None:
        """A running call is answered to its end, with its own heap, and gives its instance back."""
        if (name := _chosen(self._running, number)) is not None:
            with self._running.pop(name) as lease:
                assert finish(lease) == told(name)

    def cancel(self, number: int) -> None:
        """A waiting call is cancelled, or a sleeping one given up."""
        if self._waiting:
            self._waiting[number % len(self._waiting)][1].cancel()
        elif (name := _chosen(self._asleep, number)) is not None:
            self._asleep.pop(name).release()

    def retire(self, number: int) -> None:
        """Idle instances are closed."""
        self._pool.retire_idle()

    def fault(self, number: int) -> None:
        """The next instance that is made, attached or reset fails."""
        if number % 3 == 0:
            self._faults.creating.append(OSError("a fault"))
        elif number % 3 == 1:
            self._faults.attaching.append(OSError("a fault"))
        else:
            self._faults.resetting.append(False)

    async def _settle(self) -> None:
        """Let the event loop turn until nobody who waits can go on; then the counts must add up."""
        for _ in range(5):
            await asyncio.sleep(0)
        for name, task in [entry for entry in self._waiting if entry[1].done()]:
            self._waiting.remove((name, task))
            if task.cancelled():
                continue
            if task.exception() is not None:
                assert str(task.exception()) == "a fault"
                continue
            lease = self._running[name] = task.result()
            if name not in self._begun:
                self._begun.add(name)
                assert execute(lease, f'"{name}"'.encode()).outcome == "pending"
        self._check()

    def _check(self) -> None:
        now = self._pool.statistics()
        assert now.running == len(self._running)
        assert now.asleep == len(self._asleep)
        assert now.reserved == 0
        assert now.free + now.running + now.suspended <= self._most
        assert len({id(lease.instance) for lease in self._running.values()}) == len(self._running)
        # Nobody waits while an instance is free, or a sleeper's could be taken.
        assert not (now.waiting and (now.free or now.suspended))


def _chosen(calls: dict[str, PooledInstance], number: int) -> str | None:
    return list(calls)[number % len(calls)] if calls else None


@settings(max_examples=settings().max_examples * 60 // 100)
@given(steps=STEPS, most=st.integers(1, 3))
def test_no_story_loses_an_instance_or_crosses_two_heaps(
    kind: JavaScriptKind, sleeper: HeapImage, steps: list[Step], most: int
) -> None:
    """Whatever happens, counts add up, every call ends with its own heap, and all is given back."""
    faults = Faults(kind)
    pool = pool_of(faults, MetricsCollector(), max_instances=most, idle_timeout_seconds=1e-9)

    async def run() -> None:
        await Story(pool, faults, sleeper, most).tell(steps)
        faults.resetting.clear()
        assert await pool.shutdown(0)

    asyncio.run(run())
    assert pool.statistics().retired_total == pool.instances_created
    assert (pool.total_memory, pool.statistics().saved_bytes) == (0, 0)
