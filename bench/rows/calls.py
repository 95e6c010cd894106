"""One warm call, hello with state, beside quickjs-rs, all in one process and taking turns.

The work is JSON in, one state write, one event, JSON out; `bench.quickjs` says how the peer does it. A warm
call of Nexus is `execute` and the reset after it, so each call meets a heap without a byte of an earlier
one. `Runtime.execute` does the same through the front: look-up, context, checks, pool, metrics, result.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from bench import quickjs
from bench.core import CallFailed, configuration, running, succeeded
from bench.table import Aim, Row, number
from bench.timing import alternate, async_block, paired_difference, paired_ratio, sync_block
from bench.topic import Bench, Topic
from bench.warm import WarmInstance
from nexus_core.context import ExecutionContext
from nexus_core.runtime import Runtime

HANDLER = "counter"
CALL = ExecutionContext(request_id="bench", event=b'{"who":"bob"}', state={"count": b"1"})
WARM, EXECUTE, NEW_RUNTIME = "call.warm", "call.execute", "call.quickjs-new"

# What the peer took, in microseconds, on the machine for which the aims in microseconds were set.
_REFERENCE_NEW_RUNTIME_US = 1234

_ROWS = (
    Row(
        name=WARM,
        what="warm call in a pristine heap, hello with state",
        unit="us",
        aim=Aim("figure", "at most", 90),
    ),
    Row(
        name=EXECUTE,
        what="what Runtime.execute adds to it",
        unit="us",
        aim=Aim("figure", "at most", 60),
    ),
    Row(
        name=NEW_RUNTIME,
        what="quickjs-rs, new runtime per call",
        unit="us",
        aim=Aim("ratio", "at least", 12),
    ),
    Row(
        name="call.quickjs-shared",
        what="quickjs-rs, one shared, dirty context",
        unit="us",
        aim=Aim("ratio", "at least", 2.5),
    ),
    Row(name="call.quickjs-snapshot", what="quickjs-rs, snapshot restored per call", unit="us"),
)


def _measure(bench: Bench, wanted: frozenset[str]) -> Iterator[Row]:
    bench.progress.doing("call: taking turns")
    with tempfile.TemporaryDirectory() as folder:
        medians = asyncio.run(_take_turns(bench, wanted, Path(folder)))
    warm = medians[WARM]
    slower = statistics.median(medians[NEW_RUNTIME]) / _REFERENCE_NEW_RUNTIME_US
    for row in _ROWS:
        if row.name not in wanted:
            continue
        mine = medians[row.name]
        if row.name == WARM:
            figure = statistics.median(mine)
            yield replace(row, figure=figure, note=_at_reference_speed(figure, slower))
        elif row.name == EXECUTE:
            figure = paired_difference(mine, warm)
            note = f"whole call {number(statistics.median(mine))} us; {_at_reference_speed(figure, slower)}"
            yield replace(row, figure=figure, note=note)
        else:
            yield replace(row, figure=statistics.median(mine), ratio=paired_ratio(mine, warm))


async def _take_turns(bench: Bench, wanted: frozenset[str], folder: Path) -> dict[str, list[float]]:
    """Medians of each round in microseconds, by row; that of `call.execute` is the whole call here."""
    program = quickjs.program()
    calls = bench.pick(full=500, quick=20)
    async with contextlib.AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(running(configuration(folder)))
        warm = await WarmInstance.of(runtime, HANDLER, CALL)
        stack.callback(warm.close)
        shared = stack.enter_context(quickjs.shared_context())
        _check(warm, shared)
        contenders = {
            WARM: (sync_block(warm.call), calls),
            NEW_RUNTIME: (sync_block(lambda: quickjs.fresh_runtime_call(program)), max(calls // 20, 3)),
            "call.quickjs-shared": (sync_block(shared.call), calls // 2),
            "call.quickjs-snapshot": (sync_block(shared.restored_call), calls // 5),
        }
        if EXECUTE in wanted:
            contenders[EXECUTE] = (async_block(lambda: execute(runtime)), calls)
        chosen = {name: it for name, it in contenders.items() if name in wanted | {WARM, NEW_RUNTIME}}
        return await alternate(chosen, rounds=bench.pick(full=15, quick=2))


async def execute(runtime: Runtime) -> None:
    """One call through the front."""
    succeeded(await runtime.execute(HANDLER, CALL))


def _check(warm: WarmInstance, shared: quickjs.SharedContext) -> None:
    """Every contender must give the same answer before it is timed."""
    answers = [
        msgspec.json.decode(warm.call().value),
        shared.call()["returnValue"],
        shared.restored_call()["returnValue"],
    ]
    if answers != [quickjs.EXPECTED] * 3:
        raise CallFailed(f"expected {quickjs.EXPECTED} from each, got {answers}")


def _at_reference_speed(figure: float, slower: float) -> str:
    """The figure as it would be on the machine the aims are for, if all slowed down alike. Only a hint."""
    return (
        f"quickjs-rs takes {number(slower)} x as long as when the aims were set; "
        f"at that speed this would be {number(figure / slower)} us"
    )


TOPIC = Topic("call", _ROWS, _measure)
