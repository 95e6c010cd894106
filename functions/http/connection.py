"""uvicorn's connection protocols, with what they lack: bounds of a request's head, and the way to HTTP/2."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from functions.http.draining import DrainState
from functions.http.envelope import Headers, new_request_id
from functions.http.lane import LaneCycle, lane_target
from functions.http.problems import HttpProblem, problem_answer
from nexus_core.limits import KIB

MAX_HEAD_BYTES: Final = 64 * KIB
"""Request line and headers together."""

HEAD_SECONDS: Final = 10.0
"""How long a request's head, and a short body, may take; and how long a new connection may say nothing."""


class HttpConnection(HttpToolsProtocol):
    """One HTTP/1.1 connection."""

    head_seconds = HEAD_SECONDS

    server_state: DrainState
    cycle: Any  # None until the first request, then uvicorn's own kind or a LaneCycle
    app: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._open = False
        self._fresh = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller has connected."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_seconds, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._stop_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes of one or several requests."""
        if self._fresh:
            self._fresh = False
            # How HTTP/2 with prior knowledge begins, and no method of HTTP/1.1.
            if data.startswith(b"PRI "):
                self._become_http2(data)
                return
        super().data_received(data)
        # An ordinary head comes whole, in one piece: then no timer is ever made for it.
        if not self._open:
            if self._head_timer is not None:
                self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _become_http2(self, data: bytes) -> None:
        from functions.http.http2_connection import Http2Connection

        self._stop_timer()
        self.connections.discard(self)
        successor = Http2Connection(self.app, self.server_state, self.timeout_keep_alive)
        self.transport.set_protocol(successor)
        successor.connection_made(self.transport)
        successor.data_received(data)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._head_bytes = 0
        self._open = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request's head is complete."""
        self._open = False
        headers = dict(self.headers)
        version = self.parser.get_http_version()
        if version not in {"1.1", "1.0"} or (version == "1.1" and b"host" not in headers):
            raise ValueError("not HTTP/1.0 or HTTP/1.1")
        lane = self._lane_cycle(headers) if version == "1.1" else None
        if lane is None:
            super().on_headers_complete()
        else:
            # Its body is waited for here, and so watched by the same timer as the head.
            self._open = True
            self.cycle = lane
        if self.server_state.draining and self.cycle is not None:
            # The answer asks the caller to come back elsewhere.
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The request is complete."""
        cycle = self.cycle
        if not isinstance(cycle, LaneCycle) or not cycle.more_body:
            super().on_message_complete()
            return
        self._open = False
        cycle.more_body = False
        task = self.loop.create_task(cycle.run(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_response_complete(self) -> None:
        """An answer is written, though perhaps not sent."""
        super().on_response_complete()
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._look_again()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for a while; who took nothing either of what waits to be sent is cut off."""
        if not self.transport.get_write_buffer_size():
            super().timeout_keep_alive_handler()
            return
        unsent = _unsent(self.transport)
        if unsent == self._unsent:
            self.transport.abort()
        else:
            self._unsent = unsent
            self._look_again()

    def _look_again(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _lane_cycle(self, headers: Headers) -> LaneCycle | None:
        """The cycle of a request that may take the short way, None for any other."""
        parser = self.parser
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or parser.get_method() != b"POST" or parser.should_upgrade():
            return None
        target = lane_target(self.url, headers)
        if target is None:
            return None
        return LaneCycle(self, *target, headers, keep_alive=parser.should_keep_alive())

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, or a head that is too large, and close."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body or cycle.response_started:
                # A good request is being answered; the connection ends with that answer.
                cycle.keep_alive = False
                self.flow.pause_reading()
                return
            # This is about the body of that request: the application has lost its caller.
            cycle.disconnected = True
            cycle.message_event.set()
        if self._head_bytes > MAX_HEAD_BYTES:
            text = f"the request line and headers have more than {MAX_HEAD_BYTES} bytes"
            problem = HttpProblem(text, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            problem = HttpProblem("this is not an HTTP/1.1 request", HTTPStatus.BAD_REQUEST)
        request_id = new_request_id()
        status, headers, body = problem_answer(problem, request_id)
        lines = [b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode())]
        lines += [b"%b: %b" % header for header in headers]
        lines += [b"x-request-id: " + request_id.encode(), b"content-length: %d" % len(body)]
        lines += [b"connection: close", b"", body]
        self.transport.write(b"\r\n".join(lines))
        self.transport.close()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            # The parser stops at an error in its callback and the connection is refused.
            raise ValueError("head too large")

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _unsent(transport: asyncio.Transport) -> int:
    """Bytes the other side has not taken; those in the kernel, which can hold megabytes, included."""
    queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    return transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)


class SocketConnection(WebSocketsSansIOProtocol):
    """One WebSocket connection."""

    async def run_asgi(self) -> None:
        """Run the application; a reader that takes nothing any more is cut off when it ends."""
        await super().run_asgi()
        if not self.writable.is_set():
            self.transport.abort()
