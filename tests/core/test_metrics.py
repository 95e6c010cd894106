"""MetricsCollector: what a scrape says after what happened."""

from __future__ import annotations

import subprocess
import sys
import threading
from bisect import bisect_left

import pytest

from nexus_core.errors import ErrorCode
from nexus_core.metric_names import BUCKETS, METRICS, counted_since
from nexus_core.metrics import MAX_FUNCTIONS, MetricsCollector
from nexus_core.statistics import CacheStatistics
from tests.core.scraping import pool_of, run_call, scrape, value


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
    """What memory, disk or seed answer are hits, and the engine's own code counts for nothing."""
    collector = MetricsCollector()
    collector.record_cache("disk", "hit")
    assert not [name for name, _ in scrape(collector) if name == "nexus_cache_hit_rate"]
    for tier, result in (("memory", "hit"), ("memory", "miss"), ("disk", "hit"), ("memory", "miss")):
        collector.record_cache(tier, result)
    for tier, result in (("disk", "miss"), ("seed", "miss"), ("compile", "miss"), ("memory", "hit")):
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


def test_two_readings_tell_what_was_counted_between_them() -> None:
    """Counts are differences, rows that did not move are absent, and a reading is a copy."""
    collector = MetricsCollector()
    collector.watch_pool(lambda: pool_of(running=1, memory=4096))
    run_call(collector, "hello", seconds=0.004)
    collector.record_cache("memory", "hit")
    before = collector.read()
    run_call(collector, "hello", seconds=0.2, cpu_seconds=0.125, peak_memory=9999, host_calls={})
    run_call(collector, "other", status="error", code=ErrorCode.TIMEOUT, host_calls={"emit": 3})
    after = collector.read()
    counted = counted_since(before, after)
    seconds = counted.pop(("nexus_handler_execution_seconds", "hello"))
    assert (seconds[bisect_left(BUCKETS, 0.2)], sum(seconds[:-1])) == (1, 1)
    assert seconds[-1] == pytest.approx(0.2)
    assert counted.pop(("nexus_handler_cpu_seconds", "hello")) == pytest.approx([1, 0.125])
    del counted["nexus_handler_execution_seconds", "other"], counted["nexus_handler_cpu_seconds", "other"]
    assert counted == {
        ("nexus_handler_executions_total", "hello", "success"): [1],
        ("nexus_handler_executions_total", "other", "error"): [1],
        ("nexus_errors_total", "TIMEOUT"): [1],
        ("nexus_host_calls_total", "emit"): [3],
    }
    assert (after["nexus_pool_memory_bytes",], after["nexus_peak_memory_bytes",]) == ([4096], [9999])
    assert counted_since(after, collector.read()) == {}


def test_a_first_reading_counts_from_zero() -> None:
    """Against no earlier reading all that was ever counted shows, but no row that is still at zero."""
    collector = MetricsCollector()
    assert counted_since({}, collector.read()) == {}
    collector.instance_created()
    assert counted_since({}, collector.read()) == {("nexus_instances_created_total",): [1]}


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
