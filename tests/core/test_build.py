"""The composition root: each setting reaches its part, and runtimes of one process share nothing."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from pathlib import Path

import pytest

from nexus_core.build import build_runtime
from nexus_core.compiler import MOST_COMPILES
from nexus_core.errors import ErrorCode
from nexus_core.extensions.base import ExtensionCall
from nexus_core.limits import MIB
from nexus_core.logs import CallLog, LineWriter
from nexus_core.metrics import prepare_multiprocess_dir
from nexus_core.stores.memory import MemoryStateStore
from nexus_core.stores.sqlite import SqliteStateStore
from tests.core.conftest import config_of
from tests.core.runtimes import RuntimeFactory, body, call, error, handler, value
from tests.core.scraping import scrape
from tests.core.scraping import value as sample

HELLO = handler(body("return 'hello'"), name="hello")


async def test_settings_of_the_pool_reach_the_pool(start: RuntimeFactory) -> None:
    """Every bound of the pool is the configuration's."""
    runtime = await start(
        max_instances=7,
        min_instances=3,
        max_waiting=11,
        acquire_timeout_ms=1300,
        idle_timeout_ms=1700,
        max_total_memory_bytes="64 MiB",
    )
    settings = runtime.pool._settings
    assert (settings.max_instances, settings.min_instances, settings.max_waiting) == (7, 3, 11)
    assert (settings.acquire_timeout_seconds, settings.idle_timeout_seconds) == (1.3, 1.7)
    assert settings.max_total_memory_bytes == 64 * MIB
    assert runtime.pool.available_count == 3
    assert runtime._parts.threads._max_workers == 7 + MOST_COMPILES  # type: ignore[attr-defined]


async def test_what_sleeping_calls_keep_is_bounded_without_a_budget_too(start: RuntimeFactory) -> None:
    """With no memory budget, saved calls may hold as much as all instances could; with one, they share it."""
    free = await start(max_instances=3, memory_limit_bytes="8 MiB")
    assert free.pool._settings.max_saved_bytes == 3 * 8 * MIB
    held = await start(max_instances=3, max_total_memory_bytes="20 MiB")
    assert held.pool._settings.max_saved_bytes == 0


async def test_limits_of_the_configuration_are_the_handlers_defaults(
    start: RuntimeFactory, tmp_path: Path
) -> None:
    """A handler without a manifest has the configured limits; what a manifest sets, wins."""
    (tmp_path / "plain.js").write_text("export default () => 1")
    (tmp_path / "own.js").write_text("export default () => 1")
    (tmp_path / "own.toml").write_text("[limits]\nmax_events = 5\n")
    runtime = await start(handlers_dir=tmp_path, max_events=9, timeout_ms=1234)
    plain, own = (runtime.handlers.get(name).manifest.limits for name in ("plain", "own"))
    assert (plain.max_events, plain.timeout_ms) == (9, 1234)
    assert (own.max_events, own.timeout_ms) == (5, 1234)


@pytest.mark.parametrize(
    ("url", "kind"), [("memory:", MemoryStateStore), ("sqlite:///{folder}/s.db", SqliteStateStore)]
)
async def test_the_store_is_chosen_by_its_url(
    start: RuntimeFactory, tmp_path: Path, url: str, kind: type
) -> None:
    """The scheme of `store_url` names the kind of store."""
    runtime = await start(store_url=url.format(folder=tmp_path))
    assert isinstance(runtime.state_store, kind)


async def test_events_go_to_the_log_when_it_is_the_sink(
    capfd: pytest.CaptureFixture[str], start: RuntimeFactory
) -> None:
    """`event_sink` "log:" writes a record for each event."""
    runtime = await start(event_sink="log:")
    source = handler(body("$emit('order.placed', { id: 7 })"), "events:emit:*", name="shop")
    value(await runtime.execute_source(source, call(session="s")))
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    (event,) = [line["message"] for line in lines if line["logger"] == "nexus.events"]
    assert event == 'event order.placed handler=shop session=s payload={"id":7}'


async def test_a_host_may_bring_its_own_log(code_cache: Path) -> None:
    """With a log of the host the runtime writes to that, and leaves the process's logging as it is."""
    stream = io.BytesIO()
    before = list(logging.getLogger().handlers)
    runtime = build_runtime(config_of(code_cache), log=CallLog(LineWriter("json", stream), "info"))
    try:
        await runtime.execute("nobody", call(request_id="mine"))
    finally:
        await runtime.shutdown(0)
    assert json.loads(stream.getvalue())["request_id"] == "mine"
    assert logging.getLogger().handlers == before


