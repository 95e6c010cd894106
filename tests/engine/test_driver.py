"""Driving a run: the time it is held to, and who may have the instance afterwards."""

import asyncio
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from nexus_core.engine.driver import RunCancelled, TimeBudget, drive, finish
from nexus_core.engine.epoch import EpochTicker
from nexus_core.engine.wasm_engine import WasmEngine
from nexus_core.errors import HandlerTimeout
from tests.engine.guests import GENEROUS_MS


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """The threads that long runs go to."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


class Run:
    """A run whose steps a test can hold up and watch."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.closed = False

    def steps(self) -> Generator[None, None, str]:
        """The first step is free, each later one waits for the gate."""
        try:
            for number in range(self._steps):
                if number:
                    self.entered.set()
                    self.gate.wait()
                yield
            return "done"
        finally:
            self.closed = True


async def test_a_short_run_never_leaves_the_event_loop(
    wasm_engine: WasmEngine, threads: ThreadPoolExecutor
) -> None:
    """A run that ends before its first tick is not handed to a thread."""
    threads.shutdown()
    assert await drive(Run(0).steps(), TimeBudget(GENEROUS_MS, 0), wasm_engine.ticker, threads) == "done"


async def test_a_long_run_ends_on_a_thread(wasm_engine: WasmEngine, threads: ThreadPoolExecutor) -> None:
    """What is left after the first tick runs beside the event loop, and its value comes back."""
    run = Run(3)
    run.gate.set()
    assert await drive(run.steps(), TimeBudget(GENEROUS_MS, 0), wasm_engine.ticker, threads) == "done"


async def test_a_run_that_waits_for_a_thread_can_be_cancelled(wasm_engine: WasmEngine) -> None:
    """While all threads are taken, a cancelled call leaves their line at once, and its guest is unwound."""
    free = threading.Event()
    with ThreadPoolExecutor(1) as taken:
        taken.submit(free.wait)
        run = Run(3)
        task = asyncio.create_task(drive(run.steps(), TimeBudget(GENEROUS_MS, 0), wasm_engine.ticker, taken))
        try:
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task], timeout=20)
            assert (task.cancelled(), run.closed, run.entered.is_set()) == (True, True, False)
        finally:
            free.set()


async def test_cancelling_waits_for_the_guest(wasm_engine: WasmEngine, threads: ThreadPoolExecutor) -> None:
    """However often a call is cancelled, it ends only when its guest has been unwound."""
    run = Run(1_000)
    task = asyncio.create_task(drive(run.steps(), TimeBudget(GENEROUS_MS, 0), wasm_engine.ticker, threads))
    await asyncio.to_thread(run.entered.wait)
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    early = task.done()
    run.gate.set()
    assert not early
    with pytest.raises(asyncio.CancelledError):
        await task
    assert run.closed


async def test_a_run_no_thread_takes_is_unwound(wasm_engine: WasmEngine, threads: ThreadPoolExecutor) -> None:
    """When the threads are gone (shutdown), the guest does not stay half run in its instance."""
    threads.shutdown()
    run = Run(3)
    steps = run.steps()
    with pytest.raises(RuntimeError, match="shutdown"):
        await drive(steps, TimeBudget(GENEROUS_MS, 0), wasm_engine.ticker, threads)
    assert run.closed


async def test_the_ticker_is_let_go(wasm_engine: WasmEngine, threads: ThreadPoolExecutor) -> None:
    """Each run that went to a thread gives its hold on the ticker back, whatever its end."""
    ticker = EpochTicker(wasm_engine.engine)
    run = Run(3)
    run.gate.set()
    await drive(run.steps(), TimeBudget(GENEROUS_MS, 0), ticker, threads)
    with pytest.raises(HandlerTimeout):
        await drive(computing(), TimeBudget(0, 1), ticker, threads)
    assert ticker._running == 0
    ticker.close()


def computing() -> Generator[None, None, str]:
    """A run that never ends."""
    while True:
        sum(range(10_000))
        yield


def test_wall_time_ends_a_run() -> None:
    """A run that passes `timeout_ms` is unwound and the error names limit, value and use."""
    with pytest.raises(HandlerTimeout) as caught:
        finish(computing(), TimeBudget(20, 0))
    assert caught.value.breach is not None
    assert (caught.value.breach.name, caught.value.breach.value) == ("timeout_ms", 20)
    assert caught.value.breach.used > 20


def test_computing_time_ends_a_run() -> None:
    """A run that computes longer than `cpu_ms` ends, though its wall time is not limited."""
    with pytest.raises(HandlerTimeout) as caught:
        finish(computing(), TimeBudget(0, 5))
    assert caught.value.breach is not None
    assert caught.value.breach.name == "cpu_ms"


def test_waiting_costs_no_computing_time() -> None:
    """Time on the host's side of a tick is not the guest's."""
    budget = TimeBudget(GENEROUS_MS, GENEROUS_MS)
    ticks = Run(1).steps()
    pause = threading.Event()

    def slow() -> Generator[None, None, str]:
        pause.wait(0.05)
        return (yield from ticks)

    assert finish(slow(), budget) == "done"
    assert budget.cpu_ns < 40_000_000


def test_a_cancelled_run_takes_no_further_step() -> None:
    """A run given up before its thread began is closed without running."""
    run = Run(1)
    budget = TimeBudget(GENEROUS_MS, 0)
    budget.cancelled = True
    with pytest.raises(RunCancelled):
        finish(run.steps(), budget)
    assert not run.entered.is_set()


@pytest.mark.parametrize(("timeout_ms", "left"), [(0, None), (GENEROUS_MS, GENEROUS_MS / 1000)])
def test_remaining_time(timeout_ms: int, left: float | None) -> None:
    """Without a limit no time is left or lacking; with one it counts down from the limit."""
    remaining = TimeBudget(timeout_ms, 0).remaining_seconds
    assert remaining is None if left is None else remaining is not None and 0 < remaining <= left
