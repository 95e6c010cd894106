"""Batches: which records are told as failed, and in which order they are handled."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.aws_lambda.lambda_events import (
    Function,
    dynamodb_record,
    fifo_record,
    function_of,
    kinesis_record,
    records,
    sqs_record,
)

_TRIGGERS = """
capabilities = ["state:read:*", "state:write:*"]
[[triggers]]
sqs = "orders*"
[[triggers]]
kinesis = "clicks"
[[triggers]]
dynamodb = "users"
"""

# Told to fail by the record itself; a session keeps the order in which records were handled.
_HANDLER = """
export default function (event) {
  const told = event.body ?? event.data ?? event.newImage;
  if (told.bad) throw new Error("bad record");
  $state.seen = [...($state.seen ?? []), told.n];
}
"""

_SEEN = "export default () => $state.seen ?? []"


@pytest.fixture(scope="module")
def function(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    """A function of one handler for every batch source."""
    reads = 'capabilities = ["state:read:*"]'
    handlers = {"a.js": _HANDLER, "a.toml": _TRIGGERS, "seen.js": _SEEN, "seen.toml": reads}
    with function_of(tmp_path_factory.mktemp("function"), handlers, max_instances="4") as made:
        yield made


def body(n: int, *, bad: bool = False) -> str:
    """What a record tells the handler."""
    return json.dumps({"n": n, "bad": bad})


def failed(reply: Any) -> list[str]:
    """The identifiers of the records told as failed."""
    assert reply.keys() == {"batchItemFailures"}
    return [item["itemIdentifier"] for item in reply["batchItemFailures"]]


@given(bad=st.sets(st.integers(0, 9)))
def test_exactly_the_bad_messages_are_told(function: Function, bad: set[int]) -> None:
    """Of ten messages of a standard queue those that failed are told, and no other."""
    batch = records(*(sqs_record(n, body(n, bad=n in bad)) for n in range(10)))
    assert sorted(failed(function(batch))) == [f"m{n}" for n in sorted(bad)]


def test_a_message_without_a_handler_fails_alone(function: Function) -> None:
    """No trigger for one record's queue is a failure of that record."""
    batch = records(sqs_record(1, body(1)), sqs_record(2, body(2), queue="bills"), sqs_record(3, body(3)))
    assert failed(function(batch)) == ["m2"]


def test_a_malformed_message_fails_alone(function: Function) -> None:
    """A record that cannot be read does not take its batch with it."""
    assert failed(function(records(sqs_record(1, body(1)), {**sqs_record(2), "body": None}))) == ["m2"]


def test_a_record_that_could_not_be_told_refuses_the_batch(function: Function) -> None:
    """Without an identifier nobody could say which record failed, so nothing runs."""
    code, message = function.fault(records(sqs_record(1), {**sqs_record(2), "messageId": None}))
    assert (code, "messageId" in message) == ("INVALID_REQUEST", True)


@given(batch=st.lists(st.tuples(st.sampled_from("xyz"), st.booleans()), min_size=1, max_size=10))
def test_a_fifo_group_stops_at_its_first_failure(function: Function, batch: list[tuple[str, bool]]) -> None:
    """In each group all messages from the first bad one on are told, in order; other groups go on."""
    sent = [fifo_record(n, body(n, bad=bad), group) for n, (group, bad) in enumerate(batch)]
    stopped: set[str] = set()
    wanted = []
    for n, (group, bad) in enumerate(batch):
        if bad:
            stopped.add(group)
        if group in stopped:
            wanted.append(f"m{n}")
    assert sorted(failed(function(records(*sent)))) == sorted(wanted)


def test_a_malformed_fifo_message_stops_its_group(function: Function) -> None:
    """Order is kept also when a message cannot even be read."""
    broken = {**fifo_record(1, "", "x"), "body": None}
    reply = function(records(broken, fifo_record(2, body(2), "x"), fifo_record(3, body(3), "y")))
    assert failed(reply) == ["m1", "m2"]


def test_a_group_is_handled_in_its_order(function: Function) -> None:
    """Messages of one group run one after the other, as they were sent."""
    session = {"Nexus-Session": {"stringValue": "fifo", "dataType": "String"}}
    sent = [fifo_record(n, body(n), "x") | {"messageAttributes": session} for n in range(8)]
    assert failed(function(records(*sent))) == []
    assert function({"handler": "seen", "session": "fifo"})["returnValue"] == list(range(8))


def test_a_stream_stops_at_its_first_failure(function: Function) -> None:
    """Lambda resumes a shard at the first failure, so what comes after it is left for then."""
    clicks = [kinesis_record(n, body(n, bad=n == 2).encode()) for n in range(4)]
    assert failed(function(records(*clicks))) == ["s2", "s3"]
    users = [dynamodb_record(n, {"n": {"N": str(n)}, "bad": {"BOOL": n == 1}}) for n in range(3)]
    assert failed(function(records(*users))) == ["s1", "s2"]


def test_a_batch_that_fails_as_a_whole_is_told_so(function: Function) -> None:
    """Even when every record failed the answer is the list, so that each keeps its own count of tries."""
    assert failed(function(records(*(sqs_record(n, body(n, bad=True)) for n in range(3))))) == [
        "m0",
        "m1",
        "m2",
    ]


def test_more_records_than_instances_all_get_their_turn(tmp_path: Path) -> None:
    """A batch larger than the pool waits for instances here, where nothing is refused for want of room."""
    busy = "export default function () { for (let n = 0; n < 2e5; n++); }"
    handlers = {"a.js": busy, "a.toml": "[[triggers]]\nsqs = 'orders'"}
    with function_of(tmp_path, handlers, max_instances="2", max_waiting="0") as small:
        assert failed(small(records(*(sqs_record(n) for n in range(12))))) == []


def test_base64_is_checked_per_record(function: Function) -> None:
    """A record of a stream whose data are no Base64 fails like any bad record."""
    broken = kinesis_record(1)
    broken["kinesis"]["data"] = base64.b64encode(b"{}").decode()[:-1]
    assert failed(function(records(kinesis_record(0, body(0).encode()), broken))) == ["s1"]
