"""The floor of a Python server: the same answer with no sandbox at all, as ASGI and as RSGI.

Run by the peers' servers: `granian --interface asgi bench.floor:asgi`.
"""

from __future__ import annotations

from typing import Any

import msgspec


def _answer(body: bytes) -> bytes:
    return msgspec.json.encode({"greeting": "hello " + msgspec.json.decode(body)["who"]})


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": message["type"] + ".complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = _answer(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def rsgi(_scope: Any, protocol: Any) -> None:
    """The RSGI application."""
    protocol.response_bytes(200, [("content-type", "application/json")], _answer(await protocol()))
