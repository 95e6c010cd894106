"""Telling the events of Lambda's sources apart, by their shape alone.

Trust changes hands here: whoever may invoke the function chooses the event. What fits no shape, or two,
is refused, so that no handler runs by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from nexus_core.errors import InvalidRequest

_SCHEDULERS: Final = frozenset({"aws.events", "aws.scheduler"})


class Source(StrEnum):
    """What sent an event. The values of the last seven are the kinds of their triggers."""

    HTTP = "http"
    DIRECT = "direct"
    SQS = "sqs"
    KINESIS = "kinesis"
    DYNAMODB = "dynamodb"
    SNS = "sns"
    S3 = "s3"
    EVENTBRIDGE = "eventbridge"
    SCHEDULE = "schedule"


_RECORD_SOURCES: Final[Mapping[object, Source]] = {
    "aws:sqs": Source.SQS,
    "aws:kinesis": Source.KINESIS,
    "aws:dynamodb": Source.DYNAMODB,
    "aws:sns": Source.SNS,
    "aws:s3": Source.S3,
}


def source_of(event: object) -> Source:
    """The source of an event; raises `InvalidRequest` that tells which shapes are known."""
    if not isinstance(event, Mapping):
        raise _unknown(f"it is {_kind(event)}")
    found = [source for source in (_records(event), _http(event), _bus(event), _direct(event)) if source]
    if len(found) != 1:
        keys = ", ".join(repr(str(key)[:40]) for key in sorted(event, key=str)[:10])
        raise _unknown(f"its keys are {keys}" if event else "it is empty")
    return found[0]


def _records(event: Mapping[str, Any]) -> Source | None:
    """The one source of all records; a mixture is nothing AWS sends."""
    records = event.get("Records")
    if not isinstance(records, list):
        return None
    # SNS alone writes its key with a capital.
    names = {_text(record, "eventSource") or _text(record, "EventSource") for record in records}
    return _RECORD_SOURCES.get(names.pop()) if len(names) == 1 else None


def _http(event: Mapping[str, Any]) -> Source | None:
    """HTTP API v2 and function URL, REST API v1, or ALB.

    Not the WebSocket API, which has no method, nor an authorizer's question, which looks like a request.
    """
    context = event.get("requestContext")
    if not isinstance(context, Mapping) or "methodArn" in event or "routeArn" in event:
        return None
    if event.get("version") == "2.0":
        return Source.HTTP if isinstance(context.get("http"), Mapping) else None
    rest = "resource" in event or "elb" in context or event.get("version") == "1.0"
    return Source.HTTP if rest and isinstance(event.get("httpMethod"), str) else None


def _bus(event: Mapping[str, Any]) -> Source | None:
    """EventBridge, and the schedules of it and of EventBridge Scheduler."""
    if not all(isinstance(event.get(key), str) for key in ("id", "source", "detail-type")):
        return None
    scheduled = event["source"] in _SCHEDULERS and event["detail-type"] == "Scheduled Event"
    return Source.SCHEDULE if scheduled else Source.EVENTBRIDGE


def _direct(event: Mapping[str, Any]) -> Source | None:
    """Nothing AWS sends has a `handler`; whether the rest is right is seen when it is read."""
    return Source.DIRECT if "handler" in event else None


def _text(record: object, key: str) -> str | None:
    value = record.get(key) if isinstance(record, Mapping) else None
    return value if isinstance(value, str) else None


def _kind(event: object) -> str:
    return "null" if event is None else f"a JSON {'array' if isinstance(event, list) else 'value'}"


def _unknown(found: str) -> InvalidRequest:
    return InvalidRequest(
        f"the event is of no known source ({found}); known are HTTP API, REST API, function URL and ALB "
        "requests, records of SQS, Kinesis, DynamoDB, SNS and S3, EventBridge events and schedules, and "
        'direct invocations {"handler": NAME, "event": ..., "session": ..., "capabilities": [...]}'
    )
