"""`$ext.http`: HTTP requests of handlers to the hosts their manifest allows.

    const answer = await $ext.http.get("https://api.example.com/users/1", {headers: {accept: "..."}});
    // {status, url, headers, body, bodyEncoding}

`get`, `head`, `delete`, `post`, `put`, `patch` take `(url, options?)`, `request` takes the option
`method` too. Options: `headers`; `body` (text, or base64 with `bodyEncoding: "base64"`) or `json`;
`timeoutMs`. In the answer `headers` has lower-case names (repeated ones joined by ", ", but
`set-cookie` is an array), `url` is where the last redirect led, and `body` is parsed JSON, text or
base64, as `bodyEncoding` ("json", "text", "base64") says. A status such as 404 is an answer, no error.

Errors: `TypeError` (wrong arguments), `EgressDenied`, `HttpTimeout`, `ResponseTooLarge`, `HttpError`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import msgspec

from nexus_core.config import RuntimeConfig
from nexus_core.errors import InvalidHandler
from nexus_core.extensions.base import ExtensionCall, ExtensionError, ExtensionMethod
from nexus_core.extensions.egress import EgressDenied, EgressRules, Resolver, any_address, is_public
from nexus_core.extensions.http_request import read_request

if TYPE_CHECKING:
    from nexus_core.extensions.http_client import HttpAnswer, HttpClient

_log = logging.getLogger(__name__)

_JSON_TYPE = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;|$)", re.ASCII | re.IGNORECASE)


class HttpExtension:
    """The extension `http`. `resolver` is the operating system's unless another one is given."""

    name = "http"

    def __init__(self, config: RuntimeConfig, resolver: Resolver | None = None) -> None:
        self._config = config
        self._resolver = resolver
        self._client: HttpClient | None = None
        self._rules = lru_cache(maxsize=256)(EgressRules.parse)
        methods: dict[str, ExtensionMethod] = {"request": partial(self._send, None)}
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            methods[method.lower()] = partial(self._send, method)
        self.methods: Mapping[str, ExtensionMethod] = methods

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """See `ChecksSettings`: the only key of `[http]` is `allow`."""
        for key in settings:
            if key != "allow":
                raise InvalidHandler(f"[http] has no key {key!r}; allowed is 'allow'")
        EgressRules.parse(settings.get("allow", []))

    async def disconnect(self) -> None:
        """See `HoldsConnections`."""
        if self._client is not None:
            await self._client.disconnect()

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def _start_client(self) -> HttpClient:
        # Off the event loop: other calls go on meanwhile. The first of several to be made is kept.
        made = await asyncio.to_thread(self._make_client)
        if self._client is None:
            self._client = made
        return self._client

    def _make_client(self) -> HttpClient:
        # httpx, what it needs and the certificate authorities take 150 ms: only who uses it pays.
        from nexus_core.extensions.http_client import HttpClient

        return HttpClient(
            is_allowed=any_address if self._config.egress_allow_private else is_public,
            max_response_bytes=self._config.http_max_response_bytes,
            resolver=self._resolver,
        )

    async def _send(self, method: str | None, call: ExtensionCall) -> dict[str, Any]:
        request = read_request(method, call)
        entries = call.settings.get("allow", ())
        try:
            rules = self._rules(tuple(entries) if isinstance(entries, list) else entries)
        except (InvalidHandler, TypeError) as error:
            raise ExtensionError(f"the manifest's [http] table is wrong: {error}") from error
        client = self._client or await self._start_client()
        try:
            return _shape(await client.send(request, rules, call.handler))
        except EgressDenied as refusal:
            _log.warning(
                "egress refused: handler=%s request_id=%s reason=%s",
                call.handler,
                call.request_id,
                refusal.message,
            )
            raise


def _shape(answer: HttpAnswer) -> dict[str, Any]:
    """An answer as the guest sees it."""
    headers: dict[str, Any] = {}
    for name, value in answer.headers:
        if name == "set-cookie":
            headers.setdefault(name, []).append(value)
        else:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    body, encoding = _decode_body(answer.body, str(headers.get("content-type", "")))
    return {
        "status": answer.status,
        "url": answer.url,
        "headers": headers,
        "body": body,
        "bodyEncoding": encoding,
    }


def _decode_body(body: bytes, content_type: str) -> tuple[Any, str]:
    if _JSON_TYPE.match(content_type):
        try:
            return msgspec.json.decode(body), "json"
        except (msgspec.DecodeError, RecursionError, ValueError):
            pass  # the type lied: the guest gets the text and can see it
    try:
        return body.decode(), "text"
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), "base64"
