"""What a guest may ask `$ext.http` for: its arguments, checked, as an `HttpRequest`."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from nexus_core.extensions.base import ExtensionCall, ExtensionError

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MAX_URL_CHARS = 8192
MAX_HEADERS = 100
MAX_HEADER_CHARS = 32 * 1024
MAX_REQUEST_BYTES = 6 * 1024 * 1024
DEFAULT_TIMEOUT_SECONDS = 30.0

_OPTIONS = frozenset({"headers", "body", "bodyEncoding", "json", "timeoutMs"})
# These frame the message or name its receiver: they are the client's to write.
_OWN_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}", re.ASCII)
_HEADER_VALUE = re.compile(r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A checked request. Header names are lower case; `body` is None where the method has none."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None
    timeout_seconds: float


def read_request(method: str | None, call: ExtensionCall) -> HttpRequest:
    """Check what the guest handed over; raises `ExtensionError` named TypeError.

    `method` None means the guest names it among the options.
    """
    # Trust changes hands here: args are a guest's, and any JSON.
    url, options = _read_arguments(method, call)
    if method is None:
        method = options.get("method", "GET")
        if method not in METHODS:
            raise _wrong(f"method must be one of {', '.join(METHODS)}")
    body, content_type = _read_body(options)
    if body is not None and method in {"GET", "HEAD"}:
        raise _wrong(f"a {method} request has no body")
    headers = {"accept": "*/*", "accept-encoding": "gzip", "user-agent": "nexus"}
    if content_type is not None:
        headers["content-type"] = content_type
    if call.traceparent is not None and _TRACEPARENT.fullmatch(call.traceparent):
        headers["traceparent"] = call.traceparent
    return HttpRequest(
        method=method,
        url=url,
        headers=headers | _read_headers(options.get("headers")),
        body=body,
        timeout_seconds=_read_timeout(options.get("timeoutMs"), call.remaining_seconds),
    )


def _wrong(message: str) -> ExtensionError:
    return ExtensionError(f"$ext.http: {message}", name="TypeError")


def _read_arguments(method: str | None, call: ExtensionCall) -> tuple[str, dict[str, Any]]:
    if not 1 <= len(call.args) <= 2:
        raise _wrong(f"{call.method}(url, options?) takes one or two arguments")
    url = call.args[0]
    options = call.args[1] if len(call.args) == 2 and call.args[1] is not None else {}
    if not isinstance(url, str) or len(url) > MAX_URL_CHARS:
        raise _wrong(f"url must be a string of at most {MAX_URL_CHARS} characters")
    if not isinstance(options, dict):
        raise _wrong("options must be an object")
    allowed = _OPTIONS if method is not None else _OPTIONS | {"method"}
    for name in options:
        if name not in allowed:
            raise _wrong(f"unknown option {name[:100]!r}; allowed are {', '.join(sorted(allowed))}")
    return url, options


def _read_headers(given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > MAX_HEADERS:
        raise _wrong(f"headers must be an object of at most {MAX_HEADERS} members")
    headers: dict[str, str] = {}
    for name, value in given.items():
        lower = name.lower()
        if not _HEADER_NAME.fullmatch(name) or lower in headers:
            raise _wrong(f"header name {name[:100]!r} is not valid or given twice")
        if lower in _OWN_HEADERS or lower.startswith("proxy-"):
            raise _wrong(f"header {name!r} may not be set")
        if isinstance(value, bool) or not (
            isinstance(value, str) or (isinstance(value, int) and abs(value) <= 2**53)
        ):
            raise _wrong(f"header {name!r} must be a string or a whole number")
        text = str(value).strip(" \t")
        if not _HEADER_VALUE.fullmatch(text):
            raise _wrong(f"header {name!r} has a character that a header may not hold")
        headers[lower] = text
    if sum(len(name) + len(value) for name, value in headers.items()) > MAX_HEADER_CHARS:
        raise _wrong(f"headers must be at most {MAX_HEADER_CHARS} characters together")
    return headers


def _read_body(options: Mapping[str, Any]) -> tuple[bytes | None, str | None]:
    body: Any = options.get("body")
    if body is not None and "json" in options:
        raise _wrong("give either body or json")
    encoding = options.get("bodyEncoding", "text")
    try:
        if "json" in options:
            content, content_type = msgspec.json.encode(options["json"]), "application/json"
        elif body is None:
            return None, None
        elif not isinstance(body, str) or encoding not in ("text", "base64"):
            raise _wrong('body must be a string, bodyEncoding "text" or "base64"')
        elif encoding == "base64":
            content, content_type = base64.b64decode(body, validate=True), "application/octet-stream"
        else:
            content, content_type = body.encode(), "text/plain;charset=UTF-8"
    except (UnicodeEncodeError, RecursionError, binascii.Error, ValueError):
        raise _wrong("the body cannot be encoded: a lone surrogate, wrong base64 or too deep") from None
    if len(content) > MAX_REQUEST_BYTES:
        raise _wrong(f"the body has {len(content)} bytes; at most {MAX_REQUEST_BYTES} are allowed")
    return content, content_type


def _read_timeout(given: Any, remaining: float | None) -> float:
    if given is None:
        return DEFAULT_TIMEOUT_SECONDS if remaining is None else remaining
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given <= 86_400_000:
        raise _wrong("timeoutMs must be a number of milliseconds above 0, at most a day")
    own = given / 1000
    return own if remaining is None else min(own, remaining)
