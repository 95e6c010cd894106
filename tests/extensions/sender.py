"""A client whose names live in memory, and servers that send it elsewhere."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from nexus_core.extensions.base import ExtensionError
from nexus_core.extensions.egress import EgressRules
from nexus_core.extensions.http_client import HttpAnswer, HttpClient
from nexus_core.extensions.http_request import HttpRequest
from tests.extensions.loopback import Received, plain
from tests.extensions.names import Names

# In these tests 127.0.0.1 stands for the public internet, and 127.0.0.2 for what nobody may reach.
PRIVATE = "127.0.0.2"
LIMIT = 10_000


def request_of(url: str, **changes: Any) -> HttpRequest:
    """A GET of `url`, with `changes`."""
    fields = {"method": "GET", "url": url, "headers": {}, "body": None, "timeout_seconds": 10.0} | changes
    return HttpRequest(**fields)


class Sender:
    """A client and the names it knows: `api.test`, `other.test` (public) and `inside.test` (private)."""

    def __init__(self, tls: ssl.SSLContext | None = None, **names: Any) -> None:
        known = {
            "api_test": [["127.0.0.1"]],
            "other_test": [["127.0.0.1"]],
            "inside_test": [[PRIVATE]],
            "mixed_test": [["127.0.0.1", PRIVATE]],
        }
        self.names = Names(**(known | names))
        self.client = HttpClient(
            is_allowed=lambda address: address != PRIVATE,
            max_response_bytes=LIMIT,
            resolver=self.names,
            tls=tls,
        )

    async def get(self, url: str, handler: str = "hello", **changes: Any) -> HttpAnswer:
        """Send a request for a handler that may reach every name of these tests on the ports in use."""
        ports = {url.split("/")[2].rpartition(":")[2], *changes.pop("ports", [])}
        hosts = ("*.many.test", "127.0.0.1", PRIVATE, *(name.replace("_", ".") for name in self.names.known))
        rules = EgressRules.parse([f"{host}:{port}" for host in hosts for port in ports])
        return await self.client.send(request_of(url, **changes), rules, handler)


def redirect(location: str | Callable[[], str], status: str = "302 Found") -> Any:
    """An answer that points elsewhere, for every path but /end."""

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.path == "/end":
            await plain(b"end")(request, writer)
            return
        target = location if isinstance(location, str) else location()
        await plain(status=status, headers=[("Location", target)])(request, writer)

    return answer


async def failure_of(awaitable: Any) -> ExtensionError:
    """The error of a request that must fail."""
    with pytest.raises(ExtensionError) as caught:
        await awaitable
    return caught.value
