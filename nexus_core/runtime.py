"""`Runtime`: the one entry point of the core. Wrappers translate to it and from it, nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import Executor

import msgspec

from nexus_core.capabilities import CAPABILITY_FORMS
from nexus_core.compiler import CompiledHandler, HandlerCompiler
from nexus_core.config import RuntimeConfig
from nexus_core.context import ExecutionContext
from nexus_core.engine.image import ImageArena
from nexus_core.engine.wasm_engine import WasmEngine
from nexus_core.errors import (
    InternalError,
    LimitBreach,
    NexusError,
    PayloadTooLarge,
    PermissionDenied,
    PoolExhausted,
)
from nexus_core.extensions.base import HoldsConnections
from nexus_core.extensions.registry import ExtensionRegistry
from nexus_core.feed import SessionFeed
from nexus_core.handler_source import HandlerSource
from nexus_core.handlers import HandlerRegistry
from nexus_core.invocation import Invocation, Surroundings
from nexus_core.logs import CallLog
from nexus_core.metrics import MetricsCollector
from nexus_core.pool import InstancePool
from nexus_core.result import ErrorInfo, ExecutionMetrics, WasmResult
from nexus_core.stores.base import EventSink, StateStore

_TEND_SECONDS = 5.0
_ABORT_SECONDS = 1.0
"""How long a shutdown waits for calls it has aborted: a guest ends at its next tick."""

_NULL = msgspec.Raw(b"null")


class RuntimeParts(msgspec.Struct, kw_only=True):
    """What `build_runtime` makes and `Runtime` owns."""

    config: RuntimeConfig
    engine: WasmEngine
    arena: ImageArena
    threads: Executor
    handlers: HandlerRegistry
    compiler: HandlerCompiler
    pool: InstancePool
    extensions: ExtensionRegistry
    state_store: StateStore
    feed: SessionFeed
    sink: EventSink
    metrics: MetricsCollector
    log: CallLog


class Runtime:
    """Runs handlers. Made by `build_runtime`; lives on one event loop, from `start` to `shutdown`."""

    def __init__(self, parts: RuntimeParts) -> None:
        self._parts = parts
        self.config = parts.config
        self.handlers = parts.handlers
        self.compiler = parts.compiler
        self.pool = parts.pool
        self.metrics = parts.metrics
        self.state_store = parts.state_store
        self.feed = parts.feed
        self._around = Surroundings(
            pool=parts.pool,
            ticker=parts.engine.ticker,
            threads=parts.threads,
            extensions=parts.extensions,
            state_store=parts.state_store,
            feed=parts.feed,
            sink=parts.sink,
        )
        self._running: set[asyncio.Task[object]] = set()
        self._ended = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        # The source of each handler whose settings of extensions were found right.
        self._accepted: dict[str, HandlerSource] = {}
        self.ready = False
        """Whether calls are taken: true between `start` and `shutdown`."""
        self.draining = False
        """Set by a host that is about to stop: calls are still taken, but none should be sent here."""

    async def start(self) -> None:
        """Warm the pool; from here on calls are taken."""
        self.pool.prewarm()
        self._start_background(self._tend())
        self.ready = True

    async def execute(self, handler: str, context: ExecutionContext) -> WasmResult:
        """Run the handler of this name. Every failure is a `WasmResult` with status "error"."""
        try:
            source = self.handlers.get(handler)
        except NexusError as error:
            return self._refused(handler, context, error)
        return await self.execute_source(source, context)

    async def execute_source(self, source: HandlerSource, context: ExecutionContext) -> WasmResult:
        """Run a handler that was loaded already, of the registry or not."""
        started = time.perf_counter_ns()
        call = _Call(source.name, context)
        task = asyncio.current_task()
        if task is not None:
            self._running.add(task)
        try:
            value = await self._run(call, source, context)
            result = call.result(started, value, None)
        except NexusError as error:
            result = call.result(started, _NULL, error)
        except Exception as error:  # noqa: BLE001 - the caller gets a typed answer whatever broke
            self._parts.log.failure(context.request_id, source.name, context.session, error)
            failed = InternalError(
                "Nexus failed to run this call; its log has the cause under the request id"
            )
            result = call.result(started, _NULL, failed)
        finally:
            if task is not None:
                self._running.discard(task)
                self._ended.set()
        self._record(call, result)
        return result

    async def check(self, source: HandlerSource) -> CompiledHandler:
        """Compile only; raises a `NexusError` that points at what is wrong."""
        self._parts.extensions.check_settings(source.manifest.extensions)
        compiled, _, _ = await self.compiler.get(source)
        return compiled

    async def before_snapshot(self) -> None:
        """Make ready for a picture of this process, from which others will start. No call may run.

        Their connections would be one and the same, so all are closed; the next call opens new ones.
        """
        await self._parts.extensions.disconnect()
        if isinstance(self.state_store, HoldsConnections):
            await self.state_store.disconnect()

    async def after_restore(self) -> None:
        """Go on in a process that was started from a picture. Nothing random was kept, so nothing is renewed.

        Request ids, sleeping calls' ids, a guest's seeds and the names of files are drawn from the
        operating system when they are needed.
        """
        self._parts.engine.ticker.restart()
        # Whatever was opened after `before_snapshot` is dead by now.
        await self.before_snapshot()

    async def shutdown(self, deadline_seconds: float) -> bool:
        """Take no more calls, let running ones end until the deadline, then abort them and close all.

        False when calls had to be aborted.
        """
        self.ready = False
        end = time.monotonic() + deadline_seconds
        clean = await self.pool.shutdown(deadline_seconds)
        # Some have given their instance back and are not answered yet, some never came to the pool.
        clean = await self._calls_end(end) and clean
        for task in (*self._others(), *self._background):
            task.cancel()
        if self._background:
            await asyncio.wait(self._background, timeout=_ABORT_SECONDS)
        await self._calls_end(time.monotonic() + _ABORT_SECONDS)
        parts = self._parts
        await parts.extensions.close()
        await parts.feed.close()
        await parts.sink.close()
        await parts.state_store.close()
        parts.threads.shutdown(wait=False)
        parts.engine.close()
        parts.metrics.close()
        parts.arena.close()
        return clean

    async def _calls_end(self, end: float) -> bool:
        """Wait until no call is under way, or until `end`; whether none is."""
        while self._others() and (left := end - time.monotonic()) > 0:
            self._ended.clear()
            try:
                await asyncio.wait_for(self._ended.wait(), left)
            except TimeoutError:
                break
        return not self._others()

    def _others(self) -> list[asyncio.Task[object]]:
        """The tasks that run calls now, but for the one that asks."""
        return [task for task in self._running if task is not asyncio.current_task()]

    def _start_background(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _run(self, call: _Call, source: HandlerSource, context: ExecutionContext) -> msgspec.Raw:
        if not self.ready:
            raise PoolExhausted("Nexus is shutting down or has not started")
        limit = source.manifest.limits.max_input_bytes
        if context.limits is not None:
            limit = min(limit, context.limits.max_input_bytes)
        if len(context.event) > limit:
            raise PayloadTooLarge(
                f"the event has {len(context.event)} bytes; max_input_bytes is {limit}",
                LimitBreach("max_input_bytes", limit, len(context.event)),
            )
        if source.manifest.extensions and self._accepted.get(source.name) is not source:
            self._parts.extensions.check_settings(source.manifest.extensions)
            self._accepted[source.name] = source
        compiled, call.cache_hit, call.compile_us = await self.compiler.get(source)
        call.invocation = invocation = Invocation(self._around, compiled, context)
        try:
            return await invocation.run()
        finally:
            if invocation.outgrew_image and self.ready:
                # Beside the call, which has its answer: a new image takes a compile.
                self._start_background(self.compiler.note_growth(compiled))

    def _refused(self, handler: str, context: ExecutionContext, error: NexusError) -> WasmResult:
        call = _Call(handler, context)
        result = call.result(time.perf_counter_ns(), _NULL, error)
        self._record(call, result)
        return result

    def _record(self, call: _Call, result: WasmResult) -> None:
        """Count and log a call that has ended."""
        log, context, used = self._parts.log, call.context, result.metrics
        code = result.error.code if result.error else None
        self.metrics.record_execution(
            call.handler,
            result.status,
            code,
            used.duration_us / 1e6,
            used.cpu_us / 1e6,
            used.memory_peak_bytes,
            used.host_calls,
        )
        log.call(
            context.request_id,
            call.handler,
            context.session,
            status=result.status,
            code=code,
            duration_us=used.duration_us,
            cold_start=used.cold_start,
        )
        if result.logs:
            log.handler_lines(context.request_id, call.handler, context.session, result.logs)
        for token in call.denials:
            kind = _kind_of(token)
            self.metrics.capability_refused(kind)
            log.refusal(context.request_id, call.handler, context.session, token=token, operation=kind)

    async def _tend(self) -> None:
        """Retire idle instances now and then."""
        while True:
            await asyncio.sleep(_TEND_SECONDS)
            self.pool.retire_idle()


def _kind_of(token: str) -> str:
    """The kind of a refused capability: the token is the guest's word, and metrics keep a row per kind."""
    return next((kind for kind in CAPABILITY_FORMS if token.startswith(f"{kind}:")), "other")


