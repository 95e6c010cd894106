"""The rules of `nexus tune`: each looks at what was observed and says what to change, and why.

A rule is a function of `Observed` and the settings that gives an `Advice`, an `Unknown` when it would
need to know more, or None. Its thresholds stand at the top, each tested on both sides.
"""

from __future__ import annotations

import math
from typing import Final

from functions.cli import advice_pods
from functions.cli.advice_terms import (
    ENOUGH_CALLS,
    NEAR_LIMIT,
    REFUSED_SHARE,
    Advice,
    Rule,
    Tuning,
    Unknown,
    computing_text,
    crowd_text,
    crowded,
    rounded,
)
from functions.cli.checks.finding import counted, size_text
from functions.cli.observed import Observed
from nexus_core.config import RuntimeConfig
from nexus_core.limits import MIB

ENOUGH_EVENTS: Final = 5
"""Fewer errors than this may be chance."""
COMPUTING_SHARE: Final = 0.5
"""From this part of their time on, calls compute rather than wait."""
BUSY_WORKER: Final = 0.6
"""Guests alone keep a worker so busy; the server around them needs processor time too."""
IDLE_WORKER: Final = 0.2
SPARE_POOL: Final = 4
"""A pool so many times as large as what was busy at most is larger than it needs to be."""
CREATED_SHARE: Final = 0.01
MISSED_SHARE: Final = 0.05
FULL_SHARE: Final = 0.8
SPARE_MEMORY: Final = 4
MEMORY_ERRORS_SHARE: Final = 0.001
LONG_SPAN_SECONDS: Final = 3600.0
"""Only a span so long tells what is never needed."""

# No rule advises less than these, which cost little.
_DEFAULTS = RuntimeConfig()


def judge(seen: Observed, config: RuntimeConfig) -> Tuning:
    """Ask every rule; with too few calls only those that need none."""
    said = [rule(seen, config) for rule in (CALL_RULES if seen.calls >= ENOUGH_CALLS else ())]
    said += [rule(seen, config) for rule in STATE_RULES]
    unknown = [one for one in said if isinstance(one, Unknown)]
    if seen.calls < ENOUGH_CALLS:
        few = f"{counted(seen.calls, 'call')} so far; {ENOUGH_CALLS:,} are needed"
        unknown.insert(0, Unknown("pool, workers, limits and cache", few))
    # One advice for a setting, from the first rule that has one.
    change = {one.setting: one for one in reversed(said) if isinstance(one, Advice)}
    return Tuning(tuple(reversed(change.values())), tuple(unknown))


def larger_pool(seen: Observed, config: RuntimeConfig) -> Advice | Unknown | None:
    """Calls wait for instances, and their guests mostly wait for others: more of them may run at a time."""
    if seen.busy_now > config.max_instances * config.workers:
        why = f"{seen.busy_now:.0f} are busy at a server: these are not its settings (set them, or --config)"
        return Unknown("max_instances", why)
    if not crowded(seen) or seen.cpu_share >= COMPUTING_SHARE:
        return None
    bound = config.max_total_memory_bytes
    if bound and seen.pool_memory_bytes >= NEAR_LIMIT * bound * config.workers:
        return Advice(
            setting="max_total_memory_bytes",
            now=size_text(bound),
            to=size_text(rounded(bound * 1.5)),
            why="calls wait for instances, and the pool makes no more because its memory is used up",
            rests_on=(*crowd_text(seen), f"nexus_pool_memory_bytes = {size_text(seen.pool_memory_bytes)}"),
        )
    factor = 2.0 if seen.refused_share >= REFUSED_SHARE else 1.5
    return Advice(
        setting="max_instances",
        now=str(config.max_instances),
        to=str(math.ceil(config.max_instances * factor)),
        why="calls wait for an instance, and those that have one mostly wait for others, not for a processor",
        rests_on=(*crowd_text(seen), computing_text(seen)),
    )


def smaller_pool(seen: Observed, config: RuntimeConfig) -> Advice | Unknown | None:
    """Most of the pool is never used: a smaller one bounds the memory that a burst could take."""
    if crowded(seen) or config.max_instances <= _DEFAULTS.max_instances:
        return None
    if seen.busy is None or (seen.seconds or 0.0) < LONG_SPAN_SECONDS:
        why = "whether it is larger than needed takes an hour to see: --prometheus URL --window 1h or more"
        return Unknown("max_instances", why)
    there = config.max_instances * config.workers
    to = max(_DEFAULTS.max_instances, config.min_instances, math.ceil(2 * seen.busy / config.workers))
    if seen.busy * SPARE_POOL > there or to >= config.max_instances:
        return None
    freed = (config.max_instances - to) * config.limits.memory_limit_bytes * config.workers
    return Advice(
        setting="max_instances",
        now=str(config.max_instances),
        to=str(to),
        why=f"never were more than {seen.busy:.0f} of {there} busy; a burst could then take "
        f"{size_text(freed)} less",
        rests_on=(f"most of nexus_pool_instances that are not free = {seen.busy:.0f}",),
    )


def workers(seen: Observed, config: RuntimeConfig) -> Advice | Unknown | None:
    """Guests compute in one thread of a process at a time: more workers, or fewer, for what they compute."""
    count, used = config.workers, seen.processors
    if used is None:
        if not crowded(seen) or seen.cpu_share < COMPUTING_SHARE:
            return Unknown("workers", "how busy they are takes a span of time: --window 30s, or --prometheus")
        return _to_workers(count + 1, seen, config, (*crowd_text(seen), computing_text(seen)))
    if used <= BUSY_WORKER * count and (used > IDLE_WORKER * count or crowded(seen)):
        return None
    to = max(1, math.ceil(used / BUSY_WORKER))
    if to == count:
        return None
    spent = f"nexus_handler_cpu_seconds_sum: {used:.2f} processors for each server"
    return _to_workers(to, seen, config, (spent,))


