"""HttpClient: how much and how long it reads."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from nexus_core.extensions.egress import EgressRules
from nexus_core.extensions.http_client import MAX_HANDLER_REQUESTS, HttpClient
from tests.extensions.loopback import Received, Serve, plain
from tests.extensions.names import Names
from tests.extensions.sender import LIMIT, Sender, failure_of, request_of

# How much


@pytest.mark.parametrize(("size", "fits"), [(LIMIT - 1, True), (LIMIT, True), (LIMIT + 1, False)])
@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("packed", [True, False])
async def test_an_answer_may_have_the_limit_and_no_byte_more(
    sender: Sender, serve: Serve, size: int, fits: bool, announced: bool, packed: bool
) -> None:
    """The limit counts decoded bytes, whether a length was announced or not."""
    content = b"x" * size
    headers = [("Content-Encoding", "gzip")] if packed else []

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        body = gzip.compress(content) if packed else content
        await plain(body, headers=headers, length=announced)(request, writer)
        if not announced:
            writer.close()

    server = await serve(answer)
    url = f"http://api.test:{server.port}/"
    if fits:
        assert (await sender.get(url)).body == content
    else:
        assert (await failure_of(sender.get(url))).name == "ResponseTooLarge"


async def test_an_endless_answer_is_cut_off(sender: Sender, serve: Serve) -> None:
    """A server that never stops sending is left at the limit, and the connection with it."""
    ended = asyncio.Event()

    async def answer(_request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
                await writer.drain()
        finally:
            ended.set()

    server = await serve(answer)
    assert (await failure_of(sender.get(f"http://api.test:{server.port}/"))).name == "ResponseTooLarge"
    await asyncio.wait_for(ended.wait(), 10)


async def test_a_gzip_bomb_is_cut_off(sender: Sender, serve: Serve) -> None:
    """A small answer that unpacks to a huge one is stopped at the limit."""
    bomb = gzip.compress(b"\0" * 5_000_000)
    assert len(bomb) < LIMIT
    server = await serve(plain(bomb, headers=[("Content-Encoding", "gzip")]))
    assert (await failure_of(sender.get(f"http://api.test:{server.port}/"))).name == "ResponseTooLarge"


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"") * 400, b"not gzip at all", gzip.compress(b"hello", mtime=0)[:-4], b"\x1f\x8b"],
)
async def test_damaged_compression_is_an_error(sender: Sender, serve: Serve, content: bytes) -> None:
    """Junk, a cut end and a flood of empty parts are refused."""
    server = await serve(plain(content, headers=[("Content-Encoding", "gzip")]))
    error = await failure_of(sender.get(f"http://api.test:{server.port}/"))
    assert error.name == "HttpError"
    assert "compression" in error.message


async def test_endless_headers_are_cut_off(sender: Sender, serve: Serve) -> None:
    """A server that never ends its headers is left."""

    async def answer(_request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-Filler: " + b"x" * 1000 + b"\r\n")
            await writer.drain()

    server = await serve(answer)
    assert (await failure_of(sender.get(f"http://api.test:{server.port}/"))).name == "HttpError"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_a_broken_answer_is_an_error(sender: Sender, serve: Serve, raw: bytes) -> None:
    """Silence, another protocol and lies about the length are told in one way."""

    async def answer(_request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        writer.close()

    server = await serve(answer)
    error = await failure_of(sender.get(f"http://api.test:{server.port}/"))
    assert (error.name, error.message) == ("HttpError", f"the exchange with api.test:{server.port} broke off")


# How long


async def test_a_slow_drip_ends_with_the_time(sender: Sender, serve: Serve) -> None:
    """A byte now and then does not renew the time."""

    async def answer(_request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    server = await serve(answer)
    error = await failure_of(sender.get(f"http://api.test:{server.port}/", timeout_seconds=0.2))
    assert (error.name, error.message) == ("HttpTimeout", "no answer within 200 ms")


async def test_silence_ends_with_the_time(sender: Sender, serve: Serve) -> None:
    """A server that accepts and says nothing is left."""

    async def answer(_request: Received, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    server = await serve(answer)
    error = await failure_of(sender.get(f"http://api.test:{server.port}/", timeout_seconds=0.1))
    assert error.name == "HttpTimeout"


async def test_a_slow_name_service_ends_with_the_time(sender: Sender) -> None:
    """Looking up counts too."""

    class Slow(Names):
        async def resolve(self, host: str, port: int) -> Any:
            await asyncio.Event().wait()

    client = HttpClient(is_allowed=lambda _: True, max_response_bytes=1, resolver=Slow())
    rules = EgressRules.parse(["api.test"])
    error = await failure_of(client.send(request_of("http://api.test/", timeout_seconds=0.1), rules, "hello"))
    assert error.name == "HttpTimeout"
    await client.close()


async def test_cancelling_leaves_the_client_whole(sender: Sender, serve: Serve) -> None:
    """Calls that the runtime gives up free their places and their connections."""
    waiting = asyncio.Semaphore(0)

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.path == "/wait":
            waiting.release()
            await asyncio.Event().wait()
        await plain(b"hi")(request, writer)

    server = await serve(answer)
    url = f"http://api.test:{server.port}"
    tasks = [asyncio.create_task(sender.get(f"{url}/wait")) for _ in range(MAX_HANDLER_REQUESTS)]
    for _ in tasks:
        await waiting.acquire()
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    assert (await sender.get(f"{url}/")).body == b"hi"
