"""Connections of the server: kept, pipelined, cut off, and HTTP that is not quite HTTP."""

import asyncio
import contextlib
import json

import httpx
import pytest
import uvicorn

from functions.http.connection import HttpConnection
from functions.http.draining import DrainState
from functions.http.lane import MAX_BODY_BYTES, lane_target
from tests.http.serving import Server, bearer, read_response, request_bytes

HELLO = request_bytes("/invoke/hello", b'{"who": "bob"}')


def exchange(server: Server, data: bytes) -> bytes:
    """Everything the server says to `data` until it closes the connection."""
    with server.connect() as connection:
        connection.sendall(data)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
        return received


def test_a_call_through_a_real_socket(server: Server) -> None:
    """A call is answered, and the answer tells nothing of the software that served it."""
    answer = httpx.post(f"{server.url}/invoke/hello", json={"who": "bob"})
    assert answer.json()["returnValue"] == {"greeting": "hello bob"}
    assert "server" not in answer.headers
    assert "x-powered-by" not in answer.headers
    assert "date" in answer.headers


def test_a_connection_is_kept(server: Server) -> None:
    """Many calls go over one connection."""
    with server.connect() as connection, connection.makefile("rb") as stream:
        for _ in range(5):
            connection.sendall(HELLO)
            status, headers, body = read_response(stream)
            assert (status, json.loads(body)["status"]) == (200, "success")
            assert "connection" not in headers


def test_pipelined_calls_are_answered_in_order(server: Server) -> None:
    """Requests sent without waiting get their answers in their order, whichever way each one takes."""
    requests = [
        request_bytes("/invoke/echo", b"0"),
        request_bytes("/health/live", b"", method="GET"),
        request_bytes("/invoke/slow", b'{"ms": 100}'),
        request_bytes("/invoke/echo", b"3"),
        request_bytes("/invoke/ec%68o", b"4"),
        request_bytes("/invoke/echo", b"5"),
    ]
    with server.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(b"".join(requests))
        answers = [json.loads(read_response(stream)[2]) for _ in requests]
    assert answers[1] == {"status": "ok"}
    assert answers[2]["returnValue"] == "done"
    assert [answers[n]["returnValue"]["event"] for n in (0, 3, 4, 5)] == [0, 3, 4, 5]


def test_a_request_may_come_in_pieces(server: Server) -> None:
    """A request that arrives byte by byte is a request."""
    with server.connect() as connection, connection.makefile("rb") as stream:
        for byte in HELLO:
            connection.sendall(bytes([byte]))
        assert read_response(stream)[0] == 200


@pytest.mark.parametrize(
    "data",
    [
        request_bytes("/invoke/hello", b'{"who": "bob"}', headers="Connection: close\r\n"),
        HELLO.replace(b"HTTP/1.1", b"HTTP/1.0"),
        request_bytes("/invoke/hell%6f", b'{"who": "bob"}', headers="Connection: close\r\n"),
    ],
)
def test_a_caller_may_ask_to_close(server: Server, data: bytes) -> None:
    """After an answer the connection is closed when the caller asks so, or is of HTTP/1.0."""
    answer = exchange(server, data)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close\r\n" in answer.lower()
    assert answer.endswith(b"}")


def test_a_chunked_body_is_read(server: Server) -> None:
    """A body of unknown length reaches the handler."""
    data = (
        b"POST /invoke/echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n"
    )
    assert b'"event":[1,2]' in exchange(server, data)


def test_expect_continue_is_answered(server: Server) -> None:
    """A caller that waits for `100 Continue` gets it, then its answer."""
    head, _, body = request_bytes(
        "/invoke/hello", b'{"who": "bob"}', headers="Expect: 100-continue\r\n"
    ).partition(b"\r\n\r\n")
    with server.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(head + b"\r\n\r\n")
        assert stream.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert stream.readline() == b"\r\n"
        connection.sendall(body)
        assert read_response(stream)[0] == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
        b"POST /invoke/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nnull ",
        b"POST /invoke/hello HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /invoke/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /invoke/hello HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /invoke/h\xff HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nnull",
    ],
)
def test_what_is_not_http_is_refused(server: Server, data: bytes) -> None:
    """Malformed or ambiguous requests get a 400 problem, and the connection is closed."""
    answer = exchange(server, data)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), answer
    assert b"content-type: application/problem+json\r\n" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "INVALID_REQUEST"


def test_a_huge_head_is_refused(server: Server) -> None:
    """A request line or headers without end are cut off at a bound."""
    for data in (
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"y" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    ):
        assert exchange(server, data).startswith(b"HTTP/1.1 431 ")


