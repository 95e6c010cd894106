"""The command under test, in a folder of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import Command


@pytest.fixture(scope="session")
def cache(new_cache: Callable[[], Path]) -> Path:
    """A disk cache for all tests; the engine is compiled already."""
    return new_cache()


@pytest.fixture
def nexus(tmp_path: Path, cache: Path) -> Command:
    """The command, run in an empty folder."""
    return Command(tmp_path, cache)
