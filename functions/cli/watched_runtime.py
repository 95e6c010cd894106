"""A runtime that shows its calls and follows the handlers' files: what `nexus dev` serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click

from functions.cli.reports import effect_lines, error_lines
from functions.cli.terminal import faint, harmless, short_json, strong
from nexus_core.build import build_runtime
from nexus_core.config import RuntimeConfig
from nexus_core.context import ExecutionContext
from nexus_core.errors import NexusError
from nexus_core.logs import CallLog
from nexus_core.result import ErrorInfo, WasmResult
from nexus_core.runtime import Runtime

# Editors write a file in several steps; a person does not notice this wait.
_SETTLE_MS = 100

_STATUS_COLOURS = {"success": "green", "error": "red", "suspended": "yellow"}


def build_watched_runtime(
    config: RuntimeConfig, *, metrics_dir: Path | None = None, log: CallLog | None = None
) -> Runtime:
    """`build_runtime`, with eyes: every call is printed, and a changed handler is compiled anew at once."""
    return cast("Runtime", _WatchedRuntime(build_runtime(config, metrics_dir=metrics_dir, log=log)))


class _WatchedRuntime:
    """Stands in for a runtime; all it does not do itself is the runtime's."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._stop = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    async def start(self) -> None:
        """Start the runtime, compile every handler, and watch their files from here on."""
        await self._runtime.start()
        await self._compile(self._runtime.handlers.names())
        self._watching = asyncio.create_task(self._watch())

    async def execute(self, handler: str, context: ExecutionContext) -> WasmResult:
        """Run a call, and print what became of it."""
        result = await self._runtime.execute(handler, context)
        for line in _call_lines(handler, context, result):
            click.echo(line)
        return result

    async def shutdown(self, deadline_seconds: float) -> bool:
        """Watch no more, then shut the runtime down."""
        self._stop.set()
        if self._watching is not None:
            await asyncio.wait([self._watching])
        return await self._runtime.shutdown(deadline_seconds)

    async def _watch(self) -> None:
        from watchfiles import awatch

        folder = self._runtime.config.handlers_dir
        async for _ in awatch(folder, debounce=_SETTLE_MS, step=_SETTLE_MS // 2, stop_event=self._stop):
            # Which names the changed files belong to is the registry's knowledge.
            changed = await asyncio.to_thread(self._runtime.handlers.refresh)
            self._runtime.compiler.forget(changed)
            await self._compile(sorted(changed))

    async def _compile(self, names: tuple[str, ...] | list[str]) -> None:
        """Compile handlers ahead of their next call, so that the author sees a mistake at once."""
        for name in names:
            started = time.perf_counter()
            if name not in self._runtime.handlers.names():
                click.echo(f"{_clock()} {strong(name)} removed")
                continue
            try:
                await self._runtime.check(self._runtime.handlers.get(name))
            except NexusError as error:
                click.echo(f"{_clock()} {strong(name)} {click.style('not loaded', fg='red')}")
                for line in error_lines(ErrorInfo.of(error)):
                    click.echo(f"         {line}")
            else:
                spent = faint(f"in {(time.perf_counter() - started) * 1000:.1f} ms")
                click.echo(f"{_clock()} {strong(name)} loaded {spent}")


def _call_lines(handler: str, context: ExecutionContext, result: WasmResult) -> Iterator[str]:
    """One call: what it was given, what became of it, and what it did on the way."""
    status = click.style(result.status, fg=_STATUS_COLOURS[result.status])
    spent = faint(f"{result.metrics.duration_us / 1000:.2f} ms")
    yield f"{_clock()} {strong(harmless(handler))} {short_json(context.event, 80)} {status} {spent}"
    for line in effect_lines(result):
        yield f"         {line}"
    if result.error is not None:
        yield from (f"         {line}" for line in error_lines(result.error))
    else:
        yield f"         {short_json(bytes(result.return_value), 500)}"


def _clock() -> str:
    return faint(time.strftime("%H:%M:%S"))
