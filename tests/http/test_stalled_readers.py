"""Callers who take no answer: what waits for them is not kept for ever."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import h2.connection
import h2.events
import pytest
import uvicorn
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from functions.http.connection import HttpConnection
from functions.http.draining import DrainState
from functions.http.http2_connection import Http2Connection

# More than the kernel keeps for both sides.
BIG = 20_000_000
PATIENCE = 0.1


async def application(scope: object, receive: object, send: Any) -> None:
    """Answers with much."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % BIG)]})
    await send({"type": "http.response.body", "body": bytes(BIG)})


class Impatient(HttpConnection):
    """An HTTP/1.1 connection that does not wait for long, and tells when it is gone."""

    def __init__(self, gone: asyncio.Event) -> None:
        config = uvicorn.Config(application, log_config=None, proxy_headers=False)
        config.load()
        super().__init__(config, DrainState(), {})
        self.timeout_keep_alive = PATIENCE  # type: ignore[assignment]
        self._gone = gone

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell."""
        super().connection_lost(exc)
        self._gone.set()


class ImpatientHttp2(Http2Connection):
    """The same for HTTP/2."""

    def __init__(self, gone: asyncio.Event) -> None:
        super().__init__(application, DrainState(), PATIENCE)
        self._gone = gone

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell."""
        super().connection_lost(exc)
        self._gone.set()


@asynccontextmanager
async def caller_of(
    kind: Callable[[asyncio.Event], asyncio.Protocol],
) -> AsyncIterator[tuple[socket.socket, asyncio.Event]]:
    """A socket connected to a server of that kind, which reads nothing by itself; set when it is cut off."""
    gone, loop = asyncio.Event(), asyncio.get_running_loop()
    listening = await loop.create_server(lambda: kind(gone), "127.0.0.1", 0)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await loop.sock_connect(connection, listening.sockets[0].getsockname())
        yield connection, gone
    listening.close()
    await listening.wait_closed()


@pytest.mark.parametrize("last", ["", "connection: close\r\n"])
async def test_an_answer_nobody_reads_is_given_up(last: str) -> None:
    """Over HTTP/1.1 the connection is cut, whether it was to be kept open or not."""
    async with caller_of(Impatient) as (connection, gone), asyncio.timeout(20):
        await asyncio.get_running_loop().sock_sendall(
            connection, f"GET / HTTP/1.1\r\nhost: a\r\n{last}\r\n".encode()
        )
        await gone.wait()


async def test_an_answer_that_is_read_slowly_arrives() -> None:
    """Who goes on reading gets it all, however long it takes beyond the server's patience."""
    loop, got = asyncio.get_running_loop(), 0
    async with caller_of(Impatient) as (connection, _), asyncio.timeout(30):
        await loop.sock_sendall(connection, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        began = loop.time()
        while data := await loop.sock_recv(connection, 500_000):
            got += len(data)
            if loop.time() - began < 4 * PATIENCE:
                await asyncio.sleep(PATIENCE / 10)
    assert got > BIG


def _http2_request(window: int) -> tuple[h2.connection.H2Connection, bytes]:
    caller = h2.connection.H2Connection(H2Configuration(client_side=True))
    if window > 65535:
        caller.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = window
    caller.initiate_connection()
    if window > 65535:
        caller.increment_flow_control_window(window - 65535)
    head = {":method": "GET", ":path": "/", ":scheme": "http", ":authority": "a"}
    caller.send_headers(1, list(head.items()), end_stream=True)
    return caller, caller.data_to_send()


async def test_a_stream_without_window_is_given_up() -> None:
    """Over HTTP/2 the stream whose caller takes nothing ends, and its connection goes on."""
    loop = asyncio.get_running_loop()
    caller, sent = _http2_request(65535)
    events: list[h2.events.Event] = []
    async with caller_of(ImpatientHttp2) as (connection, gone), asyncio.timeout(20):
        await loop.sock_sendall(connection, sent)
        while not any(isinstance(event, h2.events.StreamReset) for event in events):
            data = await loop.sock_recv(connection, 65536)
            assert data
            events += caller.receive_data(data)
        assert not gone.is_set()
    (reset,) = [event for event in events if isinstance(event, h2.events.StreamReset)]
    assert reset.error_code == ErrorCodes.CANCEL


async def test_an_http2_connection_that_is_not_read_is_cut_off() -> None:
    """When the caller allows much and reads nothing, the connection ends."""
    _, sent = _http2_request(2 * BIG)
    async with caller_of(ImpatientHttp2) as (connection, gone), asyncio.timeout(20):
        await asyncio.get_running_loop().sock_sendall(connection, sent)
        await gone.wait()
