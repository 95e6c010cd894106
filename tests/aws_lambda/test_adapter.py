"""The function as a whole, in this process: direct invocations, notifications, time, size, errors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from functions.aws_lambda.replies import MAX_REPLY_BYTES, direct_reply
from functions.http.answers import CallAnswer
from nexus_core.result import ExecutionMetrics
from tests.aws_lambda.lambda_events import (
    REGION,
    Function,
    bus_event,
    function_of,
    records,
    s3_record,
    sns_record,
)

_MANIFEST = """
capabilities = ["state:read:*", "state:write:*"]
[limits]
timeout_ms = 60_000
memory_limit_bytes = 268_435_456
max_output_bytes = 16_777_216
[[triggers]]
sns = "alerts"
[[triggers]]
s3 = "photos/new/*"
[[triggers]]
eventbridge = "shop/Order Placed"
[[triggers]]
schedule = "nightly"
"""

_HANDLER = """
let calls = 0;
export default function (event) {
  calls++;
  const what = event?.what ?? event?.message?.what ?? event?.detail?.what;
  if (what === "loop") for (;;);
  if (what === "throw") throw new RangeError("out of tea");
  if (what === "size") return "x".repeat(event.bytes);
  if (what === "numbers") return Array(event.count).fill(1);
  if (what === "state") { $state.big = "x".repeat(1000); return Object.keys($state); }
  return { calls, event };
}
"""


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    """A function of one handler that every kind of notification triggers."""
    handlers = {"a.js": _HANDLER, "a.toml": _MANIFEST, "broken.js": "export default ("}
    with function_of(tmp_path_factory.mktemp("function"), handlers) as made:
        yield made


def test_a_direct_invocation_gets_the_result(function: Function) -> None:
    """The answer is the whole result, and each call starts from the same memory."""
    for _ in range(2):
        reply = function({"handler": "a", "event": {"n": 1}})
        assert (reply["status"], reply["error"]) == ("success", None)
        assert reply["returnValue"] == {"calls": 1, "event": {"n": 1}}
        assert "logs" not in reply


def test_a_direct_invocation_reads_its_session(function: Function) -> None:
    """State is kept by session, across invocations of one process."""
    assert function({"handler": "a", "event": {"what": "state"}, "session": "s1"})["returnValue"] == ["big"]
    again = function({"handler": "a", "event": {"what": "state"}, "session": "s1", "capabilities": []})
    assert again["error"]["code"] == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"handler": "nobody"}, "HANDLER_NOT_FOUND"),
        ({"handler": "broken"}, "COMPILATION_ERROR"),
        ({"handler": "a", "event": {"what": "throw"}}, "EXECUTION_ERROR"),
    ],
)
def test_a_failed_direct_call_is_data(function: Function, event: dict[str, Any], code: str) -> None:
    """Who invokes directly gets the typed error in the result, and the invocation itself succeeds."""
    reply = function(event)
    assert (reply["status"], reply["error"]["code"]) == ("error", code)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"handler": 7}, r"Expected `str`, got `int` - at `\$.handler`"),
        ({"handler": "a", "events": {}}, "unknown field `events`"),
        ({"handler": "a", "session": "a b"}, "a session id must be"),
        ({"handler": "a", "capabilities": ["fly"]}, "^capabilities: "),
        ({"handler": "a", "event": "\ud800"}, "no Unicode"),
        ({"hello": "a"}, "of no known source"),
    ],
)
def test_what_cannot_be_understood_is_an_error_of_the_invocation(
    function: Function, event: object, message: str
) -> None:
    """A malformed event runs nothing, and ends the invocation with `INVALID_REQUEST`."""
    code, text = function.fault(event)
    assert code == "INVALID_REQUEST"
    assert re.search(message, text)


def test_a_call_never_outlasts_the_invocation(function: Function) -> None:
    """A loop with a minute of its own ends with `TIMEOUT`, within what the invocation has less the margin."""
    reply = function({"handler": "a", "event": {"what": "loop"}}, left_ms=800)
    assert reply["error"]["code"] == "TIMEOUT"
    assert 0 < reply["error"]["limit"]["value"] <= 300
    assert function({"handler": "a"})["status"] == "success"


def test_an_invocation_with_no_time_left_gets_its_timeout(function: Function) -> None:
    """Less time than the margin is the shortest time a call can have, not none at all."""
    reply = function({"handler": "a", "event": {"what": "loop"}}, left_ms=-5)
    assert (reply["error"]["code"], reply["error"]["limit"]["value"]) == ("TIMEOUT", 1)


def test_a_short_timeout_of_the_handler_stays(tmp_path: Path) -> None:
    """The invocation's time narrows a handler's own, and never widens it."""
    handlers = {"a.js": _HANDLER, "a.toml": "[limits]\ntimeout_ms = 50"}
    with function_of(tmp_path, handlers) as short:
        assert short({"handler": "a", "event": {"what": "loop"}})["error"]["limit"]["value"] == 50


@pytest.mark.parametrize(
    "event",
    [
        records(sns_record('{"n": 1}')),
        records(s3_record("new/a.jpg"), s3_record("new/b.jpg")),
        bus_event(),
        bus_event("aws.events", "Scheduled Event", resources=[f"arn:aws:events:{REGION}:rule/nightly"]),
    ],
)
def test_a_notification_that_succeeds_answers_nothing(function: Function, event: object) -> None:
    """Nobody waits for the answer to a notification."""
    assert function(event) is None


def test_a_failed_notification_is_raised(function: Function) -> None:
    """Lambda tries an event again only if the invocation fails; the error names handler and code."""
    assert function.fault(records(sns_record('{"what": "throw"}'))) == ("EXECUTION_ERROR", "a: out of tea")


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (records(sns_record("{}", topic="other")), "sns 'other'; the sns triggers are 'alerts' (handler a)"),
        (records(s3_record("old/a.jpg")), "s3 'photos/old/a.jpg'; the s3 triggers are 'photos/new/*'"),
        (bus_event("shop", "Order Cancelled"), "eventbridge 'shop/Order Cancelled'"),
    ],
)
def test_an_event_no_trigger_names_lists_what_would_match(
    function: Function, event: object, name: str
) -> None:
    """No handler runs for an event that no manifest asks for."""
    code, message = function.fault(event)
    assert code == "HANDLER_NOT_FOUND"
    assert name in message


@pytest.mark.parametrize("over", [0, 1])
def test_an_answer_may_be_as_large_as_lambda_takes(over: int) -> None:
    """The largest answer passes; with one byte more it is a typed error instead of a dead process."""
    shown = CallAnswer("success", Raw(b'""'), (), (), (), None, None, ExecutionMetrics())
    frame = len(json.dumps(direct_reply(shown)))
    filled = msgspec.structs.replace(
        shown, return_value=Raw(b'"%b"' % (b"x" * (MAX_REPLY_BYTES - frame + over)))
    )
    reply = direct_reply(filled)
    assert reply["status"] == ("error" if over else "success")
    assert len(json.dumps(reply)) <= MAX_REPLY_BYTES
    if over:
        assert (reply["error"]["code"], reply["returnValue"]) == ("PAYLOAD_TOO_LARGE", None)
        assert reply["error"]["limit"] == {
            "name": "lambda_reply_bytes",
            "value": MAX_REPLY_BYTES,
            "used": MAX_REPLY_BYTES + 1,
        }


def test_an_answer_is_measured_as_it_is_sent(function: Function) -> None:
    """The runtime client puts a space after each comma: two million ones are larger than their own text."""
    reply = function({"handler": "a", "event": {"what": "numbers", "count": 2_500_000}})
    assert reply["error"]["code"] == "PAYLOAD_TOO_LARGE"


def test_warming_leaves_broken_handlers_to_their_callers(function: Function) -> None:
    """One handler that does not compile hinders neither INIT nor the others."""
    assert function.adapter.warm(10.0) == 1
    assert function.adapter.warm(0.0) == 0
