"""The sink that POSTs CloudEvents, against a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from nexus_core.config import ConfigError
from nexus_core.errors import InternalError
from nexus_core.result import EmittedEvent
from nexus_core.stores.base import EventSink
from nexus_core.stores.cloudevent_sink import CloudEventSink
from nexus_core.stores.open import open_event_sink


class Broker:
    """A server that keeps what it is sent, and answers with the next of `statuses`, then with 202."""

    def __init__(self) -> None:
        self.received: list[CloudEvent] = []
        self.statuses: list[int] = []
        broker = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                event = from_binary(HTTPMessage(headers, body), JSONFormat())
                assert isinstance(event, CloudEvent)
                broker.received.append(event)
                self.send_response(broker.statuses.pop(0) if broker.statuses else 202)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing: the test looks at what was received."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/in"
        self._thread = Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker of this test's own."""
    made = Broker()
    yield made
    made.close()


def event(name: str = "order.paid", payload: object = None) -> EmittedEvent:
    """One emitted event."""
    return EmittedEvent(name, Raw(json.dumps(payload).encode()))


async def publish(broker: Broker, *events: EmittedEvent, session: str | None = None) -> None:
    """Publish through a sink of its own that does not pause between tries."""
    sink = CloudEventSink(broker.url, {"team": "shop"}, pauses=(0.0, 0.0))
    try:
        await sink.publish("pay", session, events)
    finally:
        await sink.close()


async def test_each_event_arrives_as_a_cloudevent(broker: Broker) -> None:
    """Events arrive in order, with the handler as source, their name as type and the set attributes."""
    await publish(broker, event("a", {"n": 1}), event("b", [1]), session="s1")
    first, second = broker.received
    assert (first.get_type(), first.get_source(), first.get_subject()) == ("a", "/handlers/pay", "s1")
    assert json.dumps([first.get_data(), second.get_data()]) == '[{"n": 1}, [1]]'
    assert first.get_extension("team") == "shop"
    assert first.get_id() != second.get_id()


@given(name=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
async def test_any_name_a_guest_chooses_is_one_attribute(name: str) -> None:
    """A hostile name makes no header of its own and arrives as it was."""
    broker = Broker()
    try:
        await publish(broker, event(name))
        assert [one.get_type() for one in broker.received] == [name or "unnamed"]
    finally:
        broker.close()


@pytest.mark.parametrize("statuses", [[503], [429, 404]])
async def test_a_passing_refusal_is_tried_again(broker: Broker, statuses: list[int]) -> None:
    """What the contract calls worth a retry is sent again, with the same id."""
    broker.statuses = [*statuses]
    await publish(broker, event())
    assert len(broker.received) == len(statuses) + 1
    assert len({one.get_id() for one in broker.received}) == 1


@pytest.mark.parametrize(("status", "tries"), [(500, 3), (400, 1), (302, 1)])
async def test_an_event_that_is_not_accepted_fails_the_call(broker: Broker, status: int, tries: int) -> None:
    """The call ends with an error, so that its own event is delivered again; later events wait for that."""
    broker.statuses = [status] * 9
    with pytest.raises(InternalError, match="could not be delivered"):
        await publish(broker, event("a"), event("b"))
    assert [one.get_type() for one in broker.received] == ["a"] * tries


async def test_an_unreachable_sink_fails_the_call(broker: Broker) -> None:
    """Nobody at the address is trouble like a refusal."""
    broker.close()
    with pytest.raises(InternalError, match="could not be delivered"):
        await publish(broker, event())


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [("[1]", "a JSON object of texts"), ("{", "a JSON object of texts"), ('{"Team": "x"}', "Team")],
)
def test_attributes_no_event_may_have_stop_the_start(attributes: str, reason: str) -> None:
    """A bad setting is found before the first event."""
    with pytest.raises(ConfigError, match=rf"NEXUS_EVENT_ATTRIBUTES: .*{reason}"):
        open_event_sink("http://localhost:9/", attributes)


async def test_the_url_of_a_sink_is_opened() -> None:
    """An HTTP URL is a sink like `none:` and `log:`."""
    sink: EventSink = open_event_sink("http://localhost:9/", '{"team": "x"}')
    await sink.close()
    await sink.close()
