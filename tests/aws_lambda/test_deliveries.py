"""Records of AWS sources as handlers get them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.aws_lambda.deliveries import delivery_of, group_of, identifier_of
from functions.aws_lambda.event_shapes import Source
from nexus_core.errors import InvalidRequest
from tests.aws_lambda.lambda_events import (
    REGION,
    bus_event,
    dynamodb_record,
    fifo_record,
    kinesis_record,
    s3_record,
    sns_record,
    sqs_record,
)


def event_of(source: Source, record: dict[str, Any]) -> Any:
    """What the handler gets."""
    return json.loads(delivery_of(source, record).event)


def test_an_sqs_message_comes_with_its_body_parsed() -> None:
    """The body of a message is the JSON value it is; names are the queue's ARN and name."""
    delivery = delivery_of(Source.SQS, sqs_record(1, '{"n": 1}'))
    assert delivery.names == (f"arn:aws:sqs:{REGION}:orders", "orders")
    assert json.loads(delivery.event) == {
        "messageId": "m1",
        "queue": "orders",
        "body": {"n": 1},
        "attributes": {"ApproximateReceiveCount": "1"},
        "messageAttributes": {},
    }


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_body_that_is_no_json_stays_text(text: str) -> None:
    """A message's body arrives as its JSON value, or else as the very text that was sent."""
    try:
        wanted = json.loads(text, parse_constant=int)
    except ValueError:
        wanted = text
    assert event_of(Source.SQS, sqs_record(1, text))["body"] == wanted


@pytest.mark.parametrize(
    ("data", "wanted", "encoded"),
    [
        (b'{"n": 1}', {"n": 1}, False),
        (b"plain", "plain", False),
        (b"\xff\x00", "/wA=", True),
        (b"", "", False),
    ],
)
def test_kinesis_data_come_decoded_as_far_as_they_can_be(data: bytes, wanted: object, encoded: bool) -> None:
    """Data of a stream are JSON, else text, else Base64 that says so."""
    event = event_of(Source.KINESIS, kinesis_record(1, data))
    assert (event["data"], event["isBase64Encoded"]) == (wanted, encoded)
    assert (event["stream"], event["partitionKey"], event["sequenceNumber"]) == ("clicks", "key", "s1")


def test_dynamodb_images_come_as_plain_json() -> None:
    """Typed attributes become plain JSON values; numbers keep every digit, sets are sorted lists."""
    image = {
        "name": {"S": "bob"},
        "balance": {"N": "12345678901234567890.123456789"},
        "ok": {"BOOL": True},
        "none": {"NULL": True},
        "tags": {"SS": ["e", "b", "d", "a", "c", "f"]},
        "list": {"L": [{"N": "1"}, {"M": {"x": {"S": "y"}}}]},
    }
    delivery = delivery_of(Source.DYNAMODB, dynamodb_record(7, image))
    assert b"12345678901234567890.123456789" in delivery.event
    event = json.loads(delivery.event)
    assert event["keys"] == {"id": 7}
    assert event["oldImage"] is None
    assert event["newImage"] == {
        "name": "bob",
        "balance": pytest.approx(1.2345678901234567e19),
        "ok": True,
        "none": None,
        "tags": ["a", "b", "c", "d", "e", "f"],
        "list": [1, {"x": "y"}],
    }
    assert delivery.names[1:] == (f"arn:aws:dynamodb:{REGION}:table/users", "users")


def test_an_sns_message_comes_with_its_topic() -> None:
    """A notification has its message parsed and its topic's name."""
    delivery = delivery_of(Source.SNS, sns_record('["x"]'))
    event = json.loads(delivery.event)
    assert (event["topic"], event["message"], event["subject"]) == ("alerts", ["x"], "look")
    assert delivery.names == (f"arn:aws:sns:{REGION}:alerts", "alerts")


def test_an_s3_key_comes_decoded() -> None:
    """Keys arrive encoded as in a query, and are what was stored again."""
    delivery = delivery_of(Source.S3, s3_record("new+photos/caf%C3%A9.jpg"))
    assert json.loads(delivery.event)["key"] == "new photos/café.jpg"
    assert delivery.names[1:] == ("photos", "photos/new photos/café.jpg")


def test_a_bus_event_comes_as_it_is() -> None:
    """Events of EventBridge are handed on unchanged, under source and detail type."""
    delivery = delivery_of(Source.EVENTBRIDGE, bus_event())
    assert json.loads(delivery.event) == bus_event()
    assert delivery.names == ("shop", "shop/Order Placed")


