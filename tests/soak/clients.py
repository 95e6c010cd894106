"""Clients that call good and hostile handlers all at once, and keep the books of every answer."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from nexus_core.limits import MIB
from nexus_core.result import WasmResult
from nexus_core.runtime import Runtime
from tests.core.runtimes import body, call, handler, value
from tests.core.scraping import scrape

INSTANCES = 8
CLIENTS = 64

# So long that only a lost answer would meet it.
PATIENT: dict[str, Any] = {"timeout_ms": 120_000}

GOOD = (
    handler(body("globalThis.left = event; return [event, event]"), name="echo", **PATIENT),
    handler(
        body("""
            const mine = [event];
            for (let step = 0; step < 3; step++) mine.push(...await $ext.doors.echo(event));
            return mine;
        """),
        "ext:doors",
        name="sleeper",
        **PATIENT,
    ),
    handler(
        body("return (await Promise.all([1, 2, 3].map(() => $ext.doors.echo(event)))).flat()"),
        "ext:doors",
        name="fan-out",
        **PATIENT,
    ),
    handler(
        body("""
            const before = $state.nonce; $state.nonce = event; $emit("kept", event);
            await $ext.doors.echo(); return [event, before ?? event, $state.nonce];
        """),
        "state:read:nonce",
        "state:write:nonce",
        "events:emit:kept",
        "ext:doors",
        name="keeper",
        **PATIENT,
    ),
    handler(
        body("let sum = 0; for (let n = 0; n < 2e5; n++) sum += n; return [event]"), name="worker", **PATIENT
    ),
    handler(
        body("globalThis.big = new Uint8Array(3 << 20).fill(1); return [event]"), name="grower", **PATIENT
    ),
)


class Hostile(NamedTuple):
    """A handler that misbehaves, and the ends its calls may have."""

    code: str
    ends: frozenset[str]
    limits: dict[str, Any] = PATIENT


# Whoever has little time may spend it all waiting for an instance.
TIMED_OUT = frozenset({"TIMEOUT", "POOL_EXHAUSTED"})
HOSTILE = {
    "loop": Hostile("for (;;);", TIMED_OUT, {"timeout_ms": 40}),
    "jobs": Hostile("for (;;) await null;", TIMED_OUT, {"timeout_ms": 40}),
    "wait": Hostile("await $ext.doors.pass('never')", TIMED_OUT, {"timeout_ms": 40}),
    "dive": Hostile("const dive = () => 1 + dive(); return dive()", frozenset({"STACK_OVERFLOW"})),
    "hoard": Hostile(
        "const all = []; for (;;) all.push(new Uint8Array(1 << 16).fill(1))",
        frozenset({"MEMORY_LIMIT"}),
        {**PATIENT, "memory_limit_bytes": 6 * MIB},
    ),
    "flood": Hostile("for (;;) $emit('flood', event)", frozenset({"RESOURCE_LIMIT"})),
    "thief": Hostile("$state.other = 1", frozenset({"PERMISSION_DENIED"})),
    "limbo": Hostile("await new Promise(() => {})", frozenset({"EXECUTION_ERROR"})),
    "thrower": Hostile("throw null", frozenset({"EXECUTION_ERROR"})),
    "boaster": Hostile(
        "return 'x'.repeat(1e5)", frozenset({"PAYLOAD_TOO_LARGE"}), {**PATIENT, "max_output_bytes": 99}
    ),
    "vandal": Hostile(
        "JSON.stringify = () => '{}'; Promise.prototype.then = null; Array.prototype.join = () => ''; null.x",
        frozenset({"EXECUTION_ERROR"}),
    ),
}
HOSTILE_HANDLERS = tuple(
    handler(body(hostile.code), "ext:doors", "events:emit:flood", name=name, **hostile.limits)
    for name, hostile in HOSTILE.items()
)


class Books:
    """What was asked and answered; `settle` compares it with what the runtime counted."""

    def __init__(self) -> None:
        self.ends: Counter[tuple[str, str]] = Counter()
        self.codes: Counter[str] = Counter()
        self.host_calls: Counter[str] = Counter()
        self.cancelled = 0

    def enter(self, name: str, result: WasmResult) -> None:
        """Note one answer."""
        self.ends[name, result.status] += 1
        self.host_calls.update(result.metrics.host_calls)
        if result.error is not None:
            self.codes[result.error.code.value] += 1

    def settle(self, runtime: Runtime) -> None:
        """Every answer is counted once, and the pool is whole: all its instances free, nothing kept."""
        samples = scrape(runtime.metrics)

        def counted(name: str, *labels: str) -> Counter[tuple[str, ...]]:
            rows = {
                tuple(dict(row)[label] for label in labels): int(number)
                for (metric, row), number in samples.items()
                if metric == name and number
            }
            return Counter(rows)

        assert counted("nexus_handler_executions_total", "handler", "status") == self.ends
        assert counted("nexus_errors_total", "code") == {(code,): n for code, n in self.codes.items()}
        assert counted("nexus_host_calls_total", "function") == {
            (name,): n for name, n in self.host_calls.items()
        }
        pool = runtime.pool.statistics()
        assert (pool.reserved, pool.running, pool.suspended, pool.asleep, pool.waiting) == (0, 0, 0, 0, 0)
        assert pool.saved_bytes == 0
        assert pool.created_total - pool.retired_total == pool.free <= INSTANCES
        assert pool.memory_bytes <= INSTANCES * 10 * MIB


class Client:
    """One caller with a session of its own, who knows what each of its calls must come to."""

    def __init__(self, runtime: Runtime, number: int, books: Books) -> None:
        self._runtime = runtime
        self._name = f"client-{number}"
        self._books = books
        self._random = random.Random(number)
        self._calls = 0
        self._kept: str | None = None

    async def run(self, go_on: Callable[[int], bool]) -> None:
        """Call, check and call again."""
        while go_on(self._calls):
            self._calls += 1
            chance = self._random.random()
            if chance < 0.6:
                await self._call_good()
            elif chance < 0.95:
                await self._call_hostile()
            else:
                await self._give_up()

    async def _call_good(self) -> None:
        source = self._random.choice(GOOD)
        nonce = f"{self._name}-{self._calls}"
        # One request id for many calls: it is the caller's choice.
        context = call(nonce, request_id="same", session=self._name)
        result = await self._runtime.execute_source(source, context)
        self._books.enter(source.name, result)
        if source.name == "keeper":
            assert value(result) == [nonce, self._kept or nonce, nonce]
            self._kept = nonce
        else:
            assert set(value(result)) == {nonce}

    async def _call_hostile(self) -> None:
        source = self._random.choice(HOSTILE_HANDLERS)
        result = await self._runtime.execute_source(source, call({"x": None}, session=self._name))
        self._books.enter(source.name, result)
        assert result.error is not None, source.name
        assert result.error.code.value in HOSTILE[source.name].ends, (source.name, result.error)
        assert (result.state_mutations, result.events) == ((), ())

    async def _give_up(self) -> None:
        """A caller who goes away at any moment of a call that writes nothing."""
        source = self._random.choice((*GOOD[:3], *HOSTILE_HANDLERS[:3]))
        running = asyncio.create_task(self._runtime.execute_source(source, call("gone")))
        await asyncio.wait([running], timeout=self._random.random() * 0.01)
        running.cancel()
        await asyncio.wait([running])
        if running.cancelled():
            self._books.cancelled += 1
        else:
            self._books.enter(source.name, running.result())


async def run_clients(runtime: Runtime, go_on: Callable[[int], bool]) -> Books:
    """All clients at once, until `go_on`, asked with the calls a client has made, says no."""
    books = Books()
    async with asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            clients.create_task(Client(runtime, number, books).run(go_on))
    return books
