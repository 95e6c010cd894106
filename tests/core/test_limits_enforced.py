"""Each limit of a call: what is within it works, what passes it is refused whole, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import pytest

from nexus_core.errors import ErrorCode
from nexus_core.handler_source import HandlerSource
from nexus_core.limits import KIB, MIB, ResourceLimits
from nexus_core.result import ErrorInfo, ErrorLimit, WasmResult
from nexus_core.runtime import Runtime
from tests.core.runtimes import Doors, RuntimeFactory, body, call, decoded, error, handler, until, value
from tests.core.scraping import scrape
from tests.core.scraping import value as sample

WASM_PAGE = 64 * KIB
EVERYTHING = ("state:read:*", "state:write:*", "events:emit:*", "view:update:*", "ext:*", "crypto:random")
WITNESS = handler(
    body("return [typeof globalThis.left, Object.keys($state), $args, ctx.handler]"),
    "state:read:*",
    name="witness",
)


@pytest.fixture
async def runtime(start: RuntimeFactory) -> AsyncIterator[Runtime]:
    """A runtime with one instance, on which the next call is untouched by whatever a test did."""
    runtime = await start(max_instances=1, max_waiting=0)
    yield runtime
    result = await runtime.execute_source(WITNESS, call("next", session="untouched"))
    assert value(result) == ["undefined", [], "next", "witness"]
    assert result.state_mutations == ()
    assert runtime.pool.available_count == 1


def limit_of(result: WasmResult, code: ErrorCode) -> ErrorLimit:
    """Which limit a call passed; the error must have this code, and its message name limit and value."""
    info: ErrorInfo = error(result)
    assert info.code is code
    assert info.limit is not None
    assert info.limit.name in info.message
    assert str(info.limit.value) in info.message
    assert info.limit.used > info.limit.value
    return info.limit


class Counted(NamedTuple):
    """A limit of a count: the statement that uses one of it, and the error of one too many."""

    name: str
    statement: str
    function: str
    code: ErrorCode = ErrorCode.RESOURCE_LIMIT


COUNTED = [
    Counted("max_host_calls", "$view.update('page', n)", "view"),
    Counted("max_host_calls", "$ext.doors.echo(n)", "ext_call"),
    Counted("max_host_calls", "delete $state.gone", "state_delete"),
    Counted("max_state_mutations", "$state['key' + n] = n", "state_set"),
    Counted("max_state_mutations", "$state.same = n", "state_set"),
    Counted("max_state_mutations", "delete $state.gone", "state_delete"),
    Counted("max_events", "$emit('event', n)", "emit"),
]
MOST = 3


def _counting(counted: Counted, most: int) -> HandlerSource:
    """A handler that uses `event` of the count, in two flushes when it sleeps between."""
    code = body(f"for (let n = 0; n < event; n++) {counted.statement}; globalThis.left = 1; return event")
    limits: dict[str, Any] = {counted.name: most}
    return handler(code, *EVERYTHING, **limits)


@pytest.mark.parametrize("counted", COUNTED, ids=lambda counted: f"{counted.name}-{counted.function}")
@pytest.mark.parametrize("used", [MOST - 1, MOST])
async def test_counts_within_their_limit_are_allowed(runtime: Runtime, counted: Counted, used: int) -> None:
    """One less than the limit, and the limit itself, may be used."""
    result = await runtime.execute_source(_counting(counted, MOST), call(used))
    assert value(result) == used
    assert result.metrics.host_calls == {counted.function: used}


@pytest.mark.parametrize("counted", COUNTED, ids=lambda counted: f"{counted.name}-{counted.function}")
async def test_one_more_than_a_count_is_a_breach(runtime: Runtime, counted: Counted) -> None:
    """The call ends with the limit's name, value and use, applies nothing and is counted."""
    result = await runtime.execute_source(_counting(counted, MOST), call(MOST + 1, session="s"))
    assert limit_of(result, counted.code) == ErrorLimit(name=counted.name, value=MOST, used=MOST + 1)
    assert (result.state_mutations, result.events, result.view_commands) == ((), (), ())
    assert (await runtime.state_store.load("s")).version == 0
    assert await runtime.state_store.latest("s") == 0
    assert sample(scrape(runtime.metrics), "nexus_errors_total", code=counted.code.value) == 1


