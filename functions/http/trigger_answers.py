"""HTTP triggers: what a handler returned, as the response to the request that triggered it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from functions.http.answers import JSON_TYPE, NO_SNIFFING, Answer, Header, json_answer, retry_headers
from functions.http.problems import CallProblem, problem_answer
from nexus_core.errors import GuestError
from nexus_core.limits import KIB
from nexus_core.result import WasmResult

MAX_HEADERS: Final = 64
MAX_HEADER_BYTES: Final = 16 * KIB

_TEXT_TYPE: Final = (b"content-type", b"text/plain; charset=utf-8")
_BINARY_TYPE: Final = (b"content-type", b"application/octet-stream")
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_WHOLE: Final = re.compile(rb"-?[0-9]{1,9}")
_BODILESS: Final = frozenset({204, 205, 304})
_MEMBERS: Final = frozenset({"status", "headers", "body", "isBase64Encoded"})
# What frames the message on this connection, or speaks for the server itself.
_RESERVED: Final = frozenset(
    {
        "connection", "content-length", "date", "http2-settings", "keep-alive", "proxy-authenticate",
        "proxy-authorization", "proxy-connection", "server", "te", "trailer", "transfer-encoding", "upgrade",
        "via", "x-request-id",
    }
)  # fmt: skip


def trigger_answer(result: WasmResult, request_id: str) -> Answer:
    """The response to a triggered call. A response the handler may not give is its error, a 500."""
    if result.error is not None:
        error = result.error
        problem = CallProblem(error.code, error.message)
        return problem_answer(problem, request_id, retry_headers(error.code))
    if result.status == "suspended":
        return json_answer(result.suspension, 202)
    try:
        members = _response_members(result.return_value)
        return _checked(members) if members is not None else _plain_json(result.return_value)
    except GuestError as error:
        return problem_answer(error, request_id)
    except (msgspec.DecodeError, RecursionError):
        # Half a surrogate pair, or nesting without end: JSON to JavaScript, text to nobody.
        unreadable = GuestError("the handler's response has headers or a body that cannot be read as text")
        return problem_answer(unreadable, request_id)


def _plain_json(value: msgspec.Raw) -> Answer:
    return Answer(200, [JSON_TYPE, NO_SNIFFING], bytes(value))


def _response_members(value: msgspec.Raw) -> Mapping[str, msgspec.Raw] | None:
    """The members of `{status, headers?, body?}`; None when the value is anything else.

    `status` must be a whole number and no other member may stand beside: an ordinary object that
    happens to have a `status` stays JSON.
    """
    text = bytes(value)
    # Only a short look at what cannot be a response: the value may have megabytes.
    if not text.startswith(b"{") or b'"status"' not in text:
        return None
    members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    is_response = _MEMBERS.issuperset(members) and _WHOLE.fullmatch(bytes(members.get("status", b"")))
    return members if is_response else None


def _checked(members: Mapping[str, msgspec.Raw]) -> Answer:
    """The response a handler asks for. Trust changes hands here: it may hold anything."""
    status = int(bytes(members["status"]))
    if not 200 <= status <= 599:
        raise GuestError(f"the handler's response has status {status}; allowed are 200 to 599")
    headers = _headers(members.get("headers"))
    content, default_type = _content(members)
    if status in _BODILESS and content:
        raise GuestError(f"the handler's response has status {status}, which allows no body")
    if content and not any(name == b"content-type" for name, _ in headers):
        headers.append(default_type)
    return Answer(status, headers, content)


def _headers(raw: msgspec.Raw | None) -> list[Header]:
    given: Any = msgspec.json.decode(raw) if raw is not None else {}
    if given is None:
        return []
    if not isinstance(given, dict):
        raise GuestError("the handler's response needs an object as headers")
    headers = [
        _header(name, value)
        for name, values in given.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    if len(headers) > MAX_HEADERS or sum(len(name) + len(text) for name, text in headers) > MAX_HEADER_BYTES:
        raise GuestError(
            f"the handler's response has too many headers; "
            f"allowed are {MAX_HEADERS} of {MAX_HEADER_BYTES} bytes together"
        )
    return headers


def _header(name: str, value: object) -> Header:
    lower = name.lower()
    if not _NAME.fullmatch(name):
        raise GuestError(f"the handler's response has the header name {name[:64]!r}, which is not a token")
    if lower in _RESERVED:
        raise GuestError(f"the handler's response sets the header {lower!r}, which belongs to the server")
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise GuestError(f"the handler's response needs a string as header {lower!r}")
    text = str(value)
    if not _VALUE.fullmatch(text):
        raise GuestError(f"the handler's response has control or non-Latin characters in header {lower!r}")
    return lower.encode(), text.strip().encode("latin-1")


def _content(members: Mapping[str, msgspec.Raw]) -> tuple[bytes, Header]:
    """The bytes of the body and the content type that fits them."""
    raw = bytes(members.get("body", b"null"))
    if raw == b"null":
        return b"", _TEXT_TYPE
    if not raw.startswith(b'"'):
        return raw, JSON_TYPE
    text: str = msgspec.json.decode(raw)
    if bytes(members.get("isBase64Encoded", b"false")) != b"true":
        return text.encode(), _TEXT_TYPE
    try:
        return base64.b64decode(text, validate=True), _BINARY_TYPE
    except (binascii.Error, ValueError):
        raise GuestError("the handler's response says isBase64Encoded, but its body is not Base64") from None
