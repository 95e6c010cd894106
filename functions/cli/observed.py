"""`Observed`: what the metrics of a server say of one span of time, as the rules of advice want it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from functions.cli.scrape import Samples

_BUSY_STATES = ("running", "reserved", "suspended")


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of all servers together in `seconds` (None: since their start), gauges of the fullest one.

    `wait_buckets` are (upper bound in seconds, calls up to it). `busy` is the most instances busy at a
    time, None when only this moment is known. `platform` has what the platform's own metrics say.
    """

    seconds: float | None = None
    servers: float = 1.0
    calls: float = 0.0
    execution_seconds: float = 0.0
    cpu_seconds: float = 0.0
    errors: Mapping[str, float] = {}
    wait_buckets: Sequence[tuple[float, float]] = ()
    looks: float = 0.0
    memory_misses: float = 0.0
    compiles: float = 0.0
    cache_bytes: float = 0.0
    degraded: Mapping[str, float] = {}
    busy_now: float = 0.0
    busy: float | None = None
    pool_memory_bytes: float = 0.0
    peak_memory_bytes: float = 0.0
    created: float = 0.0
    retired_idle: float = 0.0
    platform: Mapping[str, float] = {}

    @property
    def cpu_share(self) -> float:
        """The part of calls' time in which their guests compute."""
        return self.cpu_seconds / self.execution_seconds if self.execution_seconds else 0.0

    @property
    def processors(self) -> float | None:
        """How many processors the guests of one server keep busy on average; None without a span."""
        return self.cpu_seconds / self.seconds / self.servers if self.seconds else None

    @property
    def refused_share(self) -> float:
        """The part of calls that were refused because no instance got free."""
        return self.errors.get("POOL_EXHAUSTED", 0.0) / self.calls if self.calls else 0.0

    def wait_quantile(self, share: float) -> float | None:
        """The time in seconds within which `share` of the calls got an instance; None without calls."""
        return quantile(self.wait_buckets, share)


def observe(samples: Samples, seconds: float | None) -> Observed:
    """The observation behind samples of `scrape` or `query`."""
    buckets = sorted(
        (_bound(dict(labels).get("le", "")), value)
        for (name, labels), value in samples.items()
        if name == "nexus_pool_wait_seconds_bucket"
    )
    cache = "nexus_cache_requests_total"
    states = _by(samples, "nexus_pool_instances", "state")
    busy = samples.get(("busy", ()))
    own = {name: value for (name, labels), value in samples.items() if not labels}
    return Observed(
        seconds=seconds,
        servers=own.get("servers", 1.0) or 1.0,
        calls=_total(samples, "nexus_handler_executions_total"),
        execution_seconds=_total(samples, "nexus_handler_execution_seconds_sum"),
        cpu_seconds=_total(samples, "nexus_handler_cpu_seconds_sum"),
        errors=_by(samples, "nexus_errors_total", "code"),
        wait_buckets=tuple(buckets),
        looks=_total(samples, cache, tier="memory"),
        memory_misses=_total(samples, cache, tier="memory", result="miss"),
        compiles=_total(samples, cache, tier="compile"),
        cache_bytes=_total(samples, "nexus_cache_bytes", tier="memory"),
        degraded={k: v for k, v in _by(samples, "nexus_cache_degraded_total", "reason").items() if v},
        busy_now=sum(states.get(state, 0.0) for state in _BUSY_STATES),
        busy=busy,
        pool_memory_bytes=_total(samples, "nexus_pool_memory_bytes"),
        peak_memory_bytes=_total(samples, "nexus_peak_memory_bytes"),
        created=_total(samples, "nexus_instances_created_total"),
        retired_idle=_total(samples, "nexus_instances_retired_total", reason="idle"),
        platform={name: own[name] for name in PLATFORM if name in own},
    )


PLATFORM = (
    "memory_used",
    "cpu_used",
    "memory_request",
    "memory_limit",
    "cpu_request",
    "cpu_limit",
    "cpu_target",
    "memory_target",
)
"""What only the platform knows: bytes, processors, and percents of what is requested."""


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """A quantile of cumulative buckets as Prometheus tells it: within its bucket all are spread evenly."""
    total = buckets[-1][1] if buckets else 0.0
    if not total:
        return None
    rank = share * total
    lower, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * ((rank - below) / (count - below) if count > below else 1.0)
        lower, below = bound, count
    return lower


def _total(samples: Samples, name: str, **labels: str) -> float:
    """The sum over all series of a name that have these labels."""
    wanted = set(labels.items())
    return math.fsum(value for (one, has), value in samples.items() if one == name and wanted <= set(has))


def _by(samples: Samples, name: str, label: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for (one, labels), value in samples.items():
        if one == name:
            key = dict(labels).get(label, "")
            found[key] = found.get(key, 0.0) + value
    return found


def _bound(text: str) -> float:
    try:
        bound = float(text)
    except ValueError:
        return math.inf
    return math.inf if math.isnan(bound) else bound
