"""Answers: what goes back to the caller, and how a `WasmResult` becomes one."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from starlette.types import Send

from nexus_core.errors import ERROR_TABLE, ErrorCode
from nexus_core.result import (
    EmittedEvent,
    ErrorInfo,
    ExecutionMetrics,
    StateMutation,
    Suspension,
    ViewCommand,
    WasmResult,
)

Header = tuple[bytes, bytes]

JSON_TYPE: Final = (b"content-type", b"application/json")
# Nothing we send is to be taken for another type than it says.
NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")
RETRY_AFTER: Final = (b"retry-after", b"1")
MINIMAL_APPLIED: Final = (b"preference-applied", b"return=minimal")

_JSON_HEADERS: Final = (JSON_TYPE, NO_SNIFFING)


class Answer(NamedTuple):
    """One response. Length, request id and connection headers are added when it is sent."""

    status: int
    headers: list[Header]
    body: bytes


class CallAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """A `WasmResult` as callers get it: without the handler's logs, which are the operator's."""

    status: str
    return_value: msgspec.Raw
    state_mutations: tuple[StateMutation, ...]
    events: tuple[EmittedEvent, ...]
    view_commands: tuple[ViewCommand, ...]
    suspension: Suspension | None
    error: ErrorInfo | None
    metrics: ExecutionMetrics


_encode = msgspec.json.Encoder().encode


def shown(result: WasmResult) -> CallAnswer:
    """What the caller may see of a result. The return value stays the text it is."""
    return CallAnswer(
        result.status,
        result.return_value,
        result.state_mutations,
        result.events,
        result.view_commands,
        result.suspension,
        result.error,
        result.metrics,
    )


def result_answer(result: WasmResult, *, minimal: bool = False) -> Answer:
    """The answer to an invocation; `minimal` leaves only the return value of a call that succeeded."""
    status, extra = result_status(result)
    if minimal and result.status == "success":
        return Answer(200, [*_JSON_HEADERS, MINIMAL_APPLIED], bytes(result.return_value))
    return Answer(status, [*_JSON_HEADERS, *extra], _encode(shown(result)))


def result_status(result: WasmResult) -> tuple[int, tuple[Header, ...]]:
    """The HTTP status of a result, and the headers that go with it."""
    error = result.error
    if error is None:
        return (202 if result.status == "suspended" else 200), ()
    return ERROR_TABLE[error.code].http_status, retry_headers(error.code)


def retry_headers(code: ErrorCode) -> tuple[Header, ...]:
    """`Retry-After` when waiting a little is what helps."""
    return (RETRY_AFTER,) if code is ErrorCode.POOL_EXHAUSTED else ()


def json_answer(value: object, status: int = 200) -> Answer:
    """`value` as JSON."""
    return Answer(status, list(_JSON_HEADERS), _encode(value))


async def send_answer(send: Send, answer: Answer, request_id: str) -> None:
    """Send a whole answer."""
    status, headers, body = answer
    headers.append((b"content-length", b"%d" % len(body)))
    headers.append((b"x-request-id", request_id.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
