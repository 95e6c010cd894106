"""Events of every source, as `sam local generate-event` makes them, through AWS's emulator."""

import base64
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from functions.aws_lambda.emulator import Emulator
from tests.aws_lambda.emulated import calls, direct, logged_after, noted, patched


class Sample(NamedTuple):
    """One event: what SAM made, changed at some paths, and what the handler gets of it, at least."""

    about: str
    made: str
    changes: Mapping[str, Any]
    delivered: Mapping[str, Any]


HTTP_API, REST, ALB = "apigateway http-api-proxy", "apigateway aws-proxy", "alb request"
SQS, KINESIS, DYNAMODB = "sqs receive-message", "kinesis get-records", "dynamodb update"
SNS, PUT, DELETE, SCHEDULED = "sns notification", "s3 put", "s3 delete", "cloudwatch scheduled-event"
SUPPORTED = {
    HTTP_API,
    REST,
    ALB,
    SQS,
    KINESIS,
    DYNAMODB,
    SNS,
    PUT,
    DELETE,
    SCHEDULED,
    "rekognition s3-request",
}

_SCHEDULER = {
    "source": "aws.scheduler",
    "resources": ["arn:aws:scheduler:us-east-1:123456789012:schedule/group/nightly"],
}
_BUS = {"source": "shop.orders", "detail-type": "order placed", "resources": []}
_NEW = "Records.0.dynamodb.NewImage.value"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


_AS_MADE = {"method": "POST", "path": "/path/to/resource", "body": '{"test":"body"}'}
_JSON = {"headers.content-type": "application/json"}
_PLAIN = {"body": '{"a":1}', "isBase64Encoded": False}

REQUESTS = (
    Sample("as it is", HTTP_API, {}, _AS_MADE),
    Sample("queries", HTTP_API, {}, {"query": {"parameter1": "value1", "parameter2": "value"}}),
    Sample("JSON", HTTP_API, _JSON, {"body": {"test": "body"}}),
    Sample("plain JSON", HTTP_API, _JSON | _PLAIN, {"body": {"a": 1}}),
    Sample("no body", HTTP_API, {"body": None, "isBase64Encoded": False}, {"method": "POST", "body": None}),
    Sample("no cookies", HTTP_API, {"cookies": None}, {"method": "POST"}),
    Sample(
        "a function URL",
        HTTP_API,
        {"requestContext.domainName": "abc.lambda-url.us-east-1.on.aws", "pathParameters": None},
        _AS_MADE,
    ),
    Sample("as it is", REST, {}, _AS_MADE),
    Sample("queries", REST, {"multiValueQueryStringParameters": {"foo": ["bar"]}}, {"query": {"foo": "bar"}}),
    Sample(
        "no queries",
        REST,
        {"queryStringParameters": None, "multiValueQueryStringParameters": None},
        {"query": {}},
    ),
    Sample("plain", REST, _PLAIN, {"body": '{"a":1}'}),
    Sample("as it is", ALB, {}, _AS_MADE),
    Sample("queries", ALB, {}, {"query": {"query": "1234ABCD"}}),
    Sample("JSON", ALB, _JSON, {"body": {"test": "body"}}),
    Sample(
        "multi-value headers",
        ALB,
        {"headers": None, "multiValueHeaders": {"content-type": ["application/json"], "x-a": ["1", "2"]}},
        {"body": {"test": "body"}},
    ),
)

