"""The id under which the sender of an event knows it, so that our lines are found beside the sender's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from functions.aws_lambda.event_shapes import Source


def correlation_id(event: object, source: str) -> str | None:
    """The id that the source gave an event; for records, the first one's. None when it gave none.

    `source` is a `Source`. The event is whatever the caller sent: what is elsewhere than it should be, or
    is no text, is not there.
    """
    found = _PLACES.get(source, _nowhere)(event)
    return found if isinstance(found, str) and found else None


def _at(*path: str) -> Callable[[object], object]:
    """What stands at this path of keys; None when it leads nowhere."""

    def find(value: object) -> object:
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    return find


def _in_first_record(*path: str) -> Callable[[object], object]:
    find = _at(*path)

    def find_in_first(event: object) -> object:
        records = _at("Records")(event)
        return find(records[0]) if isinstance(records, list) and records else None

    return find_in_first


def _of_http(event: object) -> object:
    """The request's id at the gateway; ALB gives none but the trace header."""
    return _at("requestContext", "requestId")(event) or _at("headers", "x-amzn-trace-id")(event)


def _nowhere(_event: object) -> None:
    return None


_PLACES: Final[Mapping[str, Callable[[object], object]]] = MappingProxyType(
    {
        Source.HTTP: _of_http,
        Source.SQS: _in_first_record("messageId"),
        Source.KINESIS: _in_first_record("eventID"),
        Source.DYNAMODB: _in_first_record("eventID"),
        Source.SNS: _in_first_record("Sns", "MessageId"),
        Source.S3: _in_first_record("responseElements", "x-amz-request-id"),
        Source.EVENTBRIDGE: _at("id"),
        Source.SCHEDULE: _at("id"),
    }
)
