"""Compiles handlers into a seed: the parts of a runtime that `nexus build` needs, and a cache it fills."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

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


class SeedCompiler:
    """A context manager; its engine is compiled into the seed at once, handlers as they are given."""

    def __init__(self, out: Path, config: RuntimeConfig) -> None:
        self._writer = SeedWriter(out, secret=config.cache_key.encode() if config.cache_key else None)
        cache = _WriteOnly(self._writer)
        self._engine = WasmEngine(cache)
        self._arena = ImageArena()
        self._threads = ThreadPoolExecutor(1)
        self._extensions = ExtensionRegistry(config)
        # No handler is compiled twice, so none needs to stay in memory.
        memory: MemoryCache[str, HeapImage] = MemoryCache(0, lambda image: image.size)
        self._compiler = HandlerCompiler(
            JavaScriptKind(self._engine, self._arena),
            cache,
            memory,
            self._engine.ticker,
            self._threads,
            MetricsCollector(0),
        )

    async def compile(self, source: HandlerSource) -> None:
        """Put a handler into the seed; raises what is wrong with it, or `CacheUnavailable`."""
        self._extensions.check_settings(source.manifest.extensions)
        await self._compiler.get(source)

    def finish(self) -> int:
        """Remove what earlier builds left and this one did not make; how many entries those were."""
        return self._writer.remove_unused()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown()
        self._engine.close()
        self._arena.close()


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
