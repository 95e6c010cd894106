"""The rules of `nexus tune` on pods: requests, limits and the autoscaler's targets."""

from __future__ import annotations

import math
from typing import Final

from functions.cli.advice_terms import NEAR_LIMIT, Advice, Unknown, crowd_text, crowded, rounded
from functions.cli.checks.finding import size_text
from functions.cli.observed import PLATFORM, Observed
from nexus_core.config import RuntimeConfig

LOW_REQUEST: Final = 0.5
BUSY_REQUEST: Final = 0.9
IDLE_REQUEST: Final = 0.3


def platform(seen: Observed, _config: RuntimeConfig) -> Unknown | None:
    """Which of the values are missing that the other rules here need."""
    missing = [name for name in PLATFORM if name not in seen.platform]
    if not missing:
        return None
    how = "ask a --prometheus that scrapes cAdvisor and kube-state-metrics, or give them (--pod NAME=VALUE)"
    return Unknown("requests, limits and HPA targets", f"not known: {', '.join(missing)}; {how}")


def memory_request(seen: Observed, _config: RuntimeConfig) -> Advice | None:
    """What a pod asks of its node, against what it uses."""
    used, request = seen.platform.get("memory_used"), seen.platform.get("memory_request")
    if used is None or request is None:
        return None
    to = rounded(used * 1.25)
    if to == request or LOW_REQUEST * request <= used <= request:
        return None
    low = "it uses more than it asked for, and is the first to go when its node runs short"
    high = "it asks for more than twice of what it uses, which no other pod gets"
    return Advice(
        setting="memory request",
        now=size_text(request),
        to=size_text(to),
        why=low if used > request else high,
        rests_on=(f"container_memory_working_set_bytes = {size_text(used)} at most",),
    )


def memory_limit(seen: Observed, _config: RuntimeConfig) -> Advice | None:
    """What the kernel kills a pod for, against what it uses."""
    used, limit = seen.platform.get("memory_used"), seen.platform.get("memory_limit")
    if used is None or limit is None:
        return None
    if used < NEAR_LIMIT * limit:
        return None
    return Advice(
        setting="memory limit",
        now=size_text(limit),
        to=size_text(rounded(used * 1.5)),
        why="it is nearly used up, and past it the kernel kills the pod; or bound max_total_memory_bytes",
        rests_on=(f"container_memory_working_set_bytes = {size_text(used)} at most",),
    )


def cpu_request(seen: Observed, _config: RuntimeConfig) -> Advice | None:
    """The processor time a pod asks for, which the autoscaler's share is a share of."""
    used, request = seen.platform.get("cpu_used"), seen.platform.get("cpu_request")
    if used is None or not request:
        return None
    if IDLE_REQUEST * request <= used <= BUSY_REQUEST * request:
        return None
    # In steps of 50 thousandths, so that the use is the autoscaler's usual 70 % of it.
    to = max(50, math.ceil(used / 0.7 * 20) * 50)
    if to == round(request * 1000):
        return None
    low = "it uses nearly all it asks for, so that the autoscaler adds pods for an ordinary load"
    high = "it asks for more than three times of what it uses, which no other pod gets"
    return Advice(
        setting="cpu request",
        now=f"{request * 1000:.0f}m",
        to=f"{to}m",
        why=low if used > request / 2 else high,
        rests_on=(f"container_cpu_usage_seconds_total: {used:.3f} processors on average",),
    )


def cpu_limit(seen: Observed, config: RuntimeConfig) -> Advice | None:
    """A processor for each worker: with less, calls are stopped in the middle until the next period."""
    limit = seen.platform.get("cpu_limit")
    if limit is None:
        return None
    if limit >= config.workers:
        return None
    return Advice(
        setting="cpu limit",
        now=f"{limit * 1000:.0f}m",
        to=f"{config.workers * 1000}m",
        why="each worker can keep a processor busy; with less its calls are stopped in the middle",
        rests_on=(f"cpu limit = {limit:g}, workers = {config.workers}",),
    )


def cpu_target(seen: Observed, _config: RuntimeConfig) -> Advice | None:
    """Calls wait, and the autoscaler does not see it: its target is above what these pods ever use."""
    used, request, target = (seen.platform.get(name) for name in ("cpu_used", "cpu_request", "cpu_target"))
    if used is None or not request or target is None:
        return None
    share = 100 * used / request
    to = max(30, math.floor(share * 0.8 / 5) * 5)
    if not crowded(seen) or share >= target or to >= target:
        return None
    return Advice(
        setting="HPA cpu target",
        now=f"{target:.0f} %",
        to=f"{to} %",
        why="calls wait, but the pods use less than the target, so none is added",
        rests_on=(*crowd_text(seen), f"cpu used / requested = {share:.0f} %"),
    )


def memory_target(seen: Observed, _config: RuntimeConfig) -> Advice | None:
    """Memory stays with a process after a burst: past this target pods are added that nobody needs."""
    used, request, target = (
        seen.platform.get(name) for name in ("memory_used", "memory_request", "memory_target")
    )
    if used is None or not request or target is None:
        return None
    share = 100 * used / request
    if share < target or crowded(seen):
        return None
    return Advice(
        setting="HPA memory target",
        now=f"{target:.0f} %",
        to="none, or a larger memory request",
        why="it adds pods though no call waits: caches and instances keep their memory when load falls",
        rests_on=(f"memory used / requested = {share:.0f} %",),
    )
