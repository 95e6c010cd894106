"""HTTP/2 with prior knowledge, on the port of HTTP/1.1, against the real server."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h2.connection
import h2.events
import httpx
import pytest
from h2.config import H2Configuration
from h2.errors import ErrorCodes

from functions.http.http2_connection import MAX_HEAD_BYTES, MAX_RESETS, MAX_SILENT_BYTES, MAX_STREAMS
from tests.http.serving import Server, serving
from tests.http.test_server import await_running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Server]:
    """A server for the tests that do not stop it."""
    with serving(
        tmp_path_factory.mktemp("http2"), cache_dir=cache_dir, max_instances=2, max_waiting=1000
    ) as made:
        yield made


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """A client that speaks HTTP/2 only."""
    with httpx.Client(http1=False, http2=True, base_url=server.url, timeout=30) as made:
        yield made


class Peer:
    """A caller that chooses its frames itself."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.h2 = h2.connection.H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.events: list[h2.events.Event] = []
        self.closed = False
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        """Send what there is to send; a server that has closed the connection shows when it is read."""
        try:
            self.socket.sendall(self.h2.data_to_send())
        except ConnectionError:
            self.closed = True

    def ask(
        self,
        path: str,
        method: str = "POST",
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        end: bool = True,
    ) -> int:
        """Begin a request; gives its stream."""
        stream = self.h2.get_next_available_stream_id()
        head = {":method": method, ":path": path, ":scheme": "http", ":authority": "localhost"}
        self.h2.send_headers(stream, list({**head, **headers}.items()), end_stream=end)
        self.flush()
        return stream

    def until(self, kind: type[h2.events.Event], stream: int | None = None) -> Any:
        """Read until an event of this kind (and stream) is there; None when the connection ends first."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                    return event
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                self.closed = True
                return None
            self.events += self.h2.receive_data(data)
            self.flush()


@contextmanager
def peer_of(server: Server) -> Iterator[Peer]:
    """A connection of one's own."""
    with server.connect() as connection:
        yield Peer(connection)


def test_calls_are_answered_as_over_http1(client: httpx.Client, server: Server) -> None:
    """The same request has the same answer over either version."""
    answer = client.post("/invoke/hello", json={"who": "bob"})
    plain = httpx.post(f"{server.url}/invoke/hello", json={"who": "bob"})
    assert (answer.http_version, plain.http_version) == ("HTTP/2", "HTTP/1.1")
    assert answer.json()["returnValue"] == plain.json()["returnValue"]
    assert answer.headers.keys() - plain.headers.keys() == set()


def test_a_request_keeps_its_parts(client: httpx.Client) -> None:
    """Path, query, cookies and host reach a handler's route as over HTTP/1.1."""
    headers = [("cookie", "a=1"), ("cookie", "b=2"), ("x-one", "1")]
    event = client.get("/pages/a%2Fb?q=%C3%A9", headers=headers).json()
    assert event["params"] == {"id": "a/b"}
    assert event["query"] == {"q": "é"}
    assert event["headers"]["cookie"] == "a=1; b=2"
    assert event["headers"]["host"].startswith("127.0.0.1:")


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_large_bodies_pass_both_ways(client: httpx.Client, size: int) -> None:
    """Bodies larger than every window are sent and received whole."""
    answer = client.post("/responses", json={"status": 200, "body": "x" * size})
    assert (answer.status_code, answer.text) == (200, "x" * size)


def test_requests_of_one_connection_run_at_once(server: Server) -> None:
    """A slow call does not hold up another on its connection."""
    with peer_of(server) as peer:
        slow = peer.ask("/invoke/slow", end=False)
        peer.h2.send_data(slow, b'{"ms": 700}', end_stream=True)
        quick = peer.ask("/health/live", "GET")
        peer.until(h2.events.StreamEnded, quick)
        assert not [
            event
            for event in peer.events
            if getattr(event, "stream_id", None) == slow and isinstance(event, h2.events.ResponseReceived)
        ]
        assert peer.until(h2.events.StreamEnded, slow) is not None


def test_head_has_no_body(client: httpx.Client) -> None:
    """The answer to HEAD ends with its headers."""
    answer = client.head("/health/live")
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_body_over_the_limit_is_refused(client: httpx.Client) -> None:
    """The limit of a handler's input holds, and the connection goes on."""
    assert client.post("/invoke/small", json="x" * 1000).status_code == 413
    assert client.post("/invoke/small", json="x").status_code == 200


