"""`POST /invoke/{handler}`: the hot path. No framework stands between the server and the core here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.types import Receive, Scope, Send

from functions.http.answers import result_answer, send_answer
from functions.http.auth import Gate
from functions.http.bodies import checked_json, read_body
from functions.http.envelope import Headers, capabilities_of, session_of, traceparent_of, wants_minimal
from functions.http.problems import method_not_allowed
from nexus_core.context import ExecutionContext
from nexus_core.errors import NexusError

if TYPE_CHECKING:
    from nexus_core.runtime import Runtime

PREFIX: Final = "/invoke/"


class Invocation:
    """Answers one route, `POST /invoke/{handler}`, for a runtime."""

    def __init__(self, runtime: Runtime, gate: Gate) -> None:
        self._execute = runtime.execute
        self._handlers = runtime.handlers
        self._default_limit = runtime.config.limits.max_input_bytes
        self._admit = gate.admit

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, headers: Headers, request_id: str
    ) -> None:
        """Answer one request; raises a `NexusError` for what is refused before it becomes a call."""
        handler: str = scope["path"][len(PREFIX) :]
        if scope["method"] != "POST":
            raise method_not_allowed(scope["method"], PREFIX + "{handler}", ["POST"])
        self._admit(headers).require_invoke(handler)
        body = await read_body(receive, headers, self._input_limit(handler))
        context = ExecutionContext(
            request_id=request_id,
            event=checked_json(body),
            session=session_of(scope["query_string"], headers),
            capabilities=capabilities_of(headers),
            traceparent=traceparent_of(headers),
        )
        result = await self._execute(handler, context)
        await send_answer(send, result_answer(result, minimal=wants_minimal(headers)), request_id)

    def _input_limit(self, handler: str) -> int:
        """Bytes a body for this handler may have; a handler that cannot be had is the core's to report."""
        try:
            return self._handlers.get(handler).manifest.limits.max_input_bytes
        except NexusError:
            return self._default_limit
