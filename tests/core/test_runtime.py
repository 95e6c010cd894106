"""The runtime as a whole: every call has an answer, every answer is counted and logged, and it ends well."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nexus_core.build import build_runtime
from nexus_core.compiler import CompiledHandler
from nexus_core.engine.flush import Thrown
from nexus_core.errors import CompilationError, ErrorCode, GuestError, InvalidHandler
from nexus_core.limits import MIB, ResourceLimits
from nexus_core.runtime import Runtime
from tests.core.conftest import config_of
from tests.core.runtimes import (
    PATIENCE_SECONDS,
    Doors,
    RuntimeFactory,
    body,
    call,
    error,
    handler,
    until,
    value,
)
from tests.core.scraping import Samples, scrape
from tests.core.scraping import value as sample

HELLO = handler(body("return 'hello ' + event.who"), name="hello")


def log_lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The records the runtime has logged since it was last asked."""
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def counts(samples: Samples, name: str, label: str) -> dict[str, int]:
    """The values of a metric that are above 0, summed by one of its labels."""
    found: Counter[str] = Counter()
    for (metric, labels), number in samples.items():
        if metric == name and number:
            found[dict(labels)[label]] += int(number)
    return found


async def test_a_handler_of_the_folder_is_run_by_its_name(start: RuntimeFactory, tmp_path: Path) -> None:
    """`execute` finds the handler in the handlers directory, and sees a changed file after a refresh."""
    (tmp_path / "hello.js").write_text("export default (event) => `hello ${event.who}`")
    runtime = await start(handlers_dir=tmp_path)
    assert value(await runtime.execute("hello", call({"who": "bob"}))) == "hello bob"
    (tmp_path / "hello.js").write_text("export default (event) => `good day ${event.who}`")
    assert runtime.handlers.refresh() == {"hello"}
    result = await runtime.execute("hello", call({"who": "bob"}))
    assert (value(result), result.metrics.cache_hit) == ("good day bob", False)


@pytest.mark.parametrize("name", ["nobody", "", "../../etc/passwd", "\0", "x" * 10_000, "\ud800"])
async def test_an_unknown_handler_is_an_answer_too(runtime: Runtime, name: str) -> None:
    """A name nobody has is `HANDLER_NOT_FOUND`, whatever it is made of, and counted under one label."""
    info = error(await runtime.execute(name, call()))
    assert info.code is ErrorCode.HANDLER_NOT_FOUND
    assert counts(scrape(runtime.metrics), "nexus_handler_executions_total", "handler") == {"other": 1}


async def test_a_handler_that_does_not_compile_is_an_answer_too(runtime: Runtime) -> None:
    """The error has the place in the author's file and the line itself; fixing the file is all it takes."""
    source = handler("const fine = 1;\nexport default () => {{;\n", name="broken")
    info = error(await runtime.execute_source(source, call()))
    assert (info.code, info.name) == (ErrorCode.COMPILATION_ERROR, "SyntaxError")
    assert info.location is not None
    assert (info.location.file, info.location.line) == ("index.js", 2)
    assert info.snippet is not None
    assert "export default () => {{;" in info.snippet
    fixed = handler("const fine = 1;\nexport default () => fine;\n", name="broken")
    assert value(await runtime.execute_source(fixed, call())) == 1


async def test_a_thrown_error_points_into_the_authors_source(runtime: Runtime) -> None:
    """Name, message, stack, place and line of what the handler threw; nothing of the host."""
    lines = (
        "export default function (event) {",
        "  const fail = () => { throw new RangeError('too far'); };",
    )
    code = "\n".join((*lines, "  fail();", "}"))
    info = error(await runtime.execute_source(handler(code), call()))
    assert (info.code, info.name, info.message) == (ErrorCode.EXECUTION_ERROR, "RangeError", "too far")
    assert info.location is not None
    assert (info.location.file, info.location.line) == ("index.js", 2)
    assert info.snippet is not None
    assert "throw new RangeError('too far')" in info.snippet
    assert info.stack is not None
    assert "/work" not in info.stack
    assert ".py" not in info.stack


async def test_a_result_tells_what_the_call_used(runtime: Runtime) -> None:
    """Times, memory, host calls, and where the handler came from; `coldStart` when an instance was made."""
    first = (await runtime.execute_source(HELLO, call({"who": "a"}))).metrics
    assert (first.cache_hit, first.cold_start) == (False, True)
    assert first.compilation_time_us is not None
    assert first.compilation_time_us > 0
    second = (await runtime.execute_source(HELLO, call({"who": "a"}))).metrics
    assert (second.cache_hit, second.cold_start, second.compilation_time_us) == (True, False, None)
    assert second.duration_us > 0
    assert second.memory_used_bytes == second.memory_peak_bytes >= 2 * MIB


