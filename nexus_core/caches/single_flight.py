"""`SingleFlight`: callers who want the same thing at the same time share one making of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class _Flight(Generic[V]):
    """Work under way, and how many wait for it."""

    def __init__(self, task: asyncio.Task[V]) -> None:
        self.task = task
        self.waiters = 0


class SingleFlight(Generic[K, V]):
    """Runs at most one `make` per key at a time. One object serves one event loop, and no other thread.

    Nothing is remembered: a call after the work ended starts anew. The work runs in a task of its
    own, with the context variables of the caller who started it.
    """

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[V]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def run(self, key: K, make: Callable[[], Awaitable[V]]) -> V:
        """The result of the work under way for `key`, else of `make()`; its failure goes to all who wait.

        A caller who is cancelled leaves; the work goes on for the others, and is cancelled with the last.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._start(key, make)
        flight.waiters += 1
        try:
            # Waiting, unlike awaiting, leaves the task alone when this caller is cancelled.
            await asyncio.wait((flight.task,))
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                # At once: whoever comes next must not join work that is being cancelled.
                self._end(key, flight)
                flight.task.cancel()
        return flight.task.result()

    def _start(self, key: K, make: Callable[[], Awaitable[V]]) -> _Flight[V]:
        async def work() -> V:
            return await make()

        flight = _Flight(asyncio.get_running_loop().create_task(work()))
        self._flights[key] = flight
        flight.task.add_done_callback(lambda task: self._land(key, flight, task))
        return flight

    def _land(self, key: K, flight: _Flight[V], task: asyncio.Task[V]) -> None:
        self._end(key, flight)
        if not task.cancelled():
            # Marks a failure as seen: when all callers left, nobody else will.
            task.exception()

    def _end(self, key: K, flight: _Flight[V]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
