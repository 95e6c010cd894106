"""Reading request bodies within bounds, and refusing a request whose body nobody wants."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import msgspec
from starlette.types import Message, Receive, Scope, Send

from functions.http.answers import Answer, send_answer
from functions.http.envelope import Headers
from nexus_core.errors import InvalidRequest, LimitBreach, PayloadTooLarge
from nexus_core.limits import KIB, MIB

BODY_SECONDS: Final = 30.0
"""How long a body may take to arrive after its headers."""

# A refused body is read and dropped up to here, so that the caller, still sending, gets the answer
# and not a reset connection; then the connection is closed.
_DRAIN_BYTES: Final = MIB
_DRAIN_SECONDS: Final = 2.0
_KEPT_ALIVE_BYTES: Final = 64 * KIB

_syntax = msgspec.json.Decoder(msgspec.Raw)


class CallerGone(Exception):
    """The caller closed the connection before the request was complete: there is nobody to answer."""


class RequestBody:
    """The body of one request, read at most once."""

    __slots__ = ("_headers", "_receive", "complete")

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        self._headers = headers
        self.complete = False
        """Whether all of it has arrived."""

    async def read(self, limit: int) -> bytes:
        """The whole body; raises `CallerGone`, or `PayloadTooLarge` once it is known to pass `limit`."""
        announced = self._headers.get(b"content-length")
        # The server has checked that it is a number; a wrapper's event may hold anything.
        if announced is not None and announced.isdigit():
            check_size(int(announced[:18]), limit)
        chunk = await self.chunk()
        if self.complete:
            check_size(len(chunk), limit)
            return chunk
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await self._rest(chunk, limit)
        except TimeoutError:
            raise InvalidRequest(f"the body did not arrive within {BODY_SECONDS:.0f} s") from None

    async def _rest(self, first: bytes, limit: int) -> bytes:
        chunks = [first]
        size = len(first)
        while not self.complete:
            check_size(size, limit)
            chunks.append(await self.chunk())
            size += len(chunks[-1])
        check_size(size, limit)
        return b"".join(chunks)

    async def chunk(self) -> bytes:
        """What has arrived next; raises `CallerGone`."""
        message = await self._receive()
        if message["type"] != "http.request":
            raise CallerGone
        self.complete = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body


def check_size(size: int, limit: int) -> None:
    """Raise `PayloadTooLarge` when a body of `size` bytes, or more, passes `limit`."""
    if size > limit:
        raise PayloadTooLarge(
            f"the body has at least {size} bytes; max_input_bytes is {limit}",
            LimitBreach("max_input_bytes", limit, size),
        )


def checked_json(body: bytes) -> bytes:
    """`body` when it is JSON text in UTF-8, `null` when it is empty; raises `InvalidRequest`."""
    # Trust changes hands here: what this lets through, the core takes for valid JSON.
    if not body:
        return b"null"
    try:
        _syntax.decode(body)
        if not body.isascii():
            body.decode()
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise InvalidRequest("the body nests its values too deep") from None
    return body


async def refuse(scope: Scope, body: RequestBody, send: Send, answer: Answer, request_id: str) -> None:
    """Answer a request whose body may still be on its way."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    small = length.isdigit() and int(length[:18]) <= _KEPT_ALIVE_BYTES and b"transfer-encoding" not in headers
    if body.complete or small or not scope["http_version"].startswith("1"):
        await send_answer(send, answer, request_id)
    else:
        await _answer_and_close(body, send, answer, request_id)


async def _answer_and_close(body: RequestBody, send: Send, answer: Answer, request_id: str) -> None:
    # The answer is out before its last (empty) part, which is what lets the server close.
    async def send_unfinished(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    closing = Answer(answer.status, [*answer.headers, (b"connection", b"close")], answer.body)
    await send_answer(send_unfinished, closing, request_id)
    dropped = 0
    with contextlib.suppress(TimeoutError, CallerGone):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while dropped < _DRAIN_BYTES and not body.complete:
                dropped += len(await body.chunk())
    await send({"type": "http.response.body", "body": b""})
