"""`Invocation`: one call, from a leased instance to its last flush."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import msgspec

from nexus_core.compiler import CompiledHandler
from nexus_core.context import ExecutionContext
from nexus_core.engine.call import CallPolicy, GuestCall
from nexus_core.engine.driver import TimeBudget, drive
from nexus_core.engine.epoch import EpochTicker
from nexus_core.engine.flush import Flush, Usage
from nexus_core.errors import GuestError, PermissionDenied, PoolExhausted
from nexus_core.extensions.base import ExtensionCall, ExtensionError
from nexus_core.pending_calls import PendingCalls
from nexus_core.pool import InstancePool, PooledInstance
from nexus_core.result import AsyncResult, EmittedEvent, LogRecord, PendingCall, StateMutation, ViewCommand

if TYPE_CHECKING:
    from nexus_core.extensions.registry import ExtensionRegistry
    from nexus_core.feed import SessionFeed
    from nexus_core.stores.base import EventSink, StateStore

_DENIED_NAME = "PermissionDenied"
"""The name of the error the bootstrap throws when it refuses an operation."""


class Surroundings(msgspec.Struct, frozen=True):
    """The parts of the runtime a call touches on its way."""

    pool: InstancePool
    ticker: EpochTicker
    threads: Executor
    extensions: ExtensionRegistry
    state_store: StateStore
    feed: SessionFeed
    sink: EventSink


class Invocation:
    """One call. After `run`, or whatever it raised, the attributes tell what was applied and used."""

    def __init__(self, around: Surroundings, compiled: CompiledHandler, context: ExecutionContext) -> None:
        self._around = around
        self._compiled = compiled
        self._context = context
        self._policy = _policy_of(compiled, context)
        self._version = 0
        self._pending = PendingCalls()
        self.budget = TimeBudget(self._policy.limits.timeout_ms, self._policy.limits.cpu_ms)
        self.usage = Usage()
        self.mutations: list[StateMutation] = []
        self.events: list[EmittedEvent] = []
        self.view_commands: list[ViewCommand] = []
        self.logs: list[LogRecord] = []
        self.denials: list[str] = []
        self.memory_bytes = 0
        self.cold_start = False
        self.outgrew_image = False

    async def run(self) -> msgspec.Raw:
        """Run the handler to its end and return its value; raises a `NexusError` for every other end."""
        call = await self._call()
        lease = await self._around.pool.acquire(self._compiled.image, self.budget.remaining_seconds)
        self.cold_start = lease.created
        try:
            with lease:
                flush = await self._enter(lease, call, None)
                while flush.outcome == "pending":
                    results = await self._sleep(lease, flush)
                    flush = await self._enter(lease, call, results)
        finally:
            self.outgrew_image = lease.outgrew_image
            self._pending.cancel()
        if flush.outcome == "threw":
            raise await self._error_of(flush)
        return flush.value

    async def _call(self) -> GuestCall:
        context, allows = self._context, self._policy.capabilities.allows
        state = context.state
        if context.session is not None:
            snapshot = await self._around.state_store.load(context.session)
            state, self._version = snapshot.values, snapshot.version
        remaining = self.budget.remaining_seconds
        return GuestCall(
            event=context.event,
            scope=context.scope,
            state={key: value for key, value in state.items() if allows("state:read", key)},
            request_id=context.request_id,
            session=context.session,
            deadline_ms=None if remaining is None else int((time.time() + remaining) * 1000),
            policy=self._policy,
            usage=self.usage,
        )

    async def _enter(
        self, lease: PooledInstance, call: GuestCall, results: Sequence[AsyncResult] | None
    ) -> Flush:
        """One run of the guest, and the commit of what it handed over."""
        # The wait for an instance, or for an answer, may have used up the time.
        self.budget.check()
        instance = lease.instance
        steps = instance.execute(call) if results is None else instance.resume(results, call)
        try:
            flush = await drive(steps, self.budget, self._around.ticker, self._around.threads)
        finally:
            self.memory_bytes = max(self.memory_bytes, instance.memory_used)
        self.logs.extend(flush.logs)
        self.denials.extend(flush.denials)
        if flush.outcome == "pending" and not (flush.calls or self._pending):
            raise GuestError("the handler never settled: it awaits something that nothing will answer")
        # A handler that threw, or will never settle, commits nothing of this flush.
        if flush.outcome != "threw":
            await self._commit(flush)
        return flush

    async def _commit(self, flush: Flush) -> None:
        around, context = self._around, self._context
        if context.session is not None and (flush.mutations or flush.events):
            self._version = await around.state_store.commit(
                context.session, self._version, context.request_id, flush.mutations, flush.events
            )
            around.feed.notify(context.session)
        # From here on it is applied, whatever becomes of the events.
        self.mutations.extend(flush.mutations)
        self.events.extend(flush.events)
        self.view_commands.extend(flush.view_commands)
        if flush.events:
            await around.sink.publish(self._compiled.source.name, context.session, flush.events)

    async def _sleep(self, lease: PooledInstance, flush: Flush) -> list[AsyncResult]:
        """Let the call sleep until an extension answers; its instance may serve others meanwhile."""
        for call in flush.calls:
            self._pending.start(call.call_id, self._ask(call))
        # The request id is the caller's choice: two calls may have the same.
        pool, sleep_id = self._around.pool, os.urandom(16).hex()
        pool.park(lease, sleep_id)
        try:
            while not (answers := await self._pending.wait(self.budget.remaining_seconds)):
                self.budget.check()
            self.budget.check()
            await pool.unpark(sleep_id, self.budget.remaining_seconds)
        except PoolExhausted:
            # The call did get an instance once: what ends it now is its own time, when that is up.
            self.budget.check()
            raise
        return answers

    async def _ask(self, pending: PendingCall) -> AsyncResult:
        """Run one extension call; its arguments are the guest's word."""
        source = self._compiled.source
        try:
            value = await self._around.extensions.call(
                pending.extension,
                ExtensionCall(
                    method=pending.method,
                    args=tuple(msgspec.json.decode(pending.args, type=list)),
                    handler=source.name,
                    request_id=self._context.request_id,
                    remaining_seconds=self.budget.remaining_seconds,
                    settings=source.manifest.extensions.get(pending.extension, {}),
                    traceparent=self._context.traceparent,
                ),
            )
        except ExtensionError as error:
            return AsyncResult(
                call_id=pending.call_id,
                ok=False,
                error_name=_unicode(error.name),
                error_message=_unicode(error.message),
            )
        except (msgspec.MsgspecError, RecursionError):
            return AsyncResult(
                call_id=pending.call_id, ok=False, error_name="TypeError", error_message="arguments too deep"
            )
        return AsyncResult(call_id=pending.call_id, ok=True, value=value)

    async def _error_of(self, flush: Flush) -> GuestError | PermissionDenied:
        thrown, explain = flush.thrown, self._compiled.explain
        loop = asyncio.get_running_loop()
        error = await loop.run_in_executor(self._around.threads, explain, thrown)
        if thrown.name == _DENIED_NAME and flush.denials:
            token = flush.denials[-1]
            return PermissionDenied(
                error.message, token=token, location=error.location, snippet=error.snippet
            )
        return error


def _unicode(text: str) -> str:
    """The text without half surrogate pairs, which it may quote from the guest and no JSON can carry."""
    return text.encode("utf-8", "replace").decode()


def _policy_of(compiled: CompiledHandler, context: ExecutionContext) -> CallPolicy:
    """The handler's own policy, narrowed by what the caller asks for; never wider."""
    own = compiled.policy
    if context.capabilities is None and context.limits is None:
        return own
    capabilities, limits = own.capabilities, own.limits
    if context.capabilities is not None:
        capabilities = capabilities.narrowed(context.capabilities)
    if context.limits is not None:
        limits = limits.narrowed(context.limits)
    return CallPolicy(own.handler, capabilities, limits, own.env)