@pytest.mark.parametrize(
    "arn", [f"arn:aws:events:{REGION}:rule/nightly", f"arn:aws:scheduler:{REGION}:schedule/default/nightly"]
)
def test_a_schedule_is_known_by_its_name(arn: str) -> None:
    """Rules and schedules are named by the end of their ARN."""
    event = bus_event("aws.events", "Scheduled Event", resources=[arn])
    assert delivery_of(Source.SCHEDULE, event).names == (arn, "nightly")


@pytest.mark.parametrize(
    ("source", "record", "message"),
    [
        (Source.SQS, {"messageId": "m1"}, "missing required field `body`"),
        (Source.SQS, sqs_record(1) | {"eventSourceARN": "orders"}, "eventSourceARN"),
        (Source.SQS, sqs_record(1) | {"body": {}}, r"Expected `str`, got `object` - at `\$.body`"),
        (Source.KINESIS, kinesis_record(1) | {"kinesis": None}, "kinesis"),
        (Source.DYNAMODB, dynamodb_record(1, {"x": {"Q": "1"}}), "no type that DynamoDB has"),
        (Source.DYNAMODB, dynamodb_record(1, {"x": {"N": "many"}}), "no type that DynamoDB has"),
        (Source.DYNAMODB, dynamodb_record(1, {"x": "1"}), "no type that DynamoDB has"),
        (Source.SNS, {"Sns": {}}, "missing required field"),
        (Source.S3, {"s3": 1, "eventName": "x"}, "s3"),
        (Source.SCHEDULE, bus_event("aws.events", "Scheduled Event"), "names no rule or schedule"),
    ],
)
def test_a_malformed_record_is_refused(source: Source, record: dict[str, Any], message: str) -> None:
    """A record that is not as AWS sends them is refused with the place."""
    with pytest.raises(InvalidRequest, match=message):
        delivery_of(source, record)


def test_data_that_are_no_base64_are_refused() -> None:
    """A stream's data must be Base64."""
    record = kinesis_record(1)
    record["kinesis"]["data"] = "%%%"
    with pytest.raises(InvalidRequest, match="not Base64"):
        delivery_of(Source.KINESIS, record)


def test_half_a_surrogate_pair_is_refused() -> None:
    """JSON can say what is no Unicode; it does not reach a handler."""
    with pytest.raises(InvalidRequest, match="no Unicode"):
        delivery_of(Source.SQS, sqs_record(1, "\ud800"))


@pytest.mark.parametrize(
    ("record", "source"),
    [
        (
            sqs_record(1, messageAttributes={"Nexus-Session": {"stringValue": "s1", "dataType": "String"}}),
            Source.SQS,
        ),
        (sns_record("x", MessageAttributes={"Nexus-Session": {"Type": "String", "Value": "s1"}}), Source.SNS),
    ],
)
def test_a_message_attribute_names_the_session(record: dict[str, Any], source: Source) -> None:
    """Messages choose their session by an attribute, as requests do by a header."""
    assert delivery_of(source, record).session == "s1"


def test_a_bad_session_is_refused() -> None:
    """What can be no session id is refused."""
    record = sqs_record(1, messageAttributes={"Nexus-Session": {"stringValue": "a b"}})
    with pytest.raises(InvalidRequest, match="session id"):
        delivery_of(Source.SQS, record)


def test_order_is_kept_where_the_source_keeps_it() -> None:
    """Groups of a FIFO queue and whole shards are in order; a standard queue is not."""
    assert group_of(Source.SQS, sqs_record(1)) is None
    assert group_of(Source.SQS, sqs_record(1, attributes={"MessageGroupId": "g"})) is None
    assert group_of(Source.SQS, fifo_record(1, "{}", "g")) == "g"
    assert group_of(Source.KINESIS, kinesis_record(1)) == group_of(Source.KINESIS, kinesis_record(2))
    assert group_of(Source.DYNAMODB, dynamodb_record(1, {})) is not None


@pytest.mark.parametrize(
    ("source", "record", "identifier"),
    [
        (Source.SQS, sqs_record(3), "m3"),
        (Source.KINESIS, kinesis_record(3), "s3"),
        (Source.DYNAMODB, dynamodb_record(3, {}), "s3"),
    ],
)
def test_a_failed_record_can_be_named(source: Source, record: dict[str, Any], identifier: str) -> None:
    """Each batch source has its own identifier; a record without one is refused."""
    assert identifier_of(source, record) == identifier
    with pytest.raises(InvalidRequest, match="could not be told"):
        identifier_of(source, {})
