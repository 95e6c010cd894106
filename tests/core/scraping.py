"""What Prometheus would read from a collector, and calls to count."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from nexus_core.metrics import MetricsCollector
from nexus_core.statistics import PoolStatistics

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
