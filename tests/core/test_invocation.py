"""Calls that sleep: `$ext` through the runtime, with a Python extension whose answers the test gives."""

from __future__ import annotations

import asyncio
import json

import pytest

from nexus_core.errors import ErrorCode
from nexus_core.extensions.base import ExtensionCall, ExtensionError
from nexus_core.runtime import Runtime
from tests.core.runtimes import Doors, RuntimeFactory, body, call, error, handler, until, value
from tests.core.scraping import scrape
from tests.core.scraping import value as sample
from tests.extensions.loopback import Received, Server, plain

FAN_OUT = body("return await Promise.all(event.map((name) => $ext.doors.pass(name)))")


async def test_an_extension_gets_the_arguments_and_gives_the_value(runtime: Runtime, doors: Doors) -> None:
    """Arguments and answers travel as JSON; the extension is told who calls, and what its settings are."""
    source = handler(
        body("return await $ext.doors.echo(1, 'two', [3, null], { four: 4.5 })"),
        "ext:doors",
        name="caller",
        extensions={"doors": {"color": "green"}},
        timeout_ms=9000,
    )
    context = call(request_id="request-9", traceparent="00-1-2-01")
    assert value(await runtime.execute_source(source, context)) == [1, "two", [3, None], {"four": 4.5}]
    (asked,) = doors.calls
    assert asked.args == (1, "two", [3, None], {"four": 4.5})
    assert (asked.method, asked.handler, asked.request_id) == ("echo", "caller", "request-9")
    assert (asked.settings, asked.traceparent) == ({"color": "green"}, "00-1-2-01")
    assert asked.remaining_seconds is not None
    assert 0 < asked.remaining_seconds <= 9


async def test_calls_awaited_together_run_at_once(runtime: Runtime, doors: Doors) -> None:
    """All calls of a `Promise.all` are under way before any is answered; each promise gets its own answer."""
    source = handler(FAN_OUT, "ext:doors", timeout_ms=60_000)
    running = asyncio.create_task(runtime.execute_source(source, call(["a", "b", "c"])))
    await doors.reached("a", "b", "c")
    for name in ("c", "a", "b"):
        doors.open(name, name.upper())
    result = await running
    assert value(result) == ["A", "B", "C"]
    assert result.metrics.host_calls == {"ext_call": 3}


async def test_answers_are_delivered_as_they_come(runtime: Runtime, doors: Doors) -> None:
    """The handler goes on with the first answer while the others are still awaited."""
    code = body("""
        const order = [];
        const note = async (name) => {
          order.push([name, await $ext.doors.pass(name)]);
          $state.seen = order.length;
        };
        await Promise.all([note('a'), note('b'), note('c')]);
        return order;
    """)
    source = handler(code, "ext:doors", "state:write:seen", timeout_ms=60_000)
    running = asyncio.create_task(runtime.execute_source(source, call(session="s")))
    await doors.reached("a", "b", "c")
    for step, name in enumerate(("b", "c", "a")):
        doors.open(name, step)
        if name != "a":
            await until_committed(runtime, "s", step + 1)
    assert value(await running) == [["b", 0], ["c", 1], ["a", 2]]


async def test_answers_that_come_together_are_delivered_in_the_order_of_their_calls(
    runtime: Runtime, doors: Doors
) -> None:
    """Which of two calls was done a moment earlier makes no difference to the handler."""
    code = body("""
        const order = [];
        await Promise.all(event.map(async (name) => { await $ext.doors.pass(name); order.push(name); }));
        return order;
    """)
    running = asyncio.create_task(runtime.execute_source(handler(code, "ext:doors"), call(["a", "b", "c"])))
    await doors.reached("a", "b", "c")
    for name in ("c", "b", "a"):
        doors.open(name)
    assert value(await running) == ["a", "b", "c"]


