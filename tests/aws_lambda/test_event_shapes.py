"""Telling events apart by their shape."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.aws_lambda.event_shapes import Source, source_of
from nexus_core.errors import InvalidRequest
from tests.aws_lambda.lambda_events import (
    alb,
    bus_event,
    dynamodb_record,
    http_v1,
    http_v2,
    kinesis_record,
    records,
    s3_record,
    sns_record,
    sqs_record,
)

KNOWN = [
    (http_v2("GET", "/"), Source.HTTP),
    (http_v1("GET", "/"), Source.HTTP),
    (http_v1("GET", "/") | {"version": "1.0"}, Source.HTTP),
    (alb("GET", "/"), Source.HTTP),
    ({"handler": "hello"}, Source.DIRECT),
    ({"handler": "hello", "event": {"Records": []}, "session": "s", "capabilities": []}, Source.DIRECT),
    (records(sqs_record(1), sqs_record(2)), Source.SQS),
    (records(kinesis_record(1)), Source.KINESIS),
    (records(dynamodb_record(1, {})), Source.DYNAMODB),
    (records(sns_record("x")), Source.SNS),
    (records(s3_record("x")), Source.S3),
    (bus_event(), Source.EVENTBRIDGE),
    (bus_event("aws.events", "Scheduled Event"), Source.SCHEDULE),
    (bus_event("aws.scheduler", "Scheduled Event"), Source.SCHEDULE),
    (bus_event("shop", "Scheduled Event"), Source.EVENTBRIDGE),
    (bus_event("aws.events", "Rule Changed"), Source.EVENTBRIDGE),
]

UNKNOWN: list[Any] = [
    None,
    17,
    "hello",
    [],
    {},
    {"Records": []},
    {"Records": "aws:sqs"},
    {"Records": [None]},
    records(sqs_record(1), sns_record("x")),
    records(sqs_record(1) | {"eventSource": "aws:mq"}),
    records(sqs_record(1) | {"eventSource": ["aws:sqs"]}),
    records(sqs_record(1)) | {"handler": "hello"},
    {"event": {"handler": "hello"}},
    {"detail-type": "x", "source": "y"},
    {"requestContext": {"connectionId": "c", "eventType": "MESSAGE"}, "body": "{}"},
    {"requestContext": None, "version": "2.0"},
    http_v2("GET", "/") | {"requestContext": {}},
    http_v2("GET", "/") | {"handler": "hello", "Records": [sqs_record(1)]},
    {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "photos"},
]


@pytest.mark.parametrize(("event", "source"), KNOWN)
def test_known_events_are_told_apart(event: dict[str, Any], source: Source) -> None:
    """Each source's events have a shape of their own."""
    assert source_of(event) is source


@pytest.mark.parametrize("event", UNKNOWN)
def test_what_has_no_one_shape_is_refused(event: object) -> None:
    """An event of no known shape, or of two, is refused with the shapes there are."""
    with pytest.raises(InvalidRequest, match=r"of no known source .* direct invocations"):
        source_of(event)


_KEYS = st.sampled_from(
    [
        "Records",
        "requestContext",
        "handler",
        "source",
        "detail-type",
        "id",
        "version",
        "http",
        "elb",
        "httpMethod",
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=12,
)


@given(event=st.dictionaries(_KEYS, _JSON, max_size=6))
def test_any_json_is_told_or_refused(event: dict[str, Any]) -> None:
    """Whatever JSON comes, the answer is a source or the typed refusal."""
    try:
        source_of(event)
    except InvalidRequest as error:
        told = error.message
    else:
        told = ""
    assert len(told) < 1000