async def test_the_context_tells_the_handler_who_it_is(runtime: Runtime) -> None:
    """`ctx` and the globals hold what the caller and the manifest say, and nothing else."""
    code = body("""
        const left = ctx.remainingMs();
        return {
          keys: Object.keys(ctx), env: ctx.env, event: $args, scope: $scope,
          left: left > 0 && left <= 7000, ids: [ctx.requestId, ctx.handler, ctx.session],
        };
    """)
    source = handler(code, name="who", env={"MODE": "test"}, timeout_ms=7000)
    context = call({"a": [1]}, request_id="request-7", session="s", scope=b'{"user":"ada"}')
    told = value(await runtime.execute_source(source, context))
    assert told["ids"] == ["request-7", "who", "s"]
    assert (told["env"], told["event"], told["scope"], told["left"]) == (
        {"MODE": "test"},
        {"a": [1]},
        {"user": "ada"},
        True,
    )
    assert sorted(told["keys"]) == ["env", "handler", "remainingMs", "requestId", "session"]


async def test_limits_are_narrowed_for_one_call(runtime: Runtime) -> None:
    """The caller's tighter limit holds for its call only; a looser one changes nothing."""
    source = handler(body("$emit('a'); $emit('b')"), "events:emit:*", max_events=2)
    tight = error(await runtime.execute_source(source, call(limits=ResourceLimits(max_events=1))))
    assert tight.limit is not None
    assert (tight.limit.name, tight.limit.value) == ("max_events", 1)
    value(await runtime.execute_source(source, call()))
    source = handler(body("$emit('a'); $emit('b')"), "events:emit:*", max_events=1)
    loose = error(await runtime.execute_source(source, call(limits=ResourceLimits(max_events=100))))
    assert loose.limit is not None
    assert loose.limit.value == 1


# ---- settings of extensions ------------------------------------------------------------------


async def test_wrong_settings_of_an_extension_are_refused_each_time(runtime: Runtime) -> None:
    """A manifest table that its extension does not accept stops every call, and the check."""
    source = handler(body("return 1"), "ext:http", extensions={"http": {"alow": []}})
    for _ in range(3):
        info = error(await runtime.execute_source(source, call()))
        assert (info.code, info.message) == (
            ErrorCode.INVALID_HANDLER,
            "[http] has no key 'alow'; allowed is 'allow'",
        )
    with pytest.raises(InvalidHandler, match="alow"):
        await runtime.check(source)


async def test_checking_a_handler_compiles_it(runtime: Runtime) -> None:
    """`check` raises what is wrong, and runs nothing of the handler's function."""
    compiled = await runtime.check(HELLO)
    assert compiled.source is HELLO
    with pytest.raises(CompilationError):
        await runtime.check(handler("export default 1"))
    assert runtime.pool.instances_created == 0


# ---- what is told to operators ---------------------------------------------------------------


async def test_metrics_add_up_after_a_mixed_run(start: RuntimeFactory) -> None:
    """Calls by handler and status, errors by code, host calls by function: each call is counted once."""
    runtime = await start(max_instances=8)
    mixed = [
        (HELLO, {"who": "x"}, None),
        (
            handler(body("$view.update('a', 1); $emit('b')"), "view:update:*", "events:emit:*", name="busy"),
            None,
            None,
        ),
        (handler(body("throw 1"), name="thrower"), None, ErrorCode.EXECUTION_ERROR),
        (handler(body("$emit('b')"), name="denied"), None, ErrorCode.PERMISSION_DENIED),
        (handler(body("for (;;);"), name="endless", timeout_ms=300), None, ErrorCode.TIMEOUT),
        (handler("export default 1", name="wrong"), None, ErrorCode.COMPILATION_ERROR),
        (handler(body("return 1"), name="small", max_input_bytes=2), "long", ErrorCode.PAYLOAD_TOO_LARGE),
    ]
    runs = 4
    results = await asyncio.gather(
        *(runtime.execute_source(source, call(event)) for source, event, _ in mixed for _ in range(runs))
    )
    await asyncio.gather(*(runtime.execute("nobody", call()) for _ in range(runs)))
    expected = Counter({code.value: runs for _, _, code in mixed if code})
    assert Counter(error(result).code.value for result in results if result.status == "error") == expected
    samples = scrape(runtime.metrics)
    assert counts(samples, "nexus_errors_total", "code") == {**expected, "HANDLER_NOT_FOUND": runs}
    for source, _, code in mixed:
        status = "error" if code else "success"
        done = sample(samples, "nexus_handler_executions_total", handler=source.name, status=status)
        assert done == sample(samples, "nexus_handler_execution_seconds_count", handler=source.name) == runs
    assert counts(samples, "nexus_host_calls_total", "function") == {"view": runs, "emit": runs}
    assert counts(samples, "nexus_capability_refusals_total", "kind") == {"events:emit": runs}
    assert sample(samples, "nexus_pool_waiting") == 0
    assert counts(samples, "nexus_pool_instances", "state") == {"free": float(runtime.pool.available_count)}


