"""`POST /invoke/{handler}`, with the real core in this process."""

import asyncio

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from functions.http.envelope import TIMEOUT_EXTENSION
from tests.http.conftest import ClientFactory


async def test_a_call_is_answered_with_its_result(client: httpx.AsyncClient) -> None:
    """The answer is the result as JSON, and the handler's logs are not in it."""
    answer = await client.post("/invoke/hello", json={"who": "bob"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    result = answer.json()
    assert result["status"] == "success"
    assert result["returnValue"] == {"greeting": "hello bob"}
    assert set(result) == {
        "status", "returnValue", "stateMutations", "events", "viewCommands", "suspension", "error", "metrics",
    }  # fmt: skip


async def test_an_empty_body_is_the_event_null(client: httpx.AsyncClient) -> None:
    """No body means no event."""
    answer = await client.post("/invoke/echo")
    assert answer.json()["returnValue"]["event"] is None


async def test_minimal_leaves_the_return_value(client: httpx.AsyncClient) -> None:
    """`Prefer: return=minimal` gives the return value alone and says that it was honoured."""
    answer = await client.post(
        "/invoke/hello", json={"who": "bob"}, headers={"prefer": "wait=5, Return=minimal"}
    )
    assert answer.json() == {"greeting": "hello bob"}
    assert answer.headers["preference-applied"] == "return=minimal"


async def test_minimal_does_not_hide_an_error(client: httpx.AsyncClient) -> None:
    """A failed call is answered in full whatever the caller prefers."""
    answer = await client.post("/invoke/boom", headers={"prefer": "return=minimal"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "EXECUTION_ERROR")


async def test_an_error_of_the_handler_is_a_result(client: httpx.AsyncClient) -> None:
    """A handler that throws is answered with the error's name and message, and with no log line."""
    answer = await client.post("/invoke/boom")
    error = answer.json()["error"]
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/json")
    assert (error["code"], error["name"]) == ("EXECUTION_ERROR", "TypeError")
    assert "no such luck" in error["message"]
    assert "operator" not in answer.text


@pytest.mark.parametrize(
    ("handler", "status", "code"),
    [
        ("nobody", 404, "HANDLER_NOT_FOUND"),
        ("..%2f..%2fetc", 404, "HANDLER_NOT_FOUND"),
        ("", 404, "HANDLER_NOT_FOUND"),
        ("broken", 422, "COMPILATION_ERROR"),
        ("refused", 422, "INVALID_HANDLER"),
    ],
)
async def test_what_cannot_run_has_its_code(
    client: httpx.AsyncClient, handler: str, status: int, code: str
) -> None:
    """A handler that is missing, broken or refused is answered by the error table."""
    answer = await client.post(f"/invoke/{handler}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{'a': 1}",
        b"[1,]",
        b'{"a": 01}',
        b"NaN",
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'"\x01"',
        b"[" * 100_000,
        b" ",
    ],
)
async def test_what_is_not_json_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    """Bad JSON and bad UTF-8 are a problem document and never reach a handler."""
    answer = await client.post("/invoke/echo", content=body)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert (problem["code"], problem["status"], problem["title"]) == ("INVALID_REQUEST", 400, "Bad Request")
    assert problem["instance"] == answer.headers["x-request-id"]


async def test_text_keeps_its_characters(client: httpx.AsyncClient) -> None:
    """An event beyond ASCII reaches the handler and comes back as it was."""
    event = {"text": "žluťoučký 🐎 \u2028 \0"}
    answer = await client.post("/invoke/echo", json=event)
    assert answer.json()["returnValue"]["event"] == event


async def test_a_request_id_is_kept(client: httpx.AsyncClient) -> None:
    """A sound `X-Request-Id` is the call's and comes back."""
    answer = await client.post("/invoke/echo", headers={"x-request-id": "order-17.a_B"})
    assert answer.headers["x-request-id"] == "order-17.a_B"
    assert answer.json()["returnValue"]["requestId"] == "order-17.a_B"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a/b", "\u0159"])
async def test_an_unsound_request_id_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    """Whatever could upset a log or a header is not taken for an id."""
    answer = await client.post("/invoke/hello", json={}, headers=[(b"x-request-id", given.encode())])
    assert len(answer.headers["x-request-id"]) == 32


async def test_a_session_keeps_state(client: httpx.AsyncClient) -> None:
    """Calls that name one session, by query or by header, share its state."""
    assert (await client.post("/invoke/counter?session=a.b:1")).json()["returnValue"] == 1
    assert (await client.post("/invoke/counter", headers={"nexus-session": "a.b:1"})).json()[
        "returnValue"
    ] == 2
    assert (await client.post("/invoke/counter?session=other")).json()["returnValue"] == 1


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("?session=", {}),
        ("?session=a%00b", {}),
        ("?session=" + "x" * 129, {}),
        ("?session=a&session=b", {}),
        ("?session=a", {"nexus-session": "b"}),
        ("", {"nexus-session": "a/b"}),
    ],
)
async def test_a_bad_session_is_refused(
    client: httpx.AsyncClient, query: str, headers: dict[str, str]
) -> None:
    """A session that is no name, or two different ones, is a bad request."""
    answer = await client.post(f"/invoke/counter{query}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")


