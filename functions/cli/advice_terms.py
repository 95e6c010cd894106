"""What the rules of `nexus tune` share: the form of advice, and what they call a crowded pool."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import msgspec

from functions.cli.checks.finding import counted
from functions.cli.observed import Observed
from nexus_core.config import RuntimeConfig
from nexus_core.limits import MIB

ENOUGH_CALLS: Final = 1_000
"""Fewer calls than this say nothing about shares and quantiles."""
REFUSED_SHARE: Final = 0.001
WAIT_SECONDS: Final = 0.01
"""With 5 % of the calls waiting longer than this, the pool is crowded: a warm call takes a tenth of it."""
NEAR_LIMIT: Final = 0.85
_COARSE = 64 * MIB


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """One change: the setting, from what to what, why, and what that rests on. Also its form as JSON."""

    setting: str
    now: str
    to: str
    why: str
    rests_on: tuple[str, ...]


class Unknown(msgspec.Struct, frozen=True):
    """What could not be told about a setting, and what it would take."""

    setting: str
    why: str


class Tuning(msgspec.Struct, frozen=True):
    """All that the rules say."""

    change: tuple[Advice, ...]
    unknown: tuple[Unknown, ...]


Rule = Callable[[Observed, RuntimeConfig], Advice | Unknown | None]


def crowded(seen: Observed) -> bool:
    """Whether calls wait for instances, or are refused for want of one."""
    waits = seen.wait_quantile(0.95)
    return seen.refused_share >= REFUSED_SHARE or (waits is not None and waits >= WAIT_SECONDS)


def crowd_text(seen: Observed) -> tuple[str, str]:
    """The values behind `crowded`."""
    refused = seen.errors.get("POOL_EXHAUSTED", 0.0)
    waits = seen.wait_quantile(0.95) or 0.0
    return (
        f'nexus_errors_total{{code="POOL_EXHAUSTED"}} = {refused:.0f} of {counted(seen.calls, "call")}',
        f"nexus_pool_wait_seconds: 95 % within {waits * 1000:.3g} ms",
    )


def computing_text(seen: Observed) -> str:
    """The values behind `Observed.cpu_share`."""
    return f"nexus_handler_cpu_seconds_sum / nexus_handler_execution_seconds_sum = {seen.cpu_share:.0%}"


def rounded(size: float) -> int:
    """To the next 64 MiB."""
    return math.ceil(size / _COARSE) * _COARSE
