"""Routes that handlers declare, with the real core in this process."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.http.app import Application
from functions.http.trigger_answers import trigger_answer
from nexus_core.result import WasmResult
from nexus_core.runtime import Runtime
from tests.http.conftest import ClientFactory
from tests.http.serving import bearer


async def test_the_event_tells_the_request(client: httpx.AsyncClient) -> None:
    """Method, path, parameters, query, headers and body reach the handler."""
    answer = await client.get(
        "/pages/a%2Fb%20c?q=1&q=2&empty=&x=%C3%A9", headers={"X-One": "1", "Cookie": "a=b"}
    )
    event = answer.json()
    assert answer.status_code == 200
    assert event["method"] == "GET"
    assert event["params"] == {"id": "a/b c"}
    assert event["query"] == {"q": "1", "empty": "", "x": "é"}
    assert event["rawQuery"] == "q=1&q=2&empty=&x=%C3%A9"
    assert event["headers"]["x-one"] == "1"
    assert event["headers"]["cookie"] == "a=b"
    assert (event["body"], event["isBase64Encoded"]) == (None, False)


async def test_repeated_headers_are_joined(client: httpx.AsyncClient) -> None:
    """Of a header sent twice the handler sees both values."""
    answer = await client.get(
        "/pages/1", headers=[("x-a", "1"), ("x-a", "2"), ("cookie", "a"), ("cookie", "b")]
    )
    assert answer.json()["headers"]["x-a"] == "1, 2"
    assert answer.json()["headers"]["cookie"] == "a; b"


@pytest.mark.parametrize(
    ("path", "params"),
    [("/pages/7/parts/8", {"id": "7", "part": "8"}), ("/pages/{id}", {"id": "{id}"}), ("/", {})],
)
async def test_routes_match(client: httpx.AsyncClient, path: str, params: dict[str, str]) -> None:
    """A route's parameters are the segments at their places."""
    assert (await client.get(path)).json()["params"] == params


@pytest.mark.parametrize(
    "path",
    [
        "/pages",
        "/pages/",
        "/pages//parts/1",
        "/pages/1/",
        "//pages/1",
        "/pages/1/parts",
        "/nothing",
        "/invoke",
    ],
)
async def test_no_route_no_handler(client: httpx.AsyncClient, path: str) -> None:
    """A path that no route declares, or that has an empty parameter, is not found."""
    answer = await client.get(f"http://localhost{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "HANDLER_NOT_FOUND")


async def test_a_wrong_method_is_told_the_right_ones(client: httpx.AsyncClient) -> None:
    """A declared path with another method is 405 and names what is allowed."""
    answer = await client.delete("/pages/1")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    ("content_type", "body", "seen", "encoded"),
    [
        ("application/json; charset=utf-8", b'{"a": 1}', {"a": 1}, False),
        ("Application/Problem+JSON", b"[1]", [1], False),
        ("text/plain", "příliš".encode(), "příliš", False),
        ("application/x-www-form-urlencoded", b"a=1", "a=1", False),
        ("image/svg+xml", b"<svg/>", "<svg/>", False),
        (None, b"just text", "just text", False),
        ("text/plain", b"\xff\xfe", base64.b64encode(b"\xff\xfe").decode(), True),
        ("image/png", b"png", base64.b64encode(b"png").decode(), True),
        ("application/json", b"", None, False),
    ],
)
async def test_the_body_has_the_form_of_its_type(
    client: httpx.AsyncClient, content_type: str | None, body: bytes, seen: Any, encoded: bool
) -> None:
    """JSON comes as a value, text as a string, anything else as Base64."""
    headers = {"content-type": content_type} if content_type else {}
    answer = await client.put("/mirror", content=body, headers=headers)
    assert answer.json() == {"body": seen, "isBase64Encoded": encoded, "text": True}


async def test_bad_json_is_refused(client: httpx.AsyncClient) -> None:
    """A body that is not what its type says never reaches the handler."""
    answer = await client.put("/mirror", content=b"{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")


