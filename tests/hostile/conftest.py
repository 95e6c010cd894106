"""One runtime per module of attacks, with compiled code and images kept for the session."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from nexus_core.build import build_runtime
from nexus_core.config import load_config
from nexus_core.engine.image import ImageArena
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.engine.wasm_engine import WasmEngine
from nexus_core.runtime import Runtime
from tests.engine.machine_code import disk_cache
from tests.hostile.ring import Ring


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory, new_cache: Callable[[], Path]) -> dict[str, str]:
    """The settings of every runtime here; the caches are shared."""
    root: Path = tmp_path_factory.mktemp("hostile")
    (root / "handlers").mkdir()
    return {
        "NEXUS_CACHE_DIR": str(new_cache()),
        "NEXUS_HANDLERS_DIR": str(root / "handlers"),
        "NEXUS_STORE_URL": "memory:",
        "NEXUS_LOG_LEVEL": "error",
        "NEXUS_MAX_INSTANCES": "2",
        "NEXUS_MIN_INSTANCES": "1",
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(settings: dict[str, str]) -> AsyncIterator[Runtime]:
    """A started runtime."""
    made = build_runtime(load_config(settings))
    await made.start()
    yield made
    assert await made.shutdown(5)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ring(runtime: Runtime) -> Ring:
    """The runtime, with the witness's first answer taken before any attack."""
    ring = Ring(runtime)
    await ring.check_whole()
    return ring


@pytest.fixture(scope="session")
def kind(new_cache: Callable[[], Path]) -> Iterator[JavaScriptKind]:
    """The engine itself, without a runtime around it."""
    engine = WasmEngine(disk_cache(new_cache()))
    yield JavaScriptKind(engine, ImageArena())
    engine.close()
