"""The one clock: it ticks while calls come, and sleeps while none do."""

import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nexus_core.engine import bindings, epoch
from nexus_core.engine.epoch import EpochTicker
from nexus_core.engine.wasm_engine import WasmEngine


@pytest.fixture
def ticker(wasm_engine: WasmEngine) -> Iterator[EpochTicker]:
    """A ticker of its own."""
    made = EpochTicker(wasm_engine.engine)
    yield made
    made.close()


@pytest.fixture
def ticks(ticker: EpochTicker, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the ticks of that ticker."""
    counted: list[int] = []
    real = bindings.increment_epoch

    def increment(engine: object) -> None:
        if engine is ticker._engine:
            counted.append(1)
        real(engine)

    monkeypatch.setattr(bindings, "increment_epoch", increment)
    return counted


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for at most ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_nothing_ticks_before_the_first_call(ticker: EpochTicker, ticks: list[int]) -> None:
    """A ticker that nobody needs has no thread."""
    assert ticker.asleep
    assert not ticks


def test_a_call_wakes_it_and_idleness_puts_it_to_sleep(ticker: EpochTicker, ticks: list[int]) -> None:
    """It ticks for a while after each call, sleeps then, and the next call wakes it again."""
    for _ in range(3):
        ticker.touch()
        before = len(ticks)
        until(lambda before=before: len(ticks) > before)  # type: ignore[misc]
        until(lambda: ticker.asleep)
    asleep = len(ticks)
    threading.Event().wait(0.02)
    assert len(ticks) <= asleep + 1


def test_it_never_sleeps_while_held(ticker: EpochTicker, ticks: list[int]) -> None:
    """A computation without new calls keeps it awake until it is released."""
    ticker.hold()
    until(lambda: len(ticks) > 120)
    assert not ticker.asleep
    ticker.release()
    until(lambda: ticker.asleep)


def test_calls_put_no_tick_off_that_a_held_run_waits_for(ticker: EpochTicker, ticks: list[int]) -> None:
    """Calls that come faster than ticks do not keep the clock from those it is held for."""
    ticker.hold()
    deadline = time.monotonic() + 10
    while len(ticks) < 100:
        assert time.monotonic() < deadline
        ticker.touch()
    ticker.release()


def test_it_can_be_closed_while_it_falls_asleep(
    wasm_engine: WasmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A close that comes between the thread's last look and its sleep ends the thread all the same."""
    made = EpochTicker(wasm_engine.engine)
    real, closing = epoch._Timer.stop, threading.Thread(target=made.close)

    def stop(timer: Any) -> None:
        if not closing.is_alive():
            closing.start()
            until(lambda: made._timer is None)
            until(lambda: bool(select.select([timer._descriptor], [], [], 0)[0]))
        real(timer)

    monkeypatch.setattr(epoch._Timer, "stop", stop)
    made.touch()
    until(lambda: made._timer is None)
    closing.join(10)
    assert not closing.is_alive()


def test_many_threads_may_touch_it(ticker: EpochTicker) -> None:
    """One thread ticks, however many callers woke it at once."""
    threads = [threading.Thread(target=ticker.touch) for _ in range(20)]
    before = sum(thread.name == "nexus-epoch" for thread in threading.enumerate())
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(thread.name == "nexus-epoch" for thread in threading.enumerate()) == before + 1


def test_it_starts_anew_after_its_thread_was_lost(ticker: EpochTicker, ticks: list[int]) -> None:
    """After a fork or a restored snapshot the next call starts another thread."""
    ticker.touch()
    until(lambda: bool(ticks))
    lost = ticker._thread
    ticker.restart()
    assert ticker.asleep
    before = len(ticks)
    ticker.touch()
    until(lambda: len(ticks) > before)
    assert ticker._thread is not lost
    assert lost is not None
    # It was still there, as after a snapshot: two would tick twice as fast.
    lost.join()


def test_closing_stops_the_thread(wasm_engine: WasmEngine) -> None:
    """A closed ticker has no thread, starts none, and may be closed again."""
    made = EpochTicker(wasm_engine.engine)
    made.touch()
    thread = made._thread
    assert thread is not None
    made.close()
    assert not thread.is_alive()
    made.close()
    made.touch()
    assert made._thread is None
