"""`POST /`: CloudEvents to the handlers whose triggers name their type.

The status tells a broker whether to deliver again, after Knative's data plane contract: it tries again on
404, 408, 409, 429 and 5xx, and on nothing else. So an error that would only happen again is a 422.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from starlette.types import Scope, Send

from functions.http.answers import NO_SNIFFING, Answer, send_answer
from functions.http.auth import Gate, Grant
from functions.http.bodies import RequestBody
from functions.http.cloudevents import IncomingEvent, ReplyEvent, read_events, reply_of
from functions.http.envelope import (
    Headers,
    capabilities_of,
    host_limits,
    session_of,
    sound_traceparent,
    traceparent_of,
)
from functions.http.problems import CallProblem
from nexus_core.context import ExecutionContext
from nexus_core.errors import ERROR_TABLE, ErrorCode, NexusError
from nexus_core.redelivery import is_redelivered
from nexus_core.result import WasmResult
from nexus_core.trigger_index import TriggerIndex

if TYPE_CHECKING:
    from nexus_core.runtime import Runtime

# A handler that threw may have met a passing trouble of somebody else's; the other 500s are its own limits.
_PASSING: Final = frozenset({ErrorCode.EXECUTION_ERROR})
_MAX_ORIGIN: Final = 256


class EventRefused(CallProblem):
    """An event was not handled: the code and message of its error, and the status for a broker."""

    @property
    def http_status(self) -> int:
        """The error's own status where a broker does with it what is right, else 422."""
        answer = ERROR_TABLE[self.code]
        again = answer.retryable or self.code in _PASSING
        return answer.http_status if again == is_redelivered(answer.http_status) else 422


class CloudEventCalls:
    """Answers `POST /` and `OPTIONS /`, for a runtime."""

    def __init__(self, runtime: Runtime, gate: Gate) -> None:
        self._runtime = runtime
        self._gate = gate
        self._index = TriggerIndex(runtime.handlers, "cloudevent")

    async def __call__(
        self, scope: Scope, body: RequestBody, send: Send, headers: Headers, request_id: str
    ) -> None:
        """Answer one request; raises a `NexusError` for what is refused before it becomes a call."""
        if scope["method"] == "OPTIONS":
            await send_answer(send, _permission(headers), request_id)
            return
        grant = self._gate.admit(headers)
        content = await body.read(self._runtime.config.limits.max_input_bytes)
        events = read_events(headers, content)
        replies: list[ReplyEvent | None] = []
        refusals: list[NexusError] = []
        for number, event in enumerate(events, 1):
            own_id = request_id if len(events) == 1 else f"{request_id}.{number}"
            try:
                handler = self._handler_for(event, grant)
                result = await self._call(scope, headers, event, handler, own_id)
                replies.append(_reply(result, handler, own_id))
            except NexusError as error:
                refusals.append(error)
        if refusals:
            # A batch is delivered again as a whole, which is right as soon as one event of it may succeed.
            raise max(refusals, key=lambda error: is_redelivered(error.http_status))
        await send_answer(send, _accepted(replies), request_id)

    def _handler_for(self, event: IncomingEvent, grant: Grant) -> str:
        try:
            handler = self._index.handler_for((event.type,))
        except NexusError as error:
            raise EventRefused(error.code, error.message) from None
        grant.require_invoke(handler)
        return handler

    async def _call(
        self, scope: Scope, headers: Headers, event: IncomingEvent, handler: str, request_id: str
    ) -> WasmResult:
        """Run one event's handler, which the index has found."""
        limits = self._runtime.handlers.get(handler).manifest.limits
        # The event's own trace goes on, not the one of the broker's delivery.
        traceparent = sound_traceparent(event.traceparent) if event.traceparent else traceparent_of(headers)
        context = ExecutionContext(
            request_id=request_id,
            event=event.text,
            session=session_of(b"", headers),
            capabilities=capabilities_of(headers),
            limits=host_limits(limits, headers, scope),
            traceparent=traceparent,
        )
        return await self._runtime.execute(handler, context)


def _reply(result: WasmResult, handler: str, request_id: str) -> ReplyEvent | None:
    """The event to send back, if any; raises `EventRefused` for a call that failed."""
    if result.error is not None:
        raise EventRefused(result.error.code, result.error.message)
    try:
        return reply_of(result.return_value, handler, request_id)
    except NexusError as error:
        raise EventRefused(error.code, error.message) from None


def _accepted(replies: Sequence[ReplyEvent | None]) -> Answer:
    """200 with the reply of a single event; else 202, which no sender takes for a reply."""
    if len(replies) == 1 and (reply := replies[0]) is not None:
        return Answer(200, [*reply.headers, NO_SNIFFING], reply.body)
    return Answer(202, [], b"")


def _permission(headers: Headers) -> Answer:
    """The handshake of CloudEvents' web hooks: an origin that asks may send (http-webhook.md, section 4)."""
    allow = [(b"allow", b"OPTIONS, POST")]
    origin = headers.get(b"webhook-request-origin")
    if origin is not None and len(origin) <= _MAX_ORIGIN and origin.isascii():
        # Who sends must still show its token where tokens are in force.
        allow += [(b"webhook-allowed-origin", origin), (b"webhook-allowed-rate", b"*")]
    return Answer(200, allow, b"")
