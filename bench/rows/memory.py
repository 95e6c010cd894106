"""Memory: many handlers within the configured budgets, and many calls without growth.

What a process holds is its private resident pages plus every page of its memfds, mapped or not, since heap
images live there (`bench.machine.held_bytes`). Each row has a process of its own.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from bench.core import configuration, in_new_process, running, succeeded
from bench.machine import held_bytes
from bench.table import Aim, Row, number
from bench.topic import Bench, Topic
from nexus_core.context import ExecutionContext
from nexus_core.runtime import Runtime

MIB = 1 << 20
_CACHE_BUDGET = 16 * MIB
_POOL_BUDGET = 32 * MIB
_INSTANCES = 10
_CONCURRENT = 10

_HANDLERS = Row(
    name="memory.handlers",
    what="growth by 1,000 handlers, 10 instances",
    unit="MiB",
    aim=Aim("figure", "at most", (_CACHE_BUDGET + _POOL_BUDGET) / MIB),
)
_CALLS = Row(
    name="memory.calls",
    what="growth by 100,000 calls",
    unit="MiB",
    # Twenty bytes a call: less than the smallest Python object, so no call can leave one behind.
    aim=Aim("figure", "at most", 2),
)


class Held(msgspec.Struct, frozen=True):
    """Bytes the process held before and after the work."""

    first: int
    last: int


def many_handlers(folder: Path, count: int) -> Held:
    """Compile and call so many different handlers with a small cache and ten instances."""
    handlers = folder / "handlers"
    handlers.mkdir()
    for index in range(count):
        # Each holds some data of its own, as real handlers do, so that their images differ.
        source = f"const data = Array.from({{ length: 200 }}, (_, i) => 'handler {index} item ' + i);\n"
        source += "export default (event) => data[event.item];\n"
        (handlers / f"handler-{index}.js").write_text(source)
    config = configuration(
        folder,
        handlers_dir=handlers,
        max_cache_size_bytes=_CACHE_BUDGET,
        max_total_memory_bytes=_POOL_BUDGET,
        max_instances=_INSTANCES,
        min_instances=_INSTANCES,
    )

    async def work() -> Held:
        async with running(config) as runtime:
            first = _held_now()
            for start in range(0, count, _CONCURRENT):
                names = [f"handler-{index}" for index in range(start, min(start + _CONCURRENT, count))]
                await asyncio.gather(*(_call(runtime, name, b'{"item":7}') for name in names))
            return Held(first, _held_now())

    return asyncio.run(work())


def many_calls(folder: Path, count: int, warm_up: int) -> Held:
    """Call the counter so many times, after a warm-up that fills every cache."""

    async def work() -> Held:
        async with running(configuration(folder)) as runtime:
            await _repeat(runtime, warm_up)
            first = _held_now()
            await _repeat(runtime, count)
            return Held(first, _held_now())

    return asyncio.run(work())


async def _repeat(runtime: Runtime, calls: int) -> None:
    for _ in range(calls):
        await _call(runtime, "counter", b'{"who":"bob"}')


async def _call(runtime: Runtime, handler: str, event: bytes) -> None:
    succeeded(await runtime.execute(handler, ExecutionContext(request_id="bench", event=event)))


def _held_now() -> int:
    gc.collect()
    return held_bytes()


def _measure(bench: Bench, wanted: frozenset[str]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        if _HANDLERS.name in wanted:
            bench.progress.doing(_HANDLERS.name)
            count = bench.pick(full=1000, quick=50)
            budgets = f"budgets: cache {_CACHE_BUDGET // MIB} MiB, pool {_POOL_BUDGET // MIB} MiB"
            yield _filled(_HANDLERS, in_new_process(many_handlers, Path(name), count), count, budgets)
        if _CALLS.name in wanted:
            bench.progress.doing(_CALLS.name)
            count = bench.pick(full=100_000, quick=2_000)
            held = in_new_process(many_calls, Path(name), count, bench.pick(full=5_000, quick=500))
            yield _filled(_CALLS, held, count, "session-less calls of the counter")


def _filled(row: Row, held: Held, count: int, remark: str) -> Row:
    first, last = held.first / MIB, held.last / MIB
    note = f"held first {number(first)} MiB, last {number(last)} MiB, {count:,} done; {remark}"
    return replace(row, figure=last - first, note=note)


TOPIC = Topic("memory", (_HANDLERS, _CALLS), _measure)