async def test_a_query_of_too_many_fields_is_refused(client: httpx.AsyncClient) -> None:
    """A query that would cost much to read is a bad request."""
    answer = await client.post("/invoke/hello?" + "a&" * 2000)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")


async def test_capabilities_are_narrowed(client: httpx.AsyncClient) -> None:
    """A caller may take a capability away from one call, and the next has it again."""
    headers = {"nexus-capabilities": "state:read:*, events:emit:*"}
    narrowed = await client.post("/invoke/counter?session=n", headers=headers)
    assert (narrowed.status_code, narrowed.json()["error"]["code"]) == (403, "PERMISSION_DENIED")
    assert (await client.post("/invoke/counter?session=n")).json()["returnValue"] == 1


async def test_no_capabilities_at_all(client: httpx.AsyncClient) -> None:
    """An empty header leaves the handler nothing."""
    answer = await client.post("/invoke/counter?session=n", headers={"nexus-capabilities": ""})
    assert answer.json()["error"]["code"] == "PERMISSION_DENIED"


async def test_a_caller_cannot_widen(client: httpx.AsyncClient) -> None:
    """A capability the manifest does not give is not had by asking for it."""
    assert (
        await client.post("/invoke/hello", json={}, headers={"nexus-capabilities": "ext:*"})
    ).status_code == 200
    bad = await client.post("/invoke/counter", headers={"nexus-capabilities": "fly:*"})
    assert (bad.status_code, bad.json()["code"]) == (400, "INVALID_REQUEST")
    assert "fly:*" in bad.json()["detail"]


@pytest.mark.parametrize(("size", "status"), [(63, 200), (64, 200), (65, 413)])
async def test_a_body_may_reach_its_limit(client: httpx.AsyncClient, size: int, status: int) -> None:
    """The handler's own `max_input_bytes` holds, to the byte."""
    answer = await client.post("/invoke/small", content=b'"' + b"x" * (size - 2) + b'"')
    assert answer.status_code == status
    if status == 413:
        assert answer.json()["code"] == "PAYLOAD_TOO_LARGE"
        assert "max_input_bytes is 64" in answer.json()["detail"]


async def test_a_stream_without_length_is_counted(client: httpx.AsyncClient) -> None:
    """A body of unknown length is refused once it has passed the limit, not read to its end."""
    sent = 0

    async def endless() -> object:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 1000

    async with asyncio.timeout(20):
        answer = await client.post("/invoke/small", content=endless())  # type: ignore[arg-type]
    assert answer.status_code == 413
    assert sent < 2000


async def test_a_handler_may_take_more_than_the_default(client_of: ClientFactory) -> None:
    """A manifest's limit counts for its handler, also where it is above the server's default."""
    body = b'"' + b"x" * 3000 + b'"'
    async with client_of(max_input_bytes=1000) as client:
        assert (await client.post("/invoke/wide", content=body)).json()["returnValue"] == 3002
        assert (await client.post("/invoke/echo", content=body)).status_code == 413
        assert (await client.post("/invoke/nobody", content=body)).status_code == 413


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
async def test_only_post_invokes(client: httpx.AsyncClient, method: str) -> None:
    """Any other method is refused and told which one is allowed."""
    answer = await client.request(method, "/invoke/hello")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_a_full_pool_says_when_to_come_back(client_of: ClientFactory) -> None:
    """A call that finds no instance is answered 503 with `Retry-After`."""
    async with client_of(max_instances=1, max_waiting=0, acquire_timeout_ms=0) as client:
        calls = (client.post("/invoke/slow", json={"ms": 300}) for _ in range(2))
        served, refused = sorted(await asyncio.gather(*calls), key=lambda answer: answer.status_code)
    assert (served.status_code, refused.status_code) == (200, 503)
    assert refused.json()["error"]["code"] == "POOL_EXHAUSTED"
    assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("sent", "limit"), [("50", 50), ("0", 400), ("soon", 400), ("-5", 400), ("9" * 9, 400), ("900", 400)]
)
async def test_a_proxys_deadline_narrows_the_call(client_of: ClientFactory, sent: str, limit: int) -> None:
    """A call has at most the time its proxy will wait for it, and never more than its own."""
    async with client_of(timeout_ms=400) as client:
        headers = {"x-envoy-expected-rq-timeout-ms": sent}
        answer = await client.post("/invoke/slow", json={"ms": 5000}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["limit"]["value"]) == (504, limit)


async def test_a_hosts_deadline_and_a_proxys_both_count(client_of: ClientFactory) -> None:
    """Of what the host has left and what the proxy waits the shorter is the call's."""
    async with client_of(timeout_ms=400) as client:
        application = client._transport.app  # type: ignore[attr-defined]

        async def hosted(scope: Scope, receive: Receive, send: Send) -> None:
            await application({**scope, "extensions": {TIMEOUT_EXTENSION: 80}}, receive, send)

        limits = []
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(hosted), base_url="http://localhost"
        ) as inner:
            for sent in ("50", "300"):
                headers = {"x-envoy-expected-rq-timeout-ms": sent}
                answer = await inner.post("/invoke/slow", json={"ms": 5000}, headers=headers)
                limits.append(answer.json()["error"]["limit"]["value"])
        assert limits == [50, 80]
