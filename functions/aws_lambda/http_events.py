"""HTTP over Lambda: Mangum turns the events of API Gateway, function URLs and ALB into ASGI and back.

What Mangum leaves out is added here: the path as it was sent, so that an encoded slash stays inside its
segment, the time the invocation has left, and an answer where Mangum would raise.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec
from mangum import Mangum
from mangum.adapter import DEFAULT_TEXT_MIME_TYPES
from starlette.types import Receive, Scope, Send

from functions.aws_lambda.calls import Calls, LambdaContext
from functions.aws_lambda.replies import http_reply, problem_reply
from functions.http.app import Application, build_application
from functions.http.auth import Gate, requires_token
from functions.http.envelope import TIMEOUT_EXTENSION
from nexus_core.errors import InternalError, InvalidRequest, NexusError, Unauthenticated

if TYPE_CHECKING:
    from nexus_core.runtime import Runtime

_log = logging.getLogger(__name__)

_TEXT_TYPES: Final = (*DEFAULT_TEXT_MIME_TYPES, "application/problem+json", "application/cloudevents")
# What stays as it is in a path: the reserved characters of RFC 3986, and what is encoded already.
_PATH_SAFE: Final = "/%:@!$&'()*+,;=~"


class HttpEvents:
    """Answers HTTP events with the one HTTP application."""

    def __init__(self, runtime: Runtime) -> None:
        config = runtime.config
        self._runtime = runtime
        self._application = build_application(runtime)
        self._unguarded: Application | None = None
        self._mangum = Mangum(self._serve, lifespan="off", text_mime_types=list(_TEXT_TYPES))
        self._waiting: Calls | None = None
        # No address is local on Lambda: without a word of the operator nobody comes in.
        self._closed = not requires_token(config) and config.auth != "off"
        # It would log every request, with its path; the runtime logs calls.
        logging.getLogger("mangum").setLevel(logging.WARNING)

    def answer(self, event: Mapping[str, Any], context: LambdaContext, calls: Calls) -> dict[str, Any]:
        """The response as Lambda's HTTP integrations read it. Raises nothing.

        Runs the current event loop, which must stand still.
        """
        if self._closed and not _signed_by_iam(event):
            shut = Unauthenticated(
                "this function takes HTTP requests once NEXUS_JWT_SECRET or NEXUS_AUTH is set"
            )
            return problem_reply(shut, calls.request_id)
        # What Mangum calls back with is one event and context, so the rest waits here for `_serve`.
        self._waiting = calls
        try:
            reply = self._mangum(dict(event), context)  # type: ignore[arg-type]
        except Exception as error:  # noqa: BLE001 - whatever Mangum cannot read or write is answered
            return problem_reply(self._misfit(error, calls), calls.request_id)
        return http_reply(reply, calls.request_id)

    def _misfit(self, error: Exception, calls: Calls) -> NexusError:
        """The error for a request, or a response, that Mangum cannot translate."""
        _log.warning("HTTP event: request_id=%s", calls.request_id, exc_info=error)
        if self._waiting is calls and isinstance(error, (ValueError, LookupError, TypeError, AttributeError)):
            return InvalidRequest("the event is no HTTP request of its kind")
        return InternalError("Nexus failed to answer; its log has the cause under the request id")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, told what Mangum does not tell it."""
        calls, self._waiting = self._waiting, None
        if calls is not None:
            scope["extensions"] = {TIMEOUT_EXTENSION: calls.left_ms()}
            if all(name != b"x-request-id" for name, _ in scope["headers"]):
                scope["headers"].append((b"x-request-id", calls.request_id.encode()))
        scope["raw_path"] = quote(_sent_path(scope["aws.event"]), safe=_PATH_SAFE).encode()
        application = self._behind_iam() if _signed_by_iam(scope["aws.event"]) else self._application
        await application(scope, receive, send)

    def _behind_iam(self) -> Application:
        """The application that asks for no token, as the callers were admitted by IAM."""
        if self._unguarded is None:
            config = msgspec.structs.replace(self._runtime.config, auth="off")
            self._unguarded = Application(self._runtime, Gate(config))
        return self._unguarded


def _signed_by_iam(event: Mapping[str, Any]) -> bool:
    """Whether AWS has checked an IAM signature of the sender, and that it may call this API or URL.

    The signature takes the header that a token would. AWS writes this part of the event; whoever could forge
    it invokes the function directly, and may call every handler anyway. In REST events authorizers choose it.
    """
    context = event.get("requestContext")
    authorizer = context.get("authorizer") if isinstance(context, Mapping) else None
    return (
        event.get("version") == "2.0"
        and isinstance(authorizer, Mapping)
        and isinstance(authorizer.get("iam"), Mapping)
    )


def _sent_path(event: Mapping[str, Any]) -> str:
    """The path that Mangum decoded to make the scope's."""
    if event.get("version") == "2.0":
        return str(event["requestContext"]["http"]["path"])
    return str(event["path"]) or "/"
