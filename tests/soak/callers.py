"""Callers of a server by HTTP/1.1 and HTTP/2 who keep their connections and the books of every call."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import h2.connection
import h2.events
import h2.exceptions
from h2.config import H2Configuration
from h2.errors import ErrorCodes

from tests.http.serving import request_bytes

STREAMS = 8
"""Calls that one HTTP/2 connection has under way."""

# Every so many calls one computes for so long, and is under way at the time of a stop.
_SLOW_EVERY = 64
_SLOW_MS = 100
_PATIENCE_SECONDS = 60


class Books:
    """What became of the calls, by request id."""

    def __init__(self) -> None:
        self.answered: list[str] = []
        self.lost: list[tuple[str, int, str]] = []
        """Request id, the caller's port, and what happened instead of an answer."""
        self.turned_away = 0
        """Calls that the server said it had not begun (RFC 9113, 8.7), and that were sent elsewhere."""
        self.connections = 0


def write_handlers(folder: Path) -> None:
    """The handlers that these callers ask for."""
    folder.mkdir()
    (folder / "count.js").write_text("export default (event) => event;")
    (folder / "long.js").write_text(
        f"export default (event) => {{ const end = Date.now() + {_SLOW_MS};"
        " while (Date.now() < end); return event; };"
    )


class Caller:
    """Calls by HTTP/1.1, one call after the other on a connection, where `port` says servers are now."""

    def __init__(self, name: str, port: Callable[[], int], books: Books) -> None:
        self._name = name
        self._port = port
        self._books = books
        self._numbers = itertools.count()
        self._again: list[int] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Call until told to stop; what is under way then is waited for."""
        while not stop.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port())
            self._books.connections += 1
            try:
                async with asyncio.timeout(None) as patience:
                    await self._talk(reader, writer, stop, patience)
            finally:
                writer.close()

    async def _talk(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        stop: asyncio.Event,
        patience: asyncio.Timeout,
    ) -> None:
        own_port: int = writer.get_extra_info("sockname")[1]
        while not stop.is_set() and not reader.at_eof():
            number = next(self._numbers)
            handler, request_id = self._call(number)
            writer.write(
                request_bytes(f"/invoke/{handler}", b"%d" % number, headers=f"X-Request-Id: {request_id}\r\n")
            )
            patience.reschedule(asyncio.get_running_loop().time() + _PATIENCE_SECONDS)
            try:
                status, closing, body = await _read_answer(reader)
            except (OSError, asyncio.IncompleteReadError) as error:
                self._books.lost.append((request_id, own_port, type(error).__name__))
                return
            self._enter(request_id, number, own_port, status, body)
            if closing:
                return

    def _call(self, number: int) -> tuple[str, str]:
        return ("count" if number % _SLOW_EVERY else "long"), f"{self._name}.{number}"

    def _enter(self, request_id: str, number: int, own_port: int, status: int, body: bytes) -> None:
        if status == 200 and json.loads(body)["returnValue"] == number:
            self._books.answered.append(request_id)
        else:
            self._books.lost.append((request_id, own_port, f"{status} {body[:200]!r}"))


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bool, bytes]:
    """Status, whether the connection ends with it, and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    body = await reader.readexactly(int(lines["content-length"]))
    return int(head.split(" ", 2)[1]), lines.get("connection") == "close", body


class Http2Caller(Caller):
    """Calls by HTTP/2, with several calls under way on a connection."""

    async def _talk(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        stop: asyncio.Event,
        patience: asyncio.Timeout,
    ) -> None:
        talk = _Http2Talk(writer)
        own_port: int = writer.get_extra_info("sockname")[1]
        while True:
            while not talk.ending and not stop.is_set() and len(talk.under_way) < STREAMS:
                number = self._again.pop() if self._again else next(self._numbers)
                talk.ask(number, *self._call(number))
            if not talk.under_way:
                return
            patience.reschedule(asyncio.get_running_loop().time() + _PATIENCE_SECONDS)
            try:
                data = await reader.read(65536)
            except OSError:
                data = b""
            for number, status, body in talk.hear(data):
                self._enter(self._call(number)[1], number, own_port, status, body)
            self._again += talk.turned_away
            self._books.turned_away += len(talk.turned_away)
            talk.turned_away.clear()
            if not data:
                self._books.lost += [(self._call(n)[1], own_port, "closed") for n in talk.under_way.values()]
                return


class _Http2Talk:
    """One HTTP/2 connection from the caller's side."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._h2 = h2.connection.H2Connection(H2Configuration(client_side=True))
        self._answers: dict[int, tuple[int, bytearray]] = {}
        self.under_way: dict[int, int] = {}
        self.turned_away: list[int] = []
        self.ending = False
        self._h2.initiate_connection()

    def ask(self, number: int, handler: str, request_id: str) -> None:
        """Begin a call."""
        stream = self._h2.get_next_available_stream_id()
        head = [(":method", "POST"), (":path", f"/invoke/{handler}"), (":scheme", "http")]
        head += [(":authority", "localhost"), ("x-request-id", request_id)]
        self._h2.send_headers(stream, head)
        self._h2.send_data(stream, b"%d" % number, end_stream=True)
        self.under_way[stream] = number
        self._writer.write(self._h2.data_to_send())

    def hear(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """The answers that are complete with `data`: number, status and body."""
        complete = []
        for event in self._h2.receive_data(data) if data else ():
            if isinstance(event, h2.events.ResponseReceived):
                told = dict(event.headers)
                self._answers[event.stream_id] = (int(told[b":status"]), bytearray())
            elif isinstance(event, h2.events.DataReceived):
                self._answers[event.stream_id][1].extend(event.data)
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                status, body = self._answers.pop(event.stream_id)
                complete.append((self.under_way.pop(event.stream_id), status, bytes(body)))
            elif isinstance(event, h2.events.StreamReset):
                assert event.error_code == ErrorCodes.REFUSED_STREAM
                self._turn_away(event.stream_id)
            elif isinstance(event, h2.events.ConnectionTerminated):
                last = event.last_stream_id or 0
                for stream in [stream for stream in self.under_way if stream > last]:
                    self._turn_away(stream)
                self.ending = True
        if not self.ending:
            self._writer.write(self._h2.data_to_send())
        return complete

    def _turn_away(self, stream: int) -> None:
        self.turned_away.append(self.under_way.pop(stream))
        # A server that is about to go: the next connection is to another.
        self.ending = True
