"""`POST /invoke/{handler}`: the hot path. No framework stands between the server and the core here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.types import Scope, Send

from functions.http.answers import Answer, result_answer, send_answer
from functions.http.auth import Gate
from functions.http.bodies import RequestBody, check_size, checked_json
from functions.http.envelope import (
    Headers,
    capabilities_of,
    host_limits,
    session_of,
    traceparent_of,
    wants_minimal,
)
from functions.http.problems import method_not_allowed
from nexus_core.context import ExecutionContext
from nexus_core.errors import NexusError
from nexus_core.limits import ResourceLimits

if TYPE_CHECKING:
    from nexus_core.runtime import Runtime

PREFIX: Final = "/invoke/"


class Invocation:
    """Answers one route, `POST /invoke/{handler}`, for a runtime.

    Every method raises a `NexusError` for what is refused before it becomes a call.
    """

    def __init__(self, runtime: Runtime, gate: Gate) -> None:
        self._execute = runtime.execute
        self._handlers = runtime.handlers
        self._default_limits = runtime.config.limits
        self._admit = gate.admit

    async def __call__(
        self, scope: Scope, body: RequestBody, send: Send, headers: Headers, request_id: str
    ) -> None:
        """Answer one request of the ASGI protocol; the body is read once the caller is admitted."""
        handler: str = scope["path"][len(PREFIX) :]
        if scope["method"] != "POST":
            raise method_not_allowed(scope["method"], PREFIX + "{handler}", ["POST"])
        limits = self._admitted(handler, headers)
        event = await body.read(limits.max_input_bytes)
        narrowed = host_limits(limits, headers, scope)
        answer = await self._answer(handler, scope["query_string"], headers, event, request_id, narrowed)
        await send_answer(send, answer, request_id)

    async def answer(
        self, handler: str, query: bytes, headers: Headers, body: bytes, request_id: str
    ) -> Answer:
        """The answer to a request that is here as a whole."""
        limits = self._admitted(handler, headers)
        check_size(len(body), limits.max_input_bytes)
        narrowed = host_limits(limits, headers)
        return await self._answer(handler, query, headers, body, request_id, narrowed)

    def _admitted(self, handler: str, headers: Headers) -> ResourceLimits:
        """Let the caller pass or not; gives the limits of what it calls."""
        self._admit(headers).require_invoke(handler)
        try:
            return self._handlers.get(handler).manifest.limits
        except NexusError:
            # A handler that cannot be had is the core's to report.
            return self._default_limits

    async def _answer(
        self,
        handler: str,
        query: bytes,
        headers: Headers,
        body: bytes,
        request_id: str,
        limits: ResourceLimits | None,
    ) -> Answer:
        context = ExecutionContext(
            request_id=request_id,
            event=checked_json(body),
            session=session_of(query, headers),
            capabilities=capabilities_of(headers),
            limits=limits,
            traceparent=traceparent_of(headers),
        )
        result = await self._execute(handler, context)
        return result_answer(result, minimal=wants_minimal(headers))
