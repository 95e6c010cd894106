"""The epoch ticker: the one clock that lets running guests yield. It sleeps while nothing runs."""

from __future__ import annotations

import threading

import wasmtime

from nexus_core.engine import bindings

TICK_SECONDS = 0.002
"""A guest yields at each tick, so this bounds how long it can hold the event loop."""

_IDLE_TICKS = 50
"""Ticks without a call before the ticker sleeps: waking it costs more than a warm call does."""


class EpochTicker:
    """Advances the engine's epoch every `TICK_SECONDS` while calls arrive.

    `touch()` is what a call pays: one increment, and a wake-up only when the ticker sleeps. It is
    safe from any thread: a lost increment is another thread's increment, which keeps it awake too.
    """

    def __init__(self, engine: wasmtime.Engine) -> None:
        # Kept, so that it is not freed under the thread.
        self._owner = engine
        self._engine = bindings.address(engine.ptr())
        self._touches = 0
        self._running = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def asleep(self) -> bool:
        """Whether the ticker waits for a call to wake it."""
        return self._thread is None or not self._wake.is_set()

    def touch(self) -> None:
        """Say that a call begins now; the ticker runs for at least 100 ms from here."""
        self._touches += 1
        if not self._wake.is_set():
            self._start()

    def hold(self) -> None:
        """Keep ticking until `release`, however long the guest computes without a new call."""
        with self._lock:
            self._running += 1
        self.touch()

    def release(self) -> None:
        """Undo one `hold`."""
        with self._lock:
            self._running -= 1

    def _start(self) -> None:
        with self._lock:
            self._wake.set()
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._tick, name="nexus-epoch", daemon=True)
                self._thread.start()

    def _tick(self) -> None:
        pause, me = threading.Event(), threading.current_thread()
        seen, idle = -1, 0
        while not self._stopping and self._thread is me:
            pause.wait(TICK_SECONDS)
            bindings.increment_epoch(self._engine)
            if self._touches != seen or self._running:
                seen, idle = self._touches, 0
                continue
            idle += 1
            if idle < _IDLE_TICKS:
                continue
            idle = 0
            self._wake.clear()
            # A call or a close between the test above and the clear saw the event set and wakes nobody.
            if self._touches != seen or self._stopping:
                self._wake.set()
            self._wake.wait()

    def restart(self) -> None:
        """Have the next call start a thread: none survives a fork; one that survives a snapshot ends."""
        with self._lock:
            self._thread = None
            self._wake.clear()

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