async def test_each_call_is_one_line_of_the_log(
    capfd: pytest.CaptureFixture[str], start: RuntimeFactory
) -> None:
    """A line with request id, handler, session, status, code and duration; the handler's own beside it."""
    runtime = await start()
    source = handler(body("console.warn('careful'); throw new Error('no')"), name="logger")
    await runtime.execute_source(source, call(request_id="r-1", session="s"))
    lines = log_lines(capfd)
    (line,) = [line for line in lines if line["logger"] == "nexus.call"]
    assert (line["request_id"], line["handler"], line["session"]) == ("r-1", "logger", "s")
    assert (line["status"], line["code"], line["level"]) == ("error", "EXECUTION_ERROR", "warning")
    assert line["duration_us"] > 0
    (own,) = [line for line in lines if line["logger"] == "nexus.handler"]
    assert (own["message"], own["level"], own["request_id"]) == ("careful", "warning", "r-1")


async def test_each_refusal_is_in_the_audit_log(
    capfd: pytest.CaptureFixture[str], start: RuntimeFactory
) -> None:
    """Every refused operation is recorded with its token, also those the handler caught."""
    runtime = await start(log_level="error")
    code = body("""
        for (const key of ["a", "b:c", "d"]) try { $state[key] = 1; } catch {}
        try { await $ext.http.get("https://example.com"); } catch {}
        $emit("e");
    """)
    source = handler(code, "state:read:*", name="prober")
    info = error(await runtime.execute_source(source, call(request_id="r-2", session="s")))
    assert info.code is ErrorCode.PERMISSION_DENIED
    audit = [line for line in log_lines(capfd) if line["logger"] == "nexus.audit"]
    assert [(line["operation"], line["token"]) for line in audit] == [
        ("state:write", "state:write:a"),
        ("state:write", "state:write:b:c"),
        ("state:write", "state:write:d"),
        ("ext", "ext:http"),
        ("events:emit", "events:emit:e"),
    ]
    assert {(line["request_id"], line["handler"], line["session"]) for line in audit} == {
        ("r-2", "prober", "s")
    }
    refused = counts(scrape(runtime.metrics), "nexus_capability_refusals_total", "kind")
    assert refused == {"state:write": 3, "ext": 1, "events:emit": 1}


async def test_what_a_guest_asks_for_makes_no_metrics_of_its_own(
    capfd: pytest.CaptureFixture[str], start: RuntimeFactory
) -> None:
    """Whatever names a handler makes up, refusals are counted by kind, and logged under its own name only."""
    runtime = await start()
    code = body("""
        for (let n = 0; n < 20; n++) try { await $ext["x" + n + ":y:z"].go(); } catch {}
    """)
    value(await runtime.execute_source(handler(code, name="liar"), call()))
    value(await runtime.execute_source(HELLO, call({"who": "x"}, request_id="clean")))
    assert counts(scrape(runtime.metrics), "nexus_capability_refusals_total", "kind") == {"ext": 20}
    audit = [line for line in log_lines(capfd) if line["logger"] == "nexus.audit"]
    assert {line["handler"] for line in audit} == {"liar"}


