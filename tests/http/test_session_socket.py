"""Session sockets, through a real server and a real client."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from functions.http.outbox import MAX_MESSAGES, Outbox, TooSlow
from functions.http.session_messages import Patch
from functions.http.session_socket import MAX_RUNNING
from tests.http.serving import Server, bearer, serving, token


class Talk:
    """A client of one session's socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, **message: Any) -> None:
        """Send one message."""
        await self.socket.send(json.dumps(message))

    async def hear(self, kind: str, **members: Any) -> dict[str, Any]:
        """The next message of this type and with these members; others are let pass."""
        async with asyncio.timeout(20):
            while True:
                message: dict[str, Any] = json.loads(await self.socket.recv())
                if message["type"] == kind and all(message[key] == value for key, value in members.items()):
                    return message

    async def call(self, handler: str, event: Any = None, id: str | int = 1) -> dict[str, Any]:  # noqa: A002
        """Trigger a handler and hear its result."""
        await self.say(type="TRIGGER", handler=handler, event=event, id=id)
        return await self.hear("RESULT", id=id)


@asynccontextmanager
async def talking(server: Server, session: str, **options: Any) -> AsyncIterator[Talk]:
    """A client connected to a session."""
    async with connect(f"ws://127.0.0.1:{server.port}/sessions/{session}/ws", **options) as socket:
        yield Talk(socket)


async def test_a_trigger_is_answered(server: Server) -> None:
    """A call is announced, then answered with what `POST /invoke` would answer."""
    async with talking(server, "t1") as talk:
        await talk.say(type="TRIGGER", handler="hello", event={"who": "bob"}, id="a")
        progress = await talk.hear("PROGRESS")
        assert (progress["id"], progress["status"], len(progress["requestId"])) == ("a", "running", 32)
        result = await talk.hear("RESULT", id="a")
        assert result["result"]["returnValue"] == {"greeting": "hello bob"}
        assert "logs" not in result["result"]


async def test_commits_are_watched(server: Server) -> None:
    """A subscriber gets the state, then each commit's mutations and events in order, its own and others'."""
    async with talking(server, "w1") as mine, talking(server, "w1") as other:
        await mine.call("counter")
        await mine.say(type="SUBSCRIBE")
        connected = await mine.hear("CONNECTED")
        assert (connected["session"], connected["version"], connected["state"]) == ("w1", 1, {"count": 1})
        await other.call("counter")
        patch = await mine.hear("PATCH")
        assert patch["version"] == 2
        assert patch["mutations"] == [{"op": "set", "key": "count", "value": 2}]
        event = await mine.hear("EVENT")
        assert (event["name"], event["payload"]) == ("counted", {"count": 2})
        assert event["requestId"] == patch["requestId"]
        await mine.say(type="TRIGGER", handler="counter", id=9)
        assert (await mine.hear("PATCH"))["version"] == 3


async def test_a_session_is_its_own(server: Server) -> None:
    """What happens in one session is not heard in another."""
    async with talking(server, "own-a") as one, talking(server, "own-b") as two:
        await two.say(type="SUBSCRIBE")
        await two.hear("CONNECTED")
        await one.call("counter")
        await two.call("counter")
        assert (await two.hear("PATCH"))["version"] == 1


