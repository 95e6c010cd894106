"""The command under test, in a folder of its own."""

from pathlib import Path

import pytest

from tests.cli.command import Command


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk cache for all tests: the engine is compiled once."""
    return tmp_path_factory.mktemp("cache") / "cache"


@pytest.fixture
def nexus(tmp_path: Path, cache: Path) -> Command:
    """The command, run in an empty folder."""
    return Command(tmp_path, cache)
