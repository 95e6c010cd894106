"""What `MetricsCollector` counted, as CloudWatch metrics: documents of the embedded metric format (EMF).

Nothing can scrape a Lambda function, so after each invocation the counts since the last one are written to
standard output, where CloudWatch finds them. Every metric that has a handler gets the dimensions [service,
handler], and [service] over all handlers; every other one gets [service]. Further labels end the name, as in
`Errors.TIMEOUT`: as dimensions each would need a document of its own, and documents are paid for by the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, pairwise
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec
from aws_lambda_powertools.metrics.functions import is_metrics_disabled
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

from nexus_core.metric_cells import Series
from nexus_core.metric_names import BUCKETS, METRICS, counted_since
from nexus_core.metrics import MetricsCollector

COLD_START: Final = "ColdStart"
MAX_METRICS: Final = 100
"""Most metrics, and most values of one, that a document may have."""


class EmfMetric(NamedTuple):
    """How a metric of ours is called in CloudWatch, its unit there, and what turns our value into that."""

    name: str
    unit: str
    factor: float = 1.0


EMF_METRICS: Final[Mapping[str, EmfMetric]] = MappingProxyType(
    {
        "nexus_handler_executions_total": EmfMetric("Executions", "Count"),
        "nexus_handler_execution_seconds": EmfMetric("ExecutionTime", "Milliseconds", 1000.0),
        "nexus_handler_cpu_seconds": EmfMetric("CpuTime", "Milliseconds", 1000.0),
        "nexus_host_calls_total": EmfMetric("HostCalls", "Count"),
        "nexus_errors_total": EmfMetric("Errors", "Count"),
        "nexus_cache_requests_total": EmfMetric("CacheRequests", "Count"),
        "nexus_cache_bytes": EmfMetric("CacheSize", "Bytes"),
        "nexus_cache_degraded_total": EmfMetric("CacheDegraded", "Count"),
        "nexus_pool_instances": EmfMetric("PoolInstances", "Count"),
        "nexus_pool_waiting": EmfMetric("PoolWaiting", "Count"),
        "nexus_pool_wait_seconds": EmfMetric("PoolWait", "Milliseconds", 1000.0),
        "nexus_pool_memory_bytes": EmfMetric("PoolMemory", "Bytes"),
        "nexus_peak_memory_bytes": EmfMetric("PeakMemory", "Bytes"),
        "nexus_instances_created_total": EmfMetric("InstancesCreated", "Count"),
        "nexus_instances_retired_total": EmfMetric("InstancesRetired", "Count"),
        "nexus_images_regrown_total": EmfMetric("ImagesRegrown", "Count"),
        "nexus_suspensions": EmfMetric("Suspensions", "Count"),
        "nexus_capability_refusals_total": EmfMetric("CapabilityRefusals", "Count"),
    }
)

_Values = dict[str, tuple[str, list[float]]]
"""By CloudWatch name: the unit and the values of one document or of several."""


class EmfMetrics:
    """Turns a collector's counts into documents. `service` is their dimension of that name."""

    def __init__(self, namespace: str, service: str) -> None:
        self._service = service
        self._of_service = AmazonCloudWatchEMFProvider(namespace=namespace, service=service)
        self._of_handler = AmazonCloudWatchEMFProvider(namespace=namespace, service=service)
        self._of_handler.add_dimensions(service=service)
        self._collector: MetricsCollector | None = None
        self._before: Series = {}
        self._disabled = is_metrics_disabled()

    def watch(self, collector: MetricsCollector) -> None:
        """Read this collector from now on; what it has counted already belongs to the next `documents`."""
        self._collector = collector
        self._before = {}

    def forget(self) -> None:
        """Leave out what was counted until now."""
        if self._collector is not None:
            self._before = self._collector.read()

    def documents(self, *, cold_start: bool) -> Iterator[bytes]:
        """The lines that tell what was counted since the last time; none when nothing was."""
        if self._disabled or self._collector is None:
            return
        now = self._collector.read()
        counted, self._before = counted_since(self._before, now), now
        if not counted and not cold_start:
            return
        gauges = {key: row for key, row in now.items() if METRICS[key[0]].kind == "gauge" and any(row)}
        of_service: _Values = {COLD_START: ("Count", [1.0])} if cold_start else {}
        of_handlers: dict[str, _Values] = {}
        for (name, *labels), row in (counted | gauges).items():
            values = of_service
            if METRICS[name].labels[:1] == ("handler",):
                values = of_handlers.setdefault(labels.pop(0), {})
            metric = EMF_METRICS[name]
            full_name = ".".join((metric.name, *labels))
            # Differences of sums have digits behind the nanoseconds that mean nothing.
            shown = [round(value * metric.factor, 6) for value in values_of(name, row)]
            values[full_name] = (metric.unit, shown)
        for handler, values in of_handlers.items():
            dimensions = {"service": self._service, "handler": handler}
            yield from _encoded(self._of_handler, dimensions, values)
        yield from _encoded(self._of_service, {"service": self._service}, of_service)


def values_of(name: str, row: list[float]) -> list[float]:
    """The values that a row stands for, in its metric's own unit: one, or a histogram's one for each event.

    A row of a summary stands for its sum alone: how its events shared that is not known.
    """
    kind = METRICS[name].kind
    if kind == "histogram":
        return spread(row)
    return [row[1]] if kind == "summary" else [row[0]]


def spread(row: list[float]) -> list[float]:
    """One value for each event of a histogram's row: as many as were counted, with the row's sum.

    They lie in their buckets, all at the same share of the way through: so a single one is exact.
    """
    *counts, total = row
    bounds = zip(pairwise((0.0, *BUCKETS)), counts, strict=False)
    buckets = [(low, high - low, int(count)) for (low, high), count in bounds]
    above = int(counts[-1])
    floor = sum(low * count for low, _, count in buckets) + BUCKETS[-1] * above
    width = sum(size * count for _, size, count in buckets)
    spare = max(total - floor, 0.0)
    share = min(spare / width, 1.0) if width else 0.0
    values = [low + share * size for low, size, count in buckets for _ in range(count)]
    if above:
        # These have no upper bound, so whatever is too much for the others is theirs.
        values += [BUCKETS[-1] + (spare - share * width) / above] * above
    return values


def _encoded(
    provider: AmazonCloudWatchEMFProvider, dimensions: dict[str, str], values: _Values
) -> Iterator[bytes]:
    """The documents of these values: one, or more when there are too many metrics or values for one."""
    rest = dict(values)
    while rest:
        taken = list(islice(rest.items(), MAX_METRICS))
        metrics = {
            name: {"Unit": unit, "StorageResolution": 60, "Value": many[:MAX_METRICS]}
            for name, (unit, many) in taken
        }
        document = provider.serialize_metric_set(metrics=metrics, dimensions=dimensions)
        yield msgspec.json.encode(document) + b"\n"
        for name, (unit, many) in taken:
            del rest[name]
            if len(many) > MAX_METRICS:
                rest[name] = unit, many[MAX_METRICS:]
