"""The routes that only look: handlers, session state, suspensions, health, metrics, documents."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from http import HTTPStatus
from importlib import metadata
from typing import TYPE_CHECKING, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from functions.http.answers import NO_SNIFFING, Answer, json_answer
from functions.http.auth import Gate, Grant
from functions.http.docs_page import DOCS_HEADERS, DOCS_PAGE
from functions.http.openapi import openapi_document
from functions.http.problems import HttpProblem
from functions.http.shapes import HandlerList, HandlerShape, Health, Liveness, SessionShape
from functions.http.trigger_events import TriggerRoutes
from nexus_core.errors import InvalidHandler, SuspensionNotFound
from nexus_core.handlers import HandlerSource
from nexus_core.result import ErrorInfo

if TYPE_CHECKING:
    from nexus_core.runtime import Runtime

NOT_KEPT: Final = (b"cache-control", b"no-store")
"""What these routes show changes, and may be meant for one caller only."""

View = Callable[[Request], Awaitable[Answer]]


class Views:
    """Read-only routes over a runtime. Every method answers one request or raises a `NexusError`."""

    def __init__(self, runtime: Runtime, gate: Gate, routes: TriggerRoutes) -> None:
        self._runtime = runtime
        self._gate = gate
        self._triggers = routes

    def routes(self) -> list[BaseRoute]:
        """The routes, for Starlette."""
        table: Mapping[str, tuple[View, list[str]]] = {
            "/handlers": (self.list_handlers, ["GET"]),
            "/handlers/{name}": (self.handler, ["GET", "PUT", "DELETE"]),
            "/sessions/{session}/state": (self.session_state, ["GET"]),
            "/suspensions/{id}": (self.suspension, ["GET", "POST", "DELETE"]),
            "/health/live": (self.live, ["GET"]),
            "/health/ready": (self.ready, ["GET"]),
            "/health": (self.health, ["GET"]),
            "/metrics": (self.metrics, ["GET"]),
            "/openapi.json": (self.openapi, ["GET"]),
            "/docs": (self.docs, ["GET"]),
        }
        return [Route(path, _endpoint(view), methods=methods) for path, (view, methods) in table.items()]

    def _grant(self, request: Request) -> Grant:
        return self._gate.admit(dict(request.scope["headers"]))

    async def list_handlers(self, request: Request) -> Answer:
        """`GET /handlers`: all of them, those that cannot be accepted with their error."""
        self._grant(request).require_read()
        names = self._runtime.handlers.names()
        return json_answer(HandlerList(tuple(self._view(name) for name in names)))

    async def handler(self, request: Request) -> Answer:
        """`GET /handlers/{name}`."""
        grant = self._grant(request)
        if request.method in {"PUT", "DELETE"}:
            grant.require_admin()
            raise HttpProblem(
                "handlers are deployed as files in the handlers directory; PUT and DELETE are not offered",
                HTTPStatus.NOT_IMPLEMENTED,
            )
        grant.require_read()
        name = request.path_params["name"]
        if name not in self._runtime.handlers.errors():
            self._runtime.handlers.get(name)
        return json_answer(self._view(name))

    def _view(self, name: str) -> HandlerShape:
        try:
            return _described(self._runtime.handlers.get(name))
        except InvalidHandler as error:
            return HandlerShape(name=name, error=ErrorInfo.of(error))

    async def session_state(self, request: Request) -> Answer:
        """`GET /sessions/{session}/state`; a session nobody wrote to is empty at version 0."""
        self._grant(request).require_read()
        session = request.path_params["session"]
        snapshot = await self._runtime.state_store.load(session)
        values = {key: msgspec.Raw(value) for key, value in snapshot.values.items()}
        return json_answer(SessionShape(session, snapshot.version, values))

    async def suspension(self, request: Request) -> Answer:
        """`/suspensions/{id}`: calls sleep in memory only, so none can be named by its id."""
        self._grant(request).require_read()
        raise SuspensionNotFound("no suspended call has this id")

    async def live(self, request: Request) -> Answer:
        """`GET /health/live`: this process answers."""
        return json_answer(Liveness("ok"))

    async def ready(self, request: Request) -> Answer:
        """`GET /health/ready`: 200 when calls are taken, 503 before the start and while stopping."""
        if self._runtime.ready and not self._runtime.draining:
            return json_answer(Liveness("ok"))
        return json_answer(Liveness("unavailable"), 503)

    async def health(self, request: Request) -> Answer:
        """`GET /health`: what runs here, and how full it is. The numbers are this worker process's."""
        self._grant(request).require_read()
        runtime = self._runtime
        refused = len(runtime.handlers.errors())
        health = Health(
            status="ok" if runtime.ready and not runtime.draining else "unavailable",
            versions=_versions(),
            accepted_handlers=len(runtime.handlers.names()) - refused,
            refused_handlers=refused,
            pool=runtime.pool.statistics(),
        )
        return json_answer(health)

    async def metrics(self, request: Request) -> Answer:
        """`GET /metrics`: Prometheus text over all worker processes."""
        self._grant(request).require_read()
        text, content_type = await asyncio.to_thread(self._runtime.metrics.render)
        return Answer(200, [(b"content-type", content_type.encode()), NO_SNIFFING], text)

    async def openapi(self, request: Request) -> Answer:
        """`GET /openapi.json`. Routes of triggers are listed only to who may read."""
        routes = self._triggers.routes() if not self._gate.demands_token or self._may_read(request) else ()
        return json_answer(openapi_document(routes, secured=self._gate.demands_token))

    def _may_read(self, request: Request) -> bool:
        if b"authorization" not in dict(request.scope["headers"]):
            return False
        self._grant(request).require_read()
        return True

    async def docs(self, request: Request) -> Answer:
        """`GET /docs`: one page that reads `/openapi.json`."""
        return Answer(200, list(DOCS_HEADERS), DOCS_PAGE)


def _endpoint(view: View) -> Callable[[Request], Awaitable[Response]]:
    """A view as Starlette wants it."""

    async def endpoint(request: Request) -> Response:
        answer = await view(request)
        response = Response(answer.body, answer.status)
        length = (b"content-length", b"%d" % len(answer.body))
        response.raw_headers = [*answer.headers, NOT_KEPT, length]
        return response

    return endpoint


def _described(source: HandlerSource) -> HandlerShape:
    manifest = source.manifest
    return HandlerShape(
        name=source.name,
        digest=source.digest,
        capabilities=manifest.capabilities.tokens,
        triggers=tuple({trigger.kind: trigger.pattern} for trigger in manifest.triggers),
        limits=msgspec.structs.asdict(manifest.limits),
        # Names only: an extension's settings may hold secrets of the operator.
        extensions=tuple(sorted(manifest.extensions)),
    )


@cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("nexus", "wasmtime", "quickjs-rs"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions
