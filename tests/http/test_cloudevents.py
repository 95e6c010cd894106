"""CloudEvents over HTTP, after the specification's HTTP binding and JSON format, with the real core."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_binary, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from functions.http.cloudevents import MAX_BATCH, read_events, reply_of
from nexus_core.errors import GuestError, InvalidRequest, NexusError
from tests.http.serving import bearer

ATTRIBUTES = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "com.example.order"}
STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCHED = {"content-type": "application/cloudevents-batch+json"}


def binary(**more: str) -> dict[str, str]:
    """The headers of an event in binary mode."""
    return {f"ce-{name}": value for name, value in (ATTRIBUTES | more).items()}


def text_of(headers: Mapping[str, str], body: bytes) -> Any:
    """The one event of a request, as its handler gets it."""
    (event,) = read_events({name.encode(): value.encode() for name, value in headers.items()}, body)
    return json.loads(event.text)


async def deliver(client: httpx.AsyncClient, data: object, **more: str) -> httpx.Response:
    """Send an event with these data in structured mode."""
    event = ATTRIBUTES | more | {"data": data}
    return await client.post("/", content=json.dumps(event), headers=STRUCTURED)


@pytest.mark.parametrize(
    ("kind", "body", "member"),
    [
        ("application/json", b'{"n": 1}', {"data": {"n": 1}}),
        ("application/vnd.x+json; charset=utf-8", b"[1]", {"data": [1]}),
        ("text/plain", "né".encode(), {"data": "né"}),
        ("application/octet-stream", b"\xff", {"data_base64": "/w=="}),
        ("text/plain", b"\xff", {"data_base64": "/w=="}),
        ("application/json", b"", {}),
    ],
)
def test_binary_mode_becomes_the_json_format(kind: str, body: bytes, member: dict[str, Any]) -> None:
    """Attributes come from `ce-` headers, data from the body in their content type."""
    event = text_of({"content-type": kind, **binary(subject="s", myext="x")}, body)
    assert event == ATTRIBUTES | {"subject": "s", "myext": "x", "datacontenttype": kind} | member


@pytest.mark.parametrize("kind", ["", "application/json"])
def test_binary_data_of_no_type_are_json(kind: str) -> None:
    """JSON is the default of the format, and data that are not what they say are refused."""
    headers = binary() | ({"content-type": kind} if kind else {})
    assert text_of(headers, b'{"n": 1}')["data"] == {"n": 1}
    with pytest.raises(InvalidRequest, match="not JSON"):
        text_of(headers, b"{")


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ('"a\\"b\\\\c"', 'a"b\\c'),
        ('"Euro%20x"', "Euro x"),
        ("%2520", "%20"),
        ("100%", "100%"),
    ],
)
def test_header_values_are_decoded_once(sent: str, meant: str) -> None:
    """A value is unquoted first and then percent-decoded a single time."""
    assert text_of(binary(subject=sent), b"")["subject"] == meant


@pytest.mark.parametrize("sent", ["%C0%A0", "%FF", "%ED%A0%80"])
def test_headers_that_are_no_utf8_are_refused(sent: str) -> None:
    """Invalid UTF-8 behind percent signs is refused, not replaced."""
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        text_of(binary(subject=sent), b"")


def test_the_content_type_header_is_the_data_content_type() -> None:
    """A `ce-datacontenttype` header does not stand in for `Content-Type`."""
    event = text_of({"content-type": "text/plain", **binary(datacontenttype="application/json")}, b"x")
    assert (event["datacontenttype"], event["data"]) == ("text/plain", "x")


@pytest.mark.parametrize(
    "kind", ["application/cloudevents+json", "Application/CloudEvents+JSON; charset=UTF-8"]
)
def test_structured_mode_is_told_by_its_type(kind: str) -> None:
    """The media type decides, in any case, and `ce-` headers beside it count for nothing."""
    event = ATTRIBUTES | {"data": {"n": 1}, "count": 3, "ok": True, "subject": None}
    assert text_of({"content-type": kind, "ce-id": "other"}, json.dumps(event).encode()) == event


@pytest.mark.parametrize(
    "kind", ["application/cloudevents+xml", "application/cloudevents", "application/cloudevents-batch+avro"]
)
def test_other_formats_are_415(kind: str) -> None:
    """A format that is not JSON is refused as a media type."""
    with pytest.raises(NexusError) as caught:
        text_of({"content-type": kind}, b"<x/>")
    assert caught.value.http_status == 415


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"id": ""}, "attribute 'id'"),
        ({"id": None}, "attribute 'id'"),
        ({"source": 7}, "attribute 'source'"),
        ({"type": None}, "attribute 'type'"),
        ({"specversion": "0.3"}, "must be '1.0'"),
        ({"specversion": "2.0"}, "must be '1.0'"),
        ({"time": "yesterday"}, "no RFC 3339 time"),
        ({"time": "2026-01-01T00:00:00"}, "timezone aware"),
        ({"subject": ""}, "must not be empty"),
        ({"my_ext": "x"}, "lowercase letters and numbers"),
        ({"ext": 1.5}, "a text, an integer or a boolean"),
        ({"ext": {"a": 1}}, "a text, an integer or a boolean"),
        ({"data": 1, "data_base64": "MQ=="}, "not both"),
        ({"data_base64": "%"}, "not Base64"),
        ({"data_base64": 7}, "not Base64"),
    ],
)
def test_an_invalid_event_is_refused(spoil: dict[str, Any], message: str) -> None:
    """What the specification does not allow is refused with the attribute's name."""
    with pytest.raises(InvalidRequest, match=message):
        text_of(STRUCTURED, json.dumps(ATTRIBUTES | spoil).encode())


@pytest.mark.parametrize("body", [b"[]", b"7", b"{", b"", b"\xff"])
def test_what_is_no_event_is_refused(body: bytes) -> None:
    """A structured body must be a JSON object."""
    with pytest.raises(InvalidRequest):
        text_of(STRUCTURED, body)


def test_a_plain_post_is_no_event() -> None:
    """A request with neither headers nor type of CloudEvents is told what they are."""
    with pytest.raises(InvalidRequest, match="neither a 'ce-specversion' header nor"):
        text_of({"content-type": "application/json"}, b"{}")


_NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=20).filter(
    lambda name: (
        name not in {"data", "specversion", "id", "source", "type", "time", "datacontenttype", "dataschema"}
    )
)
_TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@given(extensions=st.dictionaries(_NAMES, _TEXTS, max_size=4), subject=_TEXTS)
def test_the_modes_mean_the_same(extensions: dict[str, str], subject: str) -> None:
    """An event that the official SDK writes in either mode reaches the handler alike."""
    time = "2026-01-01T00:00:00Z"
    event = CloudEvent(
        {**ATTRIBUTES, **extensions, "subject": subject, "datacontenttype": "application/json"}, {"n": 1}
    )
    event.get_attributes().pop("time")
    one, other = (write(event, JSONFormat()) for write in (to_binary, to_structured))
    assert time not in one.headers
    assert text_of(one.headers, one.body) == text_of(other.headers, other.body)


async def test_an_event_reaches_the_handler_its_type_triggers(client: httpx.AsyncClient) -> None:
    """The handler gets the event, and the event it returns is the reply, in binary mode."""
    answer = await deliver(client, {"n": 1})
    assert answer.status_code == 200
    reply = from_binary(HTTPMessage(dict(answer.headers), answer.content), JSONFormat())
    assert (reply.get_type(), reply.get_source()) == ("com.example.seen", "/handlers/consume")
    assert reply.get_id() == answer.headers["x-request-id"]
    assert reply.get_data() == ATTRIBUTES | {"data": {"n": 1}}


async def test_a_handler_that_returns_no_event_is_accepted(client: httpx.AsyncClient) -> None:
    """Without a reply the answer is 202 and empty."""
    answer = await deliver(client, {"do": "nothing"})
    assert (answer.status_code, answer.content) == (202, b"")


@pytest.mark.parametrize(
    ("asked", "code", "status"),
    [
        ("throw", "EXECUTION_ERROR", 500),
        ("loop", "TIMEOUT", 504),
        ("recurse", "STACK_OVERFLOW", 422),
        ("forbid", "PERMISSION_DENIED", 403),
    ],
)
async def test_a_broker_delivers_again_what_may_succeed(
    client: httpx.AsyncClient, asked: str, code: str, status: int
) -> None:
    """Passing trouble is a 5xx; what would only fail again is a 4xx that no broker retries."""
    answer = await deliver(client, {"do": asked})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_an_event_nobody_wants_is_not_delivered_again(client: httpx.AsyncClient) -> None:
    """A type without a trigger is a 422 that lists the triggers: a 404 would be retried."""
    answer = await deliver(client, {}, type="org.other")
    assert (answer.status_code, answer.json()["code"]) == (422, "HANDLER_NOT_FOUND")
    assert "'com.example.*' (handler consume)" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ([], 202),
        (["nothing", "nothing"], 202),
        (["nothing", "recurse"], 422),
        (["recurse", "throw", "nothing"], 500),
    ],
)
async def test_a_batch_is_tried_again_if_one_event_may_succeed(
    client: httpx.AsyncClient, asked: list[str], status: int
) -> None:
    """All events of a batch are handled; the status is a retried one as soon as one failure is worth it."""
    batch = [ATTRIBUTES | {"id": str(n), "data": {"do": what}} for n, what in enumerate(asked)]
    answer = await client.post("/", content=json.dumps(batch), headers=BATCHED)
    assert answer.status_code == status