async def until_committed(runtime: Runtime, session: str, version: int) -> None:
    """Wait until a session has this version."""
    async with asyncio.timeout(20):
        while (await runtime.state_store.load(session)).version < version:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("expression", "name", "message"),
    [
        ("$ext.doors.fail('Locked', 'the door is locked')", "Locked", "the door is locked"),
        ("$ext.doors.garble()", "Bad?", "half ? a pair"),
        ("$ext.doors.crash()", "ExtensionError", "$ext.doors.crash failed"),
        (
            "$ext.doors.open()",
            "ExtensionError",
            "$ext.doors has no method 'open'; it has crash, echo, fail, garble, pass",
        ),
        ("$ext.windows.open()", "ExtensionError", "there is no extension 'windows'"),
    ],
)
async def test_a_failed_call_rejects_with_name_and_message(
    runtime: Runtime, expression: str, name: str, message: str
) -> None:
    """The handler can catch what an extension raises; of the host's own failures it learns nothing."""
    code = body(f"""
        try {{ await {expression}; }}
        catch (caught) {{ return [caught instanceof Error, caught.name, caught.message]; }}
    """)
    result = await runtime.execute_source(handler(code, "ext:*"), call())
    assert value(result) == [True, name, message]
    assert "secret" not in repr(result)


async def test_an_uncaught_rejection_is_the_handlers_error(runtime: Runtime) -> None:
    """A rejection nobody catches ends the call with the extension's name and message."""
    source = handler(body("await $ext.doors.fail('Locked', 'no key')"), "ext:doors")
    info = error(await runtime.execute_source(source, call()))
    assert (info.code, info.name, info.message) == (ErrorCode.EXECUTION_ERROR, "Locked", "no key")


async def test_an_extension_without_its_capability_is_not_asked(runtime: Runtime, doors: Doors) -> None:
    """Without `ext:doors` the call is refused, and the extension never hears of it."""
    source = handler(body("return await $ext.doors.echo(1)"), "ext:windows")
    info = error(await runtime.execute_source(source, call()))
    assert (info.code, info.message) == (
        ErrorCode.PERMISSION_DENIED,
        "the handler has no capability ext:doors",
    )
    assert doors.calls == []


async def test_an_extension_that_cancels_itself_rejects(start: RuntimeFactory) -> None:
    """A cancellation inside an extension is its failure, not the end of the call that asked."""

    class Quitter:
        name = "quitter"

        def __init__(self) -> None:
            self.methods = {"quit": self._quit}

        async def _quit(self, call: ExtensionCall) -> None:
            raise asyncio.CancelledError

        async def close(self) -> None:
            raise ExtensionError("closing fails too")

    runtime = await start(extensions=[Quitter()])
    code = body("try { await $ext.quitter.quit(); } catch (caught) { return caught.message; }")
    assert value(await runtime.execute_source(handler(code, "ext:*"), call())) == "it was cancelled"


async def test_a_timeout_cancels_every_call_under_way(runtime: Runtime, doors: Doors) -> None:
    """When the wall time is up, the extension is told by cancellation."""
    source = handler(FAN_OUT, "ext:doors", timeout_ms=30)
    info = error(await runtime.execute_source(source, call(["a", "b"])))
    assert info.code is ErrorCode.TIMEOUT
    await until(lambda: sorted(doors.cancelled) == ["a", "b"])
    assert runtime.pool.suspended_count == 0


async def test_a_wake_up_that_takes_longer_than_the_call_has_is_a_timeout(
    start: RuntimeFactory, doors: Doors
) -> None:
    """An answered call that finds no instance before its time is up ends with `timeout_ms`."""
    runtime = await start(max_instances=1)
    source = handler(body("await $ext.doors.pass('a')"), "ext:doors", timeout_ms=150)
    sleeping = asyncio.create_task(runtime.execute_source(source, call()))
    await doors.reached("a")
    busy = handler(body("for (;;);"), name="busy", timeout_ms=0)
    computing = asyncio.create_task(runtime.execute_source(busy, call()))
    await until(lambda: runtime.pool.active_count)
    doors.open("a")
    info = error(await asyncio.wait_for(sleeping, 20))
    assert (info.code, info.limit and info.limit.name) == (ErrorCode.TIMEOUT, "timeout_ms")
    computing.cancel()
    await asyncio.wait([computing])
    assert runtime.pool.statistics().saved_bytes == 0