@pytest.mark.parametrize("counted", COUNTED, ids=lambda counted: f"{counted.name}-{counted.function}")
async def test_a_limit_of_zero_allows_none(runtime: Runtime, counted: Counted) -> None:
    """With 0 the first use is a breach, and no use is none."""
    source = _counting(counted, 0)
    assert value(await runtime.execute_source(source, call(0))) == 0
    limit = limit_of(await runtime.execute_source(source, call(1)), counted.code)
    assert limit == ErrorLimit(name=counted.name, value=0, used=1)


async def test_a_count_goes_on_over_the_flushes_of_a_call(runtime: Runtime) -> None:
    """What was used before an await counts; a breach after it takes back nothing that was flushed."""
    code = body("""
        $state.kept = 1; $emit('kept');
        await $ext.doors.echo();
        $state.lost = 1; $emit('lost'); $emit('lost');
    """)
    source = handler(code, *EVERYTHING, max_events=2)
    result = await runtime.execute_source(source, call(session="s"))
    assert limit_of(result, ErrorCode.RESOURCE_LIMIT) == ErrorLimit(name="max_events", value=2, used=3)
    assert [mutation.key for mutation in result.state_mutations] == ["kept"]
    assert [event.name for event in result.events] == ["kept"]
    assert (await runtime.state_store.load("s")).values == {"kept": b"1"}
    (commit,) = await runtime.state_store.journal("s", 0)
    assert [event.name for event in commit.events] == ["kept"]


# ---- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [19, 20])
async def test_an_event_within_its_size_is_taken(runtime: Runtime, used: int) -> None:
    """An event of up to `max_input_bytes` of JSON text reaches the handler."""
    source = handler(body("return event.length"), max_input_bytes=20)
    assert value(await runtime.execute_source(source, call("x" * (used - 2)))) == used - 2


@pytest.mark.parametrize("narrow", [False, True])
async def test_a_larger_event_is_refused_before_the_handler_runs(runtime: Runtime, narrow: bool) -> None:
    """One byte more, and no instance is made for it; the caller may ask for less than the handler takes."""
    limits = ResourceLimits(max_input_bytes=20)
    source = handler(body("return 1"), max_input_bytes=1000 if narrow else 20)
    result = await runtime.execute_source(source, call("x" * 19, limits=limits if narrow else None))
    limit = limit_of(result, ErrorCode.PAYLOAD_TOO_LARGE)
    assert limit == ErrorLimit(name="max_input_bytes", value=20, used=21)
    assert runtime.pool.instances_created == 0


async def test_a_caller_cannot_widen_the_size_of_events(runtime: Runtime) -> None:
    """A larger limit in the call leaves the handler's as it is."""
    source = handler(body("return 1"), max_input_bytes=20)
    result = await runtime.execute_source(source, call("x" * 19, limits=ResourceLimits()))
    assert limit_of(result, ErrorCode.PAYLOAD_TOO_LARGE).value == 20


@pytest.mark.parametrize(("text", "size"), [("x", 1), ("é", 2), ("\\u{1F600}", 4)])
async def test_a_return_value_is_measured_in_bytes(runtime: Runtime, text: str, size: int) -> None:
    """Up to `max_output_bytes` of UTF-8 are given back; one more is a breach that applies nothing."""
    code = body(f"$state.left = 1; return '{text}'.repeat(event)")
    source = handler(code, "state:write:left", max_output_bytes=4 * size + 2)
    for count in (3, 4):
        result = await runtime.execute_source(source, call(count, session="s"))
        assert len(bytes(result.return_value)) == count * size + 2
        assert value(result)
    result = await runtime.execute_source(source, call(5, session="s"))
    limit = limit_of(result, ErrorCode.PAYLOAD_TOO_LARGE)
    assert limit == ErrorLimit(name="max_output_bytes", value=4 * size + 2, used=5 * size + 2)
    assert (await runtime.state_store.load("s")).version == 2


@pytest.mark.parametrize(("written", "kept"), [(7, 7), (8, 8), (9, 8), (1000, 8)])
async def test_logs_are_cut_at_their_size(runtime: Runtime, written: int, kept: int) -> None:
    """Log text past `max_log_bytes` is left out, which is no breach."""
    source = handler(body("console.log('x'.repeat(event)); console.warn('more'); return 1"), max_log_bytes=8)
    result = await runtime.execute_source(source, call(written))
    assert value(result) == 1
    assert result.logs[0].message == "x" * kept
    assert sum(len(record.message) for record in result.logs) <= 8


async def test_logs_are_cut_by_bytes_and_between_characters(runtime: Runtime) -> None:
    """A character of several bytes is kept whole or left out, and the size goes on over an await."""
    source = handler(
        body("console.log('ééé'); await $ext.doors.echo(); console.log('éé')"), *EVERYTHING, max_log_bytes=9
    )
    result = await runtime.execute_source(source, call())
    assert value(result) is None
    assert [record.message for record in result.logs] == ["ééé", "é"]


