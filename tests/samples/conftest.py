"""A runtime over the samples."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from nexus_core.build import build_runtime
from nexus_core.config import RuntimeConfig
from nexus_core.runtime import Runtime
from tests.project.sources import ROOT


@pytest.fixture(scope="session")
def cache(new_cache: Callable[[], Path]) -> Path:
    """A disk cache for all tests; the engine is compiled already."""
    return new_cache()


Start = Callable[..., Awaitable[Runtime]]
"""Starts a runtime over the samples, or over those in another folder, with the settings given."""


@pytest.fixture
async def start(cache: Path) -> AsyncIterator[Start]:
    """See `Start`; every runtime is shut down after the test."""
    started: list[Runtime] = []

    async def start(folder: Path = ROOT / "handlers", **settings: Any) -> Runtime:
        config = RuntimeConfig(
            handlers_dir=folder, cache_dir=cache, store_url="memory:", log_level="error", **settings
        )
        started.append(build_runtime(config))
        await started[-1].start()
        return started[-1]

    yield start
    for runtime in started:
        await runtime.shutdown(5)


@pytest.fixture
async def runtime(start: Start) -> Runtime:
    """A started runtime that serves the samples as they are."""
    return await start()
