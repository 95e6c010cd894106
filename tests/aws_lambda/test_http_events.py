"""HTTP over Lambda: the same application behind each of AWS's shapes of a request."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from functions.aws_lambda.replies import MAX_REPLY_BYTES
from tests.aws_lambda.lambda_events import UNSET, Function, alb, function_of, http_v1, http_v2

_HANDLER = """
export default function (event) {
  if (event?.params?.size) return "é".repeat(Number(event.params.size));
  if (event?.params?.how === "loop") for (;;);
  if (event?.params?.how === "made") {
    return { status: 201, headers: { "x-a": "1" }, body: { made: event.body } };
  }
  return event;
}
"""

_MANIFEST = """
[limits]
memory_limit_bytes = 134_217_728
timeout_ms = 60_000
[[triggers]]
http = "GET /items/{id}"
[[triggers]]
http = "POST /do/{how}"
[[triggers]]
http = "GET /size/{size}"
"""

SHAPES: dict[str, Callable[..., dict[str, Any]]] = {"v2": http_v2, "v1": http_v1, "alb": alb}


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    """A function of one handler with routes of its own."""
    with function_of(tmp_path_factory.mktemp("function"), {"a.js": _HANDLER, "a.toml": _MANIFEST}) as made:
        yield made


def content(reply: dict[str, Any]) -> Any:
    """The JSON body of a response."""
    assert reply["isBase64Encoded"] is False
    return json.loads(reply["body"])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_handler_is_invoked_through_every_shape(function: Function, shape: Callable[..., Any]) -> None:
    """`POST /invoke/{handler}` answers the result, whichever front sends the request."""
    reply = function(shape("POST", "/invoke/a", '{"n": 1}'))
    assert reply["statusCode"] == 200
    assert content(reply)["returnValue"] == {"n": 1}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_route_of_a_handler_is_found(function: Function, shape: Callable[..., Any]) -> None:
    """A trigger's route gets the request's event, and its response is the handler's."""
    reply = function(shape("POST", "/do/made", '{"n": 2}'))
    assert (reply["statusCode"], content(reply)) == (201, {"made": {"n": 2}})
    assert reply["headers"]["x-a"] == "1"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_an_encoded_slash_stays_in_its_segment(function: Function, shape: Callable[..., Any]) -> None:
    """A path is split before it is decoded."""
    assert content(function(shape("GET", "/items/a%2Fb%20c")))["params"] == {"id": "a/b c"}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_failures_are_problems_in_plain_text(function: Function, shape: Callable[..., Any]) -> None:
    """A failure is problem+json, not Base64 of it."""
    reply = function(shape("GET", "/nowhere"))
    assert (reply["statusCode"], content(reply)["code"]) == (404, "HANDLER_NOT_FOUND")


def test_the_invocation_names_the_request(function: Function) -> None:
    """A request is known by Lambda's own id unless its sender gave one."""
    assert function(http_v2("POST", "/invoke/a"))["headers"]["x-request-id"] == "invocation-1"
    named = http_v2("POST", "/invoke/a", x_request_id="mine")
    assert function(named)["headers"]["x-request-id"] == "mine"


@pytest.mark.parametrize("path", ["/invoke/a", "/do/loop"])
def test_a_call_over_http_never_outlasts_the_invocation(tmp_path: Path, path: str) -> None:
    """A loop with a minute of its own is answered 504 within what the invocation has."""
    loop = "export default function () { for (;;); }"
    with function_of(tmp_path, {"a.js": loop, "a.toml": _MANIFEST}) as slow:
        assert slow(http_v2("POST", path), left_ms=700)["statusCode"] == 504


@pytest.mark.parametrize(
    "spoil",
    [
        {"requestContext": {"http": {}}},
        {"headers": {"host": "a:b:c"}},
        {"headers": {"x-forwarded-port": "many"}},
        {"headers": []},
        {"body": "abc", "isBase64Encoded": True},
        {"body": 7},
        {"rawQueryString": None},
    ],
)
def test_a_malformed_request_is_answered_400(function: Function, spoil: dict[str, Any]) -> None:
    """What is no request of its shape gets a problem, not an error of the function."""
    reply = function(http_v2("POST", "/invoke/a") | spoil)
    assert (reply["statusCode"], content(reply)["code"]) == (400, "INVALID_REQUEST")


def test_a_binary_body_reaches_the_application(function: Function) -> None:
    """A Base64 body is what it stands for."""
    body = base64.b64encode('{"né": 1}'.encode()).decode()
    reply = function(http_v2("POST", "/invoke/a", body) | {"isBase64Encoded": True})
    assert content(reply)["returnValue"] == {"né": 1}


def test_an_answer_too_large_for_lambda_is_refused(function: Function) -> None:
    """A response over Lambda's limit is the problem that says so, and the function lives on."""
    fits = MAX_REPLY_BYTES // 2 - 1000
    assert function(http_v2("GET", f"/size/{fits}"))["statusCode"] == 200
    reply = function(http_v2("GET", f"/size/{fits + 1000}"))
    assert (reply["statusCode"], content(reply)["code"]) == (413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize("settings", [{}, {"jwt_secret": "s" * 32}])
def test_http_needs_a_word_of_the_operator(tmp_path: Path, settings: dict[str, str]) -> None:
    """With neither a secret nor `NEXUS_AUTH=off` nobody comes in over HTTP; with a secret its tokens do."""
    with function_of(tmp_path, {"a.js": _HANDLER}, auth=UNSET, **settings) as shut:
        assert shut(http_v2("POST", "/invoke/a"))["statusCode"] == 401
        assert shut({"handler": "a"})["status"] == "success"
        if settings:
            token = jwt.encode({"scope": "invoke:a", "exp": 4102444800}, "s" * 32, "HS256")
            request = http_v2("POST", "/invoke/a", authorization=f"Bearer {token}")
            assert shut(request)["statusCode"] == 200


@pytest.mark.parametrize("settings", [{"auth": UNSET}, {"jwt_secret": "s" * 32, "auth": "jwt"}])
def test_who_iam_admitted_needs_no_token(tmp_path: Path, settings: dict[str, str]) -> None:
    """IAM's signature takes the header of a token; only AWS's own word of it counts, in no REST event."""
    signed = http_v2("POST", "/invoke/a", '{"n": 1}', authorization="AWS4-HMAC-SHA256 Credential=x")
    iam = {"iam": {"accountId": "123456789012", "userArn": "arn:aws:iam::123456789012:user/me"}}
    with function_of(tmp_path, {"a.js": _HANDLER}, **settings) as made:
        admitted = {**signed, "requestContext": {**signed["requestContext"], "authorizer": iam}}
        assert content(made(admitted))["returnValue"] == {"n": 1}
        forged: tuple[Any, ...] = (
            {},
            {"jwt": {}},
            {"lambda": iam},
            {"iam": "me"},
            {"iam": None},
            "iam",
            None,
        )
        for authorizer in forged:
            other = {**signed["requestContext"], "authorizer": authorizer}
            assert made({**signed, "requestContext": other})["statusCode"] == 401
        rest = http_v1("POST", "/invoke/a", "{}")
        rest["requestContext"]["authorizer"] = iam
        assert made(rest)["statusCode"] == 401
