"""The ASGI application every host shares: `build_application(runtime)`.

    request ─▶ Application ─▶ /invoke/{handler}     Invocation
                          ├─▶ a reserved path        Views, through Starlette's router
                          ├─▶ POST /                 CloudEventCalls
                          ├─▶ a path of a trigger    TriggeredCalls
                          └─▶ a WebSocket            SessionSockets

Every refusal is a `NexusError` on its way up to `Application`, which alone makes a problem of it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.routing import Router
from starlette.types import Message, Receive, Scope, Send

from functions.http.answers import Answer, retry_headers
from functions.http.auth import Gate, challenge
from functions.http.bodies import CallerGone, RequestBody, refuse
from functions.http.cloudevent_calls import CloudEventCalls
from functions.http.envelope import Headers, request_id_of
from functions.http.invoke import PREFIX, Invocation
from functions.http.problems import method_not_allowed, problem_answer
from functions.http.session_socket import SessionSockets
from functions.http.trigger_events import TriggerRoutes
from functions.http.triggers import TriggeredCalls
from functions.http.views import Views
from nexus_core.errors import HandlerNotFound, InternalError, NexusError
from nexus_core.triggers import CLOUDEVENT_METHODS, RESERVED_ROOTS

if TYPE_CHECKING:
    from nexus_core.runtime import Runtime

_log = logging.getLogger(__name__)


def build_application(runtime: Runtime, *, local_only: bool = False) -> Application:
    """The application over `runtime`, which its lifespan starts and shuts down.

    A host without lifespan (Lambda) starts the runtime itself. `local_only` says that the server
    listens on a loopback address only: without tokens, web pages of foreign origins are refused then.
    """
    return Application(runtime, Gate(runtime.config, local_only=local_only))


class Application:
    """An ASGI 3 application; made by `build_application`."""

    def __init__(self, runtime: Runtime, gate: Gate) -> None:
        self._runtime = runtime
        routes = TriggerRoutes(runtime.handlers)
        self._invoke = Invocation(runtime, gate)
        self._cloud_events = CloudEventCalls(runtime, gate)
        self._triggered = TriggeredCalls(runtime, gate, routes)
        self._sockets = SessionSockets(runtime, gate)
        self._views = Router(Views(runtime, gate, routes).routes(), redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of the ASGI protocol."""
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await self._sockets(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)

    async def answer_invocation(
        self, handler: str, query: bytes, headers: Headers, body: bytes
    ) -> tuple[Answer, str]:
        """The answer to `POST /invoke/{handler}` for a server that has the whole request; and its id."""
        request_id = request_id_of(headers)
        try:
            return await self._invoke.answer(handler, query, headers, body, request_id), request_id
        except Exception as error:  # noqa: BLE001 - as below
            return self._refusal(error, request_id), request_id

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = dict(scope["headers"])
        request_id = request_id_of(headers)
        body = RequestBody(receive, headers)
        try:
            path: str = scope["path"]
            if path.startswith(PREFIX):
                await self._invoke(scope, body, send, headers, request_id)
            elif path == "/" and scope["method"] in CLOUDEVENT_METHODS:
                await self._cloud_events(scope, body, send, headers, request_id)
            elif path.partition("?")[0][1:].partition("/")[0] in RESERVED_ROOTS:
                await self._view(scope, receive, send, request_id)
            else:
                await self._triggered(scope, body, send, headers, request_id)
        except CallerGone:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer and no cause
            await refuse(scope, body, send, self._refusal(error, request_id), request_id)

    def _refusal(self, error: Exception, request_id: str) -> Answer:
        """The problem that tells the caller of an error; one that is not ours is logged, and not shown."""
        if not isinstance(error, NexusError):
            _log.error("request failed: request_id=%s", request_id, exc_info=error)
            error = InternalError("the server failed; its log has the cause under the request id")
        self._runtime.metrics.record_error(error.code)
        return problem_answer(error, request_id, (*challenge(error), *retry_headers(error.code)))

    async def _view(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-request-id", request_id.encode()))
            await send(message)

        # With an app in the scope the router raises what it cannot route.
        scope["app"] = self
        try:
            await self._views(scope, receive, send_with_id)
        except HTTPException as error:
            raise _routing_error(error, scope) from None

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._runtime.start()
        except Exception as error:  # noqa: BLE001 - the server must learn of every failed start
            reason = error.message if isinstance(error, NexusError) else "see the log"
            _log.exception("the runtime did not start")
            await send({"type": "lifespan.startup.failed", "message": f"the runtime did not start: {reason}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._runtime.shutdown(self._runtime.config.shutdown_timeout_ms / 1000)
        await send({"type": "lifespan.shutdown.complete"})


def _routing_error(error: HTTPException, scope: Scope) -> NexusError:
    """Our own error for what Starlette's router could not route."""
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "").split(", ")
        return method_not_allowed(scope["method"], scope["path"], allowed)
    return HandlerNotFound("there is nothing at this path")