# ---- memory and stack ------------------------------------------------------------------------


async def _most_that_works(works: Callable[[int], object], most: int) -> int:
    """The largest number for which an asynchronous test holds; it holds for 0 and not for `most`."""
    least = 0
    while most - least > 1:
        middle = (least + most) // 2
        if await works(middle):  # type: ignore[misc]
            least = middle
        else:
            most = middle
    return least


@pytest.mark.parametrize("megabytes", [4, 8])
async def test_memory_grows_to_its_limit_and_no_further(runtime: Runtime, megabytes: int) -> None:
    """Nearly all of `memory_limit_bytes` can be had; one more piece of a wasm page's size ends the call."""
    limit = megabytes * MIB
    piece = f"new Uint8Array({WASM_PAGE}).fill(1)"
    code = body(f"globalThis.left = []; while (left.length < event) left.push({piece}); return left.length")

    async def run(pieces: int) -> WasmResult:
        # Each time under another name, so that the handler gets no roomier image meanwhile.
        source = handler(code, name=f"grow-{pieces}", memory_limit_bytes=limit)
        return await runtime.execute_source(source, call(pieces))

    async def works(pieces: int) -> bool:
        return (await run(pieces)).status == "success"

    pieces = await _most_that_works(works, megabytes * 16)
    result = await run(pieces)
    assert value(result) == pieces
    assert limit - 8 * WASM_PAGE < result.metrics.memory_peak_bytes <= limit
    result = await run(pieces + 1)
    breach = limit_of(result, ErrorCode.MEMORY_LIMIT)
    assert (breach.name, breach.value) == ("memory_limit_bytes", limit)
    assert result.metrics.memory_peak_bytes <= limit


async def test_a_memory_breach_applies_nothing(runtime: Runtime) -> None:
    """Writes of the call are gone, and the error is counted."""
    code = body("$state.left = 1; const list = []; for (;;) list.push(new Uint8Array(1 << 16).fill(1))")
    source = handler(code, *EVERYTHING, memory_limit_bytes=4 * MIB)
    result = await runtime.execute_source(source, call(session="s"))
    assert limit_of(result, ErrorCode.MEMORY_LIMIT).value == 4 * MIB
    assert (await runtime.state_store.load("s")).version == 0
    assert sample(scrape(runtime.metrics), "nexus_errors_total", code="MEMORY_LIMIT") == 1


async def test_a_caller_may_ask_for_less_memory_than_the_image_has(runtime: Runtime) -> None:
    """Then the call ends before the handler runs."""
    source = handler(body("return 1"))
    limits = ResourceLimits(memory_limit_bytes=2 * MIB)
    breach = limit_of(await runtime.execute_source(source, call(limits=limits)), ErrorCode.MEMORY_LIMIT)
    assert breach.value == 2 * MIB


async def test_a_handler_that_needs_too_much_memory_to_load_is_refused(runtime: Runtime) -> None:
    """Its own data may take it past the limit before any call."""
    code = "const big = new Uint8Array(6 << 20).fill(1);\n" + body("return big.length")
    source = handler(code, memory_limit_bytes=4 * MIB)
    result = await runtime.execute_source(source, call())
    assert error(result).code in (ErrorCode.MEMORY_LIMIT, ErrorCode.COMPILATION_ERROR)


async def test_recursion_goes_as_deep_as_the_stack(runtime: Runtime) -> None:
    """Each stack has a depth that works, one more overflows it, and a smaller stack is shallower."""
    dive = "const dive = (n) => n === 0 ? 0 : 1 + dive(n - 1);\n"
    depths = []
    for size in (64 * KIB, 128 * KIB):
        source = handler(
            dive + body("$state.left = 1; return dive(event)"), *EVERYTHING, stack_size_bytes=size
        )

        async def works(depth: int, source: HandlerSource = source) -> bool:
            return (await runtime.execute_source(source, call(depth))).status == "success"

        depth = await _most_that_works(works, 20_000)
        assert value(await runtime.execute_source(source, call(depth))) == depth
        result = await runtime.execute_source(source, call(depth + 1, session="s"))
        breach = limit_of(result, ErrorCode.STACK_OVERFLOW)
        assert (breach.name, breach.value) == ("stack_size_bytes", size)
        depths.append(depth)
    assert 0 < depths[0] < depths[1]
    assert (await runtime.state_store.load("s")).version == 0


