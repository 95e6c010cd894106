"""Handlers, calls and extensions for tests that run the whole core."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from msgspec import Raw

from nexus_core.capabilities import CapabilitySet
from nexus_core.context import ExecutionContext
from nexus_core.extensions.base import ExtensionCall, ExtensionError
from nexus_core.handler_source import HandlerSource
from nexus_core.limits import ResourceLimits
from nexus_core.manifest import Manifest
from nexus_core.result import ErrorInfo, WasmResult
from nexus_core.runtime import Runtime

PATIENCE_SECONDS = 20.0
"""How long a test waits for what must come; far longer than a busy machine needs."""

RuntimeFactory = Callable[..., Awaitable[Runtime]]


def handler(
    code: str,
    *capabilities: str,
    name: str = "handler",
    files: Mapping[str, str] = MappingProxyType({}),
    env: Mapping[str, str] = MappingProxyType({}),
    extensions: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **limits: int,
) -> HandlerSource:
    """A handler of one file, `code`, or of more; keywords are its limits."""
    manifest = Manifest(
        capabilities=CapabilitySet.parse(capabilities),
        limits=ResourceLimits(**limits),
        env=env,
        extensions=extensions,
    )
    return HandlerSource(name, "index.js", MappingProxyType({"index.js": code, **files}), manifest)


def body(statements: str) -> str:
    """A module whose handler has this body."""
    return f"export default async function (event, ctx) {{ {statements} }}"


def call(event: object = None, *, request_id: str = "request-1", **fields: Any) -> ExecutionContext:
    """One call's input; `event` is any JSON value."""
    return ExecutionContext(request_id=request_id, event=json.dumps(event).encode(), **fields)


def value(result: WasmResult) -> Any:
    """What a call returned; fails when it did not succeed."""
    assert result.status == "success", result.error
    return json.loads(bytes(result.return_value))


def error(result: WasmResult) -> ErrorInfo:
    """Why a call failed; fails when it succeeded."""
    assert result.status == "error", bytes(result.return_value)
    assert result.error is not None
    assert bytes(result.return_value) == b"null"
    return result.error


def decoded(raw: Raw) -> Any:
    """A JSON text's value."""
    return json.loads(bytes(raw))


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop run until the condition holds; fails when it never does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - any condition of any part, which has no event for it
            await asyncio.sleep(0.001)


class Doors:
    """An extension: `$ext.doors.pass(name)` waits until the test opens the door of that name."""

    name = "doors"

    def __init__(self) -> None:
        self.methods = {
            "pass": self._pass,
            "echo": self._echo,
            "fail": self._fail,
            "garble": self._garble,
            "crash": self._crash,
        }
        self.calls: list[ExtensionCall] = []
        self.cancelled: list[str] = []
        self.closed = False
        self._doors: dict[str, asyncio.Future[Any]] = {}

    def waiting(self) -> list[str]:
        """The names of the doors somebody stands at, in the order they came."""
        return [
            call.args[0]
            for call in self.calls
            if call.method == "pass" and not self._door(call.args[0]).done()
        ]

    async def reached(self, *names: str) -> None:
        """Wait until somebody stands at each of these doors."""
        await until(lambda: set(names) <= set(self.waiting()))

    def open(self, name: str, answer: Any = None) -> None:
        """Let all who stand at this door, or will come to it, through with an answer."""
        self._door(name).set_result(answer)

    def _door(self, name: str) -> asyncio.Future[Any]:
        if name not in self._doors:
            self._doors[name] = asyncio.get_running_loop().create_future()
        return self._doors[name]

    async def _pass(self, call: ExtensionCall) -> Any:
        self.calls.append(call)
        try:
            return await asyncio.shield(self._door(call.args[0]))
        except asyncio.CancelledError:
            self.cancelled.append(call.args[0])
            raise

    async def _echo(self, call: ExtensionCall) -> Any:
        self.calls.append(call)
        return list(call.args)

    async def _fail(self, call: ExtensionCall) -> Any:
        raise ExtensionError(call.args[1], name=call.args[0])

    async def _garble(self, call: ExtensionCall) -> Any:
        raise ExtensionError("half \udc00 a pair", name="Bad\ud800")

    async def _crash(self, call: ExtensionCall) -> Any:
        raise RuntimeError("a secret of the host")

    async def close(self) -> None:
        """See `Extension`."""
        self.closed = True