async def test_a_failure_of_nexus_is_logged_and_hidden(
    capfd: pytest.CaptureFixture[str], start: RuntimeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller learns only that Nexus failed; the log has the cause under the request id."""
    runtime = await start()
    monkeypatch.setattr(runtime.pool, "_new_instance", iter(()).__next__)
    result = await runtime.execute_source(HELLO, call({"who": "x"}, request_id="r-3"))
    info = error(result)
    assert (info.code, info.retryable) == (ErrorCode.INTERNAL_ERROR, True)
    assert info.message == "Nexus failed to run this call; its log has the cause under the request id"
    (failure,) = [line for line in log_lines(capfd) if line["logger"] == "nexus.failure"]
    assert failure["request_id"] == "r-3"
    assert "StopIteration" in failure["message"]
    assert "StopIteration" not in repr(result)
    monkeypatch.undo()
    assert value(await runtime.execute_source(HELLO, call({"who": "x"}))) == "hello x"


# ---- start and shutdown ----------------------------------------------------------------------


async def test_a_runtime_takes_calls_from_start_to_shutdown(code_cache: Path) -> None:
    """Before and after it refuses them with an answer that may be retried; starting makes instances ready."""
    runtime = build_runtime(config_of(code_cache, min_instances=2))
    ready = [runtime.ready]
    assert error(await runtime.execute_source(HELLO, call())).code is ErrorCode.POOL_EXHAUSTED
    await runtime.start()
    ready.append(runtime.ready)
    assert runtime.pool.available_count == 2
    result = await runtime.execute_source(HELLO, call({"who": "x"}))
    assert (value(result), result.metrics.cold_start) == ("hello x", False)
    assert await runtime.shutdown(1)
    ready.append(runtime.ready)
    assert ready == [False, True, False]
    assert error(await runtime.execute_source(HELLO, call())).code is ErrorCode.POOL_EXHAUSTED
    assert await runtime.shutdown(1)


@pytest.mark.parametrize("evicted", [False, True])
async def test_a_shutdown_lets_sleeping_calls_end(start: RuntimeFactory, doors: Doors, evicted: bool) -> None:
    """A call that waits for an extension is answered, also when others run in its instance meanwhile."""
    runtime = await start(max_instances=1)
    source = handler(
        body("return await $ext.doors.pass('a')"), "ext:doors", name="sleeper", timeout_ms=60_000
    )
    running = asyncio.create_task(runtime.execute_source(source, call()))
    await doors.reached("a")
    if evicted:
        value(await runtime.execute_source(HELLO, call({"who": "x"})))
    ending = asyncio.create_task(runtime.shutdown(60))
    await until(lambda: not runtime.ready)
    await asyncio.sleep(0)
    assert not ending.done()
    doors.open("a", "in time")
    assert value(await running) == "in time"
    assert await ending
    assert doors.closed


async def test_a_shutdown_aborts_calls_at_its_deadline(start: RuntimeFactory, doors: Doors) -> None:
    """Calls that compute or wait for too long are cancelled, and every instance is closed."""
    runtime = await start()
    endless = handler(body("for (;;);"), name="endless", timeout_ms=0)
    waiting = handler(body("await $ext.doors.pass('never')"), "ext:doors", name="waiting", timeout_ms=0)
    calls = [asyncio.create_task(runtime.execute_source(source, call())) for source in (endless, waiting)]
    await doors.reached("never")
    await until(lambda: runtime.pool.active_count)
    assert not await runtime.shutdown(0.05)
    await asyncio.wait(calls)
    assert all(task.cancelled() for task in calls)
    assert doors.cancelled == ["never"]
    assert runtime.pool.total_memory == 0


async def test_a_shutdown_aborts_compiles_at_its_deadline(start: RuntimeFactory) -> None:
    """A call that has not come to the pool yet, since its handler loads for ever, is ended too."""
    runtime = await start()
    endless = handler("for (;;);\nexport default () => 1", name="endless", timeout_ms=0)
    running = asyncio.create_task(runtime.execute_source(endless, call()))
    await until(runtime.compiler._flights.__len__)
    assert not await runtime.shutdown(0.05)
    await asyncio.wait([running])
    assert running.cancelled()


async def test_a_shutdown_lets_a_call_finish_its_answer(
    start: RuntimeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that has given its instance back, and is still explaining its error, is not cut off."""
    runtime = await start(max_instances=1)
    source = handler("export default () => { throw new Error('explained') }", name="thrower")
    await runtime.check(source)
    free = threading.Event()
    explain = CompiledHandler.explain

    def explain_late(compiled: CompiledHandler, thrown: Thrown) -> GuestError:
        free.wait(PATIENCE_SECONDS)
        return explain(compiled, thrown)

    monkeypatch.setattr(CompiledHandler, "explain", explain_late)
    running = asyncio.create_task(runtime.execute_source(source, call()))
    await until(lambda: runtime.pool.available_count == 1)
    ending = asyncio.create_task(runtime.shutdown(60))
    await until(lambda: runtime.pool._closed)
    await asyncio.sleep(0)
    assert not running.done()
    free.set()
    info = error(await running)
    assert (info.code, info.message) == (ErrorCode.EXECUTION_ERROR, "explained")
    assert await asyncio.wait_for(ending, 20)


async def test_idle_instances_are_retired_in_the_background(
    start: RuntimeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A started runtime looks after its pool by itself."""
    monkeypatch.setattr("nexus_core.runtime._TEND_SECONDS", 0.005)
    runtime = await start(idle_timeout_ms=1)
    value(await runtime.execute_source(HELLO, call({"who": "x"})))
    await until(lambda: runtime.pool.available_count == 0)