async def test_a_handler_that_stops_waiting_cancels_the_rest(runtime: Runtime, doors: Doors) -> None:
    """Calls whose answer nobody needs any more, since the handler returned, are cancelled."""
    code = body("$ext.doors.pass('late'); await $ext.doors.pass('first'); return 'done'")
    running = asyncio.create_task(runtime.execute_source(handler(code, "ext:doors"), call()))
    await doors.reached("late", "first")
    doors.open("first")
    assert value(await running) == "done"
    await until(lambda: doors.cancelled == ["late"])


async def test_cancelling_a_sleeping_call_frees_everything(runtime: Runtime, doors: Doors) -> None:
    """A caller that goes away ends its call while it sleeps: extension, instance and park are free."""
    running = asyncio.create_task(runtime.execute_source(handler(FAN_OUT, "ext:doors"), call(["a"])))
    await doors.reached("a")
    assert runtime.pool.suspended_count == 1
    running.cancel()
    await asyncio.wait([running])
    await until(lambda: doors.cancelled == ["a"])
    assert repr(runtime.pool) == "<InstancePool free=1 reserved=0 running=0 suspended=0 asleep=0 waiting=0>"


@pytest.mark.parametrize("statement", ["for (;;);", "while (true) await null;"])
async def test_cancelling_a_running_call_frees_its_instance(runtime: Runtime, statement: str) -> None:
    """A caller that goes away ends a call that computes on the thread, and the instance is clean."""
    source = handler(body(statement), timeout_ms=60_000)
    running = asyncio.create_task(runtime.execute_source(source, call()))
    await until(lambda: runtime.pool.active_count == 1)
    await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert runtime.pool.available_count == 1
    assert value(await runtime.execute_source(handler(body("return 1"), name="next"), call())) == 1


async def test_calls_with_one_request_id_do_not_meet(start: RuntimeFactory, doors: Doors) -> None:
    """The request id is the caller's choice: two sleeping calls that share it each wake as themselves."""
    runtime = await start(max_instances=1)
    source = handler(body("return [event, await $ext.doors.pass(event)]"), "ext:doors", timeout_ms=60_000)
    calls = {
        name: asyncio.create_task(runtime.execute_source(source, call(name, request_id="same")))
        for name in ("a", "b", "c")
    }
    await doors.reached("a", "b", "c")
    assert runtime.pool.suspended_count == 3
    for name in ("b", "c", "a"):
        doors.open(name, name.upper())
        assert value(await calls[name]) == [name, name.upper()]


async def test_sleeping_calls_share_one_instance_and_keep_their_heaps(
    start: RuntimeFactory, doors: Doors
) -> None:
    """While one call sleeps others run in its instance; variables, closures and counters come back."""
    runtime = await start(max_instances=1)
    code = """
        let count = 0;
        const seen = new Map();
        export default async function (event) {
          const remember = (answer) => seen.set(event + ++count, answer);
          for (const step of [1, 2, 3]) remember(await $ext.doors.pass(event + step));
          return [...seen];
        }
    """
    source = handler(code, "ext:doors", timeout_ms=60_000)
    names = [f"call-{number}-" for number in range(12)]
    calls = [asyncio.create_task(runtime.execute_source(source, call(name))) for name in names]
    for step in (1, 2, 3):
        await doors.reached(*(f"{name}{step}" for name in names))
        for name in names if step % 2 else reversed(names):
            doors.open(f"{name}{step}", f"answer to {name}{step}")
    for name, result in zip(names, await asyncio.gather(*calls), strict=True):
        assert value(result) == [[f"{name}{step}", f"answer to {name}{step}"] for step in (1, 2, 3)]
    assert runtime.pool.instances_created == 1
    assert sample(scrape(runtime.metrics), "nexus_suspensions", where="memory") == 0


