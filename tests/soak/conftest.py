"""A runtime for many clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from nexus_core.build import build_runtime
from nexus_core.config import load_config
from nexus_core.runtime import Runtime
from tests.core.runtimes import Doors
from tests.soak.clients import INSTANCES


@pytest.fixture
def settings(tmp_path: Path, new_cache: Callable[[], Path]) -> dict[str, str]:
    """Few instances, a line that takes everybody, and calls logged only when Nexus itself fails."""
    return {
        "NEXUS_CACHE_DIR": str(new_cache()),
        "NEXUS_STORE_URL": f"sqlite:///{tmp_path}/state.db",
        "NEXUS_MAX_INSTANCES": str(INSTANCES),
        "NEXUS_ACQUIRE_TIMEOUT_MS": "120000",
        "NEXUS_LOG_LEVEL": "error",
    }


@pytest.fixture
async def crowded(settings: dict[str, str]) -> AsyncIterator[Runtime]:
    """The runtime all clients share."""
    runtime = build_runtime(load_config(settings), extensions=[Doors()])
    await runtime.start()
    yield runtime
    assert await runtime.shutdown(30)
    assert runtime.pool.total_memory == 0


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Writes a line that is seen though output is captured: the numbers of a run that is looked at."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    writer = request.config.get_terminal_writer()

    def line(text: str) -> None:
        assert capture is not None
        with capture.global_and_fixture_disabled():
            writer.line(f"\n  {text}")

    return line