RECORDS = (
    Sample("text", SQS, {}, {"queue": "MyQueue", "body": "Hello from SQS!"}),
    Sample("JSON", SQS, {"Records.0.body": '{"id":7}'}, {"body": {"id": 7}}),
    Sample("a JSON number", SQS, {"Records.0.body": "12"}, {"body": 12}),
    Sample("nearly JSON", SQS, {"Records.0.body": '{"id":'}, {"body": '{"id":'}),
    Sample("empty", SQS, {"Records.0.body": ""}, {"body": ""}),
    Sample("other scripts", SQS, {"Records.0.body": "żółw 🐢"}, {"body": "żółw 🐢"}),
    Sample(
        "attributes",
        SQS,
        {"Records.0.messageAttributes.kind": {"stringValue": "a", "dataType": "String"}},
        {"messageAttributes": {"kind": {"stringValue": "a", "dataType": "String"}}},
    ),
    Sample(
        "a session",
        SQS,
        {"Records.0.messageAttributes.Nexus-Session": {"stringValue": "s-1", "dataType": "String"}},
        {"queue": "MyQueue"},
    ),
    Sample(
        "FIFO",
        SQS,
        {
            "Records.0.eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:orders.fifo",
            "Records.0.attributes.MessageGroupId": "g",
        },
        {"queue": "orders.fifo"},
    ),
    Sample("redelivered", SQS, {"Records.0.attributes.ApproximateReceiveCount": "3"}, {"queue": "MyQueue"}),
    Sample("text", KINESIS, {}, {"data": "Hello, this is a test 123.", "isBase64Encoded": False}),
    Sample("JSON", KINESIS, {"Records.0.kinesis.data": _base64(b'{"id":7}')}, {"data": {"id": 7}}),
    Sample(
        "bytes",
        KINESIS,
        {"Records.0.kinesis.data": _base64(b"\xff\x00")},
        {"data": _base64(b"\xff\x00"), "isBase64Encoded": True},
    ),
    Sample("empty", KINESIS, {"Records.0.kinesis.data": ""}, {"data": "", "isBase64Encoded": False}),
    Sample(
        "a stream",
        KINESIS,
        {"Records.0.eventSourceARN": "arn:aws:kinesis:us-east-1:123456789012:stream/clicks"},
        {"stream": "clicks", "partitionKey": "partitionKey-03"},
    ),
    Sample("insert", DYNAMODB, {}, {"eventName": "INSERT", "table": "ExampleTableWithStream"}),
    Sample("keys", DYNAMODB, {}, {"keys": {"Id": 101}, "oldImage": None}),
    Sample("a list", DYNAMODB, {_NEW: {"L": [{"N": "1"}, {"S": "b"}]}}, {"eventName": "INSERT"}),
    Sample(
        "a map", DYNAMODB, {_NEW: {"M": {"a": {"BOOL": True}, "b": {"NULL": True}}}}, {"eventName": "INSERT"}
    ),
    Sample("sets", DYNAMODB, {_NEW: {"SS": ["a", "b"]}}, {"eventName": "INSERT"}),
    Sample("a long number", DYNAMODB, {_NEW: {"N": "1" * 38}}, {"eventName": "INSERT"}),
    Sample("bytes", DYNAMODB, {_NEW: {"B": _base64(b"\xff")}}, {"eventName": "INSERT"}),
)

NOTIFICATIONS = (
    Sample(
        "text", SNS, {}, {"topic": "ExampleTopic", "subject": "example subject", "message": "example message"}
    ),
    Sample("JSON", SNS, {"Records.0.Sns.Message": '{"id":7}'}, {"message": {"id": 7}}),
    Sample("no subject", SNS, {"Records.0.Sns.Subject": None}, {"subject": None}),
    Sample("no attributes", SNS, {"Records.0.Sns.MessageAttributes": {}}, {"messageAttributes": {}}),
    Sample("put", PUT, {}, {"bucket": "example-bucket", "key": "test/key", "size": 1024}),
    Sample("an encoded key", PUT, {"Records.0.s3.object.key": "a+b%2Bc%C3%A9.txt"}, {"key": "a b+cé.txt"}),
    Sample("a version", PUT, {"Records.0.s3.object.versionId": "v1"}, {"versionId": "v1"}),
    Sample(
        "multipart",
        PUT,
        {"Records.0.eventName": "ObjectCreated:CompleteMultipartUpload"},
        {"eventName": "ObjectCreated:CompleteMultipartUpload"},
    ),
    Sample("delete", DELETE, {}, {"eventName": "ObjectRemoved:Delete", "size": None}),
    Sample("by way of Rekognition's sample", "rekognition s3-request", {}, {"bucket": "example-bucket"}),
    Sample("a rule", SCHEDULED, {}, {"detail-type": "Scheduled Event", "source": "aws.events"}),
    Sample("a schedule", SCHEDULED, _SCHEDULER, {"source": "aws.scheduler"}),
    Sample("of the bus", SCHEDULED, _BUS, {"source": "shop.orders", "detail": {}}),
    Sample("of the bus, with a detail", SCHEDULED, {**_BUS, "detail": {"id": 7}}, {"detail": {"id": 7}}),
    Sample("of the bus, from AWS", SCHEDULED, {**_BUS, "source": "aws.s3"}, {"source": "aws.s3"}),
)


