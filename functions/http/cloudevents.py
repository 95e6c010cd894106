"""CloudEvents 1.0 over HTTP: reading all three modes, and writing a reply in binary mode.

What a handler gets is the event in the JSON format of CloudEvents, whichever mode it came in. Sources:
the HTTP protocol binding and the JSON event format of the specification, version 1.0.2.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from functions.http.answers import Header
from functions.http.bodies import checked_json
from functions.http.envelope import Headers
from functions.http.problems import HttpProblem
from functions.http.trigger_events import is_json, json_content, media_type
from nexus_core.errors import GuestError, InvalidRequest

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent

MAX_BATCH: Final = 1000
REQUIRED: Final = ("specversion", "id", "source", "type")

_PREFIX: Final = b"ce-"
# The batch's type begins with the other's, so it is looked at first.
_BATCH: Final = "application/cloudevents-batch"
_STRUCTURED: Final = "application/cloudevents"
_CONTENT_TYPE: Final = re.compile(r"[\x20-\x7e]{1,256}")
_BODY_MEMBERS: Final = frozenset({"data", "data_base64"})


class IncomingEvent(msgspec.Struct, frozen=True):
    """One event: the attributes that decide where it goes, and its JSON text."""

    type: str
    traceparent: str | None
    text: bytes


class ReplyEvent(msgspec.Struct, frozen=True):
    """An event a handler returned, in binary mode."""

    headers: list[Header]
    body: bytes


def read_events(headers: Headers, body: bytes) -> list[IncomingEvent]:
    """The events of a request, in its order; raises `InvalidRequest`, or `HttpProblem` for another format."""
    # Trust changes hands here: a broker passes on what anyone may have sent it.
    sent = headers.get(b"content-type", b"")
    kind = media_type(sent)
    if kind.startswith(_BATCH):
        _require_json(kind, _BATCH)
        texts = _decoded(checked_json(body), list[msgspec.Raw])
        if len(texts) > MAX_BATCH:
            raise InvalidRequest(f"a batch may have {MAX_BATCH} CloudEvents; this one has {len(texts)}")
        return [_structured(bytes(text)) for text in texts]
    if kind.startswith(_STRUCTURED):
        _require_json(kind, _STRUCTURED)
        return [_structured(checked_json(body))]
    return [_binary(headers, sent, body)]


def _require_json(kind: str, mode: str) -> None:
    if kind != f"{mode}+json":
        raise HttpProblem(f"{kind!r} is not read; use '{mode}+json'", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)


def _decoded(text: bytes, shape: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequest("a CloudEvent is a JSON object, a batch an array of them") from None


def _structured(text: bytes) -> IncomingEvent:
    members: dict[str, msgspec.Raw] = _decoded(text, dict[str, msgspec.Raw])
    if members.keys() >= _BODY_MEMBERS:
        raise InvalidRequest("a CloudEvent has data or data_base64, not both")
    if "data_base64" in members:
        try:
            _base64_bytes(_decoded(bytes(members["data_base64"]), Any))
        except ValueError as error:
            raise InvalidRequest(f"the CloudEvent is not valid: {error}") from None
    attributes = {
        name: _decoded(bytes(value), Any) for name, value in members.items() if name not in _BODY_MEMBERS
    }
    return _incoming(attributes, text)


def _binary(headers: Headers, sent: bytes, body: bytes) -> IncomingEvent:
    attributes: dict[str, Any] = {
        name[len(_PREFIX) :].decode("latin-1"): _header_value(value)
        for name, value in headers.items()
        # The content type is the header of that name, and no other.
        if name.startswith(_PREFIX) and name != b"ce-datacontenttype"
    }
    if "specversion" not in attributes:
        raise InvalidRequest(
            "this is no CloudEvent: it has neither a 'ce-specversion' header nor a content type of "
            "'application/cloudevents+json' or 'application/cloudevents-batch+json'"
        )
    if sent:
        attributes["datacontenttype"] = sent.decode("latin-1")
    event: dict[str, Any] = dict(attributes)
    if body:
        # Without a type the format's own default holds, which is JSON.
        content, encoded = json_content(media_type(sent) or "application/json", body)
        event["data_base64" if encoded else "data"] = msgspec.Raw(content)
    incoming = _incoming(attributes, b"")
    return msgspec.structs.replace(incoming, text=msgspec.json.encode(event))


def _header_value(value: bytes) -> str:
    """An attribute from its header: unquoted, then percent-decoded once (HTTP binding, 3.1.3.2)."""
    if len(value) >= 2 and value.startswith(b'"') and value.endswith(b'"'):
        value = re.sub(rb"\\(.)", rb"\1", value[1:-1])
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise InvalidRequest("a ce- header is not UTF-8 once it is decoded") from None


def _incoming(attributes: dict[str, Any], text: bytes) -> IncomingEvent:
    given = {name: value for name, value in attributes.items() if value is not None}
    for name in REQUIRED:
        if not isinstance(given.get(name), str) or not given[name]:
            raise InvalidRequest(f"the CloudEvent needs the attribute {name!r}, a text that is not empty")
    try:
        _validated(given)
    except ValueError as error:
        raise InvalidRequest(f"the CloudEvent is not valid: {error}") from None
    traceparent = given.get("traceparent")
    return IncomingEvent(given["type"], traceparent if isinstance(traceparent, str) else None, text)


def _validated(attributes: Mapping[str, Any], data: bytes | None = None) -> CloudEvent:
    """The SDK's event of these attributes; raises `ValueError` that says what is wrong."""
    from cloudevents.core.exceptions import CloudEventValidationError
    from cloudevents.core.v1.event import CloudEvent

    texts = {name: _canonical(name, value) for name, value in attributes.items()}
    values: dict[str, Any] = dict(texts)
    if "time" in texts:
        try:
            values["time"] = datetime.fromisoformat(texts["time"])
        except ValueError:
            raise ValueError("time: it is no RFC 3339 time") from None
    try:
        event = CloudEvent(values, data)
    except CloudEventValidationError as error:
        found = [f"{name[:40]}: {reasons[0]}" for name, reasons in error.errors.items()]
        raise ValueError("; ".join(found)[:500]) from None
    # As it was given: a time must not lose digits, and none must be made up.
    if "time" in texts:
        values["time"] = texts["time"]
    else:
        values.pop("time", None)
    return event


