"""What Lambda gets back: replies within the size it takes, and errors without a traceback."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
from awslambdaric.lambda_runtime_exception import FaultException  # type: ignore[import-untyped]

from functions.http.answers import CallAnswer, shown
from functions.http.problems import problem_answer
from nexus_core.errors import LimitBreach, NexusError, PayloadTooLarge
from nexus_core.result import ErrorInfo, WasmResult

MAX_REPLY_BYTES: Final = 6 * 1024 * 1024 + 100
"""The most Lambda takes as the answer of an invocation; for one byte more it ends the process."""


def direct_reply(result: CallAnswer) -> Any:
    """The result of a direct invocation as JSON data; one that is too large becomes `PAYLOAD_TOO_LARGE`.

    What the call has stored and published by then stays.
    """
    reply = _plain(result)
    size = _size(reply)
    if size <= MAX_REPLY_BYTES:
        return reply
    refused = WasmResult(status="error", error=ErrorInfo.of(_too_large(size)), metrics=result.metrics)
    return _plain(shown(refused))


def http_reply(reply: dict[str, Any], request_id: str) -> dict[str, Any]:
    """`reply`, an HTTP response, unless it is too large: then the problem that says so."""
    size = _size(reply)
    return reply if size <= MAX_REPLY_BYTES else problem_reply(_too_large(size), request_id)


def problem_reply(error: NexusError, request_id: str) -> dict[str, Any]:
    """A problem document in the form every HTTP integration of Lambda reads."""
    status, headers, body = problem_answer(error, request_id)
    return {
        "statusCode": status,
        "headers": {name.decode(): value.decode() for name, value in headers} | {"x-request-id": request_id},
        "body": body.decode(),
        "isBase64Encoded": False,
    }


def fault(error: ErrorInfo, message: str | None = None) -> FaultException:
    """The error in the one form that the runtime client passes on without a traceback."""
    return FaultException(error.code.value, message or error.message, [])


def _plain(result: CallAnswer) -> Any:
    """The result as data: the runtime client encodes it once more, its raw texts too."""
    return msgspec.json.decode(msgspec.json.encode(result))


def _size(reply: object) -> int:
    """How many bytes the runtime client will send; fewer where they are surely few enough."""
    compact = len(msgspec.json.encode(reply))
    # It puts a space after each comma and colon, which at most doubles a text.
    if compact <= MAX_REPLY_BYTES // 2:
        return compact
    return len(json.dumps(reply, ensure_ascii=False).encode())


def _too_large(size: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the answer has {size} bytes; Lambda takes {MAX_REPLY_BYTES}",
        LimitBreach("lambda_reply_bytes", MAX_REPLY_BYTES, size),
    )