async def test_a_batch_is_bounded(client: httpx.AsyncClient) -> None:
    """More events than a batch may have are refused before one is handled."""
    batch = [ATTRIBUTES] * (MAX_BATCH + 1)
    answer = await client.post("/", content=json.dumps(batch), headers=BATCHED)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("event", "headers", "body"),
    [
        (
            {"id": "7", "source": "/me", "count": 3, "ok": True},
            {"ce-id": "7", "ce-source": "/me", "ce-count": "3", "ce-ok": "true"},
            b"",
        ),
        ({"data": ["é"]}, {"content-type": "application/json"}, '["é"]'.encode()),
        ({"data": "plain"}, {"content-type": "application/json"}, b'"plain"'),
        ({"data": "plain", "datacontenttype": "text/plain"}, {"content-type": "text/plain"}, b"plain"),
        ({"data_base64": "/w==", "datacontenttype": "image/png"}, {"content-type": "image/png"}, b"\xff"),
        ({"subject": 'é "x"'}, {"ce-subject": "%C3%A9%20%22x%22"}, b""),
        ({"time": "2026-01-01T00:00:00.123456789Z"}, {"ce-time": "2026-01-01T00:00:00.123456789Z"}, b""),
    ],
)
def test_a_reply_is_written_in_binary_mode(
    event: dict[str, Any], headers: dict[str, str], body: bytes
) -> None:
    """Attributes become headers as they were given, data the body of their content type."""
    value = Raw(json.dumps({"specversion": "1.0", "type": "t"} | event).encode())
    reply = reply_of(value, "h", "r1")
    assert reply is not None
    written = {name.decode(): text.decode() for name, text in reply.headers}
    assert (
        written
        == {
            "ce-specversion": "1.0",
            "ce-type": "t",
            "ce-id": "r1",
            "ce-source": "/handlers/h",
            "content-type": "application/json",
        }
        | headers
    )
    assert reply.body == body


@pytest.mark.parametrize(
    "value", [b"null", b"[]", b'{"type": "t"}', b'{"data": "\\"specversion\\""}', b'"\\"specversion\\""']
)
def test_what_is_no_event_is_no_reply(value: bytes) -> None:
    """Only an object with a `specversion` of its own is meant as an event."""
    assert reply_of(Raw(value), "h", "r1") is None


@pytest.mark.parametrize(
    "spoil",
    [
        {"type": None},
        {"specversion": "9"},
        {"datacontenttype": "text/plain\r\nx-evil: 1"},
        {"datacontenttype": 7},
        {"data_base64": "%"},
        {"bad-name": "x"},
        {"time": 7},
        {"subject": "\ud800"},
    ],
)
def test_a_returned_event_that_is_not_valid_is_the_handlers_error(spoil: dict[str, Any]) -> None:
    """A handler that means an event and gets it wrong has failed."""
    value = Raw(json.dumps({"specversion": "1.0", "type": "t"} | spoil).encode())
    with pytest.raises(GuestError, match="returned CloudEvent"):
        reply_of(value, "h", "r1")


async def test_an_origin_may_ask_to_send(client: httpx.AsyncClient) -> None:
    """`OPTIONS /` lists POST and answers the web hook handshake."""
    answer = await client.options("/", headers={"webhook-request-origin": "events.example.com"})
    assert answer.status_code == 200
    assert "POST" in answer.headers["allow"]
    assert answer.headers["webhook-allowed-origin"] == "events.example.com"


async def test_events_need_the_token_of_their_handler(guarded: httpx.AsyncClient) -> None:
    """Where tokens are in force an event needs one with the scope of the handler it triggers."""
    event = json.dumps(ATTRIBUTES | {"data": {"do": "nothing"}})
    statuses = []
    for headers in ({}, bearer("invoke:other"), bearer("invoke:consume")):
        answer = await guarded.post("/", content=event, headers=STRUCTURED | headers)
        statuses.append(answer.status_code)
    assert statuses == [401, 403, 202]


def test_base64_data_stay_as_they_were_sent() -> None:
    """Binary data of a structured event reach the handler as Base64."""
    event = ATTRIBUTES | {"data_base64": base64.b64encode(b"\x00\xff").decode()}
    assert text_of(STRUCTURED, json.dumps(event).encode()) == event
