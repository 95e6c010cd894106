"""`/openapi.json`: the routes of this server, those that handlers declare included."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import Any, Final

from functions.http.answers import CallAnswer
from functions.http.problems import Problem
from functions.http.schemas import output_schemas
from functions.http.shapes import HandlerList, HandlerShape, Health, Liveness, SessionShape
from nexus_core.triggers import HttpRoute

_SHAPES: Final = (CallAnswer, HandlerList, HandlerShape, Health, Liveness, Problem, SessionShape)
_REF: Final = "#/components/schemas/"
_UNBODIED: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})

_ID: Final = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"}
_SESSION: Final = {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,128}$"}


def openapi_document(triggers: Sequence[tuple[HttpRoute, str]], *, secured: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document; `triggers` are the routes of handlers, `secured` says tokens are in force."""
    paths: dict[str, dict[str, Any]] = {}
    for path, operations in _fixed_paths(secured).items():
        paths[path] = dict(operations)
    for route, handler in triggers:
        paths.setdefault(route.path, {})[route.method.lower()] = _trigger(route, handler, secured)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nexus",
            "version": _version(),
            "description": "Runs small untrusted functions in warm, pristine WebAssembly sandboxes.",
        },
        "paths": paths,
        "components": {
            "schemas": output_schemas(_SHAPES, _REF),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


@cache
def _version() -> str:
    try:
        return metadata.version("nexus")
    except metadata.PackageNotFoundError:
        return "unknown"


def _fixed_paths(secured: bool) -> dict[str, dict[str, Any]]:
    read = _security("read", secured)
    handler = _parameter("path", "name", {"type": "string"})
    session = _parameter("path", "session", _SESSION)
    absent = {"404": _problem("there is none of this name")}
    return {
        "/invoke/{handler}": {"post": _invoke(secured)},
        "/handlers": {"get": _get("All handlers", "HandlerList", read)},
        "/handlers/{name}": {"get": _get("One handler", "HandlerShape", read, [handler], absent)},
        "/sessions/{session}/state": {"get": _get("A session's state", "SessionShape", read, [session])},
        "/health": {"get": _get("Versions and how full this worker is", "Health", read)},
        "/health/live": {"get": _get("Whether this process answers", "Liveness")},
        "/health/ready": {
            "get": _get("Whether calls are taken", "Liveness", extra={"503": _json("not now", "Liveness")})
        },
        "/metrics": {"get": _other("Metrics, for Prometheus", "text/plain", read)},
        "/openapi.json": {"get": _other("This document", "application/json")},
        "/docs": {"get": _other("This document, for people", "text/html")},
    }


def _invoke(secured: bool) -> dict[str, Any]:
    statuses = {
        "400": "the request is malformed", "413": "the event is too large", "422": "the handler is broken",
        "500": "the handler failed", "503": "all instances are busy", "504": "the handler took too long",
        "404": "there is no such handler", "409": "another call changed the session first",
    }  # fmt: skip
    return {
        "summary": "Invoke a handler with the body as its event",
        "operationId": "invoke",
        "parameters": [
            _parameter("path", "handler", {"type": "string"}),
            _parameter("query", "session", _SESSION),
            _parameter("header", "Nexus-Session", _SESSION),
            _parameter("header", "Nexus-Capabilities", {"type": "string"}),
            _parameter("header", "Prefer", {"type": "string"}),
            _parameter("header", "X-Request-Id", _ID),
        ],
        "requestBody": {"required": False, "content": {"application/json": {"schema": {}}}},
        "responses": {
            "200": _json(
                "the handler's result; with Prefer: return=minimal only its return value", "CallAnswer"
            ),
            "202": _json("the call sleeps", "CallAnswer"),
            **{status: _either(text) for status, text in sorted(statuses.items())},
            **_refusals(secured),
        },
        **_security("invoke:<handler>", secured),
    }


def _trigger(route: HttpRoute, handler: str, secured: bool) -> dict[str, Any]:
    names = [segment[1:-1] for segment in route.segments if segment.startswith("{")]
    operation = {
        "summary": f"Triggers the handler {handler}",
        "operationId": f"{route.method.lower()}:{route.path}",
        "parameters": [_parameter("path", name, {"type": "string"}) for name in names],
        "responses": {"default": {"description": "what the handler answers"}, **_refusals(secured)},
        **_security(f"invoke:{handler}", secured),
    }
    if route.method not in _UNBODIED:
        operation["requestBody"] = {"required": False, "content": {"*/*": {"schema": {}}}}
    return operation


def _get(
    summary: str,
    shape: str,
    security: dict[str, Any] | None = None,
    parameters: Sequence[dict[str, Any]] = (),
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    refusals = _refusals(bool(security))
    return {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {"200": _json(summary, shape), **(extra or {}), **refusals},
        **(security or {}),
    }


def _other(summary: str, media_type: str, security: dict[str, Any] | None = None) -> dict[str, Any]:
    content: dict[str, Any] = {media_type: {"schema": {}}}
    return {
        "summary": summary,
        "responses": {"200": {"description": summary, "content": content}, **_refusals(bool(security))},
        **(security or {}),
    }


def _security(scope: str, secured: bool) -> dict[str, Any]:
    return {"security": [{"token": []}], "description": f"Needs the scope `{scope}`."} if secured else {}


def _refusals(secured: bool) -> dict[str, Any]:
    if not secured:
        return {}
    return {"401": _problem("the token is missing or wrong"), "403": _problem("the token lacks the scope")}


def _parameter(place: str, name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"in": place, "name": name, "required": place == "path", "schema": schema}


def _ref(shape: str) -> dict[str, str]:
    return {"$ref": _REF + shape}


def _json(description: str, shape: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ref(shape)}}}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/problem+json": {"schema": _ref("Problem")}}}


def _either(description: str) -> dict[str, Any]:
    """An error of the call, or a refusal before it became one."""
    return {
        "description": description,
        "content": {
            "application/json": {"schema": _ref("CallAnswer")},
            "application/problem+json": {"schema": _ref("Problem")},
        },
    }
