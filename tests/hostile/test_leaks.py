"""Nothing crosses from call to call: not between handlers, not through sleep, not between processes."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from nexus_core.build import build_runtime
from nexus_core.config import load_config
from nexus_core.context import ExecutionContext
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.errors import ErrorCode
from nexus_core.extensions.base import ExtensionCall, ExtensionMethod
from nexus_core.runtime import Runtime
from tests.engine.guests import call_text, compile_text, guest_call, run
from tests.hostile.ring import SHORT_MS, Ring, failure, handler, value

ROOT = Path(__file__).parents[2]

HELD = """
let kept = null;
export default async (event) => {
  const before = kept;
  kept = event;
  globalThis.mark = event;
  const answer = await $ext.gate.pass(event);
  return [before, kept, globalThis.mark, answer, Math.random()];
};"""


class Gate:
    """An extension whose answers wait until a test lets them through."""

    name = "gate"

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Event] = {}
        self.arrived = asyncio.Condition()

    @property
    def methods(self) -> Mapping[str, ExtensionMethod]:
        """Its one method."""
        return {"pass": self._pass}

    async def _pass(self, call: ExtensionCall) -> object:
        mark = call.args[0]
        async with self.arrived:
            opened = self.waiting.setdefault(str(mark), asyncio.Event())
            self.arrived.notify_all()
        await opened.wait()
        return {"for": mark}

    async def until_waiting(self, number: int) -> None:
        """Return when so many calls wait here."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.waiting) >= number)

    async def close(self) -> None:
        """Nothing to close."""


async def started(settings: dict[str, str], gate: Gate, **changes: str) -> Runtime:
    """A runtime with the gate."""
    made = build_runtime(load_config(settings | changes), extensions=[gate])
    await made.start()
    return made


def context(event: object, request_id: str) -> ExecutionContext:
    """One call."""
    return ExecutionContext(request_id=request_id, event=msgspec.json.encode(event))


@pytest.mark.parametrize("request_id", ["r{}", "same"])
async def test_sleeping_calls_keep_to_themselves(settings: dict[str, str], request_id: str) -> None:
    """Many calls asleep at once in few instances, woken in any order, each get their own world back.

    Also when their callers gave them all the same request id.
    """
    gate = Gate()
    runtime = await started(settings, gate)
    source = handler(HELD)
    calls = [
        asyncio.create_task(runtime.execute_source(source, context(number, request_id.format(number))))
        for number in range(20)
    ]
    await gate.until_waiting(20)
    for number in [*range(10, 20), *range(9, -1, -1)]:
        gate.waiting[str(number)].set()
        await asyncio.sleep(0)
    answers = [value(result) for result in await asyncio.gather(*calls)]
    for number, (before, kept, mark, answer, _) in enumerate(answers):
        assert (before, kept, mark, answer) == (None, number, number, {"for": number})
    assert len({answer[-1] for answer in answers}) == 20
    await Ring(runtime).check_whole()
    assert await runtime.shutdown(5)


async def test_abandoned_sleepers_leave_nothing(settings: dict[str, str]) -> None:
    """Sleeping calls that are cancelled or time out give their instances back clean."""
    gate = Gate()
    runtime = await started(settings, gate)
    ring = Ring(runtime)
    await ring.check_whole()
    calls = [asyncio.create_task(ring.call(handler(HELD), number)) for number in range(5)]
    late = asyncio.create_task(ring.call(handler(HELD, timeout_ms=SHORT_MS), "late"))
    await gate.until_waiting(6)
    for call in calls:
        call.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError)
        for end in await asyncio.gather(*calls, return_exceptions=True)
    )
    failure(await late, ErrorCode.TIMEOUT)
    await ring.check_whole()
    assert await runtime.shutdown(5)


@pytest.mark.parametrize("after", [0.0, 0.001, 0.01, 0.05])
async def test_a_cancelled_computation_leaves_nothing(settings: dict[str, str], after: float) -> None:
    """A call given up while its guest computes, in whatever moment, leaves a clean instance."""
    runtime = await started(settings, Gate())
    ring = Ring(runtime)
    await ring.check_whole()
    endless = handler("export default () => { globalThis.mark = 1; for (;;); }")
    for _ in range(3):
        call = asyncio.create_task(ring.call(endless))
        await asyncio.sleep(after)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await ring.check_whole()
    assert await runtime.shutdown(5)


