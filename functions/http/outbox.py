"""What a socket still has to send: bounded, so that a slow reader costs little and is dropped."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import msgspec
from starlette.types import Send

from nexus_core.limits import MIB

MAX_MESSAGES: Final = 1024
MAX_BYTES: Final = 16 * MIB
SEND_SECONDS: Final = 30.0
"""How long one message may take to leave."""


_encode = msgspec.json.Encoder().encode


class TooSlow(Exception):
    """The reader does not keep up."""


class Outbox:
    """The messages of one socket, sent in order by `run`. Only for the event loop's own thread."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()

    def put(self, message: msgspec.Struct) -> None:
        """Line a message up; raises `TooSlow` when the line is full."""
        data = _encode(message)
        # One message may be larger than all the room there is: it goes when it is alone.
        if len(self._waiting) >= MAX_MESSAGES or (self._waiting and self._bytes + len(data) > MAX_BYTES):
            raise TooSlow
        self._waiting.append(data)
        self._bytes += len(data)
        self._filled.set()

    async def run(self) -> None:
        """Send for ever; raises `TooSlow` when a message does not leave in time."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._waiting:
                data = self._waiting[0]
                try:
                    async with asyncio.timeout(SEND_SECONDS):
                        await self._send({"type": "websocket.send", "text": data.decode()})
                except TimeoutError:
                    raise TooSlow from None
                self._waiting.popleft()
                self._bytes -= len(data)
