"""MetricsCollector: what a scrape says after what happened, in one process and in several."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic, sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from nexus_core.errors import ErrorCode
from nexus_core.metric_cells import MetricsDirectoryError, SharedCells, WorkerDirectory, read_series
from nexus_core.metric_names import METRICS
from nexus_core.metrics import MAX_FUNCTIONS, MetricsCollector, prepare_multiprocess_dir
from nexus_core.statistics import CacheStatistics, PoolStatistics

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(collector: MetricsCollector) -> Samples:
    """What Prometheus would store after scraping this collector."""
    content, _ = collector.render()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(content.decode())
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """The value of one series."""
    return samples[name, frozenset(labels.items())]


def run_call(collector: MetricsCollector, handler: str = "hello", **changes: object) -> None:
    """Record one successful call, with `changes`."""
    call = {
        "status": "success",
        "code": None,
        "seconds": 0.002,
        "cpu_seconds": 0.001,
        "peak_memory": 4096,
        "host_calls": {"state_set": 2},
    } | changes
    collector.record_execution(handler, **call)  # type: ignore[arg-type]


def pool_of(running: int, memory: int = 0) -> PoolStatistics:
    """A pool with this many running instances."""
    return PoolStatistics(
        free=1,
        reserved=0,
        running=running,
        suspended=0,
        waiting=3,
        memory_bytes=memory,
        peak_memory_bytes=0,
        created_total=0,
        retired_total=0,
    )


def test_a_call_is_counted_under_each_of_its_metrics() -> None:
    """One record shows as execution, times, peak memory and host calls."""
    collector = MetricsCollector()
    run_call(collector, peak_memory=5000)
    run_call(collector, peak_memory=100)
    samples = scrape(collector)
    assert value(samples, "nexus_handler_executions_total", handler="hello", status="success") == 2
    assert value(samples, "nexus_handler_execution_seconds_count", handler="hello") == 2
    assert value(samples, "nexus_handler_execution_seconds_sum", handler="hello") == pytest.approx(0.004)
    assert value(samples, "nexus_handler_cpu_seconds_sum", handler="hello") == pytest.approx(0.002)
    assert value(samples, "nexus_handler_cpu_seconds_count", handler="hello") == 2
    assert value(samples, "nexus_peak_memory_bytes") == 5000
    assert value(samples, "nexus_host_calls_total", function="state_set") == 4


@pytest.mark.parametrize(("seconds", "below"), [(0.0009, 1.0), (0.001, 1.0), (0.0011, 0.0)])
def test_a_bucket_holds_what_is_at_most_its_bound(seconds: float, below: float) -> None:
    """A time equal to a bound is inside its bucket, one above is not."""
    collector = MetricsCollector()
    run_call(collector, seconds=seconds)
    samples = scrape(collector)
    assert value(samples, "nexus_handler_execution_seconds_bucket", handler="hello", le="0.001") == below
    assert value(samples, "nexus_handler_execution_seconds_bucket", handler="hello", le="+Inf") == 1


def test_a_failed_call_counts_its_error_code() -> None:
    """An execution's code shows in the errors, beside errors recorded on their own."""
    collector = MetricsCollector()
    run_call(collector, status="error", code=ErrorCode.TIMEOUT)
    collector.record_error(ErrorCode.TIMEOUT)
    collector.record_error(ErrorCode.UNAUTHENTICATED)
    samples = scrape(collector)
    assert value(samples, "nexus_errors_total", code="TIMEOUT") == 2
    assert value(samples, "nexus_errors_total", code="UNAUTHENTICATED") == 1


def test_handler_labels_are_bounded() -> None:
    """The handler after the last allowed one, and one with an overlong name, are counted as other."""
    collector = MetricsCollector(max_handlers=2)
    for handler in ("a", "b", "c", "d", "a", "x" * 101):
        run_call(collector, handler)
    samples = scrape(collector)
    counts = {
        dict(labels)["handler"]: count
        for (name, labels), count in samples.items()
        if name == "nexus_handler_execution_seconds_count"
    }
    assert counts == {"a": 2, "b": 1, "other": 3}


def test_names_of_missing_handlers_take_no_label() -> None:
    """Callers who invent handler names cannot use up the labels of real ones."""
    collector = MetricsCollector(max_handlers=1)
    run_call(collector, "invented", status="error", code=ErrorCode.HANDLER_NOT_FOUND)
    run_call(collector, "real")
    samples = scrape(collector)
    assert value(samples, "nexus_handler_executions_total", handler="other", status="error") == 1
    assert value(samples, "nexus_handler_executions_total", handler="real", status="success") == 1


def test_host_call_labels_are_bounded() -> None:
    """Function names beyond the bound are counted as other."""
    collector = MetricsCollector()
    run_call(collector, host_calls={f"ext.{i}": 1 for i in range(MAX_FUNCTIONS + 5)})
    assert value(scrape(collector), "nexus_host_calls_total", function="other") == 5


