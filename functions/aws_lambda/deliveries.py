"""What the sources deliver, one record at a time, as a handler gets it.

Each translator takes a record as AWS sends it and gives a `Delivery`. Records are written by whoever may
send to the source: their shape is checked here, and `InvalidRequest` says what is wrong.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import unquote_plus

import msgspec
from msgspec import Meta

from functions.aws_lambda.event_shapes import Source
from nexus_core.errors import InvalidRequest
from nexus_core.stores.bounds import check_session

SESSION_ATTRIBUTE: Final = "Nexus-Session"
"""The message attribute of SQS and SNS that names the session, as the header does over HTTP."""

_Arn = Annotated[str, Meta(pattern="^arn:", max_length=2048)]
_Record = TypeVar("_Record", bound="_AwsRecord")
# DynamoDB's numbers have up to 38 digits, and go on as they are.
_encode = msgspec.json.Encoder(decimal_format="number", order="deterministic").encode


class Delivery(msgspec.Struct, frozen=True):
    """One event for one handler.

    `names` are those of its source, the last one the readable; `event` is JSON text.
    """

    names: tuple[str, ...]
    event: bytes
    session: str | None = None


class _AwsRecord(msgspec.Struct, frozen=True, rename="camel"):
    """Base of the shapes AWS documents; keys that are not named here are left alone."""


class _SqsRecord(_AwsRecord, frozen=True):
    message_id: str
    body: str
    event_source_arn: _Arn = msgspec.field(name="eventSourceARN")
    attributes: dict[str, str] = {}
    message_attributes: dict[str, Any] = {}


class _KinesisData(_AwsRecord, frozen=True):
    sequence_number: str
    partition_key: str
    data: str
    approximate_arrival_timestamp: float = 0.0


class _KinesisRecord(_AwsRecord, frozen=True):
    kinesis: _KinesisData
    event_source_arn: _Arn = msgspec.field(name="eventSourceARN")
    event_id: str = msgspec.field(name="eventID", default="")


class _DynamoRecord(_AwsRecord, frozen=True):
    event_name: str
    dynamodb: dict[str, Any]
    event_source_arn: _Arn = msgspec.field(name="eventSourceARN")
    event_id: str = msgspec.field(name="eventID", default="")


class _SnsMessage(_AwsRecord, frozen=True, rename="pascal"):
    message_id: str
    topic_arn: _Arn
    message: str
    subject: str | None = None
    timestamp: str = ""
    message_attributes: dict[str, Any] = {}


class _SnsRecord(_AwsRecord, frozen=True, rename="pascal"):
    sns: _SnsMessage


class _S3Bucket(_AwsRecord, frozen=True):
    name: str
    arn: str = ""


class _S3Object(_AwsRecord, frozen=True):
    key: str
    size: int | None = None
    e_tag: str | None = None
    version_id: str | None = None
    sequencer: str | None = None


class _S3Entity(_AwsRecord, frozen=True):
    bucket: _S3Bucket
    object: _S3Object


class _S3Record(_AwsRecord, frozen=True):
    event_name: str
    s3: _S3Entity
    event_time: str = ""


class _BusEvent(_AwsRecord, frozen=True):
    source: str
    detail_type: str = msgspec.field(name="detail-type")
    resources: list[str] = []


def delivery_of(source: Source, record: Mapping[str, Any]) -> Delivery:
    """The delivery of a record; raises `InvalidRequest`. `source` is none of HTTP and DIRECT."""
    try:
        return _TRANSLATORS[source](record)
    except (UnicodeEncodeError, RecursionError):
        raise InvalidRequest(
            f"the {source} record holds text that is no Unicode, or nests too deep"
        ) from None


def identifier_of(source: Source, record: object) -> str:
    """What names a record of a batch in an answer to Lambda; raises `InvalidRequest` when nothing does."""
    path = _IDENTIFIERS[source]
    value = record
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"a {source} record has no {'.'.join(path)}, so its failure could not be told")
    return value


def group_of(source: Source, record: Mapping[str, Any]) -> str | None:
    """The records of a batch that must be handled in their order share this; None: in any order."""
    if source is not Source.SQS:
        # A batch is of one shard, and Lambda resumes at its first failure.
        return "shard"
    # A standard queue may have groups too, but keeps no order.
    if not str(record.get("eventSourceARN")).endswith(".fifo"):
        return None
    attributes = record.get("attributes")
    return str(attributes.get("MessageGroupId")) if isinstance(attributes, Mapping) else "none"


def _sqs(record: Mapping[str, Any]) -> Delivery:
    found = _read(_SqsRecord, Source.SQS, record)
    queue = found.event_source_arn.rpartition(":")[2]
    event = {
        "messageId": found.message_id,
        "queue": queue,
        "body": _json_or_text(found.body),
        "attributes": found.attributes,
        "messageAttributes": found.message_attributes,
    }
    session = _session(found.message_attributes, "stringValue")
    return Delivery((found.event_source_arn, queue), _encode(event), session)


def _kinesis(record: Mapping[str, Any]) -> Delivery:
    found = _read(_KinesisRecord, Source.KINESIS, record)
    stream = found.event_source_arn.rpartition("/")[2]
    data, encoded = _payload(found.kinesis.data)
    event = {
        "eventId": found.event_id,
        "stream": stream,
        "partitionKey": found.kinesis.partition_key,
        "sequenceNumber": found.kinesis.sequence_number,
        "arrivalTime": found.kinesis.approximate_arrival_timestamp,
        "data": data,
        "isBase64Encoded": encoded,
    }
    return Delivery((found.event_source_arn, stream), _encode(event))


def _dynamodb(record: Mapping[str, Any]) -> Delivery:
    from aws_lambda_powertools.utilities.data_classes.dynamo_db_stream_event import StreamRecord

    found = _read(_DynamoRecord, Source.DYNAMODB, record)
    # arn:aws:dynamodb:REGION:ACCOUNT:table/NAME/stream/LABEL
    arn, _, _ = found.event_source_arn.partition("/stream/")
    table = arn.rpartition("/")[2]
    change = StreamRecord(found.dynamodb)
    try:
        event = {
            "eventId": found.event_id,
            "eventName": found.event_name,
            "table": table,
            "sequenceNumber": change.sequence_number,
            "keys": change.keys,
            "newImage": change.new_image or None,
            "oldImage": change.old_image or None,
        }
    except (TypeError, ValueError, AttributeError, ArithmeticError):
        raise InvalidRequest("a dynamodb record has keys or images of no type that DynamoDB has") from None
    return Delivery((found.event_source_arn, arn, table), _encode(event))


def _sns(record: Mapping[str, Any]) -> Delivery:
    found = _read(_SnsRecord, Source.SNS, record).sns
    topic = found.topic_arn.rpartition(":")[2]
    event = {
        "messageId": found.message_id,
        "topic": topic,
        "subject": found.subject,
        "message": _json_or_text(found.message),
        "timestamp": found.timestamp,
        "messageAttributes": found.message_attributes,
    }
    return Delivery((found.topic_arn, topic), _encode(event), _session(found.message_attributes, "Value"))


def _s3(record: Mapping[str, Any]) -> Delivery:
    found = _read(_S3Record, Source.S3, record)
    bucket, item = found.s3.bucket, found.s3.object
    # Keys arrive as in a query string.
    key = unquote_plus(item.key)
    event = {
        "eventName": found.event_name,
        "bucket": bucket.name,
        "key": key,
        "size": item.size,
        "eTag": item.e_tag,
        "versionId": item.version_id,
        "sequencer": item.sequencer,
        "time": found.event_time,
    }
    return Delivery((bucket.arn, bucket.name, f"{bucket.name}/{key}"), _encode(event))


def _eventbridge(event: Mapping[str, Any]) -> Delivery:
    found = _read(_BusEvent, Source.EVENTBRIDGE, event)
    return Delivery((found.source, f"{found.source}/{found.detail_type}"), _encode(event))


def _schedule(event: Mapping[str, Any]) -> Delivery:
    found = _read(_BusEvent, Source.SCHEDULE, event)
    if not found.resources:
        raise InvalidRequest("a schedule event names no rule or schedule in its resources")
    # arn:aws:events:REGION:ACCOUNT:rule/NAME, arn:aws:scheduler:REGION:ACCOUNT:schedule/GROUP/NAME
    arn = found.resources[0]
    return Delivery((arn, arn.rpartition("/")[2]), _encode(event))


def _read(shape: type[_Record], source: Source, record: Mapping[str, Any]) -> _Record:
    try:
        return msgspec.convert(record, shape)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the {source} record is not as AWS sends them: {error}") from None


def _json_or_text(text: str) -> Any:
    """The JSON value that `text` is, else the text."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return text
    return msgspec.Raw(text.encode())


