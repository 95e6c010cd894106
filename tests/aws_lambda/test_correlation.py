"""Correlation ids: each source's own, and none from an event that only looks like the source's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.aws_lambda.correlation import correlation_id
from functions.aws_lambda.event_shapes import Source

HTTP = {"requestContext": {"requestId": "gateway-1"}, "headers": {"x-amzn-trace-id": "Root=1-2-3"}}
BUS = {"id": "event-1", "detail-type": "order", "source": "shop"}


@pytest.mark.parametrize(
    ("source", "event", "expected"),
    [
        (Source.HTTP, HTTP, "gateway-1"),
        (Source.HTTP, {"requestContext": {"elb": {}}, "headers": HTTP["headers"]}, "Root=1-2-3"),
        (Source.SQS, {"Records": [{"messageId": "m1"}, {"messageId": "m2"}]}, "m1"),
        (Source.KINESIS, {"Records": [{"eventID": "shard:1"}]}, "shard:1"),
        (Source.DYNAMODB, {"Records": [{"eventID": "change-1"}]}, "change-1"),
        (Source.SNS, {"Records": [{"Sns": {"MessageId": "n1"}}]}, "n1"),
        (Source.S3, {"Records": [{"responseElements": {"x-amz-request-id": "put-1"}}]}, "put-1"),
        (Source.EVENTBRIDGE, BUS, "event-1"),
        (Source.SCHEDULE, BUS, "event-1"),
        (Source.DIRECT, {"handler": "hello", "id": "mine"}, None),
        ("unknown", BUS, None),
        (Source.EVENTBRIDGE, {"id": 7}, None),
        (Source.EVENTBRIDGE, {"id": ""}, None),
        (Source.SQS, {"Records": {"0": {"messageId": "m1"}}}, None),
        (Source.SQS, {"Records": []}, None),
        (Source.SNS, {"Records": [{"Sns": "n1"}]}, None),
    ],
)
def test_each_source_has_its_own_id(source: str, event: object, expected: str | None) -> None:
    """The id is the one under which AWS's own tools show the event."""
    assert correlation_id(event, source) == expected


KEYS = st.sampled_from(
    ["requestContext", "requestId", "headers", "Records", "Sns", "MessageId", "messageId", "id", "eventID"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
)


@given(st.sampled_from([*Source, "unknown"]), JSON)
def test_no_event_breaks_the_search(source: str, event: object) -> None:
    """Of an event of any shape the id is a text, or there is none."""
    found = correlation_id(event, source)
    assert found is None or found != ""
