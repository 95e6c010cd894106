"""Servers for the tests of extensions."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import pytest

from tests.extensions.loopback import DATA, Answer, Serve, Server
from tests.extensions.sender import Sender


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers: `await serve(answer, host="127.0.0.1", port=0, secure=False)`."""
    servers: list[Server] = []

    async def start(answer: Answer, host: str = "127.0.0.1", port: int = 0, secure: bool = False) -> Server:
        tls = None
        if secure:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(DATA / "api.test.pem", DATA / "api.test.key")
        server = Server(answer)
        servers.append(server)
        await server.start(host, port, tls)
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    """A client with names of this test."""
    made = Sender()
    yield made
    await made.client.close()