def _payload(data: str) -> tuple[Any, bool]:
    """What Base64 `data` holds: a JSON value, a text, or else the Base64 itself, which True tells."""
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("the data of a kinesis record are not Base64") from None
    try:
        return _json_or_text(content.decode()), False
    except UnicodeDecodeError:
        return data, True


def _session(attributes: Mapping[str, Any], value_key: str) -> str | None:
    """The session a message attribute names, if any; raises `InvalidRequest`."""
    attribute = attributes.get(SESSION_ATTRIBUTE)
    value = attribute.get(value_key) if isinstance(attribute, Mapping) else None
    if value is None:
        return None
    check_session(str(value))
    return str(value)


_TRANSLATORS: Final[Mapping[Source, Callable[[Mapping[str, Any]], Delivery]]] = {
    Source.SQS: _sqs,
    Source.KINESIS: _kinesis,
    Source.DYNAMODB: _dynamodb,
    Source.SNS: _sns,
    Source.S3: _s3,
    Source.EVENTBRIDGE: _eventbridge,
    Source.SCHEDULE: _schedule,
}

# What Lambda documents as the `itemIdentifier` of a failure.
_IDENTIFIERS: Final[Mapping[Source, tuple[str, ...]]] = {
    Source.SQS: ("messageId",),
    Source.KINESIS: ("kinesis", "sequenceNumber"),
    Source.DYNAMODB: ("dynamodb", "SequenceNumber"),
}

TRIGGERED: Final = frozenset(_TRANSLATORS)
"""The sources whose events go where a trigger of their kind says."""

BATCHED: Final = frozenset(_IDENTIFIERS)
"""Those of them that want to know which records failed."""