async def test_a_large_body_is_refused(client: httpx.AsyncClient) -> None:
    """The limit of the handler a route leads to holds."""
    answer = await client.put("/mirror", content=b"x" * 65_537)
    assert (answer.status_code, answer.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")


async def respond(client: httpx.AsyncClient, value: Any) -> httpx.Response:
    """The response to a handler that returns `value`."""
    return await client.post("/responses", json=value)


async def test_a_returned_response_is_the_response(client: httpx.AsyncClient) -> None:
    """Status, headers (several of one name too) and body are the handler's."""
    value = {"status": 201, "headers": {"X-A": "1", "set-cookie": ["a=1", "b=2"], "x-n": 5}, "body": "made"}
    answer = await respond(client, value)
    assert (answer.status_code, answer.text, answer.headers["x-a"], answer.headers["x-n"]) == (
        201,
        "made",
        "1",
        "5",
    )
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


async def test_a_body_of_values_is_json(client: httpx.AsyncClient) -> None:
    """A body that is no string goes out as JSON; a string of Base64 as its bytes."""
    answer = await respond(client, {"status": 200, "body": {"a": [1]}})
    assert (answer.json(), answer.headers["content-type"]) == ({"a": [1]}, "application/json")
    answer = await respond(client, {"status": 200, "body": "AP8=", "isBase64Encoded": True})
    assert (answer.content, answer.headers["content-type"]) == (b"\x00\xff", "application/octet-stream")
    answer = await respond(client, {"status": 200, "body": "<p>", "headers": {"Content-Type": "text/html"}})
    assert answer.headers.get_list("content-type") == ["text/html"]


@pytest.mark.parametrize("status", [204, 304])
async def test_no_body_where_none_may_be(client: httpx.AsyncClient, status: int) -> None:
    """A status without a body is answered without one."""
    answer = await respond(client, {"status": status})
    assert (answer.status_code, answer.content) == (status, b"")


@pytest.mark.parametrize(
    "value",
    [
        {"status": "ok"},
        {"status": 200, "id": 1},
        {"status": 1.5},
        {"status": None},
        [200],
        "text",
        5,
        None,
        {"body": 1},
    ],
)
async def test_anything_else_is_json(client: httpx.AsyncClient, value: Any) -> None:
    """A value that merely looks like a response stays JSON."""
    answer = await respond(client, value)
    assert (answer.status_code, answer.json(), answer.headers["content-type"]) == (
        200,
        value,
        "application/json",
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"status": 99}, "status 99"),
        ({"status": 600}, "status 600"),
        ({"status": -200}, "status -200"),
        ({"status": 100}, "status 100"),
        ({"status": 204, "body": "x"}, "allows no body"),
        ({"status": 200, "headers": {"a b": "1"}}, "not a token"),
        ({"status": 200, "headers": {"": "1"}}, "not a token"),
        ({"status": 200, "headers": {"x\r\nset-cookie": "1"}}, "not a token"),
        ({"status": 200, "headers": {"x": "1\r\nset-cookie: evil"}}, "control"),
        ({"status": 200, "headers": {"x": "\0"}}, "control"),
        ({"status": 200, "headers": {"x": "🐎"}}, "non-Latin"),
        ({"status": 200, "headers": {"Content-Length": "5"}}, "belongs to the server"),
        ({"status": 200, "headers": {"Transfer-Encoding": "chunked"}}, "belongs to the server"),
        ({"status": 200, "headers": {"x": {}}}, "needs a string"),
        ({"status": 200, "headers": {"x": True}}, "needs a string"),
        ({"status": 200, "headers": [1]}, "needs an object"),
        ({"status": 200, "headers": {f"x-{n}": "1" for n in range(65)}}, "too many headers"),
        ({"status": 200, "headers": {"x": "y" * 20_000}}, "too many headers"),
        ({"status": 200, "body": "%%%", "isBase64Encoded": True}, "not Base64"),
    ],
)
async def test_a_hostile_response_is_the_handlers_error(
    client: httpx.AsyncClient, value: Any, said: str
) -> None:
    """What would break the message or speak for the server becomes a 500 that says what was wrong."""
    answer = await respond(client, value)
    assert (answer.status_code, answer.json()["code"]) == (500, "EXECUTION_ERROR")
    assert said in answer.json()["detail"]
    assert "set-cookie" not in answer.headers