def test_a_refusal_after_an_answer_keeps_the_answer(server: Server) -> None:
    """Nonsense behind good requests does not cost the caller their answers; then the connection ends."""
    answer = exchange(server, HELLO + request_bytes("/invoke/hell%6f", b"{}") + b"NONSENSE\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.count(b"HTTP/1.1") == 2


def test_a_large_body_is_refused_before_it_is_sent(server: Server) -> None:
    """An announced length above the limit is answered at once, without waiting for the body."""
    head = b"POST /invoke/hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000001\r\n\r\n"
    with server.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(head)
        status, headers, body = read_response(stream)
        assert (status, headers["connection"]) == (413, "close")
        assert json.loads(body)["code"] == "PAYLOAD_TOO_LARGE"


def test_a_caller_still_sending_gets_its_refusal(server: Server) -> None:
    """A caller that pushes a large body gets the answer and no reset."""
    answer = httpx.post(f"{server.url}/invoke/hello", content=b'"' + b"x" * 1_500_000 + b'"')
    assert answer.status_code == 413


def test_a_stream_that_never_ends_is_cut(server: Server) -> None:
    """A caller that goes on sending after its refusal is disconnected."""
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with server.connect() as connection:
        connection.sendall(
            b"POST /invoke/hello HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        sent = 0
        with contextlib.suppress(OSError):
            for sent in range(2000):  # noqa: B007
                connection.sendall(chunk)
        assert sent < 1000


def test_a_caller_that_leaves_harms_nobody(server: Server) -> None:
    """Connections dropped in the middle of a request or of a call leave the server well."""
    for data in (
        HELLO[:30],
        HELLO[:-3],
        request_bytes("/invoke/slow", b'{"ms": 50}'),
        request_bytes("/invoke/s%6cow", b'{"ms": 50}'),
    ):
        with server.connect() as connection:
            connection.sendall(data)
    assert httpx.post(f"{server.url}/invoke/hello", json={}).status_code == 200


def test_an_upgrade_to_something_else_is_ignored(server: Server) -> None:
    """A request that offers HTTP/2 in passing is answered in HTTP/1.1."""
    data = request_bytes(
        "/health/live", b"", method="GET",
        headers="Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    )  # fmt: skip
    with server.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(data)
        assert read_response(stream)[0] == 200


def test_tokens_hold_on_the_short_way(guarded_server: Server) -> None:
    """The short way of the hot path asks for a token as every other way."""
    url = f"{guarded_server.url}/invoke/hello"
    refused = httpx.post(url, json={})
    assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHENTICATED")
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert httpx.post(url, json={}, headers=bearer("read")).status_code == 403
    assert httpx.post(url, json={}, headers=bearer("invoke:*")).status_code == 200


@pytest.mark.parametrize("path", ["/invoke/echo?session=s", "/invoke/ech%6f?session=s"])
def test_both_ways_do_the_same(server: Server, path: str) -> None:
    """The short way and the ASGI way answer alike: results, ids, preferences and problems."""
    url = server.url + path
    good = httpx.post(url, content=b"[1]", headers={"x-request-id": "r-1"})
    assert good.json()["returnValue"] == {"event": [1], "session": "s", "requestId": "r-1"}
    assert good.headers["x-request-id"] == "r-1"
    assert httpx.post(url, content=b"").json()["returnValue"]["event"] is None
    minimal = httpx.post(url, content=b"1", headers={"prefer": "return=minimal"})
    assert (minimal.json()["event"], minimal.headers["preference-applied"]) == (1, "return=minimal")
    bad = httpx.post(url, content=b"{", headers={"x-request-id": "r-2"})
    assert (bad.status_code, bad.json()["instance"], bad.headers["x-request-id"]) == (400, "r-2", "r-2")
    assert httpx.post(url + "&session=t", content=b"1").status_code == 400
    foreign = httpx.post(url, content=b"1", headers={"origin": "http://evil.example"})
    assert (foreign.status_code, foreign.json()["code"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /invoke/hello HTTP/1.1\r\nHost:",
        b"POST /invoke/hello HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nnul",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /",
    ],
)
async def test_a_request_that_does_not_come_is_not_waited_for(sent: bytes) -> None:
    """A connection that says nothing, or half a request, is closed after a while."""

    class Hasty(HttpConnection):
        head_seconds = 0.05

    async def application(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 204})  # type: ignore[operator]
        await send({"type": "http.response.body"})  # type: ignore[operator]

    config = uvicorn.Config(application, log_config=None, proxy_headers=False)
    config.load()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Hasty(config, DrainState(), {}), "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        writer.write(sent)
        async with asyncio.timeout(20):
            await reader.read()
        writer.close()
        await writer.wait_closed()
    finally:
        listening.close()
        await listening.wait_closed()


@pytest.mark.parametrize(
    ("url", "headers", "target"),
    [
        (b"/invoke/hello", {b"content-length": b"0"}, ("hello", b"")),
        (b"/invoke/a/b?session=x?y", {b"content-length": b"65536"}, ("a/b", b"session=x?y")),
        (b"/invoke/hello", {b"content-length": b"65537"}, None),
        (b"/invoke/hello", {b"content-length": b"999999"}, None),
        (b"/invoke/hello", {}, None),
        (b"/invoke/hello", {b"content-length": b"1", b"expect": b"100-continue"}, None),
        (b"/invoke/h%65llo", {b"content-length": b"1"}, None),
        (b"/invoke/hello#x", {b"content-length": b"1"}, None),
        (b"/invoke/h\xc3\xa9", {b"content-length": b"1"}, None),
        (b"http://localhost/invoke/hello", {b"content-length": b"1"}, None),
        (b"/invoke", {b"content-length": b"1"}, None),
    ],
)
def test_only_plain_requests_take_the_short_way(
    url: bytes, headers: dict[bytes, bytes], target: tuple[str, bytes] | None
) -> None:
    """A request with anything to decode, to wait for or to stream goes the ASGI way."""
    assert lane_target(url, headers) == target
    assert MAX_BODY_BYTES == 65_536