def _to_workers(to: int, seen: Observed, config: RuntimeConfig, rests_on: tuple[str, ...]) -> Advice:
    why = "guests use little of what these workers could give, and each takes memory for itself"
    if to > config.workers:
        why = "guests keep the processors of all workers busy; each further worker needs one to itself"
        limit = seen.platform.get("cpu_limit", math.inf)
        if limit < to:
            why += f" (the cpu limit, {limit:g}, is less: raise it too, or run more pods instead)"
    return Advice(setting="workers", now=str(config.workers), to=str(to), why=why, rests_on=rests_on)


def more_kept_instances(seen: Observed, config: RuntimeConfig) -> Advice | None:
    """Instances are thrown away when idle and made again soon after: keep more of them."""
    churns = seen.retired_idle >= seen.created / 2 and seen.created >= CREATED_SHARE * seen.calls
    to = min(config.max_instances, max(2, 2 * config.min_instances))
    if not churns or to <= config.min_instances:
        return None
    return Advice(
        setting="min_instances",
        now=str(config.min_instances),
        to=str(to),
        why="instances are retired when idle and made again for the next calls, which wait for it",
        rests_on=(
            f"nexus_instances_created_total = {seen.created:.0f} for {counted(seen.calls, 'call')}",
            f'nexus_instances_retired_total{{reason="idle"}} = {seen.retired_idle:.0f}',
        ),
    )


def memory_limit(seen: Observed, config: RuntimeConfig) -> Advice | None:
    """What a call may take, against what calls took and how many asked for more."""
    limit = config.limits.memory_limit_bytes
    asked = seen.errors.get("MEMORY_LIMIT", 0.0)
    peak, least = seen.peak_memory_bytes, _DEFAULTS.limits.memory_limit_bytes
    rests_on = (
        f'nexus_errors_total{{code="MEMORY_LIMIT"}} = {asked:.0f} of {counted(seen.calls, "call")}',
        f"nexus_peak_memory_bytes = {size_text(peak)}",
    )
    if asked >= ENOUGH_EVENTS and asked >= MEMORY_ERRORS_SHARE * seen.calls:
        why = (
            "calls end for want of memory; the log names their handlers, whose manifests may set it for them"
        )
        to = size_text(2 * limit)
    elif not asked and peak and peak * SPARE_MEMORY <= limit and limit > least:
        why = "no call came near it; less bounds what handlers that go wrong can take together"
        to = size_text(max(least, math.ceil(2 * peak / MIB) * MIB))
    else:
        return None
    return Advice(setting="memory_limit_bytes", now=size_text(limit), to=to, why=why, rests_on=rests_on)


def cache_size(seen: Observed, config: RuntimeConfig) -> Advice | None:
    """Compiled handlers are looked for in vain: the cache is too small, or starts empty each time."""
    if seen.looks < ENOUGH_CALLS or seen.memory_misses < MISSED_SHARE * seen.looks:
        return None
    cache = "nexus_cache_requests_total"
    rests_on = (
        f'{cache}{{tier="memory",result="miss"}} = {seen.memory_misses:.0f} of {seen.looks:.0f}',
        f'{cache}{{tier="compile"}} = {seen.compiles:.0f}',
        f'nexus_cache_bytes{{tier="memory"}} = {size_text(seen.cache_bytes)} of all workers together',
    )
    size = config.max_cache_size_bytes
    if seen.cache_bytes >= FULL_SHARE * size * config.workers:
        return Advice(
            setting="max_cache_size_bytes",
            now=size_text(size),
            to=size_text(2 * size or 64 * MIB),
            why="it is full, and handlers are loaded or compiled again that were dropped from it",
            rests_on=rests_on,
        )
    if config.cache_seed_dir is None and seen.compiles >= MISSED_SHARE * seen.looks:
        return Advice(
            setting="cache_seed_dir",
            now="unset",
            to="a folder filled by `nexus build`",
            why="handlers are compiled though the cache has room: they are new to it, as after each start",
            rests_on=rests_on,
        )
    return None


def broken_cache(seen: Observed, config: RuntimeConfig) -> Advice | None:
    """A cache was given up: no size helps before its folder is mended."""
    if not seen.degraded:
        return None
    seed = any(reason.startswith("seed_") for reason in seen.degraded)
    name = "cache_seed_dir" if seed else "cache_dir"
    return Advice(
        setting=name,
        now=str(getattr(config, name) or "unset"),
        to="a folder that can be used",
        why="it was given up; run `nexus doctor` where the server runs, which says what is wrong with it",
        rests_on=tuple(
            f'nexus_cache_degraded_total{{reason="{reason}"}} = {count:.0f}'
            for reason, count in sorted(seen.degraded.items())
        ),
    )


CALL_RULES: Final[tuple[Rule, ...]] = (
    larger_pool,
    smaller_pool,
    workers,
    more_kept_instances,
    memory_limit,
    cache_size,
    advice_pods.cpu_target,
    advice_pods.memory_target,
)
"""Rules that need `ENOUGH_CALLS`."""
STATE_RULES: Final[tuple[Rule, ...]] = (
    broken_cache,
    advice_pods.memory_request,
    advice_pods.memory_limit,
    advice_pods.cpu_request,
    advice_pods.cpu_limit,
    advice_pods.platform,
)
"""Rules on states, which are true whatever the number of calls."""
