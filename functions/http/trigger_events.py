"""HTTP triggers: finding the handler a request is for, and the event it is given."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote

import msgspec
from starlette.types import Scope

from functions.http.bodies import checked_json
from functions.http.envelope import query_fields
from functions.http.problems import method_not_allowed
from nexus_core.errors import HandlerNotFound, InvalidRequest
from nexus_core.handlers import HandlerRegistry, Trigger
from nexus_core.triggers import HttpRoute, parse_http_route

# A token that Nexus itself has taken is no business of a handler, whose author is not trusted with it.
_OWN_HEADERS: Final = frozenset({b"authorization", b"nexus-capabilities", b"nexus-session"})
_TEXT_TYPES: Final = frozenset(
    {"", "application/x-www-form-urlencoded", "application/xml", "application/javascript"}
)


class HttpEvent(msgspec.Struct, frozen=True, rename="camel"):
    """The event of an HTTP trigger.

    `query` holds the first value of each name (`raw_query` has them all), `headers` lower-case names
    with repeated ones joined, `body` JSON for a JSON content type, else a string, Base64 when
    `is_base64_encoded`.
    """

    method: str
    path: str
    params: Mapping[str, str]
    query: Mapping[str, str]
    raw_query: str
    headers: Mapping[str, str]
    body: msgspec.Raw
    is_base64_encoded: bool = False


class TriggerMatch(msgspec.Struct, frozen=True):
    """Which handler a request is for, and the values of its route's parameters."""

    handler: str
    params: Mapping[str, str]


class TriggerRoutes:
    """The HTTP triggers of a registry, as they are now: after a reload the next request sees the new ones."""

    def __init__(self, registry: HandlerRegistry) -> None:
        self._registry = registry
        self._seen: Sequence[tuple[Trigger, str]] | None = None
        self._routes: list[tuple[HttpRoute, str]] = []

    def routes(self) -> Sequence[tuple[HttpRoute, str]]:
        """Every route and its handler, in the order to try them."""
        triggers = self._registry.triggers("http")
        # The registry swaps its whole table, so another object is the sign of a reload.
        if triggers is not self._seen:
            self._routes = [(parse_http_route(trigger.pattern), name) for trigger, name in triggers]
            self._seen = triggers
        return self._routes

    def match(self, scope: Scope) -> TriggerMatch:
        """The handler for a request; raises `HandlerNotFound`, or `HttpProblem` for a wrong method."""
        segments = _segments(scope)
        others: set[str] = set()
        for route, handler in self.routes():
            params = _params(route, segments)
            if params is not None:
                if route.method == scope["method"]:
                    return TriggerMatch(handler, params)
                others.add(route.method)
        if others:
            raise method_not_allowed(scope["method"], "this path", list(others))
        raise HandlerNotFound("no handler is triggered by this path")


def _segments(scope: Scope) -> tuple[str, ...]:
    """The path's segments, decoded one by one, so that an encoded slash stays inside its segment."""
    raw = scope.get("raw_path")
    path: str = raw.decode("latin-1").partition("?")[0] if raw else scope["path"]
    if path == "/":
        return ()
    pieces = path.removeprefix("/").split("/")
    try:
        return tuple(unquote(piece, errors="strict") if raw else piece for piece in pieces)
    except UnicodeDecodeError:
        raise InvalidRequest("the path is not UTF-8 once it is decoded") from None


def _params(route: HttpRoute, segments: tuple[str, ...]) -> dict[str, str] | None:
    """The values of the route's parameters when it fits, else None. An empty segment fits no parameter."""
    if len(route.segments) != len(segments):
        return None
    params: dict[str, str] = {}
    for wanted, given in zip(route.segments, segments, strict=True):
        if wanted.startswith("{"):
            if not given:
                return None
            params[wanted[1:-1]] = given
        elif wanted != given:
            return None
    return params


def http_event(scope: Scope, match: TriggerMatch, body: bytes, *, token_taken: bool) -> bytes:
    """The event as JSON text; raises `InvalidRequest`. `token_taken`: `Authorization` was for Nexus."""
    query: bytes = scope["query_string"]
    content, encoded = b"null", False
    if body:
        kind = media_type(dict(scope["headers"]).get(b"content-type", b""))
        content, encoded = json_content(kind, body)
    event = HttpEvent(
        method=scope["method"],
        path=scope["path"],
        params=match.params,
        query={name: values[0] for name, values in query_fields(query).items()},
        raw_query=query.decode("latin-1"),
        headers=_headers(scope, token_taken=token_taken),
        body=msgspec.Raw(content),
        is_base64_encoded=encoded,
    )
    try:
        return msgspec.json.encode(event)
    except UnicodeEncodeError:
        raise InvalidRequest("the path or the query is not UTF-8 once it is decoded") from None


def _headers(scope: Scope, *, token_taken: bool) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in scope["headers"]:
        if token_taken and name in _OWN_HEADERS:
            continue
        key, text = name.decode("latin-1"), value.decode("latin-1")
        separator = "; " if key == "cookie" else ", "
        joined[key] = f"{joined[key]}{separator}{text}" if key in joined else text
    return joined


def json_content(kind: str, body: bytes) -> tuple[bytes, bool]:
    """A body as JSON text, and whether that is a Base64 string; raises `InvalidRequest`. `kind`: its type."""
    if is_json(kind):
        return checked_json(body), False
    if kind in _TEXT_TYPES or kind.startswith("text/") or kind.endswith("+xml"):
        try:
            return msgspec.json.encode(body.decode()), False
        except UnicodeDecodeError:
            pass
    return msgspec.json.encode(base64.b64encode(body).decode()), True


def media_type(content_type: bytes) -> str:
    """The type of a `Content-Type` header, lower case, without its parameters."""
    return content_type.decode("latin-1").partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Whether a media type is JSON or a format built on it."""
    return kind == "application/json" or kind.endswith("+json")
