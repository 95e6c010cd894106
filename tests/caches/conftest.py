"""A folder that other users can reach, and a cache whose reports are kept."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.caches.reports import Reports


@pytest.fixture
def reports() -> Reports:
    """Where the caches of a test report to."""
    return Reports()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a cache may make its folder; it is not there yet."""
    return tmp_path / "cache"


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder every user may enter and write to, as `/tmp` is; pytest's own belong to one user."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o1777)
        yield Path(path)
