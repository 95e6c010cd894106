"""Compiles handlers into a seed: the parts of a runtime that `nexus build` needs, and a cache it fills."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from nexus_core.caches.memory import MemoryCache
from nexus_core.caches.seed import SeedWriter
from nexus_core.compiler import HandlerCompiler
from nexus_core.config import RuntimeConfig
from nexus_core.engine.image import HeapImage, ImageArena
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.engine.wasm_engine import WasmEngine
from nexus_core.extensions.registry import ExtensionRegistry
from nexus_core.handler_source import HandlerSource
from nexus_core.metrics import MetricsCollector

MachineCode = Literal["native", "portable", "none"]
"""Machine code in a seed: for this processor, for all of this architecture, or left to the first start."""


class SeedCompiler:
    """A context manager; entering compiles the engine into the seed, `compile` each handler."""

    def __init__(self, out: Path, config: RuntimeConfig, machine_code: MachineCode = "native") -> None:
        self._machine_code = machine_code
        self._writer = SeedWriter(out, secret=config.cache_key.encode() if config.cache_key else None)
        self._extensions = ExtensionRegistry(config)
        self._parts = ExitStack()

    async def compile(self, source: HandlerSource) -> None:
        """Put a handler into the seed; raises what is wrong with it, or `CacheUnavailable`."""
        self._extensions.check_settings(source.manifest.extensions)
        await self._compiler.get(source)

    def finish(self) -> int:
        """Remove what earlier builds left and this one did not make; how many entries those were."""
        return self._writer.remove_unused()

    def __enter__(self) -> Self:
        cache = _WriteOnly(self._writer)
        code = _Discarding() if self._machine_code == "none" else cache
        # What was made is closed also when the next part fails, as when the folder cannot be written.
        with self._parts:
            arena = ImageArena()
            self._parts.callback(arena.close)
            engine = WasmEngine(code, portable=self._machine_code == "portable")
            self._parts.callback(engine.close)
            threads = self._parts.enter_context(ThreadPoolExecutor(1))
            # No handler is compiled twice, so none needs to stay in memory.
            memory: MemoryCache[str, HeapImage] = MemoryCache(0, lambda image: image.size)
            kind = JavaScriptKind(engine, arena)
            self._compiler = HandlerCompiler(kind, cache, memory, engine.ticker, threads, MetricsCollector(0))
            self._parts = self._parts.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.close()


class _WriteOnly:
    """The seed as a cache that has nothing: a build makes every part anew.

    A part that an earlier build left would not be asked for when what needs it is there already, as
    the TypeScript compiler's code behind a compiled handler, and would be taken for unused.
    """

    def __init__(self, writer: SeedWriter) -> None:
        self._writer = writer

    def load(self, key: str) -> bytes | None:  # noqa: ARG002 - the interface of a cache
        """Nothing, whatever is there."""
        return None

    def store(self, key: str, data: bytes) -> None:
        """Write an entry; raises `CacheUnavailable` when that cannot be done."""
        self._writer.store(key, data)


class _Discarding:
    """A code cache that keeps nothing: this machine's code is of no use where the seed goes."""

    def load(self, key: str) -> bytes | None:  # noqa: ARG002 - the interface of a cache
        """Nothing."""
        return None

    def store(self, key: str, code: bytes) -> None:
        """Forget it."""