async def test_a_failed_call_is_an_error_with_its_id(server: Server) -> None:
    """Errors of a handler, and handlers that are not there, come back under the caller's id."""
    async with talking(server, "e1") as talk:
        await talk.say(type="TRIGGER", handler="boom", id=7)
        assert (await talk.hear("ERROR", id=7))["error"]["name"] == "TypeError"
        await talk.say(type="TRIGGER", handler="nobody", id="x")
        assert (await talk.hear("ERROR", id="x"))["error"]["code"] == "HANDLER_NOT_FOUND"


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "[]",
        "null",
        '{"type": "DANCE"}',
        '{"type": "TRIGGER", "id": 1}',
        '{"type": "TRIGGER", "handler": "hello"}',
        '{"type": "TRIGGER", "handler": "hello", "id": null}',
        '{"type": "TRIGGER", "handler": "hello", "id": "' + "x" * 200 + '"}',
        '{"type": "TRIGGER", "handler": 5, "id": 1}',
        '{"type": "TRIGGER", "handler": "hello", "id": 1, "event": }',
        "[" * 100_000,
        '{"type": "TRIGGER", "handler": "hello", "id": 1, "event": ' + "[" * 100_000,
        b"\xff\xfe",
    ],
)
async def test_nonsense_is_an_error_and_the_socket_lives(server: Server, message: str | bytes) -> None:
    """A message that makes no sense is answered with an error; the next one is served."""
    async with talking(server, "n1") as talk:
        await talk.socket.send(message)
        error = await talk.hear("ERROR")
        assert (error["id"], error["error"]["code"]) == (None, "INVALID_REQUEST")
        assert (await talk.call("hello", {"who": "x"}))["result"]["status"] == "success"


async def test_bytes_will_do_for_text(server: Server) -> None:
    """A binary message that holds the same JSON is the same message."""
    async with talking(server, "b1") as talk:
        await talk.socket.send(b'{"type": "TRIGGER", "handler": "hello", "id": 1, "event": {"who": "x"}}')
        await talk.hear("RESULT", id=1)


async def test_one_subscription_is_enough(server: Server) -> None:
    """A second SUBSCRIBE on one socket is an error."""
    async with talking(server, "s2") as talk:
        await talk.say(type="SUBSCRIBE")
        await talk.hear("CONNECTED")
        await talk.say(type="SUBSCRIBE")
        assert (await talk.hear("ERROR"))["error"]["code"] == "INVALID_REQUEST"


async def test_calls_of_one_socket_are_bounded(server: Server) -> None:
    """One call too many at once is refused with a retryable error; the others are all answered."""
    async with talking(server, "many") as talk:
        for number in range(MAX_RUNNING + 4):
            await talk.say(type="TRIGGER", handler="slow", event={"ms": 300}, id=number)
        refused = await talk.hear("ERROR")
        assert refused["error"]["code"] == "POOL_EXHAUSTED"
        assert refused["error"]["retryable"] is True


async def test_a_message_that_is_too_large_ends_the_socket(server: Server) -> None:
    """The bound on events bounds messages."""
    async with talking(server, "big") as talk:
        with contextlib.suppress(ConnectionClosed):
            await talk.socket.send("x" * 2_000_000)
        with pytest.raises(ConnectionClosed) as closed:
            await talk.socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


@pytest.mark.parametrize(
    ("path", "status"), [("/ws", 404), ("/sessions/a/b/ws", 404), ("/sessions/a%20b/ws", 400)]
)
async def test_a_socket_elsewhere_is_refused(server: Server, path: str, status: int) -> None:
    """There are sockets at sessions only, and a refusal is a problem document."""
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://127.0.0.1:{server.port}{path}"):
            pass
    response = refused.value.response
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(response.body or b"")["instance"] == response.headers["x-request-id"]


async def test_a_foreign_page_cannot_open_a_socket(server: Server) -> None:
    """Without tokens a web page of another origin is refused, as on HTTP."""
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://127.0.0.1:{server.port}/sessions/a/ws", origin="http://evil.example"):  # type: ignore[arg-type]
            pass
    assert refused.value.response.status_code == 403


async def test_a_socket_needs_a_token(guarded_server: Server) -> None:
    """No token, no socket; the reason is told as on HTTP."""
    for headers in ({}, {"authorization": "Bearer x"}, bearer(seconds=-5)):
        with pytest.raises(InvalidStatus) as refused:
            async with talking(guarded_server, "a", additional_headers=headers):
                pass
        assert refused.value.response.status_code == 401
        assert refused.value.response.headers["www-authenticate"].startswith("Bearer")