def test_hit_rate_is_the_share_of_look_ups_without_a_compile() -> None:
    """A miss in memory that the disk answers still counts as a hit; without look-ups there is no rate."""
    collector = MetricsCollector()
    assert not [name for name, _ in scrape(collector) if name == "nexus_cache_hit_rate"]
    for tier, result in (("memory", "hit"), ("memory", "miss"), ("disk", "hit"), ("memory", "miss")):
        collector.record_cache(tier, result)
    for tier, result in (("disk", "miss"), ("seed", "miss"), ("compile", "hit"), ("memory", "hit")):
        collector.record_cache(tier, result)
    samples = scrape(collector)
    assert value(samples, "nexus_cache_hit_rate") == 0.75
    assert value(samples, "nexus_cache_requests_total", tier="memory", result="miss") == 2


def test_gauges_are_read_from_the_live_parts_at_each_scrape() -> None:
    """Pools and caches are asked when somebody scrapes; several pools add up."""
    collector = MetricsCollector()
    running = [1]
    collector.watch_pool(lambda: pool_of(running[0], memory=100))
    collector.watch_pool(lambda: pool_of(1, memory=50))
    collector.watch_cache("memory", lambda: CacheStatistics(entries=1, bytes=77, max_bytes=100))
    assert value(scrape(collector), "nexus_pool_instances", state="running") == 2
    running[0] = 4
    samples = scrape(collector)
    assert value(samples, "nexus_pool_instances", state="running") == 5
    assert value(samples, "nexus_pool_memory_bytes") == 150
    assert value(samples, "nexus_pool_waiting") == 6
    assert value(samples, "nexus_cache_bytes", tier="memory") == 77


def test_the_rare_events_are_counted() -> None:
    """Instances, images, refusals, degraded caches, waits and suspensions each have their series."""
    collector = MetricsCollector()
    collector.instance_created()
    collector.instance_retired("idle")
    collector.image_regrown()
    collector.capability_refused("state:write")
    collector.cache_degraded("read_only")
    collector.observe_pool_wait(0.5)
    collector.set_suspensions("memory", 3)
    collector.set_suspensions("memory", 2)
    samples = scrape(collector)
    assert value(samples, "nexus_instances_created_total") == 1
    assert value(samples, "nexus_instances_retired_total", reason="idle") == 1
    assert value(samples, "nexus_images_regrown_total") == 1
    assert value(samples, "nexus_capability_refusals_total", kind="state:write") == 1
    assert value(samples, "nexus_cache_degraded_total", reason="read_only") == 1
    assert value(samples, "nexus_pool_wait_seconds_sum") == 0.5
    assert value(samples, "nexus_suspensions", where="memory") == 2


def test_metrics_without_labels_are_there_from_the_start() -> None:
    """A fresh process shows zeros, so that rates can be computed from the first event on."""
    samples = scrape(MetricsCollector())
    assert value(samples, "nexus_instances_created_total") == 0
    assert value(samples, "nexus_pool_wait_seconds_count") == 0


def test_every_defined_metric_can_be_scraped() -> None:
    """Each definition comes out under its own name, with its help."""
    content, content_type = MetricsCollector().render()
    for name, definition in METRICS.items():
        assert f"# HELP {name} {definition.help}" in content.decode()
    assert content_type.startswith("text/plain")


def test_two_collectors_share_nothing() -> None:
    """What one counts another does not see."""
    first, second = MetricsCollector(), MetricsCollector()
    first.instance_created()
    assert value(scrape(second), "nexus_instances_created_total") == 0


def test_threads_lose_no_count() -> None:
    """Records made at once from several threads all arrive."""
    collector = MetricsCollector()

    def work() -> None:
        for _ in range(5000):
            run_call(collector)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    samples = scrape(collector)
    assert value(samples, "nexus_handler_executions_total", handler="hello", status="success") == 20000
    assert value(samples, "nexus_host_calls_total", function="state_set") == 40000


