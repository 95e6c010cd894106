"""`HandlerCompiler`: from a handler's source to its heap image, by the shortest way there is."""

from __future__ import annotations

import asyncio
import hashlib
import time
from concurrent.futures import Executor
from functools import partial

from nexus_core.caches.base import ByteCache
from nexus_core.caches.memory import MemoryCache
from nexus_core.caches.single_flight import SingleFlight
from nexus_core.engine.call import CallPolicy
from nexus_core.engine.driver import TimeBudget, drive
from nexus_core.engine.epoch import EpochTicker
from nexus_core.engine.flush import Thrown
from nexus_core.engine.image import HeapImage
from nexus_core.engine.javascript import image_size_for
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.errors import GuestError, NexusError
from nexus_core.handler_source import HandlerSource
from nexus_core.metrics import MetricsCollector

MOST_COMPILES = 2
"""Handlers compiled at once; each takes a guest of its own, and a thread when it is slow."""

_GROWTHS_BEFORE_ROOM = 3
"""Calls that outgrow an image before the handler gets a roomier one."""


class _Plan:
    """What stays known of a handler while its image may come and go."""

    def __init__(self, key: str, source: HandlerSource) -> None:
        manifest = source.manifest
        self.key = key
        self.source = source
        self.policy = CallPolicy(source.name, manifest.capabilities, manifest.limits, manifest.env)
        self.growths = 0


class CompiledHandler:
    """A handler ready to run: its source, its heap image and the policy of its manifest."""

    __slots__ = ("_kind", "image", "plan", "policy", "source")

    def __init__(self, plan: _Plan, image: HeapImage, kind: JavaScriptKind) -> None:
        self.source = plan.source
        self.policy = plan.policy
        self.image = image
        self.plan = plan
        self._kind = kind

    def explain(self, thrown: Thrown) -> GuestError:
        """The handler's own error, with its place in the author's source."""
        return self._kind.explain(thrown, self.source.entry, self.source.files)


class HandlerCompiler:
    """Memory, then disk and seed, then compile; one compile per handler at a time."""

    def __init__(
        self,
        kind: JavaScriptKind,
        cache: ByteCache,
        memory: MemoryCache[str, HeapImage],
        ticker: EpochTicker,
        threads: Executor,
        metrics: MetricsCollector,
    ) -> None:
        self._kind = kind
        self._cache = cache
        self._memory = memory
        self._ticker = ticker
        self._threads = threads
        self._metrics = metrics
        self._flights: SingleFlight[str, tuple[HeapImage, bool]] = SingleFlight()
        self._plans: dict[str, _Plan] = {}
        self._compiling = asyncio.Semaphore(MOST_COMPILES)

    async def get(self, source: HandlerSource) -> tuple[CompiledHandler, bool, int | None]:
        """(compiled, found in a cache, microseconds it took; None when it was in memory).

        Raises `CompilationError` and what loading the handler breaches.
        """
        plan = self._plans.get(source.name)
        image = self._memory.get(plan.key) if plan and plan.source is source else None
        if plan is not None and image is not None:
            self._metrics.record_cache("memory", "hit")
            return CompiledHandler(plan, image, self._kind), True, None
        started = time.perf_counter()
        plan = self._plans[source.name] = _Plan(self._key(source), source)
        image, found = self._memory.get(plan.key), True
        self._metrics.record_cache("memory", "miss" if image is None else "hit")
        if image is None:
            image, found = await self._flights.run(plan.key, partial(self._load_or_compile, plan))
        took = int((time.perf_counter() - started) * 1e6)
        return CompiledHandler(plan, image, self._kind), found, took

    def forget(self, names: frozenset[str]) -> None:
        """Drop what is kept by handler name; images stay in the caches under their digests."""
        for name in names:
            self._plans.pop(name, None)

    async def note_growth(self, compiled: CompiledHandler) -> None:
        """Tell that a call outgrew the handler's image; after some, make a roomier one."""
        plan = compiled.plan
        plan.growths += 1
        roomier = image_size_for(compiled.image.memory_size + 1)
        if plan.growths % _GROWTHS_BEFORE_ROOM or roomier is None:
            return
        if roomier > plan.policy.limits.memory_limit_bytes:
            return
        try:
            image = await self._compile(plan, roomier)
        except NexusError:
            # It loaded before: an odd handler, which goes on with the image it has.
            return
        self._keep(plan.key, image)
        self._metrics.image_regrown()

    async def _load_or_compile(self, plan: _Plan) -> tuple[HeapImage, bool]:
        data = self._cache.load(plan.key)
        if data is not None:
            try:
                image = self._kind.decode(data)
            except ValueError:
                self._metrics.record_cache("disk", "error")
            else:
                self._memory.put(plan.key, image)
                return image, True
        self._metrics.record_cache("compile", "miss")
        image = await self._compile(plan, 0)
        self._keep(plan.key, image)
        return image, False

    async def _compile(self, plan: _Plan, least_size: int) -> HeapImage:
        source, limits = plan.source, plan.policy.limits
        # Bounded, so that handlers which load for ever take neither the memory nor the threads of calls.
        async with self._compiling:
            budget = TimeBudget(limits.timeout_ms, limits.cpu_ms)
            steps = self._kind.compile(source.entry, source.files, plan.policy, least_size)
            return await drive(steps, budget, self._ticker, self._threads)

    def _keep(self, key: str, image: HeapImage) -> None:
        self._memory.put(key, image)
        self._cache.store(key, image.encode())

    def _key(self, source: HandlerSource) -> str:
        return hashlib.sha256(f"{source.digest} {self._kind.build}".encode()).hexdigest()
