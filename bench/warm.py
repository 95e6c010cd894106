"""A warm instance of the JavaScript engine, driven directly: what a call costs without pool and runtime."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from nexus_core.engine.call import CallPolicy, GuestCall
from nexus_core.engine.flush import Flush, Usage
from nexus_core.engine.image import ImageArena
from nexus_core.engine.javascript import JavaScriptEngine
from nexus_core.engine.javascript_instance import JavaScriptInstance
from nexus_core.engine.javascript_loader import JavaScriptLoader
from nexus_core.engine.wasm_engine import WasmEngine
from nexus_core.handlers import HandlerSource

Returned = TypeVar("Returned")


class NoCodeCache:
    """The engine compiles its guest anew: once, before anything is timed."""

    def load(self, _key: str) -> bytes | None:
        """Nothing is kept."""
        return None

    def store(self, key: str, code: bytes) -> None:
        """Nothing is kept."""


class OneFile:
    """The module files of a handler that imports nothing."""

    def __init__(self, source: HandlerSource) -> None:
        self._source = source

    def resolve(self, _specifier: str, _importer: str) -> str:
        """The entry, whatever is asked for."""
        return self._source.entry

    def text(self, path: str) -> str:
        """The handler's own text."""
        return self._source.files[path]


class WarmInstance:
    """One instance with one handler's image attached, as the pool would hand it out."""

    def __init__(self, source: HandlerSource, event: bytes, state: dict[str, bytes]) -> None:
        self._engine = WasmEngine(NoCodeCache())
        engine = JavaScriptEngine(self._engine, ImageArena())
        limits = source.manifest.limits
        loader = JavaScriptLoader(engine, source.entry, OneFile(source))
        self._instance = JavaScriptInstance(engine)
        self._instance.attach(_finish(loader.run(limits.memory_limit_bytes, 0)))
        self._policy = CallPolicy(source.manifest.capabilities, limits)
        self._event, self._state = event, state

    def call(self) -> Flush:
        """One call and the reset after it: the next one finds the image, byte for byte."""
        flush = _finish(
            self._instance.execute(
                GuestCall(
                    event=self._event,
                    scope=b"{}",
                    state=self._state,
                    context=b'{"requestId":"bench","handler":"counter","session":null,"env":{}}',
                    deadline_ms=None,
                    policy=self._policy,
                    usage=Usage(),
                )
            )
        )
        if not self._instance.reset():
            raise RuntimeError("the instance could not be reset")
        return flush

    def close(self) -> None:
        """Free the instance and its engine."""
        self._instance.terminate()
        self._engine.close()


def _finish(run: Generator[None, None, Returned]) -> Returned:
    """Drive a run to its end."""
    while True:
        try:
            next(run)
        except StopIteration as stop:
            value: Returned = stop.value
            return value
