"""The HTTP client behind `$ext.http`. Imports httpx: load this module on first use only.

Only its URL parser and its lower half, httpcore, are used: a client that follows redirects, keeps
cookies or reads proxies from the environment would do so past our checks.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpcore
import httpx

from nexus_core.extensions.base import ExtensionError
from nexus_core.extensions.egress import (
    DEFAULT_PORTS,
    AddressCheck,
    EgressDenied,
    EgressRules,
    Resolver,
    SystemResolver,
    checked_addresses,
    normal_host,
)
from nexus_core.extensions.http_request import HttpRequest

MAX_REDIRECTS = 5
MAX_REQUESTS = 128
"""Requests at once of one process; others wait for their turn, within their own time."""
MAX_HANDLER_REQUESTS = 16
"""Requests at once, and connections, of one handler."""
MAX_LANES = 32
"""Handlers whose connections are kept: at most 512 sockets rest in a process."""
_IDLE_SECONDS = 15.0
_MAX_GZIP_MEMBERS = 64
_GZIP_BITS = zlib.MAX_WBITS | 16
_NEXT_ADDRESS_SECONDS = 3.0

_Pool = httpcore.AsyncConnectionPool

# Other headers may hold a secret of the first host, under a name that we cannot know.
_HEADERS_FOR_ANY_ORIGIN = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "content-language",
        "content-type",
        "range",
        "user-agent",
    }
)


class HttpAnswer(NamedTuple):
    """A whole response: header names are lower case, repeated ones stand apart; `body` is decoded."""

    status: int
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Target(NamedTuple):
    """Where one request goes: checked parts of a URL, from which alone the connection is made."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: httpx.URL) -> Target:
        """Take a URL apart; raises `ExtensionError` when it is not one we would connect to."""
        host = normal_host(url.raw_host.decode("ascii"))
        if url.scheme not in DEFAULT_PORTS or host is None:
            raise ExtensionError("the URL must be http://HOST/... or https://HOST/...", name="TypeError")
        if url.userinfo:
            raise ExtensionError("the URL may hold no user or password; use a header", name="TypeError")
        path = url.raw_path.decode("ascii")
        return cls(url.scheme, host, DEFAULT_PORTS[url.scheme] if url.port is None else url.port, path)

    @property
    def origin(self) -> tuple[str, str, int]:
        """What must be the same for headers to be passed on."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """Host and port as the guest may see them and as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


