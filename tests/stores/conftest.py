"""Every kind of state store, and flushes to put into them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nexus_core.stores.base import StateStore
from nexus_core.stores.open import open_state_store


@pytest.fixture(params=["memory", "sqlite"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store nobody has used yet; the contract suite runs on each."""
    return {"memory": "memory:", "sqlite": f"sqlite:///{tmp_path}/nexus.db"}[request.param]


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[StateStore]:
    """An open store, closed after the test."""
    opened = open_state_store(store_url)
    yield opened
    await opened.close()
