"""The disk and the seed as one cache."""

from pathlib import Path

import pytest

from nexus_core.caches.base import ByteCache
from nexus_core.caches.seed import SeedWriter
from nexus_core.caches.tiers import TieredCache
from nexus_core.engine.wasm_engine import CodeCache
from tests.caches.reports import Reports


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    """A seed with the entries `both` and `seeded`."""
    writer = SeedWriter(tmp_path / "seed", secret=None)
    writer.store("both", b"from seed")
    writer.store("seeded", b"from seed")
    return tmp_path / "seed"


def test_the_disk_comes_before_the_seed(folder: Path, seed: Path, reports: Reports) -> None:
    """The seed is asked only for what the disk lacks, and each tier counts its own looks."""
    cache: ByteCache = TieredCache(reports.disk(folder), reports.seed(seed))
    cache.store("both", b"from disk")
    cache.store("empty", b"")
    assert [cache.load(key) for key in ("both", "empty", "seeded", "none")] == [
        b"from disk", b"", b"from seed", None,
    ]  # fmt: skip
    assert reports.events == [
        ("disk", "hit"),
        ("disk", "hit"),
        ("disk", "miss"), ("seed", "hit"),
        ("disk", "miss"), ("seed", "miss"),
    ]  # fmt: skip


def test_what_the_engine_compiles_goes_to_the_disk_alone(folder: Path, seed: Path, reports: Reports) -> None:
    """The engine may use it for its code; the seed is never written."""
    cache: CodeCache = TieredCache(reports.disk(folder), reports.seed(seed))
    before = sorted(path.name for path in seed.iterdir())
    cache.store("engine", b"code")
    assert cache.load("engine") == b"code"
    assert sorted(path.name for path in seed.iterdir()) == before


def test_a_seed_helps_a_machine_without_a_disk(seed: Path, tmp_path: Path, reports: Reports) -> None:
    """Where nothing can be written, what was shipped is still found."""
    (tmp_path / "file").write_bytes(b"")
    cache = TieredCache(reports.disk(tmp_path / "file"), reports.seed(seed))
    cache.store("own", b"data")
    assert (cache.load("own"), cache.load("seeded")) == (None, b"from seed")
    assert reports.reasons == ["not_a_folder"]
