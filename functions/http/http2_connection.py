"""HTTP/2 over cleartext with prior knowledge (RFC 9113, 3.3), on the same port and server as HTTP/1.1.

`h2` keeps the protocol's state and rules; here is what stands between it and ASGI: streams as requests,
flow control in both directions, and the bounds that keep one connection from taking more than its share.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote

import h2.connection
import h2.events
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from nexus_core.limits import KIB, MIB

_log = logging.getLogger(__name__)

MAX_STREAMS: Final = 128
"""Requests of one connection that are under way at once; one more is refused, to be sent again."""
MAX_HEAD_BYTES: Final = 64 * KIB
MAX_RESETS: Final = 200
"""Requests a caller may take back beyond those it let be answered, before the connection is closed
(CVE-2023-44487)."""

MAX_SILENT_BYTES: Final = 2 * MAX_HEAD_BYTES
"""What may arrive without making a whole frame or head: `h2` would gather the 16 MiB a frame can claim."""

_STREAM_WINDOW: Final = 256 * KIB
_CONNECTION_WINDOW: Final = MIB
_SETTINGS: Final[Mapping[SettingCodes, int]] = MappingProxyType(
    {
        SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
        SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
    }
)
# What speaks of one HTTP/1.1 connection (RFC 9113, 8.2.2).
_NOT_IN_HTTP2: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)

Headers = Sequence[tuple[bytes, bytes]]


class Http2Connection(asyncio.Protocol):
    """One connection. Its attributes and `shutdown` are what uvicorn's server asks its connections for."""

    def __init__(self, app: ASGIApp, server_state: ServerState, keep_alive_seconds: float) -> None:
        self.server_state = server_state
        self.writable = asyncio.Event()
        self.writable.set()
        self.h2 = h2.connection.H2Connection(H2Configuration(client_side=False, header_encoding=None))
        # The first settings are told as they stand; later changes count from their acknowledgement on.
        self.h2.local_settings = Settings(client=False, initial_values=dict(_SETTINGS))
        self._app = app
        self.patience = keep_alive_seconds
        self._streams: dict[int, _Stream] = {}
        self._answered = self._resets = self._silent = 0
        self._closing = False
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller that speaks HTTP/2 has connected."""
        self.transport = transport
        self._server, self._client = get_local_addr(transport), get_remote_addr(transport)
        self.server_state.connections.add(self)  # type: ignore[arg-type]
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(_CONNECTION_WINDOW)
        self.flush()
        self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and with it the callers of all its requests."""
        self.server_state.connections.discard(self)
        self._stop_resting()
        self.writable.set()
        for stream in self._streams.values():
            stream.lose()

    def data_received(self, data: bytes) -> None:
        """Some frames, or parts of them."""
        try:
            events = self.h2.receive_data(data)
        except ProtocolError:
            # `h2` has written the GOAWAY that says what was wrong.
            self._close()
            return
        for event in events:
            self._take(event)
        self._silent = 0 if events else self._silent + len(data)
        if self._silent > MAX_SILENT_BYTES:
            self.h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            self._close()
            return
        self.flush()

    def pause_writing(self) -> None:
        """The caller does not read: answers wait, and so does what would only make more of them."""
        self.writable.clear()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The caller reads again."""
        self.writable.set()
        self.transport.resume_reading()

    def shutdown(self) -> None:
        """The server stops: requests under way are answered, new ones refused, to be sent elsewhere."""
        self._closing = True
        if not self._streams:
            # Not before: after a GOAWAY many callers, and `h2` itself, have no ear for what is under way.
            self.h2.close_connection()
            self._close()

    async def drained(self) -> bool:
        """Wait until the caller reads, and cut off one who does not; whether it is still there."""
        if not self.writable.is_set():
            try:
                async with asyncio.timeout(self.patience):
                    await self.writable.wait()
            except TimeoutError:
                self.transport.abort()
        return not self.transport.is_closing()

    def flush(self) -> None:
        """Write what `h2` has ready."""
        if data := self.h2.data_to_send():
            self.transport.write(data)

    def finished(self, stream: _Stream) -> None:
        """A request's application has ended."""
        self._streams.pop(stream.id, None)
        # One taken back does not count, however fast its application ended.
        self._answered += stream.answered
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.consumed(stream.id, stream.unread())
        if self._closing:
            self.shutdown()
        elif not self._streams:
            self._rest()

    def consumed(self, stream_id: int, size: int) -> None:
        """Let the caller send as many bytes more as were taken."""
        if size and not self.transport.is_closing():
            self.h2.acknowledge_received_data(size, stream_id)
            self.flush()

    def abort(self, stream_id: int, code: ErrorCodes) -> None:
        """End a stream that cannot be answered in order."""
        try:
            self.h2.reset_stream(stream_id, code)
        except ProtocolError:
            # It is closed already.
            return
        self.flush()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._start(event.stream_id, event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self._data(event)
        elif isinstance(event, h2.events.StreamEnded):
            if stream := self._streams.get(event.stream_id):
                stream.end()
        elif isinstance(event, h2.events.StreamReset):
            self._reset(event.stream_id)
        elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            for stream in self._streams.values():
                stream.window.set()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._close()

    def _start(self, stream_id: int, headers: Headers) -> None:
        if self._closing or len(self._streams) >= MAX_STREAMS:
            self.abort(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        scope = _scope(headers, self._server, self._client)
        if scope is None:
            self.abort(stream_id, ErrorCodes.PROTOCOL_ERROR)
            return
        self._stop_resting()
        stream = self._streams[stream_id] = _Stream(self, stream_id, scope)
        task = asyncio.get_running_loop().create_task(stream.run(self._app))
        task.add_done_callback(self.server_state.tasks.discard)
        self.server_state.tasks.add(task)

    def _data(self, event: h2.events.DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        size = event.flow_controlled_length
        if stream is None:
            # Nobody wants it any more, but the connection's window is for all streams.
            self.consumed(event.stream_id, size)
        else:
            stream.feed(event.data, size)

    def _reset(self, stream_id: int) -> None:
        if stream := self._streams.get(stream_id):
            stream.lose()
        self._resets += 1
        if self._resets > MAX_RESETS + self._answered:
            self.h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            self._close()

    def _close(self) -> None:
        """Close a connection whose state takes no more answers."""
        self.flush()
        for stream in self._streams.values():
            stream.lose()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            # Who reads nothing would keep it for ever.
            asyncio.get_running_loop().call_later(self.patience, self.transport.abort)

    def _rest(self) -> None:
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self.patience, self.shutdown)

    def _stop_resting(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None


class _Stream:
    """One request and its answer."""

    def __init__(self, connection: Http2Connection, stream_id: int, scope: Scope) -> None:
        self.id = stream_id
        self.window = asyncio.Event()
        self._connection = connection
        self._scope = scope
        self._body = bytearray()
        self._unread = 0
        self._arrived = asyncio.Event()
        self._more_body = True
        self._lost = False
        self._complete = False

    def feed(self, data: bytes, size: int) -> None:
        """A part of the body; `size` counts the padding too."""
        self._body += data
        self._unread += size
        self._arrived.set()

    def end(self) -> None:
        """The body is complete."""
        self._more_body = False
        self._arrived.set()

    def lose(self) -> None:
        """The caller has gone, or does not want the answer."""
        self._lost = True
        self._arrived.set()
        self.window.set()

    @property
    def answered(self) -> bool:
        """Whether the caller got its whole answer."""
        return self._complete and not self._lost

    def unread(self) -> int:
        """The bytes that arrived and that nobody will take."""
        size, self._unread = self._unread, 0
        return size

    async def run(self, app: ASGIApp) -> None:
        """Run the application; a request it leaves unanswered is reset."""
        try:
            await app(self._scope, self._receive, self._send)
        except Exception:  # noqa: BLE001 - whatever it is, the other streams go on
            _log.exception("the application failed")
        finally:
            if not self._complete and not self._lost:
                self._connection.abort(self.id, ErrorCodes.INTERNAL_ERROR)
            elif self._more_body and not self._lost:
                # Answered before all of it came: the caller may stop sending (RFC 9113, 8.1).
                self._connection.abort(self.id, ErrorCodes.NO_ERROR)
            self._connection.finished(self)

    async def _receive(self) -> Message:
        while not (self._body or self._lost or self._complete) and self._more_body:
            self._arrived.clear()
            await self._arrived.wait()
        if self._lost or self._complete:
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        self._connection.consumed(self.id, self.unread())
        return {"type": "http.request", "body": body, "more_body": self._more_body}

    async def _send(self, message: Message) -> None:
        if self._lost:
            return
        if message["type"] == "http.response.start":
            self._send_head(message["status"], message.get("headers", ()))
        elif not self._complete:
            last = not message.get("more_body", False)
            if self._scope["method"] != "HEAD":
                await self._send_data(message.get("body", b""))
            if last and not self._lost:
                self._complete = True
                self._connection.h2.end_stream(self.id)
                self._connection.flush()

    def _send_head(self, status: int, headers: Headers) -> None:
        sent = [(b":status", b"%d" % status), *self._connection.server_state.default_headers]
        sent += [(name.lower(), value) for name, value in headers if name.lower() not in _NOT_IN_HTTP2]
        self._connection.h2.send_headers(self.id, sent)
        self._connection.flush()

    async def _send_data(self, body: bytes) -> None:
        h2_state, rest = self._connection.h2, memoryview(body)
        while rest and not self._lost:
            if not await self._connection.drained():
                return
            self.window.clear()
            # Asked anew each time: other streams share the connection's window.
            size = min(
                len(rest), h2_state.local_flow_control_window(self.id), h2_state.max_outbound_frame_size
            )
            if size <= 0:
                await self._wait_for_window()
                continue
            h2_state.send_data(self.id, bytes(rest[:size]))
            self._connection.flush()
            rest = rest[size:]

    async def _wait_for_window(self) -> None:
        try:
            async with asyncio.timeout(self._connection.patience):
                await self.window.wait()
        except TimeoutError:
            # Its caller takes nothing. Other streams of the connection may be of other callers.
            self._connection.abort(self.id, ErrorCodes.CANCEL)
            self.lose()


def _scope(headers: Headers, server: Any, client: Any) -> Scope | None:
    """The ASGI scope of a request; None for what is no request of ours, such as CONNECT."""
    # `h2` has checked that pseudo-headers come first, once each, and that names are lower case.
    pseudo = {name: value for name, value in headers if name.startswith(b":")}
    path = pseudo.get(b":path", b"")
    if not path.startswith(b"/") and path != b"*":
        return None
    raw_path, _, query = path.partition(b"?")
    method = pseudo.get(b":method", b"")
    if not raw_path.isascii() or not method.isalpha() or not method.isascii():
        return None
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2",
        "server": server,
        "client": client,
        "scheme": "http",
        "method": method.decode(),
        "root_path": "",
        "path": unquote(raw_path.decode()),
        "raw_path": raw_path,
        "query_string": query,
        "headers": _plain_headers(headers, pseudo.get(b":authority")),
        "state": {},
    }


def _plain_headers(headers: Headers, authority: bytes | None) -> list[tuple[bytes, bytes]]:
    """The headers as HTTP/1.1 has them: a host, and one cookie header (RFC 9113, 8.2.3)."""
    plain = [(name, value) for name, value in headers if not name.startswith(b":") and name != b"cookie"]
    crumbs = [value for name, value in headers if name == b"cookie"]
    if crumbs:
        plain.append((b"cookie", b"; ".join(crumbs)))
    if authority is not None and all(name != b"host" for name, _ in plain):
        plain.insert(0, (b"host", authority))
    return plain
