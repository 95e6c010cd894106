"""Compiling a handler: the first time, from the disk cache in a new process, and from memory.

Each sample is a handler of its own (the counter, told apart by a comment), so that no cache knows it. The
engine's own code is warm in all three: what a new process needs besides is in `process.invoke`.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from bench.core import configuration, in_new_process, running
from bench.peers import HANDLERS
from bench.table import Aim, Row
from bench.topic import Bench, Topic
from nexus_core.handlers import HandlerSource, load_handler
from nexus_core.limits import ResourceLimits
from nexus_core.runtime import Runtime

_FIRST = Row(
    name="compile.first", what="first compile of a handler", unit="ms", aim=Aim("figure", "at most", 15)
)
_DISK = Row(
    name="compile.disk",
    what="the same from the disk cache, new process",
    unit="ms",
    aim=Aim("figure", "at most", 2),
)
_MEMORY = Row(name="compile.memory", what="the same from memory", unit="us", aim=Aim("figure", "at most", 20))
_WARM_UP = 2


def variants(count: int) -> list[HandlerSource]:
    """So many handlers that do the same and differ in a comment, and so in their digest."""
    original = load_handler(HANDLERS / "counter", ResourceLimits())
    text = original.files[original.entry]
    return [
        HandlerSource(
            name=f"counter-{number}",
            entry=original.entry,
            files={original.entry: f"// variant {number}\n{text}"},
            manifest=original.manifest,
        )
        for number in range(count)
    ]


def compile_all(folder: Path, count: int) -> tuple[list[float], list[float]]:
    """Compile the variants in this process, then once more: microseconds of each, first and second time."""

    async def twice() -> tuple[list[float], list[float]]:
        async with running(configuration(folder)) as runtime:
            sources = variants(count)
            return await _timed(runtime, sources), await _timed(runtime, sources)

    return asyncio.run(twice())


async def _timed(runtime: Runtime, sources: Sequence[HandlerSource]) -> list[float]:
    samples = []
    for source in sources:
        start = time.perf_counter()
        await runtime.check(source)
        samples.append((time.perf_counter() - start) * 1_000_000)
    return samples[_WARM_UP:]


def _measure(bench: Bench, wanted: frozenset[str]) -> Iterator[Row]:
    count = bench.pick(full=60, quick=8)
    with tempfile.TemporaryDirectory() as name:
        bench.progress.doing(_FIRST.name)
        first, _ = in_new_process(compile_all, Path(name), count)
        bench.progress.doing(_DISK.name)
        disk, memory = in_new_process(compile_all, Path(name), count)
    rows = (
        replace(_FIRST, figure=statistics.median(first) / 1000),
        replace(_DISK, figure=statistics.median(disk) / 1000),
        replace(_MEMORY, figure=statistics.median(memory)),
    )
    yield from (row for row in rows if row.name in wanted)


TOPIC = Topic("compile", (_FIRST, _DISK, _MEMORY), _measure)