class _Call:
    """What is known of a call while it is on its way, to tell its result from."""

    def __init__(self, handler: str, context: ExecutionContext) -> None:
        self.handler = handler
        self.context = context
        self.invocation: Invocation | None = None
        self.cache_hit = False
        self.compile_us: int | None = None
        self.denials: list[str] = []

    def result(self, started: int, value: msgspec.Raw, error: NexusError | None) -> WasmResult:
        done = self.invocation
        duration = (time.perf_counter_ns() - started) // 1000
        if done is None:
            metrics = ExecutionMetrics(
                duration_us=duration, cache_hit=self.cache_hit, compilation_time_us=self.compile_us
            )
            info = ErrorInfo.of(error) if error else None
            return WasmResult(status="error", error=info, metrics=metrics)
        self.denials = done.denials
        if isinstance(error, PermissionDenied) and error.token and error.token not in self.denials:
            self.denials.append(error.token)
        return WasmResult(
            status="error" if error else "success",
            return_value=value,
            state_mutations=tuple(done.mutations),
            events=tuple(done.events),
            view_commands=tuple(done.view_commands),
            error=ErrorInfo.of(error) if error else None,
            metrics=ExecutionMetrics(
                duration_us=duration,
                cpu_us=done.budget.cpu_ns // 1000,
                memory_used_bytes=done.memory_bytes,
                memory_peak_bytes=done.memory_bytes,
                host_calls=dict(done.usage.host_calls),
                cache_hit=self.cache_hit,
                compilation_time_us=self.compile_us,
                cold_start=done.cold_start,
            ),
            logs=tuple(done.logs),
        )
