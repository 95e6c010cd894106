"""Nexus as the rows run it: a runtime in a folder of its own, where it matters in its own process."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import AsyncIterator, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from bench.peers import HANDLERS
from nexus_core.build import build_runtime
from nexus_core.config import RuntimeConfig
from nexus_core.result import WasmResult
from nexus_core.runtime import Runtime

Returned = TypeVar("Returned")

_PROCESS_SECONDS = 900
_EXIT_SECONDS = 10


class CallFailed(Exception):
    """What was measured did not succeed, so its figure means nothing."""


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


def in_new_process(function: Callable[..., Returned], *arguments: Any) -> Returned:
    """Run a module's function in a fresh process, free of what other rows left in memory.

    Raises `CallFailed` when it raises, dies or takes too long; the process is gone in any case.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(theirs, function, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_PROCESS_SECONDS):
            raise CallFailed(f"{function.__name__} took longer than {_PROCESS_SECONDS} s")
        done, outcome = ours.recv()
    except EOFError:
        process.join(_EXIT_SECONDS)
        raise CallFailed(f"{function.__name__} died with exit code {process.exitcode}") from None
    finally:
        process.join(_EXIT_SECONDS)
        process.kill()
        process.join()
    if not done:
        raise CallFailed(f"{function.__name__}: {outcome}")
    returned: Returned = outcome
    return returned


def _tell(pipe: Connection, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """The new process: send whether it went well, and what came of it."""
    try:
        outcome = (True, function(*arguments))
    except Exception as error:  # noqa: BLE001 - told to the parent as words, since not every error pickles
        outcome = (False, f"{type(error).__name__}: {error}")
    pipe.send(outcome)