async def test_an_extension_of_the_caller_goes_before_a_built_in_one(start: RuntimeFactory) -> None:
    """An object given to `build_runtime` answers under its name, and is closed with the runtime."""

    class Offline:
        name = "http"
        closed = 0

        def __init__(self) -> None:
            self.methods = {"get": self._get}

        async def _get(self, call: ExtensionCall) -> str:
            return f"no network for {call.args[0]}"

        async def close(self) -> None:
            Offline.closed += 1

    runtime = await start(extensions=[Offline()])
    source = handler(body("return await $ext.http.get('x')"), "ext:http")
    assert value(await runtime.execute_source(source, call())) == "no network for x"
    await runtime.shutdown(1)
    assert Offline.closed == 1


async def test_runtimes_of_one_process_share_nothing(start: RuntimeFactory) -> None:
    """Two runtimes with the same handlers and sessions count, store and compile each for itself."""
    one, two = await start(), await start()
    source = handler(
        body("$state.n = ($state.n ?? 0) + 1; return $state.n"),
        "state:read:n",
        "state:write:n",
        name="counter",
    )
    for expected in (1, 2):
        assert value(await one.execute_source(source, call(session="s"))) == expected
    assert value(await two.execute_source(source, call(session="s"))) == 1
    assert (
        sample(scrape(one.metrics), "nexus_handler_executions_total", handler="counter", status="success")
        == 2
    )
    assert (
        sample(scrape(two.metrics), "nexus_handler_executions_total", handler="counter", status="success")
        == 1
    )
    await one.shutdown(1)
    assert value(await two.execute_source(source, call(session="s"))) == 2


def test_each_event_loop_may_have_a_runtime(code_cache: Path) -> None:
    """A runtime lives on one loop; another one, in the same process, starts like the first."""

    async def once() -> object:
        runtime = build_runtime(config_of(code_cache))
        await runtime.start()
        try:
            return value(await runtime.execute_source(HELLO, call()))
        finally:
            assert await runtime.shutdown(1)

    assert [asyncio.run(once()) for _ in range(3)] == ["hello"] * 3


async def test_workers_share_their_counts_through_the_metrics_folder(
    code_cache: Path, tmp_path: Path
) -> None:
    """Runtimes with one `metrics_dir` render the sum of what they all counted."""
    prepare_multiprocess_dir(tmp_path / "metrics")
    runtimes = [build_runtime(config_of(code_cache), metrics_dir=tmp_path / "metrics") for _ in range(2)]
    for runtime in runtimes:
        await runtime.start()
        value(await runtime.execute_source(HELLO, call()))
    for runtime in runtimes:
        samples = scrape(runtime.metrics)
        assert sample(samples, "nexus_handler_executions_total", handler="hello", status="success") == 2
    for runtime in runtimes:
        assert await runtime.shutdown(1)


async def test_the_labels_of_metrics_are_bounded_by_the_configuration(start: RuntimeFactory) -> None:
    """`metrics_max_handlers` have a label of their own, the rest share one."""
    runtime = await start(metrics_max_handlers=1)
    for name in ("first", "second", "third"):
        value(await runtime.execute_source(handler(body("return 1"), name=name), call()))
    samples = scrape(runtime.metrics)
    assert sample(samples, "nexus_handler_executions_total", handler="other", status="success") == 2


async def test_a_broken_cache_folder_stops_no_call(start: RuntimeFactory, tmp_path: Path) -> None:
    """A cache folder that is a file is reported once and done without."""
    (tmp_path / "cache").write_text("in the way")
    runtime = await start(cache_dir=tmp_path / "cache")
    assert value(await runtime.execute_source(HELLO, call())) == "hello"
    assert sample(scrape(runtime.metrics), "nexus_cache_degraded_total", reason="not_a_folder") >= 1


async def test_an_unstarted_runtime_answers_that_it_is_not_ready(code_cache: Path) -> None:
    """Nothing runs before `start`."""
    runtime = build_runtime(config_of(code_cache))
    info = error(await runtime.execute_source(HELLO, call()))
    assert (info.code, info.retryable) == (ErrorCode.POOL_EXHAUSTED, True)
    await runtime.shutdown(0)
