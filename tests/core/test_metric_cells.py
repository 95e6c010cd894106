"""The files in which worker processes share their counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.metric_cells import MetricsDirectoryError, SharedCells, WorkerDirectory, read_series
from nexus_core.metrics import MetricsCollector, prepare_multiprocess_dir
from tests.core.scraping import run_call, scrape, value


def test_a_fold_that_was_interrupted_counts_nothing_twice(tmp_path: Path) -> None:
    """A dead worker's file that the archive has already taken in is only deleted."""
    directory = WorkerDirectory(tmp_path / "metrics", frozenset({"count"}))
    cells = directory.join(4096)
    cells.values[cells.allocate(("count",), 1)] = 5.0
    cells.close()
    copy = cells.path.read_bytes()
    assert directory.collect() == ([], {("count",): [5.0]})
    # As after a crash between the archive's replacement and the deletion: the file is back, and named.
    archive = tmp_path / "metrics" / "retired.cells"
    taken = SharedCells(tmp_path / "taken", 4096)
    taken.values[taken.allocate(("count",), 1)] = 5.0
    taken.allocate(("folded", cells.path.name), 0)
    taken.close()
    archive.write_bytes((tmp_path / "taken").read_bytes())
    cells.path.write_bytes(copy)
    assert directory.collect() == ([], {("count",): [5.0]})
    assert not cells.path.exists()


@pytest.mark.parametrize("junk", [b"", b"short", b"x" * 5000, b"NXCELLS1" + b"\xff" * 5000])
def test_a_damaged_file_of_a_sibling_is_left_out(
    tmp_path: Path, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A scrape survives a sibling's file that is no cells file and says so in the log."""
    collector = MetricsCollector(multiprocess_dir=tmp_path / "metrics")
    collector.instance_created()
    (tmp_path / "metrics" / "worker-1-dead.cells").write_bytes(junk)
    try:
        assert value(scrape(collector), "nexus_instances_created_total") == 1
    finally:
        collector.close()
    assert "worker-1-dead.cells" in caplog.text


def test_a_full_file_keeps_what_it_has(tmp_path: Path) -> None:
    """A series that finds no room is dropped; those that were there stay right."""
    directory = WorkerDirectory(tmp_path / "metrics", frozenset())
    cells = directory.join(4096)
    cells.values[cells.allocate(("first",), 1)] = 7.0
    for number in range(500):
        cells.values[cells.allocate((f"more-{number}",), 4)] = 1.0
    [live], _ = directory.collect()
    cells.close()
    assert live[("first",)] == [7.0]
    assert 10 < len(live) < 500


def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """Counts are not read from where another user could put them."""
    directory = tmp_path / "metrics"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(MetricsDirectoryError, match="writable by nobody else"):
        MetricsCollector(multiprocess_dir=directory)


def test_a_file_where_the_directory_should_be_is_refused(tmp_path: Path) -> None:
    """The start stops with a message that names the directory."""
    (tmp_path / "metrics").write_text("")
    with pytest.raises(MetricsDirectoryError, match="metrics"):
        prepare_multiprocess_dir(tmp_path / "metrics")


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    """A second close does nothing, and records after it are dropped quietly."""
    collector = MetricsCollector(multiprocess_dir=tmp_path / "metrics")
    collector.close()
    collector.close()
    run_call(collector)


@given(
    st.dictionaries(
        st.lists(st.text(max_size=20), min_size=1, max_size=3).map(tuple),
        st.lists(st.floats(allow_nan=False), max_size=4),
        max_size=8,
    )
)
def test_what_is_written_is_what_a_sibling_reads(
    tmp_path_factory: pytest.TempPathFactory, series: dict[tuple[str, ...], list[float]]
) -> None:
    """Any keys and floats survive the way through the file."""
    path = tmp_path_factory.mktemp("cells") / "file"
    cells = SharedCells(path, 16384)
    for key, row in series.items():
        start = cells.allocate(key, len(row))
        for offset, number in enumerate(row):
            cells.values[start + offset] = number
    cells.close()
    assert read_series(path.read_bytes()) == series