def test_importing_and_recording_leaves_prometheus_client_alone() -> None:
    """The library is loaded by the first scrape only, so a start does not pay for it."""
    program = (
        "import sys\n"
        "from nexus_core.metrics import MetricsCollector\n"
        "collector = MetricsCollector()\n"
        "collector.record_execution('hello', 'success', None, 0.1, 0.1, 1, {})\n"
        "assert 'prometheus_client' not in sys.modules\n"
        "collector.render()\n"
        "assert 'prometheus_client' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# Several processes


def serve_worker(directory: Path, pipe: Connection) -> None:
    """A worker process: does what it is told, answers each order when it is done."""
    collector = MetricsCollector(max_handlers=10, multiprocess_dir=directory)
    running = 0
    collector.watch_pool(lambda: pool_of(running))
    collector.watch_cache("memory", lambda: CacheStatistics(entries=1, bytes=10, max_bytes=100))
    collector.watch_cache("disk", lambda: CacheStatistics(entries=1, bytes=1000, max_bytes=9999))
    answer: object = None
    while True:
        pipe.send(answer)
        answer = None
        order, argument = pipe.recv()
        if order == "call":
            for _ in range(argument):
                run_call(collector, peak_memory=argument)
        elif order == "running":
            running = argument
        elif order == "refresh":
            collector.refresh()
        elif order == "scrape":
            answer = scrape(collector)
        elif order == "close":
            collector.close()


class Worker:
    """A worker process and the pipe that orders it about."""

    def __init__(self, directory: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve_worker, args=(directory, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def tell(self, order: str, argument: object = None) -> object:
        """Give an order and wait for its answer."""
        self.pipe.send((order, argument))
        return self.pipe.recv()

    def kill(self) -> None:
        """End it without any notice."""
        self.process.kill()
        self.process.join()


@pytest.fixture
def hire(tmp_path: Path) -> Iterator[Callable[[], Worker]]:
    """Starts workers on one directory, `tmp_path / "metrics"`, and ends them after the test."""
    directory = tmp_path / "metrics"
    prepare_multiprocess_dir(directory)
    workers: list[Worker] = []

    def start() -> Worker:
        workers.append(Worker(directory))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


def calls_of(samples: object) -> float:
    """How many calls a scrape counts."""
    assert isinstance(samples, dict)
    return value(samples, "nexus_handler_executions_total", handler="hello", status="success")


def test_any_worker_answers_for_all(hire: Callable[[], Worker]) -> None:
    """Counts add up at once whichever worker is scraped; shared things are not added up."""
    first, second = hire(), hire()
    first.tell("call", 3)
    second.tell("call", 40)
    for worker in (first, second):
        samples = worker.tell("scrape")
        assert isinstance(samples, dict)
        assert calls_of(samples) == 43
        assert value(samples, "nexus_handler_execution_seconds_count", handler="hello") == 43
        assert value(samples, "nexus_peak_memory_bytes") == 40
    samples = first.tell("scrape")
    assert isinstance(samples, dict)
    assert value(samples, "nexus_cache_bytes", tier="memory") == 20
    assert value(samples, "nexus_cache_bytes", tier="disk") == 1000


def test_a_siblings_gauges_follow_its_activity(hire: Callable[[], Worker]) -> None:
    """After a worker's last call its gauges come right without it being scraped."""
    first, second = hire(), hire()
    first.tell("running", 2)
    second.tell("running", 5)
    second.tell("call", 1)
    deadline = monotonic() + 10
    seen = 0.0
    while seen != 7 and monotonic() < deadline:
        samples = first.tell("scrape")
        assert isinstance(samples, dict)
        seen = value(samples, "nexus_pool_instances", state="running")
        sleep(0.05)
    assert seen == 7


def test_a_dead_worker_leaves_its_counts_and_takes_its_gauges(
    hire: Callable[[], Worker], tmp_path: Path
) -> None:
    """A killed worker's counters stay in the sum, its instances vanish, and its file goes."""
    first, second = hire(), hire()
    second.tell("call", 40)
    second.tell("running", 5)
    second.tell("refresh")
    before = first.tell("scrape")
    assert isinstance(before, dict)
    assert value(before, "nexus_pool_instances", state="running") == 5
    second.kill()
    for _ in range(2):
        after = first.tell("scrape")
        assert isinstance(after, dict)
        assert calls_of(after) == 40
        assert value(after, "nexus_pool_instances", state="running") == 0
        assert value(after, "nexus_pool_instances", state="free") == 1
    assert len(list((tmp_path / "metrics").glob("worker-*"))) == 1
    third = hire()
    third.tell("call", 2)
    assert calls_of(third.tell("scrape")) == 42


def test_a_closed_worker_counts_as_dead(hire: Callable[[], Worker]) -> None:
    """A worker that closes its collector hands its counters over while its process still runs."""
    first, second = hire(), hire()
    second.tell("call", 4)
    second.tell("close")
    second.tell("call", 4)
    assert calls_of(first.tell("scrape")) == 4


def test_a_new_server_starts_at_zero(hire: Callable[[], Worker], tmp_path: Path) -> None:
    """Preparing the directory forgets dead workers and their archive but no live one."""
    first, second = hire(), hire()
    first.tell("call", 1)
    second.tell("call", 2)
    second.kill()
    assert calls_of(first.tell("scrape")) == 3
    prepare_multiprocess_dir(tmp_path / "metrics")
    assert calls_of(first.tell("scrape")) == 1


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
