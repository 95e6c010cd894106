"""CloudWatch's metrics: every document keeps the format's rules, and together they say what was counted."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.aws_lambda.emf_metrics import EMF_METRICS, EmfMetrics, spread, values_of
from nexus_core.errors import ErrorCode
from nexus_core.metric_names import BUCKETS, METRICS
from nexus_core.metrics import OTHER, MetricsCollector
from nexus_core.statistics import CacheStatistics
from tests.aws_lambda.emf_rules import read_document, totals
from tests.core.scraping import pool_of, run_call


class Counted(NamedTuple):
    """One call as the collector gets it."""

    handler: str
    status: str
    code: ErrorCode | None
    seconds: float
    cpu_seconds: float
    peak_memory: int
    host_calls: dict[str, int]


SECONDS = st.floats(0, 30) | st.sampled_from(BUCKETS)
CALLS = st.builds(
    Counted,
    handler=st.sampled_from(["hello", "orders", "a-handler"]),
    status=st.sampled_from(["success", "error", "suspended"]),
    code=st.none() | st.sampled_from(ErrorCode),
    seconds=SECONDS,
    cpu_seconds=SECONDS,
    peak_memory=st.integers(0, 2**31),
    host_calls=st.dictionaries(st.sampled_from(["state_set", "emit", "log"]), st.integers(1, 10_000)),
)


def watched(collector: MetricsCollector) -> EmfMetrics:
    """Metrics of the service `shop` that read this collector."""
    metrics = EmfMetrics("Nexus", "shop")
    metrics.watch(collector)
    return metrics


def flush(metrics: EmfMetrics, *, cold_start: bool = False) -> bytes:
    """The lines of one invocation."""
    return b"".join(metrics.documents(cold_start=cold_start))


@given(st.lists(st.lists(CALLS, max_size=8), max_size=5))
def test_all_invocations_together_tell_what_was_counted(invocations: list[list[Counted]]) -> None:
    """Sums over the documents of any sequence of calls equal the collector's counts, at any grouping."""
    collector = MetricsCollector()
    metrics = watched(collector)
    documents = b""
    for calls in invocations:
        for call in calls:
            collector.record_execution(*call)
            collector.observe_pool_wait(call.seconds)
            collector.record_cache("memory", "hit")
        documents += flush(metrics)
    sums, samples = totals(documents)
    expected: dict[tuple[tuple[str, ...], str], float] = defaultdict(float)
    for (name, *labels), row in collector.read().items():
        metric, kind = EMF_METRICS[name], METRICS[name].kind
        if kind == "gauge":
            continue
        place = ["shop"]
        if METRICS[name].labels[:1] == ("handler",):
            place.append(labels.pop(0))
        full_name = ".".join([metric.name, *labels])
        amount = row[-1] * metric.factor
        for at in {("shop",), tuple(place)}:
            expected[at, full_name] += amount
            if kind == "histogram":
                assert samples[tuple(place), full_name] == sum(row[:-1])
    told = {key: amount for key, amount in sums.items() if key[1] != "PeakMemory"}
    assert told.keys() <= expected.keys()
    assert {key: sums[key] for key in expected} == pytest.approx(expected, rel=1e-9, abs=1e-4)


@given(st.lists(SECONDS, min_size=1, max_size=30))
def test_times_keep_their_number_their_sum_and_their_buckets(times: list[float]) -> None:
    """A histogram's row becomes as many values, in the buckets where they were counted, with the same sum."""
    collector = MetricsCollector()
    for seconds in times:
        collector.observe_pool_wait(seconds)
    row = collector.read()["nexus_pool_wait_seconds",]
    values = spread(row)
    assert len(values) == len(times)
    assert sum(values) == pytest.approx(sum(times), rel=1e-9, abs=1e-9)
    slack = 1e-9
    for (low, high), count in zip(pairwise((0.0, *BUCKETS, float("inf"))), row[:-1], strict=True):
        assert sum(low - slack <= value <= high + slack for value in values) >= count


def test_one_time_is_exact() -> None:
    """What an invocation usually has, one call of a handler, is told as it was measured."""
    collector = MetricsCollector()
    metrics = watched(collector)
    run_call(collector, "hello", seconds=0.0123)
    assert read_document(flush(metrics).splitlines(keepends=True)[0])["ExecutionTime"] == [12.3]