async def test_other_handlers_run_in_the_instance_of_a_sleeping_call(
    start: RuntimeFactory, doors: Doors
) -> None:
    """What runs meanwhile finds a pristine heap, and leaves nothing in the sleeper's."""
    runtime = await start(max_instances=1)
    sleeper = handler(
        body("globalThis.mark = event; await $ext.doors.pass('a'); return [mark, typeof spoiled]"),
        "ext:doors",
    )
    running = asyncio.create_task(runtime.execute_source(sleeper, call("mine")))
    await doors.reached("a")
    spoiler = handler(body("globalThis.spoiled = 1; return typeof mark"), name="spoiler")
    assert value(await runtime.execute_source(spoiler, call())) == "undefined"
    doors.open("a")
    assert value(await running) == ["mine", "undefined"]


@pytest.mark.parametrize("thing", ["new Promise(() => {})", "{ then() {} }", "$ext.doors.pass('a').finally"])
async def test_a_handler_that_nothing_can_wake_is_told_so(runtime: Runtime, doors: Doors, thing: str) -> None:
    """Awaiting what nothing will settle is an error at once, not a wait until the timeout."""
    source = handler(body(f"await {thing}; await new Promise(() => {{}})"), "ext:doors", timeout_ms=0)
    doors.open("a")
    info = error(await runtime.execute_source(source, call()))
    assert info.code is ErrorCode.EXECUTION_ERROR
    assert "never settled" in info.message


async def test_thousands_of_calls_at_once_are_answered(runtime: Runtime) -> None:
    """A handler may start as many calls as `max_host_calls` allows; each promise gets its answer."""
    code = body("""
        const all = [];
        for (let number = 0; number < event; number++) all.push($ext.doors.echo(number));
        return (await Promise.all(all)).reduce((sum, [number]) => sum + number, 0);
    """)
    source = handler(code, "ext:doors", timeout_ms=60_000)
    assert value(await runtime.execute_source(source, call(5000))) == 5000 * 4999 // 2


async def test_random_numbers_differ_after_a_sleep_in_another_instance(
    start: RuntimeFactory, doors: Doors
) -> None:
    """Two calls that went through the same instance and the same sleep draw different numbers."""
    runtime = await start(max_instances=1)
    source = handler(body("await $ext.doors.pass('a'); return Math.random()"), "ext:doors")
    calls = [asyncio.create_task(runtime.execute_source(source, call())) for _ in range(4)]
    await until(lambda: len(doors.waiting()) == 4)
    doors.open("a")
    assert len({value(result) for result in await asyncio.gather(*calls)}) == 4


async def test_http_calls_reach_a_real_server_at_once(start: RuntimeFactory) -> None:
    """`$ext.http` has several pages of one `Promise.all` under way before any is answered."""
    all_arrived = asyncio.Event()

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        if len(server.received) == 3:
            all_arrived.set()
        await all_arrived.wait()
        text = json.dumps({"path": request.path}).encode()
        await plain(text, headers=[("Content-Type", "application/json")])(request, writer)

    server = Server(answer)
    await server.start("127.0.0.1", 0, None)
    address = f"127.0.0.1:{server.port}"
    try:
        runtime = await start(egress_allow_private="true")
        code = body("""
            const pages = ["/a", "/b", "/c"].map((path) => $ext.http.get(event + path));
            return (await Promise.all(pages)).map((page) => [page.status, page.body.path]);
        """)
        allowed = {"http": {"allow": [address]}}
        source = handler(code, "ext:http", extensions=allowed, timeout_ms=60_000)
        result = await runtime.execute_source(source, call(f"http://{address}"))
        assert value(result) == [[200, "/a"], [200, "/b"], [200, "/c"]]
    finally:
        await server.stop()


async def test_http_to_a_private_address_is_refused_unless_allowed(runtime: Runtime) -> None:
    """Without `egress_allow_private` no handler reaches loopback, whatever its manifest says."""
    source = handler(
        body("await $ext.http.get('http://127.0.0.1:9/')"),
        "ext:http",
        extensions={"http": {"allow": ["127.0.0.1:9"]}},
    )
    info = error(await runtime.execute_source(source, call()))
    assert (info.code, info.name) == (ErrorCode.EXECUTION_ERROR, "EgressDenied")