@pytest.mark.parametrize("path", ["invoke/hello", "http://localhost/invoke/hello"])
def test_what_is_no_path_is_reset(server: Server, path: str) -> None:
    """A target that is no path of ours is refused without harm to the connection."""
    with peer_of(server) as peer:
        stream = peer.ask(path)
        assert peer.until(h2.events.StreamReset, stream).error_code == ErrorCodes.PROTOCOL_ERROR
        assert peer.until(h2.events.StreamEnded, peer.ask("/health/live", "GET")) is not None


def test_more_requests_than_allowed_are_refused(server: Server) -> None:
    """Requests that were taken back but still run count, and one more is refused to be sent again."""
    with peer_of(server) as peer:
        streams = [peer.ask("/invoke/slow", end=False) for _ in range(MAX_STREAMS)]
        for stream in streams:
            peer.h2.send_data(stream, b'{"ms": 1000}', end_stream=True)
        peer.flush()
        await_running(server, 2)
        for stream in streams:
            peer.h2.reset_stream(stream)
        refused = peer.ask("/health/live", "GET")
        assert peer.until(h2.events.StreamReset, refused).error_code == ErrorCodes.REFUSED_STREAM


def test_taking_requests_back_without_end_closes_the_connection(server: Server) -> None:
    """A flood of requests that are reset at once (CVE-2023-44487) ends the connection, and only that."""
    with peer_of(server) as peer:
        for _ in range(3 * MAX_RESETS):
            if peer.closed:
                break
            peer.h2.reset_stream(peer.ask("/invoke/slow"))
            peer.flush()
        ended = peer.until(h2.events.ConnectionTerminated)
        assert ended is None or ended.error_code == ErrorCodes.ENHANCE_YOUR_CALM
        peer.closed or peer.until(h2.events.PingAckReceived)
        assert peer.closed
    assert httpx.post(f"{server.url}/invoke/hello", json={}).status_code == 200


def test_requests_taken_back_one_by_one_close_the_connection(server: Server) -> None:
    """A request that was taken back is no answered one, even when its application had time to end."""
    with peer_of(server) as peer:
        for number in range(MAX_RESETS + 1):
            peer.h2.reset_stream(peer.ask("/invoke/slow", end=False))
            peer.h2.ping(number.to_bytes(8, "big"))
            peer.flush()
            peer.events.clear()
            if peer.until(h2.events.PingAckReceived) is None:
                break
        ended = peer.until(h2.events.ConnectionTerminated)
        assert ended is None or ended.error_code == ErrorCodes.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "frames",
    [
        b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + struct.pack(">I", 0),
        b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(2 * MAX_SILENT_BYTES),
        b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\xff",
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" + bytes(2 * MAX_SILENT_BYTES),
    ],
)
def test_broken_frames_close_the_connection(server: Server, frames: bytes) -> None:
    """What breaks the protocol ends its own connection, at once."""
    with peer_of(server) as peer:
        peer.until(h2.events.RemoteSettingsChanged)
        with contextlib.suppress(ConnectionError):
            peer.socket.sendall(frames)
        peer.until(h2.events.PingAckReceived)
        assert peer.closed
    assert httpx.get(f"{server.url}/health/live").status_code == 200


def test_a_head_over_the_limit_is_refused(server: Server) -> None:
    """Headers beyond what HTTP/1.1 may send are not decoded here either."""
    with peer_of(server) as peer:
        peer.until(h2.events.RemoteSettingsChanged)
        peer.ask("/health/live", "GET", {"x-long": "x" * (2 * MAX_HEAD_BYTES)})
        assert peer.until(h2.events.ResponseReceived) is None
        assert peer.closed


def test_a_stop_lets_running_requests_finish(tmp_path: Path, cache_dir: Path) -> None:
    """After SIGTERM a request under way is answered, the caller told to go, and the exit code is 0."""
    with (
        serving(tmp_path, cache_dir=cache_dir) as server,
        httpx.Client(http1=False, http2=True, base_url=server.url, timeout=30) as client,
        concurrent.futures.ThreadPoolExecutor(1) as threads,
    ):
        call = threads.submit(client.post, "/invoke/slow", json={"ms": 1000})
        await_running(server, 1)
        assert server.stop() == 0
        assert call.result().json()["returnValue"] == "done"


def test_a_caller_that_does_not_read_holds_up_nobody(server: Server) -> None:
    """An answer waits for its reader's window while others are served."""
    with peer_of(server) as peer:
        stream = peer.ask("/responses", headers={"content-type": "application/json"}, end=False)
        body = json.dumps({"status": 200, "body": "x" * 60_000}).encode()
        for start in range(0, len(body), 16_000):
            peer.h2.send_data(stream, body[start : start + 16_000], end_stream=start + 16_000 >= len(body))
            peer.flush()
        peer.until(h2.events.ResponseReceived, stream)
        assert httpx.post(f"{server.url}/invoke/hello", json={}).status_code == 200
