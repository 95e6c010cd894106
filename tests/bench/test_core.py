"""Nexus as the rows run it, in this process and in one of its own."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from bench import core, quickjs
from bench.rows.calls import CALL, HANDLER
from bench.warm import WarmInstance
from nexus_core.errors import ErrorCode
from nexus_core.result import ErrorInfo, WasmResult


def process_id(_word: str) -> int:
    """Which process this runs in."""
    return os.getpid()


def fail(word: str) -> None:
    """Raise."""
    raise ValueError(word)


def die(_word: str) -> None:
    """End without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_function_runs_in_a_process_of_its_own() -> None:
    """What it returns comes back, and the process was another one that is gone."""
    other = core.in_new_process(process_id, "word")
    assert other != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(other, 0)


def test_a_fault_in_the_other_process_is_told() -> None:
    """The error's own words come back; a process that dies is no endless wait."""
    with pytest.raises(core.CallFailed, match="fail: ValueError: some word"):
        core.in_new_process(fail, "some word")
    with pytest.raises(core.CallFailed, match="die died with exit code -9"):
        core.in_new_process(die, "word")


def test_a_call_that_failed_has_no_time() -> None:
    """Failing fast must never look like being fast."""
    error = ErrorInfo(code=ErrorCode.TIMEOUT, message="too long", retryable=True)
    with pytest.raises(core.CallFailed, match="too long"):
        core.succeeded(WasmResult(status="error", error=error))


async def test_the_warm_instance_and_the_runtime_do_the_work_of_the_peer(tmp_path: Path) -> None:
    """All answer alike, and a warm instance answers the same again: its heap is pristine in each call."""
    async with core.running(core.configuration(tmp_path)) as runtime:
        whole = core.succeeded(await runtime.execute(HANDLER, CALL))
        warm = await WarmInstance.of(runtime, HANDLER, CALL)
        flushes = [warm.call(), warm.call()]
        warm.close()
    values = [msgspec.json.decode(value) for value in (whole.return_value, *(it.value for it in flushes))]
    assert values == [quickjs.EXPECTED] * 3
    assert [len(it.mutations) for it in flushes] == [1, 1]
    assert [event.name for event in whole.events] == ["greeted"]


async def test_a_runtime_is_shut_down_whatever_happens(tmp_path: Path) -> None:
    """An error inside the block leaves nothing running."""
    with pytest.raises(asyncio.CancelledError):
        async with core.running(core.configuration(tmp_path)) as runtime:
            raise asyncio.CancelledError
    assert not runtime.ready
