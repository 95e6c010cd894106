"""Drive a run of the guest under its time: the first slice on the event loop, what is left on a thread."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from typing import Any, TypeVar

from nexus_core.engine.epoch import EpochTicker
from nexus_core.errors import HandlerTimeout, LimitBreach

T = TypeVar("T")
_NOT_DONE: Any = object()


class RunCancelled(Exception):
    """The run was given up by its caller; not an error of the handler."""


class TimeBudget:
    """What is left of a call's time: wall clock from now on, and the time the guest itself computes."""

    def __init__(self, timeout_ms: int, cpu_ms: int) -> None:
        self._timeout_ms = timeout_ms
        self._cpu_ms = cpu_ms
        self._started = time.monotonic()
        self.cpu_ns = 0
        self.cancelled = False

    @property
    def remaining_seconds(self) -> float | None:
        """Wall time left, 0 when there is none; None when it is not limited."""
        if not self._timeout_ms:
            return None
        return max(0.0, self._timeout_ms / 1000 - (time.monotonic() - self._started))

    def check(self) -> None:
        """Raise `HandlerTimeout` when the time is used up, `RunCancelled` when the run was given up."""
        if self.cancelled:
            raise RunCancelled
        if self._timeout_ms:
            used = int((time.monotonic() - self._started) * 1000)
            if used >= self._timeout_ms:
                raise self._timed_out("timeout_ms", self._timeout_ms, used)
        if self._cpu_ms and self.cpu_ns >= self._cpu_ms * 1_000_000:
            raise self._timed_out("cpu_ms", self._cpu_ms, self.cpu_ns // 1_000_000)

    @staticmethod
    def _timed_out(name: str, limit: int, used: int) -> HandlerTimeout:
        breach = LimitBreach(name, limit, max(used, limit + 1))
        return HandlerTimeout(f"the handler ran longer than {name} ({limit})", breach)

    def step(self, steps: Generator[None, None, T], clock: Callable[[], int]) -> T:
        """Run to the next tick; the result when that ended the run, else a private mark.

        `clock` counts the guest's time in nanoseconds.
        """
        start = clock()
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # a generator's return value is untyped
        finally:
            self.cpu_ns += clock() - start
        return _NOT_DONE  # type: ignore[no-any-return]


def finish(steps: Generator[None, None, T], budget: TimeBudget) -> T:
    """Drive a run to its end on this thread."""
    try:
        while True:
            budget.check()
            value = budget.step(steps, time.thread_time_ns)
            if value is not _NOT_DONE:
                return value
    finally:
        # Between two ticks this unwinds the guest; after the end it does nothing.
        steps.close()


async def drive(
    steps: Generator[None, None, T], budget: TimeBudget, ticker: EpochTicker, threads: Executor
) -> T:
    """Drive a run to its end without holding the event loop for more than a tick.

    Raises what the run raises, and `HandlerTimeout`. Cancellation ends the guest at its next tick,
    before this returns: the instance is never left running.
    """
    # The thread's own clock is a system call, dear beside a whole warm call; over one tick on the
    # event loop, elapsed time is as good.
    value = budget.step(steps, time.perf_counter_ns)
    if value is not _NOT_DONE:
        return value
    ticker.hold()
    try:
        job = threads.submit(finish, steps, budget)
        work = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            budget.cancelled = True
            # One that still waits for a thread is taken out of the line, and has nothing to outlast.
            job.cancel()
            await _outlast(work)
            raise
    finally:
        # For a run that no thread took (the executor is shut); a finished one is closed already.
        steps.close()
        ticker.release()


async def _outlast(work: asyncio.Future[T]) -> None:
    """Wait for the end of the work, however often the waiting is cancelled.

    A second cancellation must not give the instance back while a thread still runs its guest.
    """
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([work])
    if not work.cancelled():
        work.exception()
