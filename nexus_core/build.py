"""`build_runtime`: the one place where the parts of Nexus are made and put together."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nexus_core.caches.disk import DiskCache
from nexus_core.caches.memory import MemoryCache
from nexus_core.caches.seed import SeedCache
from nexus_core.caches.tiers import TieredCache
from nexus_core.compiler import MOST_COMPILES, HandlerCompiler
from nexus_core.config import RuntimeConfig
from nexus_core.engine.image import HeapImage, ImageArena
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.engine.wasm_engine import WasmEngine
from nexus_core.extensions.base import Extension
from nexus_core.extensions.registry import ExtensionRegistry
from nexus_core.feed import SessionFeed
from nexus_core.handlers import HandlerRegistry
from nexus_core.logs import CallLog, configure_logging
from nexus_core.metrics import MetricsCollector
from nexus_core.pool import InstancePool, PoolSettings
from nexus_core.runtime import Runtime, RuntimeParts
from nexus_core.stores.open import open_event_sink, open_state_store


def build_runtime(
    config: RuntimeConfig,
    *,
    metrics_dir: Path | None = None,
    extensions: Iterable[Extension] = (),
    log: CallLog | None = None,
) -> Runtime:
    """A runtime of this configuration, not started yet.

    `metrics_dir` is where several worker processes share their counts; `extensions` go before the
    built-in and installed ones; without a `log` standard error gets ours and the `logging` module's lines.
    Raises `ConfigError` for what the configuration names and is not there.
    """
    metrics = MetricsCollector(config.metrics_max_handlers, metrics_dir)
    cache = _open_cache(config, metrics)
    engine, arena = WasmEngine(cache), ImageArena()
    kind = JavaScriptKind(engine, arena)
    threads = ThreadPoolExecutor(config.max_instances + MOST_COMPILES, thread_name_prefix="nexus-guest")
    memory: MemoryCache[str, HeapImage] = MemoryCache(config.max_cache_size_bytes, lambda image: image.size)
    pool = InstancePool(kind.new_instance, _pool_settings(config), metrics)
    state_store = open_state_store(config.store_url)
    metrics.watch_pool(pool.statistics)
    metrics.watch_cache("memory", memory.statistics)
    return Runtime(
        RuntimeParts(
            config=config,
            engine=engine,
            arena=arena,
            threads=threads,
            handlers=HandlerRegistry(config.handlers_dir, config.limits),
            compiler=HandlerCompiler(kind, cache, memory, engine.ticker, threads, metrics),
            pool=pool,
            extensions=ExtensionRegistry(config, extensions),
            state_store=state_store,
            feed=SessionFeed(state_store),
            sink=open_event_sink(config.event_sink, config.event_attributes),
            metrics=metrics,
            log=log or configure_logging(config.log_level, config.log_format),
        )
    )


def _open_cache(config: RuntimeConfig, metrics: MetricsCollector) -> TieredCache:
    secret = config.cache_key.encode() if config.cache_key else None
    disk = DiskCache(
        config.cache_dir,
        secret=secret,
        max_bytes=config.max_cache_size_bytes,
        on_event=metrics.record_cache,
        on_degraded=metrics.cache_degraded,
    )
    seed = SeedCache(
        config.cache_seed_dir,
        secret=secret,
        on_event=metrics.record_cache,
        on_degraded=metrics.cache_degraded,
    )
    return TieredCache(disk, seed)


def _pool_settings(config: RuntimeConfig) -> PoolSettings:
    return PoolSettings(
        max_instances=config.max_instances,
        min_instances=config.min_instances,
        max_waiting=config.max_waiting,
        acquire_timeout_seconds=config.acquire_timeout_ms / 1000,
        idle_timeout_seconds=config.idle_timeout_ms / 1000,
        max_total_memory_bytes=config.max_total_memory_bytes,
        # With no budget of memory, sleeping calls may hold as much as running ones can.
        max_saved_bytes=0
        if config.max_total_memory_bytes
        else config.max_instances * config.limits.memory_limit_bytes,
    )
