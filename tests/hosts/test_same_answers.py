"""One suite for every host: the same handler and the same request have the same answer, byte for byte.

The container's server is a process with real sockets; the Lambda function gets the request as API Gateway,
a function URL or a load balancer would send it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import httpx
import pytest

from tests.aws_lambda.lambda_events import Function, alb, function_of, http_v1, http_v2
from tests.http.serving import Server, serving

HANDLERS = {
    "parts.js": "export default (event) => event.body ?? event",
    "parts.toml": '[[triggers]]\nhttp = "POST /parts/{id}"\n[[triggers]]\nhttp = "GET /parts/{id}"',
    "echo.js": "export default (event) => event",
    "fail.js": 'export default () => { throw new TypeError("no tea") }',
    "seen.js": 'export default ({ data }) => ({ specversion: "1.0", type: "com.example.seen", data })',
    "seen.toml": '[[triggers]]\ncloudevent = "com.example.*"',
}
MINIMAL = {"prefer": "return=minimal"}
EVENT = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/t", "ce-type": "com.example.x"}
JSON = {"content-type": "application/json"}


class Request(NamedTuple):
    """One request, whoever carries it."""

    method: str
    path: str
    body: str = ""
    headers: Mapping[str, str] = JSON


REQUESTS = [
    Request("POST", "/invoke/echo", '{"a": [1, 2.50, 1e3, "é", null]}', JSON | MINIMAL),
    Request("POST", "/invoke/echo", "", JSON | MINIMAL),
    Request("POST", "/invoke/echo", "{", JSON),
    Request("POST", "/invoke/nobody", "{}", JSON | MINIMAL),
    Request("GET", "/invoke/echo"),
    Request("POST", "/parts/7", '{"status": 201, "headers": {"x-a": "1"}, "body": {"n": 1}}'),
    Request("POST", "/parts/7", '{"status": 200, "body": "plain é"}'),
    Request("POST", "/parts/7", '{"status": 204}'),
    Request("POST", "/parts/a%2Fb", '{"status": 99}'),
    Request("GET", "/nowhere"),
    Request("DELETE", "/parts/7"),
    Request("GET", "/health/live"),
    Request("POST", "/", '{"n": 1}', JSON | EVENT),
    Request("POST", "/", '{"n": 1}', JSON | EVENT | {"ce-type": "org.other"}),
]


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    """The Lambda function of the handlers."""
    with function_of(tmp_path_factory.mktemp("function"), HANDLERS) as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The container's server of the same handlers."""
    folder = tmp_path_factory.mktemp("server")
    served = folder / "handlers"
    served.mkdir()
    for name, text in HANDLERS.items():
        (served / name).write_text(text)
    with serving(folder, handlers_dir=served) as made:
        yield made


class Answer(NamedTuple):
    """What the caller sees, but for what the carrier adds."""

    status: int
    headers: dict[str, str]
    body: bytes


def seen(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """An answer without what speaks of the connection, the moment or the time a call took."""
    carriers = {"date", "connection", "content-length", "transfer-encoding"}
    if not body:
        # Mangum gives every answer of an HTTP API a type, also one that has nothing in it.
        carriers.add("content-type")
    kept = {name.lower(): text for name, text in headers.items() if name.lower() not in carriers}
    return Answer(status, kept, re.sub(rb'"durationUs":[0-9]+', b'"durationUs":0', body))


def over_http(server: Server, request: Request) -> Answer:
    """The answer of the container."""
    headers = {**request.headers, "x-request-id": "r1", "accept-encoding": "identity"}
    answer = httpx.request(
        request.method, server.url + request.path, content=request.body, headers=headers, timeout=60
    )
    return seen(answer.status_code, answer.headers, answer.content)


def on_lambda(function: Function, shape: Any, request: Request) -> Answer:
    """The answer of the function."""
    event = shape(request.method, request.path, request.body)
    event["headers"] |= {**request.headers, "x-request-id": "r1"}
    reply = function(event)
    body = reply["body"].encode()
    if reply["isBase64Encoded"]:
        body = base64.b64decode(body)
    return seen(reply["statusCode"], reply["headers"], body)


@pytest.mark.parametrize("shape", [http_v2, http_v1, alb])
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: f"{request.method} {request.path}")
def test_every_host_gives_the_same_answer(
    server: Server, function: Function, shape: Any, request_: Request
) -> None:
    """Status, headers and every byte of the body are the same in a container and on Lambda."""
    assert on_lambda(function, shape, request_) == over_http(server, request_)


@pytest.mark.parametrize("handler", ["echo", "fail"])
def test_a_direct_invocation_has_the_result_of_the_http_one(
    server: Server, function: Function, handler: str
) -> None:
    """But for the time it took, the whole result is the same through Lambda's own door."""
    direct = function({"handler": handler, "event": {"n": 1}})
    posted = httpx.post(f"{server.url}/invoke/{handler}", json={"n": 1}).json()
    for result in (direct, posted):
        del result["metrics"]
    assert json.dumps(direct) == json.dumps(posted)
