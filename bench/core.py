"""Nexus as the rows run it: a runtime in a folder of its own, where it matters in its own process."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from msgspec.structs import replace

from bench.peers import HANDLERS
from nexus_core.build import build_runtime
from nexus_core.config import RuntimeConfig
from nexus_core.result import WasmResult
from nexus_core.runtime import Runtime

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")

_PROCESS_SECONDS = 900


class CallFailed(Exception):
    """A measured call did not succeed, so its time means nothing."""


def configuration(folder: Path, **changes: Any) -> RuntimeConfig:
    """Settings of a runtime that keeps its cache and its store in `folder` and serves `bench/handlers`."""
    config = RuntimeConfig(
        handlers_dir=HANDLERS,
        cache_dir=folder / "cache",
        store_url=f"sqlite:///{folder / 'nexus.db'}",
        log_level="warning",
    )
    return replace(config, **changes)


@contextlib.asynccontextmanager
async def running(config: RuntimeConfig) -> AsyncIterator[Runtime]:
    """A started runtime, shut down at the end."""
    runtime = build_runtime(config)
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.shutdown(5.0)


def succeeded(result: WasmResult) -> WasmResult:
    """The result itself; raises `CallFailed` unless the call succeeded."""
    if result.status != "success":
        raise CallFailed(f"a call ended as {result.status}: {result.error}")
    return result


def in_new_process(
    function: Callable[Parameters, Returned], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Returned:
    """Run a module's function in a fresh process, free of what other rows left in memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as executor:
        return executor.submit(function, *args, **kwargs).result(_PROCESS_SECONDS)
