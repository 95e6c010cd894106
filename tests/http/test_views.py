"""The routes that only look."""

import re
from collections.abc import MutableMapping

import httpx
import pytest

from functions.http.answers import result_answer
from functions.http.app import Application
from functions.http.trigger_answers import trigger_answer
from nexus_core.config import ConfigError
from nexus_core.result import Suspension, WasmResult
from nexus_core.runtime import Runtime
from tests.http.conftest import ClientFactory


async def test_handlers_are_listed(client: httpx.AsyncClient) -> None:
    """Every handler is there, one that cannot be accepted with its error."""
    handlers = {handler["name"]: handler for handler in (await client.get("/handlers")).json()["handlers"]}
    assert {"hello", "counter", "refused"} <= set(handlers)
    assert handlers["refused"]["error"]["code"] == "INVALID_HANDLER"
    assert handlers["hello"]["error"] is None


async def test_one_handler_is_shown(client: httpx.AsyncClient) -> None:
    """A handler's capabilities, triggers and limits are shown, and nothing of its source."""
    shown = (await client.get("/handlers/pages")).json()
    assert {"http": "GET /pages/{id}"} in shown["triggers"]
    assert len(shown["digest"]) == 64
    shown = (await client.get("/handlers/counter")).json()
    assert set(shown["capabilities"]) == {"state:read:*", "state:write:*", "events:emit:*"}
    shown = (await client.get("/handlers/small")).json()
    assert shown["limits"]["max_input_bytes"] == 64
    assert set(shown) == {"name", "digest", "capabilities", "triggers", "limits", "extensions", "error"}
    assert (await client.get("/handlers/refused")).json()["error"]["code"] == "INVALID_HANDLER"


async def test_an_unknown_handler_is_not_found(client: httpx.AsyncClient) -> None:
    """A name nobody has is a 404 that tells close names."""
    answer = await client.get("/handlers/helo")
    assert (answer.status_code, answer.json()["code"]) == (404, "HANDLER_NOT_FOUND")
    assert "hello" in answer.json()["detail"]


async def test_session_state_is_shown(client: httpx.AsyncClient) -> None:
    """What calls wrote to a session can be read, with its version."""
    assert (await client.get("/sessions/s1/state")).json() == {"session": "s1", "version": 0, "state": {}}
    await client.post("/invoke/counter?session=s1")
    assert (await client.get("/sessions/s1/state")).json() == {
        "session": "s1",
        "version": 1,
        "state": {"count": 1},
    }


async def test_a_bad_session_cannot_be_shown(client: httpx.AsyncClient) -> None:
    """A name that can be no session's is a bad request."""
    answer = await client.get("/sessions/a%20b/state")
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/suspensions/abc", 404, "SUSPENSION_NOT_FOUND"),
        ("POST", "/suspensions/abc", 404, "SUSPENSION_NOT_FOUND"),
        ("DELETE", "/suspensions/abc", 404, "SUSPENSION_NOT_FOUND"),
        ("PUT", "/handlers/new", 501, "INVALID_REQUEST"),
        ("DELETE", "/handlers/hello", 501, "INVALID_REQUEST"),
        ("POST", "/handlers", 405, "INVALID_REQUEST"),
        ("POST", "/metrics", 405, "INVALID_REQUEST"),
        ("GET", "/sessions", 404, "HANDLER_NOT_FOUND"),
        ("GET", "/sessions/a/ws", 404, "HANDLER_NOT_FOUND"),
        ("GET", "/console", 404, "HANDLER_NOT_FOUND"),
        ("GET", "/handlers/", 404, "HANDLER_NOT_FOUND"),
        ("GET", "/health/", 404, "HANDLER_NOT_FOUND"),
    ],
)
async def test_what_is_not_there_says_so(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    """Reserved paths that do nothing (yet) answer with a problem that says why."""
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert (problem["code"], problem["instance"]) == (code, answer.headers["x-request-id"])
    assert (status == 405) == ("allow" in answer.headers)


async def test_health_tells_versions_and_pool(client: httpx.AsyncClient) -> None:
    """`/health` shows what runs and how full it is, and no path of the host."""
    answer = await client.get("/health")
    health = answer.json()
    assert health["status"] == "ok"
    assert {"python", "nexus", "wasmtime", "quickjs-rs"} == set(health["versions"])
    assert health["refused_handlers"] == 1
    assert health["pool"]["free"] >= 1
    assert "/tmp" not in answer.text


async def test_readiness_follows_the_runtime(application: tuple[Application, Runtime]) -> None:
    """The probe turns to 503 when the runtime stops, while liveness stays."""
    app, runtime = application
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        assert (await client.get("/health/ready")).status_code == 200
        await runtime.shutdown(1)
        assert (await client.get("/health/ready")).status_code == 503
        assert (await client.get("/health/live")).status_code == 200


async def test_metrics_count_calls_and_refusals(client: httpx.AsyncClient) -> None:
    """Calls and refused requests are both in `/metrics`."""
    await client.post("/invoke/hello", json={})
    await client.post("/invoke/hello", content=b"{")
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'nexus_handler_executions_total{handler="hello",status="success"} 1.0' in answer.text
    assert 'nexus_errors_total{code="INVALID_REQUEST"} 1.0' in answer.text


async def test_the_docs_page_runs_only_its_own_script(client: httpx.AsyncClient) -> None:
    """The page fetches nothing from elsewhere, and its policy names its one script by digest."""
    answer = await client.get("/docs")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?://|//[a-z]", answer.text)
    assert "innerHTML" not in answer.text


async def test_a_failure_of_ours_shows_nothing(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that nobody foresaw is a 500 without its text."""
    application = client._transport.app  # type: ignore[attr-defined]

    async def fail(session: str) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(application._runtime.state_store, "load", fail)
    answer = await client.get("/sessions/a/state")
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL_ERROR")
    assert "hunter2" not in answer.text


async def test_ready_before_any_call(client_of: ClientFactory) -> None:
    """A server without a single handler is ready all the same."""
    async with client_of(handlers_dir="/nonexistent") as client:
        assert (await client.get("/health/ready")).status_code == 200
        assert (await client.get("/handlers")).json() == {"handlers": []}


async def test_the_lifespan_starts_and_stops_the_runtime(application: tuple[Application, Runtime]) -> None:
    """A server learns of the start, and when all is closed; a start that fails is told with its reason."""
    app, runtime = application
    await runtime.shutdown(1)

    async def run(*heard: str) -> list[dict[str, object]]:
        events = iter(heard)
        said: list[dict[str, object]] = []

        async def receive() -> dict[str, object]:
            return {"type": next(events)}

        async def send(message: MutableMapping[str, object]) -> None:
            said.append(dict(message))

        await app({"type": "lifespan"}, receive, send)
        return said

    async def fail() -> None:
        raise ConfigError("NEXUS_X: no")

    runtime.start = fail  # type: ignore[method-assign]
    said = await run("lifespan.startup")
    assert said == [{"type": "lifespan.startup.failed", "message": "the runtime did not start: NEXUS_X: no"}]


def test_a_sleeping_call_is_accepted() -> None:
    """A suspended call is answered 202, with what it waits for."""
    result = WasmResult(status="suspended", suspension=Suspension(id="s1", pending=()))
    answer = result_answer(result, minimal=True)
    assert answer.status == 202
    assert b'"suspension":{"id":"s1","pending":[]}' in answer.body
    assert trigger_answer(result, "r").status == 202
