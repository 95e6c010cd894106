"""Every metric's name, kind and labels, and how rows of several workers become one answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

from nexus_core.metric_cells import Series, add_rows

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds in seconds: a warm call takes about 0.0001, the default timeout is 5."""

Kind = Literal["counter", "histogram", "summary", "gauge"]


class MetricDefinition(NamedTuple):
    """One metric. A summary's row is count and sum; a histogram's is its buckets and the sum."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def floats(self) -> int:
        """How many floats a row has."""
        return {"counter": 1, "gauge": 1, "summary": 2, "histogram": len(BUCKETS) + 2}[self.kind]


METRICS: Mapping[str, MetricDefinition] = MappingProxyType(
    {
        "nexus_handler_executions_total": MetricDefinition(
            "counter", "Calls of a handler by how they ended.", ("handler", "status")
        ),
        "nexus_handler_execution_seconds": MetricDefinition(
            "histogram", "Wall time of calls, waits on the host included.", ("handler",)
        ),
        "nexus_handler_cpu_seconds": MetricDefinition(
            "summary", "Time the guest itself computed.", ("handler",)
        ),
        "nexus_host_calls_total": MetricDefinition(
            "counter", "Operations that guests handed to the host.", ("function",)
        ),
        "nexus_errors_total": MetricDefinition("counter", "Errors by code.", ("code",)),
        "nexus_cache_requests_total": MetricDefinition(
            "counter", "Looks into a cache tier by result.", ("tier", "result")
        ),
        "nexus_cache_bytes": MetricDefinition("gauge", "Bytes a cache tier holds.", ("tier",)),
        "nexus_cache_degraded_total": MetricDefinition(
            "counter", "Times a cache tier was given up, by reason.", ("reason",)
        ),
        "nexus_pool_instances": MetricDefinition("gauge", "Instances by state.", ("state",)),
        "nexus_pool_waiting": MetricDefinition("gauge", "Calls that wait for an instance."),
        "nexus_pool_wait_seconds": MetricDefinition("histogram", "Time calls waited for an instance."),
        "nexus_pool_memory_bytes": MetricDefinition("gauge", "Memory of all instances."),
        "nexus_peak_memory_bytes": MetricDefinition("gauge", "Most memory that one call used."),
        "nexus_instances_created_total": MetricDefinition("counter", "Instances created."),
        "nexus_instances_retired_total": MetricDefinition("counter", "Instances thrown away.", ("reason",)),
        "nexus_images_regrown_total": MetricDefinition("counter", "Images captured again, roomier."),
        "nexus_suspensions": MetricDefinition("gauge", "Calls that sleep, by where.", ("where",)),
        "nexus_capability_refusals_total": MetricDefinition(
            "counter", "Operations refused for want of a capability.", ("kind",)
        ),
    }
)
"""What rows are kept for. `nexus_cache_hit_rate` has none: it is computed from the requests."""

ADDITIVE = frozenset(name for name, metric in METRICS.items() if metric.kind != "gauge")
"""Metrics whose counts outlive a worker."""

CACHE_HIT_RATE = "nexus_cache_hit_rate"

# What the workers share is not added up: each of them reports the whole.
_LARGEST = frozenset({"nexus_peak_memory_bytes"})
_SHARED_PLACES = frozenset({"disk", "seed", "store"})


def render_series(live: Sequence[Series], archived: Series) -> tuple[bytes, str]:
    """The Prometheus text over all workers' rows and the archived counters, and its content type."""
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Families(merge_series(live, archived)))
    return generate_latest(registry), CONTENT_TYPE_LATEST


def merge_series(live: Sequence[Series], archived: Series) -> Series:
    """One row per series: sums, but the largest value for a gauge of something the workers share."""
    merged: Series = {}
    add_rows(merged, archived)
    for series in live:
        largest = {k: v for k, v in series.items() if k[0] in _LARGEST or _is_shared_gauge(k)}
        for key, row in largest.items():
            merged[key] = max(merged.get(key, row), row)
        add_rows(merged, {k: v for k, v in series.items() if k not in largest})
    return merged


def counted_since(before: Series, now: Series) -> Series:
    """What was counted between two readings of one collector: rows of differences, without gauges."""
    counted: Series = {}
    for key, row in now.items():
        earlier = before.get(key)
        if row != earlier and key[0] in ADDITIVE and any(row):
            counted[key] = [a - b for a, b in zip(row, earlier, strict=True)] if earlier else row
    return counted


def cache_hit_rate(merged: Series) -> float | None:
    """The share of looks into the memory tier that no compile had to answer; None before the first one."""
    requests = {key[1:]: row[0] for key, row in merged.items() if key[0] == "nexus_cache_requests_total"}
    looks = sum(count for (tier, _), count in requests.items() if tier == "memory")
    # Not the hits, among which the machine code of the engine counts too, that nobody looked for in memory.
    compiles = sum(count for (tier, _), count in requests.items() if tier == "compile")
    return (looks - compiles) / looks if looks else None


def _is_shared_gauge(key: tuple[str, ...]) -> bool:
    return METRICS[key[0]].kind == "gauge" and bool(_SHARED_PLACES.intersection(key[1:]))


class _Families:
    """prometheus_client's view of merged rows."""

    def __init__(self, merged: Series) -> None:
        self._merged = merged

    def collect(self) -> Iterable[Metric]:
        """One family per metric; those without labels are there from the start, at zero."""
        from prometheus_client.metrics_core import GaugeMetricFamily

        for name, definition in METRICS.items():
            rows = {key[1:]: row for key, row in self._merged.items() if key[0] == name}
            if not definition.labels and not rows:
                rows[()] = [0.0] * definition.floats
            yield _family(name, definition, rows)
        rate = cache_hit_rate(self._merged)
        if rate is not None:
            yield GaugeMetricFamily(CACHE_HIT_RATE, "Share of look-ups without a compile.", value=rate)


def _family(name: str, definition: MetricDefinition, rows: Mapping[tuple[str, ...], list[float]]) -> Metric:
    from prometheus_client import metrics_core

    family: Metric
    labels = definition.labels
    if definition.kind == "counter":
        family = metrics_core.CounterMetricFamily(name, definition.help, labels=labels)
        for values, row in rows.items():
            family.add_metric(values, row[0])
    elif definition.kind == "gauge":
        family = metrics_core.GaugeMetricFamily(name, definition.help, labels=labels)
        for values, row in rows.items():
            family.add_metric(values, row[0])
    elif definition.kind == "summary":
        family = metrics_core.SummaryMetricFamily(name, definition.help, labels=labels)
        for values, row in rows.items():
            family.add_metric(values, count_value=int(row[0]), sum_value=row[1])
    else:
        family = metrics_core.HistogramMetricFamily(name, definition.help, labels=labels)
        for values, row in rows.items():
            totals = zip((*map(str, BUCKETS), "+Inf"), accumulate(row[:-1]), strict=True)
            family.add_metric(values, buckets=list(totals), sum_value=row[-1])
    return family