class HttpClient:
    """Sends requests of many handlers. Connections are kept warm, but each handler has its own.

    Raises `ExtensionError` for whatever goes wrong. `tls` is for tests and private authorities.
    """

    def __init__(
        self,
        *,
        is_allowed: AddressCheck,
        max_response_bytes: int,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._max_response_bytes = max_response_bytes
        self._names = SystemResolver()
        self._network = _CheckedNetwork(resolver or self._names, is_allowed)
        self._tls = tls or httpx.create_ssl_context()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = asyncio.Semaphore(MAX_REQUESTS)
        self._lanes: OrderedDict[str, _Lane] = OrderedDict()

    async def send(self, request: HttpRequest, rules: EgressRules, handler: str) -> HttpAnswer:
        """Send a request, follow its redirects and read the answer, all within its time."""
        try:
            async with asyncio.timeout(request.timeout_seconds):
                lane = await self._lane(handler)
                # The lane first: a handler with many requests must not hold up the others.
                async with lane.place(), self._slots:
                    return await self._follow(request, rules, lane.pool)
        except TimeoutError:
            milliseconds = round(request.timeout_seconds * 1000)
            raise ExtensionError(f"no answer within {milliseconds} ms", name="HttpTimeout") from None

    async def close(self) -> None:
        """Close every connection; no request may follow."""
        self._names.close()
        await self.disconnect()

    async def disconnect(self) -> None:
        """Close every connection; the next request opens a new one."""
        lanes, self._lanes = self._lanes, OrderedDict()
        if self._loop is asyncio.get_running_loop():
            for lane in lanes.values():
                await lane.pool.aclose()

    async def _follow(self, request: HttpRequest, rules: EgressRules, pool: _Pool) -> HttpAnswer:
        url = _parse_url(request.url)
        method, headers, body = request.method, dict(request.headers), request.body
        for _ in range(MAX_REDIRECTS + 1):
            target = Target.parse(url)
            if not rules.allows(*target.origin):
                raise EgressDenied(f"{target.authority} is not on the manifest's [http] allow list")
            answer = await self._exchange(pool, target, method, headers, body)
            location = next((value for name, value in answer.headers if name == "location"), None)
            if answer.status not in {301, 302, 303, 307, 308} or location is None:
                return answer
            url = _parse_url(location, base=url)
            after = Target.parse(url)
            if target.scheme == "https" and after.scheme == "http":
                raise EgressDenied(f"{target.authority} redirects from https to http")
            if after.origin != target.origin:
                headers = {name: text for name, text in headers.items() if name in _HEADERS_FOR_ANY_ORIGIN}
            if _becomes_get(answer.status, method):
                method, body = "GET", None
                headers.pop("content-type", None)
        raise ExtensionError(f"more than {MAX_REDIRECTS} redirects", name="HttpError")

    async def _exchange(
        self,
        pool: _Pool,
        target: Target,
        method: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> HttpAnswer:
        """One request and its answer, without redirects."""
        sent = {"host": target.authority, **headers}
        if body is None and method in {"POST", "PUT", "PATCH"}:
            body = b""
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        raw_headers = [(name.encode("ascii"), text.encode("latin-1")) for name, text in sent.items()]
        try:
            async with pool.stream(method, url, headers=raw_headers, content=body) as response:
                received = tuple(
                    (name.decode("latin-1").lower(), value.decode("latin-1"))
                    for name, value in response.headers
                )
                content = b""
                if method != "HEAD":
                    content = await self._read_body(response.aiter_stream(), dict(received))
                return HttpAnswer(response.status, str(target), received, content)
        except httpcore.ConnectError as error:
            raise _failure(f"could not connect to {target.authority}") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise _failure(f"the exchange with {target.authority} broke off") from error

    async def _read_body(self, chunks: AsyncIterable[bytes], headers: Mapping[str, str]) -> bytes:
        """Read and decode a body, never more than the limit of either form."""
        limit = self._max_response_bytes
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > limit:
            raise _too_large(limit)
        is_gzip = headers.get("content-encoding", "").strip().lower() in {"gzip", "x-gzip"}
        decoder = _Gunzip() if is_gzip else None
        received = 0
        content = bytearray()
        async for chunk in chunks:
            received += len(chunk)
            content += chunk if decoder is None else decoder.decode(chunk, limit + 1 - len(content))
            if received > limit or len(content) > limit:
                raise _too_large(limit)
        if decoder is not None and received and not decoder.is_whole:
            raise _failure("the answer's compression is damaged")
        return bytes(content)

    async def _lane(self, handler: str) -> _Lane:
        """The handler's own connections: some schemes authenticate a connection, not a request."""
        if self._loop is not asyncio.get_running_loop():
            # Connections of an earlier loop died with it.
            self._loop = asyncio.get_running_loop()
            self._slots = asyncio.Semaphore(MAX_REQUESTS)
            self._lanes = OrderedDict()
        lane = self._lanes.get(handler)
        if lane is not None:
            self._lanes.move_to_end(handler)
            return lane
        lane = self._lanes[handler] = _Lane(self._new_pool())
        if len(self._lanes) > MAX_LANES:
            await self._evict()
        return lane

    def _new_pool(self) -> _Pool:
        return httpcore.AsyncConnectionPool(
            ssl_context=self._tls,
            max_connections=MAX_HANDLER_REQUESTS,
            # A lower bound would close connections while others are busy: httpcore counts those too.
            max_keepalive_connections=MAX_HANDLER_REQUESTS,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=self._network,
        )

    async def _evict(self) -> None:
        """Close the longest unused lane that has no request under way; the newest stays."""
        for handler, lane in list(self._lanes.items())[:-1]:
            if not lane.users:
                del self._lanes[handler]
                await lane.pool.aclose()
                return


class _Lane:
    """One handler's connections, and the places for its requests."""

    def __init__(self, pool: _Pool) -> None:
        self.pool = pool
        self.users = 0
        self._slots = asyncio.Semaphore(MAX_HANDLER_REQUESTS)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place and hold it. `users` counts who waits, too."""
        self.users += 1
        try:
            async with self._slots:
                yield
        finally:
            self.users -= 1


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects by name, to one of exactly the addresses that were checked a moment before."""

    def __init__(self, resolver: Resolver, is_allowed: AddressCheck) -> None:
        self._resolver = resolver
        self._is_allowed = is_allowed
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore. The addresses are tried in turn."""
        try:
            addresses = await checked_addresses(host, port, self._resolver, self._is_allowed)
        except (OSError, UnicodeError) as error:
            raise _failure(f"host {host!r} could not be resolved") from error
        failure: Exception | None = None
        for number, address in enumerate(addresses, 1):
            # An address that swallows packets must not use up the time of the next one.
            limit = timeout if number == len(addresses) else _NEXT_ADDRESS_SECONDS
            try:
                return await self._sockets.connect_tcp(address, port, limit, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise httpcore.ConnectError from failure

    async def sleep(self, seconds: float) -> None:
        """See httpcore."""
        await asyncio.sleep(seconds)


class _Gunzip:
    """Decodes gzip, never more than asked for, however small the input."""

    def __init__(self) -> None:
        self._members = 1
        self._stream = zlib.decompressobj(_GZIP_BITS)

    @property
    def is_whole(self) -> bool:
        """Whether what was decoded so far ends where a gzip file may end."""
        return self._stream.eof

    def decode(self, data: bytes, room: int) -> bytes:
        """The next bytes, at most `room`; the rest of a longer answer is not wanted by the caller."""
        output = bytearray()
        while data and len(output) < room:
            if self._stream.eof:
                # Each member costs more than its bytes, so a body of tiny ones is refused.
                self._members += 1
                if self._members > _MAX_GZIP_MEMBERS:
                    raise _failure("the answer's compression has too many parts")
                self._stream = zlib.decompressobj(_GZIP_BITS)
            try:
                output += self._stream.decompress(data, room - len(output))
            except zlib.error as error:
                raise _failure("the answer's compression is damaged") from error
            data = self._stream.unused_data or self._stream.unconsumed_tail
        return bytes(output)


def _parse_url(text: str, base: httpx.URL | None = None) -> httpx.URL:
    try:
        return httpx.URL(text) if base is None else base.join(text)
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise ExtensionError(
            "the URL is not valid", name="TypeError" if base is None else "HttpError"
        ) from None


def _becomes_get(status: int, method: str) -> bool:
    return (status == 303 and method != "HEAD") or (status in {301, 302} and method == "POST")


def _failure(message: str) -> ExtensionError:
    return ExtensionError(message, name="HttpError")


def _too_large(limit: int) -> ExtensionError:
    return ExtensionError(f"the answer has more than {limit} bytes", name="ResponseTooLarge")