def test_a_call_is_two_documents() -> None:
    """One has the handler's metrics, for it and for all handlers together, and one the function's own."""
    collector = MetricsCollector()
    collector.watch_pool(lambda: pool_of(running=0, memory=4096))
    collector.watch_cache("memory", lambda: CacheStatistics(entries=1, bytes=100, max_bytes=1000))
    metrics = watched(collector)
    run_call(collector, "hello", status="error", code=ErrorCode.TIMEOUT)
    collector.record_cache("memory", "hit")
    of_handler, of_service = (read_document(line) for line in flush(metrics).splitlines(keepends=True))
    (directive,) = of_handler["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Nexus"
    assert sorted(directive["Dimensions"]) == [["service"], ["service", "handler"]]
    assert {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]} == {
        "Executions.error": "Count",
        "ExecutionTime": "Milliseconds",
        "CpuTime": "Milliseconds",
    }
    assert (of_handler["service"], of_handler["handler"]) == ("shop", "hello")
    (directive,) = of_service["_aws"]["CloudWatchMetrics"]
    assert directive["Dimensions"] == [["service"]]
    told = {name: value for name, value in of_service.items() if name not in ("_aws", "service")}
    assert told == {
        "Errors.TIMEOUT": [1],
        "HostCalls.state_set": [2],
        "CacheRequests.memory.hit": [1],
        "CacheSize.memory": [100],
        "PeakMemory": [4096],
        "PoolInstances.free": [1],
        "PoolMemory": [4096],
        "PoolWaiting": [3],
    }


def test_nothing_is_written_when_nothing_was_counted() -> None:
    """An invocation that called no handler leaves no document, and neither do gauges by themselves."""
    collector = MetricsCollector()
    collector.watch_pool(lambda: pool_of(running=0, memory=4096))
    metrics = watched(collector)
    assert flush(metrics) == b""
    run_call(collector)
    assert flush(metrics) != b""
    assert flush(metrics) == b""
    assert flush(EmfMetrics("Nexus", "shop")) == b""


def test_a_cold_start_is_counted_once_with_what_init_did() -> None:
    """The first invocation tells of itself and of what was counted before it."""
    collector = MetricsCollector()
    collector.instance_created()
    metrics = watched(collector)
    (line,) = flush(metrics, cold_start=True).splitlines(keepends=True)
    document = read_document(line)
    assert (document["ColdStart"], document["InstancesCreated"]) == ([1], [1])


def test_what_is_forgotten_is_not_told() -> None:
    """What a snapshot's maker counted is no count of the processes made from it."""
    collector = MetricsCollector()
    metrics = watched(collector)
    run_call(collector, "hello")
    metrics.forget()
    run_call(collector, "orders")
    sums, _ = totals(flush(metrics))
    assert (("shop", "orders"), "Executions.success") in sums
    assert (("shop", "hello"), "Executions.success") not in sums


def test_a_large_batch_takes_several_documents() -> None:
    """No document has more values of a metric than the format allows, and none is lost."""
    collector = MetricsCollector()
    metrics = watched(collector)
    for _ in range(250):
        run_call(collector, "hello", seconds=0.004)
    sums, samples = totals(flush(metrics))
    assert samples[("shop", "hello"), "ExecutionTime"] == 250
    assert sums[("shop", "hello"), "ExecutionTime"] == pytest.approx(1000)
    assert sums[("shop", "hello"), "Executions.success"] == 250


def test_many_metrics_take_several_documents() -> None:
    """No document has more metrics than the format allows, and none is lost."""
    collector = MetricsCollector()
    metrics = watched(collector)
    run_call(collector, host_calls={f"function_{number}": 1 for number in range(230)})
    documents = flush(metrics)
    sums, _ = totals(documents)
    assert sum(name.startswith("HostCalls.") for _, name in sums) == 230
    assert len(documents.splitlines()) == 4


def test_handlers_are_bounded() -> None:
    """Handlers beyond the collector's bound share one dimension, since each costs money."""
    collector = MetricsCollector(max_handlers=3)
    metrics = watched(collector)
    for number in range(10):
        run_call(collector, f"handler-{number}")
    sums, _ = totals(flush(metrics))
    places = {place[1] for place, _ in sums if len(place) == 2}
    assert places == {"handler-0", "handler-1", "handler-2", OTHER}
    assert sums[("shop",), "Executions.success"] == 10


def test_every_metric_has_a_name_and_a_unit() -> None:
    """What the collector may count is known here, under names that differ."""
    assert EMF_METRICS.keys() == METRICS.keys()
    assert len({metric.name for metric in EMF_METRICS.values()}) == len(EMF_METRICS)
    assert all(values_of(name, [1.0] * METRICS[name].floats) for name in METRICS)


@pytest.mark.parametrize("variable", ["POWERTOOLS_METRICS_DISABLED", "POWERTOOLS_DEV"])
def test_metrics_can_be_turned_off(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Powertools' variables that turn metrics off do so here."""
    monkeypatch.setenv(variable, "true")
    collector = MetricsCollector()
    metrics = watched(collector)
    run_call(collector)
    assert flush(metrics, cold_start=True) == b""
