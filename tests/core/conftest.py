"""Runtimes over one cache of machine code, so that the guest is compiled once for all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path

import pytest

from nexus_core.build import build_runtime
from nexus_core.config import RuntimeConfig, load_config
from nexus_core.engine.image import HeapImage, ImageArena
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.engine.wasm_engine import WasmEngine
from nexus_core.extensions.base import Extension
from nexus_core.metrics import MetricsCollector
from nexus_core.pool import InstancePool
from nexus_core.runtime import Runtime
from tests.core.pools import ECHO, ROOMY, SLEEPER, Faults, NewPool, compile_image, pool_of
from tests.core.runtimes import Doors, RuntimeFactory
from tests.engine.machine_code import disk_cache


@pytest.fixture(scope="session")
def code_cache(new_cache: Callable[[], Path]) -> Path:
    """The folder where compiled machine code and images outlive a test."""
    return new_cache()


@pytest.fixture
def doors() -> Doors:
    """The extension `$ext.doors`, whose answers the test gives."""
    return Doors()


@pytest.fixture
async def start(code_cache: Path, doors: Doors) -> AsyncIterator[RuntimeFactory]:
    """Starts runtimes with the settings given, e.g. `await start(max_instances=1)`; `doors` is built in."""
    started: list[Runtime] = []

    async def start_runtime(*, extensions: Iterable[Extension] = (), **settings: object) -> Runtime:
        runtime = build_runtime(config_of(code_cache, **settings), extensions=(doors, *extensions))
        started.append(runtime)
        await runtime.start()
        return runtime

    yield start_runtime
    for runtime in started:
        await runtime.shutdown(0)


def config_of(code_cache: Path, **settings: object) -> RuntimeConfig:
    """A configuration as variables would give it; state stays in memory and nothing is made ahead."""
    given = {"cache_dir": code_cache, "store_url": "memory:", "min_instances": 0, **settings}
    return load_config({f"NEXUS_{name.upper()}": str(setting) for name, setting in given.items()})


@pytest.fixture
async def runtime(start: RuntimeFactory) -> Runtime:
    """A started runtime with default settings."""
    return await start()


@pytest.fixture(scope="session")
def kind(code_cache: Path) -> Iterator[JavaScriptKind]:
    """The JavaScript guest on an engine of its own, for tests of parts below the runtime."""
    engine, arena = WasmEngine(disk_cache(code_cache)), ImageArena()
    yield JavaScriptKind(engine, arena)
    engine.close()
    arena.close()


@pytest.fixture(scope="session")
def echo(kind: JavaScriptKind) -> HeapImage:
    """A handler that returns its event."""
    return compile_image(kind, ECHO)


@pytest.fixture(scope="session")
def other(kind: JavaScriptKind) -> HeapImage:
    """Another handler, with an image of the same size."""
    return compile_image(kind, "export default (event) => ['other', event]")


@pytest.fixture(scope="session")
def roomy(kind: JavaScriptKind) -> HeapImage:
    """A handler with a larger image."""
    return compile_image(kind, ECHO, ROOMY)


@pytest.fixture(scope="session")
def sleeper(kind: JavaScriptKind) -> HeapImage:
    """A handler that awaits two extension calls, one after the other."""
    return compile_image(kind, SLEEPER)


@pytest.fixture
def faults(kind: JavaScriptKind) -> Faults:
    """The factory of instances, which fails as it is told."""
    return Faults(kind)


@pytest.fixture
def metrics() -> MetricsCollector:
    """What the pool counts into."""
    return MetricsCollector()


@pytest.fixture
async def new_pool(faults: Faults, metrics: MetricsCollector) -> AsyncIterator[NewPool]:
    """Makes pools with the settings given; each must be whole in the end."""
    pools: list[InstancePool] = []

    def make(**settings: object) -> InstancePool:
        pools.append(pool_of(faults, metrics, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        assert await pool.shutdown(0), pool
        assert repr(pool) == "<InstancePool free=0 reserved=0 running=0 suspended=0 asleep=0 waiting=0>"
        assert pool.total_memory == 0
        assert pool.statistics().saved_bytes == 0
        assert pool.statistics().retired_total == pool.instances_created
