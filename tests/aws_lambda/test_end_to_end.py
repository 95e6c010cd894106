"""The function as AWS runs it: AWS's emulator starts AWS's runtime client, which imports the function."""

import json
from typing import Any

import pytest

from functions.aws_lambda.emulator import Emulator
from functions.aws_lambda.replies import MAX_REPLY_BYTES
from tests.aws_lambda.emulated import (
    TwoStarts,
    calls,
    code_of,
    direct,
    logged_after,
    patched,
    records,
    result_of,
    tells_nothing_of_the_host,
)

MIB = 1 << 20


def test_the_first_and_the_warm_invocation_are_answered_by_one_process(two_starts: TwoStarts) -> None:
    """The function is started once, for its first event, and later events find it running."""
    emulator = two_starts.emulator
    assert result_of(two_starts.first)["status"] == "success"
    assert emulator.init_ms > 0
    pids, starts = emulator.function_pids, emulator.log.count("INIT REPORT")
    assert len(pids) == 1
    for _ in range(3):
        result = direct(emulator, "hello", {"who": "bob"})
        assert result["returnValue"] == {"greeting": "hello bob"}
        assert (result["metrics"]["coldStart"], result["metrics"]["compilationTimeUs"]) == (False, None)
    assert (emulator.function_pids, emulator.log.count("INIT REPORT")) == (pids, starts)


def test_nothing_of_a_call_is_left_for_the_next(emulator: Emulator) -> None:
    """Module variables, globals and prototypes are as the handler's module made them, in every call."""
    for secret in ("mine", "yours", "theirs"):
        result = direct(emulator, "litter", {"secret": secret})
        assert result["returnValue"] == [None, None, None, None]


def test_state_outlives_invocations(emulator: Emulator) -> None:
    """What a handler keeps in its session is there in the next invocation, and in no other session."""
    counts = [
        direct(emulator, "counter", {}, session=session)["returnValue"]["count"]
        for session in ("state-a", "state-a", "state-b")
    ]
    assert counts == [1, 2, 1]


def test_two_environments_share_one_cache(two_starts: TwoStarts) -> None:
    """Two that start at once and compile the same handlers both answer, and neither complains."""
    for reply in (two_starts.first, two_starts.elsewhere):
        assert result_of(reply)["returnValue"] == [None, None, None, None]
    for log in (two_starts.emulator.log, two_starts.log_elsewhere):
        assert "cache is not used" not in log
        assert "error" not in {str(record.get("level")).lower() for record in records(log)}


@pytest.mark.usefixtures("same_process")
def test_a_looping_handler_ends_with_its_own_timeout(emulator: Emulator) -> None:
    """It is ended by its limit, long before the function's own timeout, and the process stays."""
    result = direct(emulator, "loop")
    assert code_of(result) == "TIMEOUT"
    assert result["error"]["limit"]["value"] == 200


@pytest.mark.usefixtures("same_process")
def test_a_greedy_handler_ends_with_its_memory_limit(emulator: Emulator) -> None:
    """It is told which limit it passed, and the process stays."""
    result = direct(emulator, "greedy")
    assert code_of(result) == "MEMORY_LIMIT"
    assert result["error"]["limit"]["name"] == "memory_limit_bytes"


@pytest.mark.usefixtures("same_process")
def test_an_event_may_have_six_mebibytes(emulator: Emulator) -> None:
    """The core takes 6 MiB and refuses one byte more; a little above that AWS itself answers 413."""
    most = "x" * (6 * MIB - len('{"text":""}'))
    assert direct(emulator, "length", {"text": most})["returnValue"] == len(most)
    result = direct(emulator, "length", {"text": most + "x"})
    assert code_of(result) == "PAYLOAD_TOO_LARGE"
    assert result["error"]["limit"] == {"name": "max_input_bytes", "value": 6 * MIB, "used": 6 * MIB + 1}


