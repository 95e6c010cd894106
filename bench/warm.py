"""A warm instance, leased and driven by hand: a call without the pool and the runtime around it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from bench.core import CallFailed
from nexus_core.compiler import CompiledHandler
from nexus_core.context import ExecutionContext
from nexus_core.engine.call import GuestCall
from nexus_core.engine.flush import Flush, Usage
from nexus_core.pool import PooledInstance
from nexus_core.runtime import Runtime

Returned = TypeVar("Returned")


class WarmInstance:
    """One instance with one handler's image attached."""

    def __init__(self, compiled: CompiledHandler, lease: PooledInstance, context: ExecutionContext) -> None:
        self._policy = compiled.policy
        self._lease = lease
        self._context = context

    @classmethod
    async def of(cls, runtime: Runtime, handler: str, context: ExecutionContext) -> WarmInstance:
        """Compile a handler of the runtime and lease an instance for it."""
        compiled = await runtime.check(runtime.handlers.get(handler))
        return cls(compiled, await runtime.pool.acquire(compiled.image), context)

    def call(self) -> Flush:
        """One call and the reset after it: the next one finds the image, byte for byte."""
        context, instance = self._context, self._lease.instance
        call = GuestCall(
            event=context.event,
            scope=context.scope,
            state=context.state,
            request_id=context.request_id,
            session=None,
            deadline_ms=None,
            policy=self._policy,
            usage=Usage(),
        )
        flush = _finish(instance.execute(call))
        if not instance.reset():
            raise CallFailed("the instance could not be reset")
        return flush

    def close(self) -> None:
        """Give the instance back."""
        self._lease.release()


def _finish(run: Generator[None, None, Returned]) -> Returned:
    """Drive a run to its end."""
    while True:
        try:
            next(run)
        except StopIteration as stop:
            value: Returned = stop.value
            return value