def _canonical(name: str, value: object) -> str:
    """An attribute's canonical text (specification, section 3.1)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int)):
        return str(value)
    raise ValueError(f"{name[:40]}: an attribute is a text, an integer or a boolean")


def reply_of(value: msgspec.Raw, handler: str, request_id: str) -> ReplyEvent | None:
    """The event that `value`, a handler's return value, is; None when it is anything else.

    An object with `specversion` is meant as one; `id` and `source` may be left out. Raises `GuestError`.
    """
    text = bytes(value)
    # Only a short look at what cannot be one: the value may have megabytes.
    if not text.startswith(b"{") or b'"specversion"' not in text:
        return None
    try:
        members: dict[str, Any] = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise GuestError("the returned CloudEvent cannot be read as text") from None
    if "specversion" not in members:
        return None
    content = members.pop("data", None)
    encoded = members.pop("data_base64", None)
    attributes = {"id": request_id, "source": f"/handlers/{handler}"}
    attributes |= {name: item for name, item in members.items() if item is not None}
    try:
        body = _reply_body(attributes, content, encoded)
        return _written(_validated(attributes, body))
    except ValueError as error:
        raise GuestError(f"the returned CloudEvent is not valid: {error}") from None


def _reply_body(attributes: dict[str, Any], content: object, encoded: object) -> bytes:
    """The data as the body of their content type, which is JSON unless the handler says another."""
    kind = attributes.setdefault("datacontenttype", "application/json")
    if not isinstance(kind, str) or not _CONTENT_TYPE.fullmatch(kind):
        raise ValueError("datacontenttype: it is no content type")
    if encoded is not None:
        return _base64_bytes(encoded)
    if isinstance(content, str) and not is_json(media_type(kind.encode())):
        return content.encode()
    return b"" if content is None else msgspec.json.encode(content)


def _base64_bytes(encoded: object) -> bytes:
    try:
        return base64.b64decode(encoded if isinstance(encoded, str) else "%", validate=True)
    except binascii.Error:
        raise ValueError("data_base64: it is not Base64") from None


def _written(event: CloudEvent) -> ReplyEvent:
    from cloudevents.core.bindings.http import to_binary
    from cloudevents.core.formats.json import JSONFormat

    message = to_binary(event, JSONFormat())
    return ReplyEvent(
        [(name.encode(), text.encode()) for name, text in message.headers.items()], message.body
    )