@pytest.mark.usefixtures("same_process")
def test_an_answer_may_have_all_that_lambda_takes(emulator: Emulator, sam_events: dict[str, Any]) -> None:
    """The largest answer Lambda takes arrives; one byte more is 413, and not the end of the process."""

    def answer(size: int) -> tuple[int, int]:
        changes = {
            "rawPath": "/invoke/sized",
            "requestContext.http.path": "/invoke/sized",
            "rawQueryString": "",
            "cookies": None,
            "headers": {"content-type": "application/json", "prefer": "return=minimal"},
            "body": json.dumps({"bytes": size}),
            "isBase64Encoded": False,
        }
        reply = emulator.invoke(patched(sam_events["apigateway http-api-proxy"], changes))
        assert reply.status == 200
        return reply.value["statusCode"], len(reply.body)

    # As long a number as the largest has, so that what stands around the text is as long too.
    status, length = answer(1_000_000)
    assert status == 200
    most = MAX_REPLY_BYTES - length + 1_000_000
    assert answer(most) == (200, MAX_REPLY_BYTES)
    assert answer(most + 1)[0] == 413


@pytest.mark.usefixtures("same_process")
def test_a_direct_answer_that_lambda_would_not_take_is_a_typed_error(emulator: Emulator) -> None:
    """Six MiB fit beside what tells of the call; a little more is PAYLOAD_TOO_LARGE, as data."""
    most = 6 * MIB - 1000
    assert direct(emulator, "sized", {"bytes": most})["returnValue"] == "x" * most
    result = direct(emulator, "sized", {"bytes": 6 * MIB + 1000})
    assert code_of(result) == "PAYLOAD_TOO_LARGE"


@pytest.mark.usefixtures("same_process")
@pytest.mark.parametrize(
    "event",
    [
        {},
        [],
        None,
        "hello",
        {"handler": "hello", "evnt": {"who": "bob"}},
        {"handler": ["hello"]},
        {"Records": []},
        {"Records": [{"eventSource": "aws:sqs"}, {"eventSource": "aws:s3"}]},
        {"Records": [{"eventSource": "aws:unheard-of"}]},
        {"detail-type": "x", "source": "y", "id": "z", "handler": "hello"},
    ],
    ids=lambda event: json.dumps(event)[:40],
)
def test_an_event_of_no_known_source_runs_no_handler(emulator: Emulator, event: object) -> None:
    """It fails as INVALID_REQUEST, and the log tells of no call but the one after it."""
    start = len(emulator.log)
    assert emulator.invoke(event).error_type == "INVALID_REQUEST"
    direct(emulator, "length", {"text": ""})
    assert calls(logged_after(emulator, start, 2)) == ["length"]


@pytest.mark.usefixtures("same_process")
@pytest.mark.parametrize(
    "event",
    [
        {"who": "nobody in particular"},
        {"handler": "broken", "event": {"what": "this"}},
        {"handler": "nope"},
        {"handler": "../conftest"},
        {"handler": "loop"},
        {"handler": "hello", "event": "\ud800"},
        {"Records": [{"eventSource": "aws:sqs", "messageId": 5}]},
        {"Records": [{"EventSource": "aws:sns", "Sns": {"TopicArn": "arn:aws:sns:::x"}}]},
        {"requestContext": {"http": {"method": "GET"}}, "version": "2.0"},
        {"requestContext": {"elb": {}}, "httpMethod": "GET"},
        b"{",
        b"\xff",
    ],
    ids=lambda event: repr(event)[:40],
)
def test_an_error_tells_nothing_of_the_host(emulator: Emulator, event: object) -> None:
    """Whatever fails, the answer holds no Python, no traceback and no path of the machine."""
    reply = emulator.invoke(event)
    assert tells_nothing_of_the_host(reply.body), reply.body


def test_random_numbers_differ_in_every_call(emulator: Emulator) -> None:
    """`Math.random`, `crypto.getRandomValues` and `crypto.randomUUID` never repeat, though memory does."""
    values = [direct(emulator, "random")["returnValue"] for _ in range(5)]
    for kind in ("math", "crypto", "uuid"):
        assert len({json.dumps(value[kind]) for value in values}) == len(values)
