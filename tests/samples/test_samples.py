"""Each sample does what its comments say."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nexus_core.context import ExecutionContext
from nexus_core.errors import ErrorCode
from nexus_core.result import WasmResult
from nexus_core.runtime import Runtime
from tests.project.sources import ROOT
from tests.samples.conftest import Start


async def call(runtime: Runtime, name: str, event: object = None, session: str | None = None) -> WasmResult:
    """The result of one call."""
    context = ExecutionContext(request_id="test", event=json.dumps(event).encode(), session=session)
    return await runtime.execute(name, context)


async def value(runtime: Runtime, name: str, event: object = None, session: str | None = None) -> Any:
    """The return value of a call that succeeds."""
    result = await call(runtime, name, event, session)
    assert result.error is None, result.error
    return json.loads(bytes(result.return_value))


def test_every_sample_is_accepted(runtime: Runtime) -> None:
    """No sample is refused, and there are these."""
    assert runtime.handlers.errors() == {}
    assert runtime.handlers.names() == (
        "counter",
        "fanout",
        "hello",
        "misbehave",
        "orders",
        "shout",
        "webhook",
    )


async def test_hello_greets(runtime: Runtime) -> None:
    """hello greets whom the event names, needs no capability, and takes no event as well."""
    assert await value(runtime, "hello", {"who": "bob"}) == {"greeting": "hello bob"}
    assert await value(runtime, "hello") == {"greeting": "hello world"}
    assert runtime.handlers.get("hello").manifest.capabilities.tokens == ()


async def test_counter_counts_by_session(runtime: Runtime) -> None:
    """counter adds up within a session, tells of it, and stores nothing when it fails."""
    assert await value(runtime, "counter", {"by": 2}, "a") == {"count": 2}
    assert (await call(runtime, "counter", {"by": 0.5}, "a")).error is not None
    result = await call(runtime, "counter", {"by": 3}, "a")
    assert json.loads(bytes(result.return_value)) == {"count": 5}
    assert [event.name for event in result.events] == ["counter.changed"]
    assert await value(runtime, "counter", None, "b") == {"count": 1}


async def test_fanout_fetches_at_once(start: Start, tmp_path: Path) -> None:
    """fanout asks for all pages before the first one has answered, and tells which failed and how."""
    both_are_here = asyncio.Barrier(2)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await both_are_here.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nfour")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        origin = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        shutil.copytree(ROOT / "handlers" / "fanout", tmp_path / "fanout")
        manifest = tmp_path / "fanout" / "nexus.toml"
        manifest.write_text(manifest.read_text().replace('"example.com"', f'"{origin}"'))
        runtime = await start(tmp_path, egress_allow_private=True)
        urls = [f"http://{origin}/1", "https://elsewhere.example/", f"http://{origin}/2"]
        found = await value(runtime, "fanout", {"urls": urls})
    one, refused, two = found["pages"]
    good = {"status": 200, "type": "text/plain", "length": 4}
    assert (one, two) == ({"url": urls[0], **good}, {"url": urls[2], **good})
    assert (refused["url"], refused["error"]) == (urls[1], "EgressDenied")
    assert found["reached"] == 2


async def test_fanout_reaches_only_what_it_lists(runtime: Runtime) -> None:
    """fanout's manifest keeps it from any other host, whatever the event asks for."""
    found = await value(runtime, "fanout", {"urls": ["https://example.net/", "http://127.0.0.1/"]})
    assert [page["error"] for page in found["pages"]] == ["EgressDenied", "EgressDenied"]


async def test_webhook_answers_its_route(runtime: Runtime) -> None:
    """webhook's route is GET /users/{id}; it answers with JSON, or with a 404 of its own."""
    assert [(trigger.pattern, name) for trigger, name in runtime.handlers.triggers("http")] == [
        ("GET /users/{id}", "webhook")
    ]
    ada = {"id": "7", "name": "Ada", "roles": ["admin"]}
    assert await value(runtime, "webhook", {"params": {"id": "7"}, "query": {}}) == ada
    assert await value(runtime, "webhook", {"params": {"id": "7"}, "query": {"fields": "name"}}) == {
        "id": "7",
        "name": "Ada",
    }
    missing = await value(runtime, "webhook", {"params": {"id": "constructor"}, "query": {}})
    assert (missing["status"], missing["body"]) == (404, "no user constructor\n")


async def test_orders_takes_each_source(runtime: Runtime) -> None:
    """orders finds the order wherever a source has put it, and fails where there is none."""
    order = {"item": "tea"}
    for event in (
        {"body": order},
        {"data": order},
        {"message": order},
        {"newImage": order},
        {"detail": order},
    ):
        assert await value(runtime, "orders", event) == {"ordered": "tea"}
    assert await value(runtime, "orders", {"eventName": "REMOVE", "oldImage": order}) == {"ordered": "tea"}
    assert await value(runtime, "orders", {"bucket": "b", "key": "k"}) == {"ordered": "what k lists"}
    assert await value(runtime, "orders", {"detail-type": "Scheduled Event"}) == {"ordered": None}
    assert (await call(runtime, "orders", {"body": {}})).error is not None


async def test_shout_imports_its_second_file(runtime: Runtime) -> None:
    """shout is TypeScript of two files."""
    assert await value(runtime, "shout", {"text": "hello", "times": 3}) == {"shouted": "HELLO!!!", "marks": 3}


@pytest.mark.parametrize(
    ("mode", "code", "limit"),
    [
        ("loop", ErrorCode.TIMEOUT, "timeout_ms"),
        ("microtasks", ErrorCode.TIMEOUT, "timeout_ms"),
        ("recursion", ErrorCode.STACK_OVERFLOW, "stack_size_bytes"),
        ("memory", ErrorCode.MEMORY_LIMIT, "memory_limit_bytes"),
        ("events", ErrorCode.RESOURCE_LIMIT, "max_events"),
        ("forbidden-write", ErrorCode.PERMISSION_DENIED, None),
        ("throw", ErrorCode.EXECUTION_ERROR, None),
        ("hang", ErrorCode.EXECUTION_ERROR, None),
    ],
)
async def test_misbehave_ends_as_it_says(
    runtime: Runtime, mode: str, code: ErrorCode, limit: str | None
) -> None:
    """Each misdeed ends with its error, applies nothing, and the next calls are as if it had not been."""
    result = await call(runtime, "misbehave", {"mode": mode}, "a")
    assert result.error is not None
    assert result.error.code is code
    assert (result.error.limit.name if result.error.limit else None) == limit
    assert (await runtime.state_store.load("a")).values == {}
    assert (result.state_mutations, result.events) == ((), ())
    assert mode in (await value(runtime, "misbehave"))["modes"]
    assert await value(runtime, "hello", {"who": "bob"}) == {"greeting": "hello bob"}