async def test_good_and_hostile_calls_at_once(settings: dict[str, str]) -> None:
    """While some calls loop, overflow and exhaust, every good call gets its own right answer."""
    runtime = await started(settings, Gate(), NEXUS_MAX_INSTANCES="4", NEXUS_MAX_WAITING="1000")
    good = handler(
        "export default async (n) => { await null; globalThis.mark = n; return [n, n * 2]; }", name="good"
    )
    bad = [
        handler("export default () => { for (;;); }", timeout_ms=30, name="loop"),
        handler("const f = () => f() + 1; export default () => f();", name="dive"),
        handler("export default () => { const a = []; for (;;) a.push(a.slice()); }", name="eat"),
        handler("export default () => { for (;;) $emit('a', 1); }", name="flood"),
        handler("export default () => { throw globalThis.mark; }", name="throw"),
        handler("export default () => new Promise(() => {})", name="never"),
    ]
    ring = Ring(runtime)
    await ring.check_whole()
    calls = [ring.call(good if number % 3 else bad[number // 3 % len(bad)], number) for number in range(120)]
    for number, result in enumerate(await asyncio.gather(*calls)):
        if number % 3:
            assert value(result) == [number, number * 2]
        else:
            assert result.error is not None
            assert result.error.message != str(number)
            assert result.error.code is not ErrorCode.INTERNAL_ERROR
    await ring.check_whole()
    assert await runtime.shutdown(5)


def test_two_event_loops_at_once(kind: JavaScriptKind) -> None:
    """Instances driven on different threads never mix up whose guest asks for something."""
    image = compile_text(
        kind,
        "export default (n) => { const a = []; for (let i = 0; i < 200; i++) "
        "a.push(crypto.randomUUID()); return [n, new Set(a).size]; }",
    )
    wrong: list[object] = []

    def work(number: int) -> None:
        instance = kind.new_instance()
        instance.attach(image)
        for round_number in range(30):
            told = call_text(instance, guest_call(event=[number, round_number]))
            if told != [[number, round_number], 200] or not instance.reset():
                wrong.append(told)
        instance.terminate()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def mapped() -> tuple[int, int]:
    """Mappings of this process, and its resident bytes."""
    gc.collect()
    lines = len(Path("/proc/self/maps").read_text().splitlines())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return lines, pages * os.sysconf("SC_PAGE_SIZE")


def test_terminated_instances_give_everything_back(kind: JavaScriptKind) -> None:
    """Two hundred instances made, used and terminated leave mappings, memory and descriptors as they were."""
    image = compile_text(kind, "export default () => new Uint8Array(1 << 20).fill(1).length")

    def cycle(times: int) -> None:
        for _ in range(times):
            instance = kind.new_instance()
            instance.attach(image)
            run(instance.execute(guest_call()))
            instance.terminate()

    cycle(20)
    maps, resident = mapped()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    cycle(200)
    maps_after, resident_after = mapped()
    assert maps_after <= maps + 10
    assert resident_after < resident + 20_000_000
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_many_calls_keep_memory_flat(kind: JavaScriptKind) -> None:
    """Thousands of calls in one instance, good and thrown, leave the process as large as it was."""
    image = compile_text(
        kind, "export default (n) => { if (n % 3) throw new Error('x'); return $emit('a', n); }"
    )
    instance = kind.new_instance()
    instance.attach(image)

    def cycle(times: int) -> None:
        for number in range(times):
            run(instance.execute(guest_call(event=number)))
            assert instance.reset()

    cycle(500)
    _, resident = mapped()
    cycle(3_000)
    assert mapped()[1] < resident + 10_000_000
    instance.terminate()


RANDOM_IN_A_PROCESS = """
import asyncio, sys, json
from nexus_core.build import build_runtime
from nexus_core.config import load_config
from nexus_core.context import ExecutionContext
from tests.hostile.ring import handler

async def main():
    runtime = build_runtime(load_config(json.loads(sys.argv[1])))
    await runtime.start()
    source = handler("export default () => [Math.random(), Math.random()];")
    result = await runtime.execute_source(source, ExecutionContext(request_id="r"))
    print(bytes(result.return_value).decode())
    await runtime.shutdown(1)

asyncio.run(main())
"""


def test_processes_that_share_an_image_share_no_random_numbers(settings: dict[str, str]) -> None:
    """Two processes that load one image from the same cache draw different numbers."""
    seen = []
    for _ in range(2):
        command = [sys.executable, "-c", RANDOM_IN_A_PROCESS, json.dumps(settings)]
        done = subprocess.run(command, check=False, capture_output=True, timeout=60, cwd=ROOT)
        assert done.returncode == 0, done.stderr.decode()
        seen.append(json.loads(done.stdout))
    assert len({number for numbers in seen for number in numbers}) == 4