async def test_a_browser_offers_its_token_as_a_subprotocol(guarded_server: Server) -> None:
    """`bearer` and the token as subprotocols let in; only `bearer` is echoed."""
    async with talking(guarded_server, "sp", subprotocols=["bearer", token("invoke:hello")]) as talk:
        assert talk.socket.subprotocol == "bearer"
        await talk.call("hello", {"who": "x"})
    for offered in (["bearer"], ["bearer", "a.b.c"], ["bearer", token(), token()]):
        with pytest.raises(InvalidStatus):
            async with talking(guarded_server, "sp", subprotocols=offered):
                pass


async def test_scopes_hold_on_sockets(guarded_server: Server) -> None:
    """Watching needs `read` and calling needs the handler's scope, message by message."""
    async with talking(guarded_server, "sc", additional_headers=bearer("invoke:hello")) as talk:
        await talk.call("hello", {"who": "x"})
        await talk.say(type="TRIGGER", handler="counter", id=2)
        assert (await talk.hear("ERROR", id=2))["error"]["code"] == "PERMISSION_DENIED"
        await talk.say(type="SUBSCRIBE")
        assert (await talk.hear("ERROR"))["error"]["code"] == "PERMISSION_DENIED"
    async with talking(guarded_server, "sc", additional_headers=bearer("read")) as talk:
        await talk.say(type="SUBSCRIBE")
        await talk.hear("CONNECTED")


async def test_a_socket_ends_with_its_token(guarded_server: Server) -> None:
    """When the token expires the socket is closed and says why."""
    async with talking(guarded_server, "exp", additional_headers=bearer(seconds=2)) as talk:
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(20):
                await talk.socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


async def test_capabilities_of_the_handshake_narrow_calls(server: Server) -> None:
    """`Nexus-Capabilities` at the opening holds for every call of the socket."""
    headers = {"nexus-capabilities": "state:read:*"}
    async with talking(server, "cap", additional_headers=headers) as talk:
        await talk.say(type="TRIGGER", handler="counter", id=1)
        assert (await talk.hear("ERROR", id=1))["error"]["code"] == "PERMISSION_DENIED"


async def test_a_stop_closes_sockets_and_ends_their_calls(tmp_path: Path, cache_dir: Path) -> None:
    """On SIGTERM open sockets are told 1012 and the server ends with code 0."""
    with serving(tmp_path, cache_dir=cache_dir) as server:
        async with talking(server, "stop") as talk:
            await talk.call("hello", {"who": "x"})
            stopped = asyncio.get_running_loop().run_in_executor(None, server.stop)
            with pytest.raises(ConnectionClosed) as closed:
                async with asyncio.timeout(20):
                    await talk.socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            assert await stopped == 0


async def test_a_reader_that_takes_nothing_is_dropped(server: Server) -> None:
    """A watcher that stops reading is cut off once its line is full, and the server serves on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
    writer.write(
        b"GET /sessions/lazy/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    big = json.dumps({"type": "TRIGGER", "handler": "echo", "id": 1, "event": "x" * 500_000}).encode()
    frame = b"\x81\xff" + len(big).to_bytes(8) + b"\0\0\0\0" + big
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            writer.write(frame)
            async with asyncio.timeout(60):
                await writer.drain()
    except (ConnectionError, OSError):
        pass
    finally:
        writer.transport.abort()
    assert time.monotonic() < deadline
    async with talking(server, "lazy") as talk:
        await talk.call("hello", {"who": "x"})


async def test_the_outbox_is_bounded() -> None:
    """A line that is full takes no more; one message larger than the whole room still goes alone."""

    async def never(message: Any) -> None:
        await asyncio.Event().wait()

    outbox = Outbox(never)
    for version in range(MAX_MESSAGES):
        outbox.put(Patch(version, (), "id"))
    with pytest.raises(TooSlow):
        outbox.put(Patch(0, (), "id"))
    alone = Outbox(never)
    alone.put(Patch(0, (), "x" * 20_000_000))
    with pytest.raises(TooSlow):
        alone.put(Patch(0, (), "id"))