def name_of(sample: Sample) -> str:
    """For the names of tests."""
    return f"{sample.made}, {sample.about}"


def deliver(emulator: Emulator, event: object) -> tuple[Any, list[Any]]:
    """What Lambda is answered, and what the handler was given."""
    start = len(emulator.log)
    reply = emulator.invoke(event)
    assert (reply.status, reply.error_type) == (200, None), reply.body[:1000]
    return reply.value, noted(logged_after(emulator, start))


@pytest.mark.parametrize("sample", REQUESTS, ids=name_of)
def test_a_request_reaches_the_handler_of_its_route(
    emulator: Emulator, sam_events: dict[str, Any], sample: Sample
) -> None:
    """Requests of HTTP APIs, function URLs, REST APIs and ALBs run the handler of their route."""
    answer, delivered = deliver(emulator, patched(sam_events[sample.made], sample.changes))
    assert answer["statusCode"] == 200, answer
    assert [event | sample.delivered for event in delivered] == delivered
    assert len(delivered) == 1


@pytest.mark.parametrize("sample", RECORDS, ids=name_of)
def test_a_record_reaches_the_handler_of_its_source(
    emulator: Emulator, sam_events: dict[str, Any], sample: Sample
) -> None:
    """Records of SQS, Kinesis and DynamoDB run the handler that asked for them; none is told as failed."""
    answer, delivered = deliver(emulator, patched(sam_events[sample.made], sample.changes))
    assert answer == {"batchItemFailures": []}
    assert delivered[0] | sample.delivered == delivered[0]


@pytest.mark.parametrize("sample", NOTIFICATIONS, ids=name_of)
def test_a_notification_reaches_the_handler_of_its_source(
    emulator: Emulator, sam_events: dict[str, Any], sample: Sample
) -> None:
    """Events of SNS, S3, EventBridge and schedules run the handler that asked for them."""
    answer, delivered = deliver(emulator, patched(sam_events[sample.made], sample.changes))
    assert answer is None
    assert [event | sample.delivered for event in delivered] == delivered
    assert len(delivered) == 1


def test_there_are_fifty_samples() -> None:
    """Every source has its part in at least fifty sample events, and none is there twice."""
    samples = {name_of(sample) for sample in (*REQUESTS, *RECORDS, *NOTIFICATIONS)}
    assert len(samples) == len((*REQUESTS, *RECORDS, *NOTIFICATIONS)) >= 50
    assert {sample.made for sample in (*REQUESTS, *RECORDS, *NOTIFICATIONS)} == SUPPORTED


def test_events_of_other_services_run_no_handler(emulator: Emulator, sam_events: dict[str, Any]) -> None:
    """Whatever else SAM can make, authorizers' questions among it, is refused, though routes would fit."""
    others = sam_events.keys() - SUPPORTED
    assert len(others) > 50
    start = len(emulator.log)
    kinds = {name: emulator.invoke(sam_events[name]).error_type for name in sorted(others)}
    assert set(kinds.values()) == {"INVALID_REQUEST"}, kinds
    direct(emulator, "hello", {"who": "you"})
    assert calls(logged_after(emulator, start, len(others) + 1)) == ["hello"]


