"""Worker processes: started by fork, watched, started again when they die, stopped together.

    worker gives up soon after its start    ─▶ the start is broken: stop all, exit code 1
    worker ends in any other way            ─▶ start another in its place
    SIGTERM or SIGINT                       ─▶ pass it on, wait, kill who is left

The parent waits for signals and does nothing else, so no signal can be lost between two checks.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

_log = logging.getLogger(__name__)

_WATCHED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_STOPS: Final = (signal.SIGTERM, signal.SIGINT)
# A worker that gives up earlier than this never served: another would fare no better.
_START_SECONDS: Final = 30.0
# One that dies earlier than this is replaced after a pause, so that dying in a circle costs little.
_YOUNG_SECONDS: Final = 3.0
_PAUSE_SECONDS: Final = 1.0
_PR_SET_PDEATHSIG: Final = 1


def run_workers(
    count: int, work: Callable[[int], int], sockets: Sequence[socket.socket], *, stop_seconds: float
) -> int:
    """Run `work(index)` in `count` processes until told to stop; returns the exit code.

    The parent keeps `sockets` open while workers come and go, and closes them before it stops
    them, so that no connection is left in a queue nobody serves. Who has not ended
    `stop_seconds` after the signal is killed, which makes the exit code 1.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        return _Workers(work, before).run(count, sockets, stop_seconds)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Workers:
    """The living workers: index and start time by process id."""

    def __init__(self, work: Callable[[int], int], mask: set[signal.Signals | int]) -> None:
        self._work = work
        self._mask = mask
        self._alive: dict[int, tuple[int, float]] = {}

    def run(self, count: int, sockets: Sequence[socket.socket], stop_seconds: float) -> int:
        for index in range(count):
            self._start(index)
        code = self._watch()
        for listening in sockets:
            listening.close()
        return self._stop(stop_seconds) or code

    def _start(self, index: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os._exit(self._be_worker(index, parent))
        self._alive[pid] = (index, time.monotonic())

    def _be_worker(self, index: int, parent: int) -> int:
        """The whole life of a worker process; gives its exit code."""
        try:
            # A parent that is killed must not leave workers behind that hold the port.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                return 1
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            return self._work(index)
        except BaseException:  # noqa: BLE001 - a forked process must never return into its parent's code
            _log.exception("worker failed: index=%d", index)
            return 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    def _watch(self) -> int:
        """Wait until a signal (code 0) or a broken start (code 1) ends the service."""
        while True:
            if signal.sigwait(_WATCHED) in _STOPS:
                return 0
            for pid, status in self._ended():
                index, started = self._alive.pop(pid)
                code, age = os.waitstatus_to_exitcode(status), time.monotonic() - started
                _log.error("worker ended: index=%d exit_code=%d", index, code)
                if code > 0 and age < _START_SECONDS:
                    return 1
                if age < _YOUNG_SECONDS:
                    time.sleep(_PAUSE_SECONDS)
                self._start(index)

    def _ended(self) -> list[tuple[int, int]]:
        """The workers that have ended, and their wait statuses."""
        waited = [os.waitpid(pid, os.WNOHANG) for pid in self._alive]
        return [(pid, status) for pid, status in waited if pid]

    def _stop(self, stop_seconds: float) -> int:
        """End all workers; 0 when each ended well and in time."""
        for pid in self._alive:
            os.kill(pid, signal.SIGTERM)
        failed = 0
        deadline = time.monotonic() + stop_seconds
        while self._alive:
            for pid, status in self._ended():
                del self._alive[pid]
                failed |= status != 0
            left = deadline - time.monotonic()
            if left <= 0:
                break
            if self._alive:
                signal.sigtimedwait((signal.SIGCHLD,), left)
        for pid in self._alive:
            _log.error("worker did not stop in time and is killed: pid=%d", pid)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            failed = 1
        return failed
