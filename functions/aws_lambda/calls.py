"""Handler calls within one invocation of the Lambda function, and within the time that it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from nexus_core.capabilities import CapabilitySet
from nexus_core.context import ExecutionContext
from nexus_core.errors import NexusError
from nexus_core.limits import ResourceLimits
from nexus_core.result import WasmResult

if TYPE_CHECKING:
    from nexus_core.runtime import Runtime


class LambdaContext(Protocol):
    """What is used of the context object that Lambda's runtime client passes."""

    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int:
        """What is left of the invocation; 0 or less when Lambda is about to kill it."""


class Calls:
    """Runs handlers of a runtime for one invocation."""

    def __init__(self, runtime: Runtime, context: LambdaContext) -> None:
        self._runtime = runtime
        self._context = context
        self.request_id = context.aws_request_id

    def left_ms(self) -> int:
        """The time a call started now may take: what the invocation has, less the margin; at least 1 ms.

        A call that starts too late ends with `TIMEOUT` like any other, and Lambda gets its answer in time.
        """
        margin = self._runtime.config.deadline_margin_ms
        return max(1, self._context.get_remaining_time_in_millis() - margin)

    async def run(
        self,
        handler: str,
        event: bytes,
        *,
        request_id: str,
        session: str | None = None,
        capabilities: CapabilitySet | None = None,
    ) -> WasmResult:
        """Run one handler with an event of valid JSON text. Every failure is a result with status "error"."""
        context = ExecutionContext(
            request_id=request_id,
            event=event,
            session=session,
            capabilities=capabilities,
            limits=self._limits(handler),
        )
        return await self._runtime.execute(handler, context)

    def _limits(self, handler: str) -> ResourceLimits | None:
        try:
            return self._runtime.handlers.get(handler).manifest.limits.within(self.left_ms())
        except NexusError:
            # A handler that cannot be had is the core's to report.
            return None
