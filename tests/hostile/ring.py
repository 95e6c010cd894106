"""Where hostile handlers meet the runtime: after each attack everything is checked to be whole."""

import asyncio
import itertools
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from nexus_core.capabilities import CapabilitySet
from nexus_core.context import ExecutionContext
from nexus_core.errors import ErrorCode
from nexus_core.handler_source import HandlerSource
from nexus_core.limits import ResourceLimits
from nexus_core.manifest import Manifest
from nexus_core.result import ErrorInfo, WasmResult
from nexus_core.runtime import Runtime

ALL = CapabilitySet.parse(
    ["state:read:*", "state:write:*", "events:emit:*", "view:update:*", "ext:*", "crypto:random"]
)

PATIENCE_MS = 20_000
"""The deadline of calls that end by themselves: only a hang on a busy machine meets it."""
SHORT_MS = 250
"""The deadline of calls that never end."""

_HOST_WORDS = re.compile(r'/work|/tmp|/usr|/home|\.py\b|Traceback|File "|0x[0-9a-f]{6,}|wasm|nexus_core')

_WITNESS = """
const shape = (of) => Object.getOwnPropertyNames(of).length;
const told = () => [
  shape(globalThis), shape(Object.prototype), shape(Array.prototype), shape(Function.prototype),
  shape(Promise.prototype), shape(String.prototype), shape(JSON), shape(Math), shape(console),
  globalThis.mark ?? null, JSON.stringify({ a: [1, "x"] }), [3, 1, 2].sort(), "aXa".replace(/x/gi, "-"),
];
export default async (event) => {
  $state.count = ($state.count ?? 0) + 1;
  $emit("seen", event);
  return [told(), await Promise.resolve(5), $state.count, typeof Math.random()];
};
"""


def handler(
    text: str,
    *,
    capabilities: CapabilitySet = ALL,
    name: str = "attacker",
    files: Mapping[str, str] | None = None,
    **limits: int,
) -> HandlerSource:
    """A handler of one file (and of `files` beside it), allowed everything unless told otherwise."""
    manifest = Manifest(
        capabilities=capabilities, limits=ResourceLimits(**{"timeout_ms": PATIENCE_MS, **limits})
    )
    return HandlerSource(name, "h.js", {"h.js": text, **(files or {})}, manifest)


class Ring:
    """One runtime that all attacks of a module go to, one after the other."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._numbers = itertools.count()
        self._witness = handler(_WITNESS, name="witness")
        self._first: Any = None

    async def call(self, source: HandlerSource, event: Any = None, **context: Any) -> WasmResult:
        """Run a handler as a caller would."""
        return await self.runtime.execute_source(
            source,
            ExecutionContext(
                request_id=f"r{next(self._numbers)}", event=msgspec.json.encode(event), **context
            ),
        )

    async def attack(self, source: HandlerSource | str, event: Any = None, **context: Any) -> WasmResult:
        """Run a hostile handler; the runtime must be whole after it, and the answer clean."""
        source = handler(source) if isinstance(source, str) else source
        result = await self.call(source, event, **context)
        if result.error is not None:
            check_clean(result.error)
        await self.check_whole()
        return result

    async def check_whole(self) -> None:
        """Nothing is left running or lost in the pool, and a good handler finds a pristine world."""
        counts = dict(part.split("=") for part in repr(self.runtime.pool)[1:-1].split() if "=" in part)
        assert int(counts.pop("free")) <= self.runtime.config.max_instances
        assert set(counts.values()) == {"0"}, counts
        result = await self.call(self._witness, "x", session=None)
        assert result.status == "success", result.error
        answer = msgspec.json.decode(result.return_value)
        self._first = self._first or answer
        assert answer == self._first
        assert [bytes(event.payload) for event in result.events] == [b'"x"']

    async def settled(self) -> None:
        """Let other tasks run."""
        await asyncio.sleep(0)


def check_clean(error: ErrorInfo) -> None:
    """An answer says nothing of the host, and is of a size a caller can stand."""
    text = msgspec.json.encode(error).decode()
    assert not _HOST_WORDS.search(text), text[:2000]
    assert len(text) < 40_000
    assert error.code is not ErrorCode.INTERNAL_ERROR, error


def failure(result: WasmResult, code: ErrorCode) -> ErrorInfo:
    """The error of a failed call, which must have this code."""
    assert result.error is not None, bytes(result.return_value)[:200]
    assert result.error.code is code, result.error
    assert result.status == "error"
    return result.error


def value(result: WasmResult) -> Any:
    """What a call returned; anything but a return fails the test."""
    assert result.status == "success", result.error
    return msgspec.json.decode(result.return_value)
