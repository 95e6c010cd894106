"""The epoch ticker: the one clock that lets running guests yield. It sleeps while nothing runs."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from ctypes import c_int, c_long, c_void_p

import wasmtime

from nexus_core.engine import bindings

TICK_SECONDS = 0.002
"""A guest yields at each tick, so this bounds how long it can hold the event loop."""

_PUT_OFF_SECONDS = TICK_SECONDS / 2
"""Setting the timer takes up to 10 us of a virtual machine, so not every call does."""

_IDLE_TICKS = 50
"""Ticks without a call before the ticker sleeps."""


class EpochTicker:
    """Advances the engine's epoch every `TICK_SECONDS` while calls arrive.

    `touch()` is what a call pays. It also puts the next tick off: while calls come faster than ticks there
    is none, and the calls need not share the interpreter with a thread that ticks for nobody. While the
    ticker is held nothing is put off, so the runs it is held for meet every tick. All of it is safe from
    any thread: a lost increment of `_touches` is another thread's, which keeps the ticker awake too.
    """

    def __init__(self, engine: wasmtime.Engine) -> None:
        # Kept, so that it is not freed under the thread.
        self._owner = engine
        self._engine = bindings.address(engine.ptr())
        self._touches = 0
        self._running = 0
        self._lock = threading.Lock()
        self._stopping = False
        self._timer: _Timer | None = None
        self._armed = False
        self._put_off = 0.0
        self._thread: threading.Thread | None = None

    @property
    def asleep(self) -> bool:
        """Whether the ticker waits for a call to wake it."""
        return self._thread is None or not self._armed

    def touch(self) -> None:
        """Say that a call begins now; the ticker runs for at least 100 ms from here."""
        self._touches += 1
        timer = self._timer
        if timer is None:
            self._start()
        elif not self._armed or (not self._running and time.monotonic() - self._put_off > _PUT_OFF_SECONDS):
            self._arm(timer)

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
            if self._timer is None and not self._stopping:
                self._timer = timer = _Timer()
                self._arm(timer)
                self._thread = threading.Thread(
                    target=self._tick, args=(timer,), name="nexus-epoch", daemon=True
                )
                self._thread.start()

    def _tick(self, timer: _Timer) -> None:
        seen, idle = -1, 0
        # Looked at after each `stop`, which may have come after the firing that was to end this thread.
        while self._timer is timer:
            timer.wait()
            bindings.increment_epoch(self._engine)
            if self._touches != seen or self._running:
                seen, idle = self._touches, 0
                continue
            idle += 1
            if idle < _IDLE_TICKS:
                continue
            idle = 0
            self._armed = False
            timer.stop()
            # Who touched or held it after the test above may have found it armed, or been stopped here.
            if self._touches != seen or self._running:
                self._arm(timer)
        timer.close()

    def _arm(self, timer: _Timer) -> None:
        self._armed = True
        self._put_off = time.monotonic()
        timer.start()

    def restart(self) -> None:
        """Have the next call start a thread: none survives a fork; one that survives a snapshot ends."""
        with self._lock:
            timer, self._timer = self._timer, None
            thread, self._thread = self._thread, None
        self._armed = False
        if timer is None or thread is None:
            return
        if thread.is_alive():
            timer.fire()
        else:
            timer.close()

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stopping = True
        thread = self._thread
        self.restart()
        if thread is not None:
            thread.join()


class _Timer:
    """A timer of the kernel: fires `TICK_SECONDS` after each `start`, and then every `TICK_SECONDS`."""

    def __init__(self) -> None:
        descriptor = bindings.timerfd_create(c_int(time.CLOCK_MONOTONIC), c_int(os.O_CLOEXEC))
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), "the kernel gave no timer")
        self._descriptor = descriptor
        self._argument = c_int(descriptor)

    def start(self) -> None:
        """Fire a whole tick from now, whatever it was set to before."""
        bindings.timerfd_settime(self._argument, _RELATIVE, _EACH_TICK_POINTER, None)

    def stop(self) -> None:
        """Fire no more."""
        bindings.timerfd_settime(self._argument, _RELATIVE, _NEVER_POINTER, None)

    def fire(self) -> None:
        """Fire at once."""
        bindings.timerfd_settime(self._argument, _RELATIVE, _AT_ONCE_POINTER, None)

    def wait(self) -> None:
        """Sleep until it has fired; other threads run meanwhile."""
        os.read(self._descriptor, 8)

    def close(self) -> None:
        """Give it back; nobody may wait for it."""
        os.close(self._descriptor)


_RELATIVE = c_int(0)
# `itimerspec`: the interval in seconds and nanoseconds, then the time to the first firing likewise.
_EACH_TICK = (c_long * 4)(0, int(TICK_SECONDS * 1e9), 0, int(TICK_SECONDS * 1e9))
_NEVER = (c_long * 4)()
_AT_ONCE = (c_long * 4)(0, 0, 0, 1)
_EACH_TICK_POINTER, _NEVER_POINTER, _AT_ONCE_POINTER = (
    c_void_p(ctypes.addressof(spec)) for spec in (_EACH_TICK, _NEVER, _AT_ONCE)
)