async def test_a_failed_call_shows_no_source(client: httpx.AsyncClient) -> None:
    """A visitor of a route learns the error's code and message, not the stack or the source."""
    answer = await client.get("/faulty")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.json()["code"] == "EXECUTION_ERROR"
    assert "throw" not in answer.text
    assert "faulty.js" not in answer.text


async def test_the_token_stays_with_nexus(guarded: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    """A handler, whose author nobody trusts, does not see the token that let its caller in."""
    answer = await guarded.get("/pages/1", headers={**bearer("invoke:pages"), "x-other": "1"})
    assert answer.status_code == 200
    assert "authorization" not in answer.json()["headers"]
    assert answer.json()["headers"]["x-other"] == "1"
    free = await client.get("/pages/1", headers={"authorization": "Basic abc"})
    assert free.json()["headers"]["authorization"] == "Basic abc"


async def test_a_route_needs_the_scope_of_its_handler(guarded: httpx.AsyncClient) -> None:
    """Without a token a route is not even known; with one it needs its handler's scope."""
    assert (await guarded.get("/pages/1")).status_code == 401
    assert (await guarded.get("/nothing")).status_code == 401
    answer = await guarded.get("/pages/1", headers=bearer("invoke:hello read admin"))
    assert (answer.status_code, answer.json()["code"]) == (403, "PERMISSION_DENIED")


async def test_routes_follow_a_reload(client_of: ClientFactory, tmp_path: Path) -> None:
    """After the registry is refreshed, requests meet the routes that are there now."""
    folder = tmp_path / "handlers"
    folder.mkdir()
    (folder / "one.js").write_text("export default () => 1;")
    (folder / "one.toml").write_text('[[triggers]]\nhttp = "GET /first"\n')
    async with client_of(handlers_dir=folder) as client:
        application: Application = client._transport.app  # type: ignore[attr-defined]
        runtime: Runtime = application._runtime
        assert (await client.get("/first")).json() == 1
        (folder / "one.toml").write_text('[[triggers]]\nhttp = "GET /second"\n')
        runtime.handlers.refresh()
        assert (await client.get("/first")).status_code == 404
        assert (await client.get("/second")).json() == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
responses = st.fixed_dictionaries(
    {"status": st.integers(-1000, 1000)},
    optional={
        "headers": st.dictionaries(st.text(), st.text() | json_values, max_size=4) | json_values,
        "body": st.text() | json_values,
        "isBase64Encoded": st.booleans(),
    },
)


@given(responses | json_values, st.booleans())
def test_no_returned_value_can_break_the_message(value: Any, escaped: bool) -> None:
    """Whatever a handler returns, the answer has a sound status, clean headers and a server's own framing."""
    try:
        text = json.dumps(value, ensure_ascii=escaped).encode()
    except UnicodeEncodeError:
        return
    status, headers, body = trigger_answer(WasmResult(status="success", return_value=msgspec.Raw(text)), "id")
    assert 200 <= status <= 599
    for name, content in headers:
        assert name
        assert not set(name) & set(b" :\r\n\0\t")
        assert name not in {b"content-length", b"transfer-encoding", b"connection"}
        assert not set(content) & set(b"\r\n\0")
    assert status not in {204, 304} or not body


@pytest.mark.parametrize(
    "text",
    [
        rb'{"status": 200, "body": "\ud800"}',
        rb'{"status": 200, "headers": {"x": "\udc00"}}',
        b'{"status": 200, "body": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    ],
)
def test_an_unreadable_response_is_the_handlers_error(text: bytes) -> None:
    """Half a surrogate pair, or nesting without end, is JSON to JavaScript; here it is a 500."""
    answer = trigger_answer(WasmResult(status="success", return_value=msgspec.Raw(text)), "id")
    assert answer.status == 500
    assert b"cannot be read" in answer.body


async def test_a_session_is_named_by_header_only(client: httpx.AsyncClient) -> None:
    """On a handler's own route `?session=` is the handler's business, whatever it holds."""
    answer = await client.get("/pages/1?session=not/a/session")
    assert answer.json()["query"] == {"session": "not/a/session"}