# ---- time ------------------------------------------------------------------------------------


async def test_a_call_within_its_time_ends_well(runtime: Runtime) -> None:
    """A handler that computes for many ticks, and stops long before its time is up, succeeds."""
    source = handler(body("while (ctx.remainingMs() > 29_900); return 1"), timeout_ms=30_000)
    assert value(await runtime.execute_source(source, call())) == 1


@pytest.mark.parametrize(
    "statement",
    ["for (;;);", "for (;;) await null;", "await $ext.doors.pass('never');"],
    ids=["loop", "jobs", "wait"],
)
async def test_a_call_past_its_wall_time_is_ended(runtime: Runtime, doors: Doors, statement: str) -> None:
    """Computing, endless promise jobs and waiting for the host all end with `timeout_ms`."""
    source = handler(
        body(f"$state.left = 1; await $ext.doors.echo(); $state.lost = 1; {statement}"), *EVERYTHING
    )
    limits = ResourceLimits(timeout_ms=60)
    result = await runtime.execute_source(source, call(session="s", limits=limits))
    breach = limit_of(result, ErrorCode.TIMEOUT)
    assert (breach.name, breach.value) == ("timeout_ms", 60)
    assert result.metrics.duration_us >= 60_000
    kept = {"left": b"1"} if "pass" not in statement else {"left": b"1", "lost": b"1"}
    assert (await runtime.state_store.load("s")).values == kept
    assert sample(scrape(runtime.metrics), "nexus_errors_total", code="TIMEOUT") == 1
    await asyncio.sleep(0)
    assert doors.cancelled == (["never"] if "pass" in statement else [])


async def test_a_time_of_zero_is_no_limit(runtime: Runtime) -> None:
    """With `timeout_ms` 0 the handler is told of no deadline."""
    source = handler(body("return String(ctx.remainingMs())"), timeout_ms=0)
    assert value(await runtime.execute_source(source, call())) == "Infinity"


async def test_waiting_for_the_host_is_no_computing(runtime: Runtime, doors: Doors) -> None:
    """A call that waits for much longer than `cpu_ms` succeeds when it computes little."""
    source = handler(body("return await $ext.doors.pass('a')"), *EVERYTHING, cpu_ms=250, timeout_ms=60_000)
    running = asyncio.create_task(runtime.execute_source(source, call()))
    await doors.reached("a")
    await asyncio.wait([running], timeout=0.4)
    doors.open("a", "through")
    result = await running
    assert value(result) == "through"
    assert result.metrics.duration_us > 250_000 > result.metrics.cpu_us


@pytest.mark.parametrize(
    "statement", ["for (;;);", "for (;;) await $ext.doors.echo();"], ids=["loop", "slices"]
)
async def test_a_call_past_its_computing_time_is_ended(runtime: Runtime, statement: str) -> None:
    """`cpu_ms` ends an endless loop, and one that computes in slices too short to be interrupted."""
    source = handler(body(statement), *EVERYTHING, cpu_ms=30, timeout_ms=0, max_host_calls=10_000_000)
    result = await runtime.execute_source(source, call())
    breach = limit_of(result, ErrorCode.TIMEOUT)
    assert (breach.name, breach.value) == ("cpu_ms", 30)
    assert result.metrics.cpu_us >= 30_000


# ---- the pool --------------------------------------------------------------------------------


async def test_a_full_pool_refuses_the_call(runtime: Runtime, doors: Doors) -> None:
    """With `max_instances` busy and `max_waiting` 0, one more call is `POOL_EXHAUSTED` and may be retried."""
    busy = handler(body("for (;;);"), timeout_ms=30_000)
    running = asyncio.create_task(runtime.execute_source(busy, call()))
    await until(lambda: runtime.pool.active_count)
    info = error(await runtime.execute_source(WITNESS, call()))
    assert (info.code, info.retryable) == (ErrorCode.POOL_EXHAUSTED, True)
    assert "max_waiting (0)" in info.message
    running.cancel()
    await asyncio.wait([running])
    assert sample(scrape(runtime.metrics), "nexus_errors_total", code="POOL_EXHAUSTED") == 1


async def test_logs_of_a_failed_call_are_kept(runtime: Runtime) -> None:
    """What the handler logged before it threw is what its author needs."""
    result = await runtime.execute_source(handler(body("console.error('why'); throw 1")), call())
    assert error(result).code is ErrorCode.EXECUTION_ERROR
    assert [(record.level, record.message) for record in result.logs] == [("error", "why")]
    assert decoded(result.return_value) is None
