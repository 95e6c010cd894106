"""How times are taken: contenders take turns within one run, and only medians and ratios are told.

A shared machine is fast one second and slow the next. Contenders measured one after the other would
meet different machines; blocks that alternate (A B A B) meet the same one, and a ratio is formed
within each round before the median over rounds is taken.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

Block = Callable[[int], Awaitable[list[int]]]
"""Runs a contender so many times and gives the nanoseconds of each."""


def sync_block(call: Callable[[], object]) -> Block:
    """A contender that is an ordinary function."""

    async def block(calls: int) -> list[int]:
        clock = time.perf_counter_ns
        samples = []
        for _ in range(calls):
            start = clock()
            call()
            samples.append(clock() - start)
        return samples

    return block


def async_block(call: Callable[[], Awaitable[object]]) -> Block:
    """A contender that is awaited."""

    async def block(calls: int) -> list[int]:
        clock = time.perf_counter_ns
        samples = []
        for _ in range(calls):
            start = clock()
            await call()
            samples.append(clock() - start)
        return samples

    return block


async def alternate(contenders: Mapping[str, tuple[Block, int]], rounds: int) -> dict[str, list[float]]:
    """Let contenders, `name: (block, calls per round)`, take turns; every other round goes backwards.

    Gives the median of each round in microseconds, by name. One round before the first is not counted:
    it warms every contender.
    """
    medians: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for round_number in range(-1, rounds):
        for name in order:
            block, calls = contenders[name]
            samples = await block(calls)
            if round_number >= 0:
                medians[name].append(statistics.median(samples) / 1_000)
        order.reverse()
    return medians


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median over the rounds of numerator / denominator of the same round."""
    return statistics.median(top / bottom for top, bottom in zip(numerators, denominators, strict=True))


def paired_difference(larger: Sequence[float], smaller: Sequence[float]) -> float:
    """Median over the rounds of larger - smaller of the same round."""
    return statistics.median(a - b for a, b in zip(larger, smaller, strict=True))
