"""Events as AWS sends them, and a function in this process to send them to."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from awslambdaric.lambda_runtime_exception import FaultException  # type: ignore[import-untyped]

from functions.aws_lambda.adapter import LambdaAdapter
from nexus_core.build import build_runtime
from nexus_core.config import load_config

UNSET = "(unset)"
"""Stands for a variable that is not there."""

REGION = "eu-west-1:123456789012"


class Invocation:
    """The context of one invocation that has `left_ms` left."""

    def __init__(self, left_ms: int = 30_000, request_id: str = "invocation-1") -> None:
        self.aws_request_id = request_id
        self._left_ms = left_ms

    def get_remaining_time_in_millis(self) -> int:
        """What is left."""
        return self._left_ms


class Unwatched:
    """A watcher that watches nothing."""

    def invocation(self, *_about: object) -> AbstractContextManager[None]:
        """Nothing around the invocation."""
        return nullcontext()


class Function:
    """A `LambdaAdapter` and what tests ask of it."""

    def __init__(self, adapter: LambdaAdapter) -> None:
        self.adapter = adapter

    def __call__(self, event: object, left_ms: int = 30_000) -> Any:
        """The answer to one event, through JSON as on Lambda."""
        return json.loads(json.dumps(self.adapter(json.loads(json.dumps(event)), Invocation(left_ms))))

    def fault(self, event: object) -> tuple[str, str]:
        """Type and message of the error that the invocation ends with."""
        with pytest.raises(FaultException) as caught:
            self(event)
        assert caught.value.trace == []
        return caught.value.exception_type, caught.value.msg


@contextmanager
def function_of(folder: Path, handlers: Mapping[str, str], **settings: str) -> Iterator[Function]:
    """A function of these handler files; `settings` are `NEXUS_*` variables without the prefix."""
    served = folder / "handlers"
    served.mkdir()
    for name, text in handlers.items():
        (served / name).write_text(text)
    environ = {
        "NEXUS_HANDLERS_DIR": str(served),
        "NEXUS_CACHE_DIR": str(folder / "cache"),
        "NEXUS_STORE_URL": "memory:",
        "NEXUS_AUTH": "off",
        "NEXUS_MIN_INSTANCES": "1",
    }
    environ |= {f"NEXUS_{name.upper()}": value for name, value in settings.items()}
    environ = {name: value for name, value in environ.items() if value != UNSET}
    with pytest.MonkeyPatch.context() as patch:
        # Powertools looks for it to know that it runs on Lambda.
        patch.setenv("LAMBDA_TASK_ROOT", str(folder))
        adapter = LambdaAdapter(build_runtime(load_config(environ)), Unwatched())
        adapter.start()
        try:
            yield Function(adapter)
        finally:
            adapter.close(5.0)


def sqs_record(number: int, body: str = "{}", queue: str = "orders", **more: Any) -> dict[str, Any]:
    """A message of a queue; its id is `m<number>`."""
    return {
        "messageId": f"m{number}",
        "receiptHandle": "x",
        "body": body,
        "attributes": {"ApproximateReceiveCount": "1"},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:{REGION}:{queue}",
        "awsRegion": "eu-west-1",
    } | more


def fifo_record(number: int, body: str, group: str) -> dict[str, Any]:
    """A message of the queue `orders.fifo`."""
    return sqs_record(number, body, "orders.fifo", attributes={"MessageGroupId": group})


def kinesis_record(number: int, data: bytes = b"{}", stream: str = "clicks") -> dict[str, Any]:
    """A record of a stream; its sequence number is `s<number>`."""
    return {
        "kinesis": {
            "partitionKey": "key",
            "sequenceNumber": f"s{number}",
            "data": base64.b64encode(data).decode(),
            "approximateArrivalTimestamp": 1545084650.987,
        },
        "eventSource": "aws:kinesis",
        "eventID": f"shardId-0:{number}",
        "eventName": "aws:kinesis:record",
        "eventSourceARN": f"arn:aws:kinesis:{REGION}:stream/{stream}",
    }


def dynamodb_record(number: int, image: Mapping[str, Any], table: str = "users") -> dict[str, Any]:
    """An insert into a table; its sequence number is `s<number>`."""
    return {
        "eventID": f"e{number}",
        "eventName": "INSERT",
        "eventSource": "aws:dynamodb",
        "dynamodb": {
            "Keys": {"id": {"N": str(number)}},
            "NewImage": dict(image),
            "SequenceNumber": f"s{number}",
        },
        "eventSourceARN": f"arn:aws:dynamodb:{REGION}:table/{table}/stream/2026-01-01T00:00:00.000",
    }


def sns_record(message: str, topic: str = "alerts", **more: Any) -> dict[str, Any]:
    """A notification of a topic."""
    return {
        "EventSource": "aws:sns",
        "Sns": {
            "MessageId": "n1",
            "TopicArn": f"arn:aws:sns:{REGION}:{topic}",
            "Subject": "look",
            "Message": message,
            "Timestamp": "2026-01-01T00:00:00.000Z",
            "MessageAttributes": {},
        }
        | more,
    }


def s3_record(key: str, bucket: str = "photos") -> dict[str, Any]:
    """A notification of a bucket; `key` is encoded as S3 does."""
    return {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "eventTime": "2026-01-01T00:00:00.000Z",
        "s3": {
            "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
            "object": {"key": key, "size": 7, "eTag": "e", "sequencer": "0A"},
        },
    }


def bus_event(source: str = "shop", detail_type: str = "Order Placed", **more: Any) -> dict[str, Any]:
    """An event of EventBridge."""
    return {
        "version": "0",
        "id": "b1",
        "detail-type": detail_type,
        "source": source,
        "account": "123456789012",
        "time": "2026-01-01T00:00:00Z",
        "region": "eu-west-1",
        "resources": [],
        "detail": {"n": 1},
    } | more


def records(*found: Mapping[str, Any]) -> dict[str, Any]:
    """The event of these records."""
    return {"Records": list(found)}


def http_v2(method: str, path: str, body: str | None = None, **headers: str) -> dict[str, Any]:
    """A request as HTTP API and function URLs send it; underscores in header names become dashes."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "abc.lambda-url.eu-west-1.on.aws", "content-type": "application/json"} | given,
        "requestContext": {"http": {"method": method, "path": path, "sourceIp": "192.0.2.1"}},
        "isBase64Encoded": False,
    } | ({} if body is None else {"body": body})


def http_v1(method: str, path: str, body: str | None = None) -> dict[str, Any]:
    """A request as REST APIs send it."""
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": {"Host": "abc.execute-api.eu-west-1.amazonaws.com", "Content-Type": "application/json"},
        "multiValueHeaders": {"Content-Type": ["application/json"]},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "requestContext": {"identity": {"sourceIp": "192.0.2.1"}, "stage": "prod"},
        "body": body,
        "isBase64Encoded": False,
    }


def alb(method: str, path: str, body: str = "") -> dict[str, Any]:
    """A request as an Application Load Balancer sends it."""
    return {
        "requestContext": {"elb": {"targetGroupArn": f"arn:aws:elasticloadbalancing:{REGION}:targetgroup/x"}},
        "httpMethod": method,
        "path": path,
        "queryStringParameters": {},
        "headers": {"host": "lb-1.eu-west-1.elb.amazonaws.com", "content-type": "application/json"},
        "body": body,
        "isBase64Encoded": False,
    }
