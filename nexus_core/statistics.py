"""Frozen snapshots of live parts, for metrics, logs and tests. Never live internals."""

from __future__ import annotations

import msgspec


class PoolStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """`InstancePool.statistics()`: counts of instances by state, of calls, bytes and totals since start.

    `suspended` instances belong to sleeping calls; `asleep` counts those calls, with or without one,
    and `saved_bytes` is what is kept of those without.
    """

    free: int
    reserved: int
    running: int
    suspended: int
    waiting: int
    asleep: int = 0
    memory_bytes: int
    peak_memory_bytes: int
    saved_bytes: int = 0
    created_total: int
    retired_total: int


class CacheStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """One cache tier: entries, bytes held, and its bound in bytes."""

    entries: int
    bytes: int
    max_bytes: int
