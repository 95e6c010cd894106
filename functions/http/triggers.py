"""Any path a handler's HTTP trigger declares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import Scope, Send

from functions.http.answers import send_answer
from functions.http.auth import Gate
from functions.http.bodies import RequestBody
from functions.http.envelope import Headers, capabilities_of, host_limits, session_of, traceparent_of
from functions.http.trigger_answers import trigger_answer
from functions.http.trigger_events import TriggerRoutes, http_event
from nexus_core.context import ExecutionContext

if TYPE_CHECKING:
    from nexus_core.runtime import Runtime


class TriggeredCalls:
    """Answers the routes that handlers declare, for a runtime."""

    def __init__(self, runtime: Runtime, gate: Gate, routes: TriggerRoutes) -> None:
        self._runtime = runtime
        self._gate = gate
        self._routes = routes

    async def __call__(
        self, scope: Scope, body: RequestBody, send: Send, headers: Headers, request_id: str
    ) -> None:
        """Answer one request; raises a `NexusError` for what is refused before it becomes a call."""
        # Before the routes: who may call nothing does not learn which paths exist.
        grant = self._gate.admit(headers)
        match = self._routes.match(scope)
        grant.require_invoke(match.handler)
        limits = self._runtime.handlers.get(match.handler).manifest.limits
        content = await body.read(limits.max_input_bytes)
        context = ExecutionContext(
            request_id=request_id,
            event=http_event(scope, match, content, token_taken=self._gate.demands_token),
            # A route's own `?session=` is the handler's business: only the header names a session here.
            session=session_of(b"", headers),
            capabilities=capabilities_of(headers),
            limits=host_limits(limits, headers, scope),
            traceparent=traceparent_of(headers),
        )
        result = await self._runtime.execute(match.handler, context)
        await send_answer(send, trigger_answer(result, request_id), request_id)