def batch_of_ten(sample: Any, *, body: str, bad: set[int], **identity: str) -> dict[str, Any]:
    """Ten records like the first of `sample`, told apart at `body` and `identity`; those in `bad` fail."""
    base64_body = body == "kinesis.data"
    records = []
    for number in range(10):
        text = json.dumps({"number": number, "told": "fail-this" if number in bad else "go on"})
        changes = {body: _base64(text.encode()) if base64_body else text}
        changes |= {path: value.format(number) for path, value in identity.items()}
        records.append(patched(sample["Records"][0], changes))
    return {"Records": records}


def numbers(delivered: list[Any]) -> list[int]:
    """The numbers of the records that reached the handler, in the order they did."""
    return [int(json.dumps(event).replace("\\", "").partition('"number": ')[2][0]) for event in delivered]


def told(answer: Any) -> list[str]:
    """The identifiers of the records that Lambda is told failed, sorted."""
    assert answer.keys() == {"batchItemFailures"}
    return sorted(failure["itemIdentifier"] for failure in answer["batchItemFailures"])


def test_three_bad_of_ten_are_the_three_that_are_told(emulator: Emulator, sam_events: dict[str, Any]) -> None:
    """All ten messages of a queue are handled, and the three that failed are told by their ids."""
    event = batch_of_ten(sam_events[SQS], body="body", bad={2, 5, 9}, messageId="m-{}")
    answer, delivered = deliver(emulator, event)
    assert told(answer) == ["m-2", "m-5", "m-9"]
    assert sorted(numbers(delivered)) == list(range(10))


def test_a_queue_in_order_stops_at_the_first_bad_one_of_a_group(
    emulator: Emulator, sam_events: dict[str, Any]
) -> None:
    """In a FIFO queue the messages after a failed one of its group wait; those of other groups do not."""
    event = batch_of_ten(sam_events[SQS], body="body", bad={4}, messageId="m-{}")
    for number, record in enumerate(event["Records"]):
        record["eventSourceARN"] = "arn:aws:sqs:us-east-1:123456789012:orders.fifo"
        record["attributes"]["MessageGroupId"] = f"group {number % 2}"
    answer, delivered = deliver(emulator, event)
    assert told(answer) == ["m-4", "m-6", "m-8"]
    ran = numbers(delivered)
    assert [number for number in ran if number % 2 == 0] == [0, 2, 4]
    assert [number for number in ran if number % 2 == 1] == [1, 3, 5, 7, 9]


@pytest.mark.parametrize(
    ("made", "body", "identifier", "prefix"),
    [
        (KINESIS, "kinesis.data", "kinesis.sequenceNumber", "495"),
        (DYNAMODB, "dynamodb.NewImage.Message.S", "dynamodb.SequenceNumber", "442"),
    ],
)
@pytest.mark.parametrize("bad", [{7, 8, 9}, {3, 5}], ids=str)
def test_a_stream_stops_at_its_first_bad_record(
    emulator: Emulator,
    sam_events: dict[str, Any],
    made: str,
    body: str,
    identifier: str,
    prefix: str,
    bad: set[int],
) -> None:
    """Records of a stream are handled in their order up to the first that fails; it and the rest are told."""
    event = batch_of_ten(sam_events[made], body=body, bad=bad, **{identifier: prefix + "{}"})
    answer, delivered = deliver(emulator, event)
    first = min(bad)
    assert told(answer) == [f"{prefix}{number}" for number in range(first, 10)]
    assert numbers(delivered) == list(range(first + 1))


def test_a_failed_notification_is_an_error_for_lambda_to_try_again(
    emulator: Emulator, sam_events: dict[str, Any]
) -> None:
    """What the handler threw reaches Lambda as an error that names handler and code, and nothing more."""
    event = patched(sam_events[SNS], {"Records.0.Sns.Message": "fail-this"})
    reply = emulator.invoke(event)
    assert reply.error_type == "EXECUTION_ERROR"
    assert reply.value["errorMessage"] == "noted: told to fail"
    assert reply.value["stackTrace"] == []
