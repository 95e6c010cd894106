"""The messages of a session's WebSocket: JSON objects told apart by `type`.

▸ TRIGGER {id, handler, event}   ◂ PROGRESS {id, status}, then RESULT {id, result} or ERROR {id, error}
▸ SUBSCRIBE                      ◂ CONNECTED {session, version, state}, then of every commit
                                   PATCH {version, mutations, requestId}, EVENT {name, payload, requestId}
▸ anything wrong                 ◂ ERROR {id, error}
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from functions.http.answers import CallAnswer
from nexus_core.errors import InvalidRequest
from nexus_core.result import ErrorInfo, StateMutation, Suspension

MessageId = Annotated[str, Meta(max_length=128)] | Annotated[int, Meta(ge=-(2**53), le=2**53)]


class Trigger(msgspec.Struct, tag_field="type", tag="TRIGGER", frozen=True):
    """A caller's wish to invoke a handler; `id` is the caller's own and comes back with the outcome."""

    handler: str
    id: MessageId
    event: msgspec.Raw = msgspec.Raw(b"null")


class Subscribe(msgspec.Struct, tag_field="type", tag="SUBSCRIBE", frozen=True):
    """A caller's wish to see the session's state, and every commit from then on."""


class Connected(msgspec.Struct, tag_field="type", tag="CONNECTED", frozen=True):
    """The session as it was when watching began; commits after `version` follow as `Patch`."""

    session: str
    version: int
    state: dict[str, msgspec.Raw]


class Progress(msgspec.Struct, tag_field="type", tag="PROGRESS", frozen=True, rename="camel"):
    """A call runs, or sleeps until the calls of its `suspension` are answered."""

    id: str | int
    status: Literal["running", "suspended"]
    request_id: str
    suspension: Suspension | None = None


class Result(msgspec.Struct, tag_field="type", tag="RESULT", frozen=True):
    """A call has ended well; `result` is what `POST /invoke` answers."""

    id: str | int
    result: CallAnswer


class Failure(msgspec.Struct, tag_field="type", tag="ERROR", frozen=True):
    """A call has ended badly, or a message could not be taken (`id` is null when it had none)."""

    id: str | int | None
    error: ErrorInfo


class Patch(msgspec.Struct, tag_field="type", tag="PATCH", frozen=True, rename="camel"):
    """The mutations of one commit, which made the session this `version`."""

    version: int
    mutations: tuple[StateMutation, ...]
    request_id: str


class Event(msgspec.Struct, tag_field="type", tag="EVENT", frozen=True, rename="camel"):
    """One event a handler emitted in this session."""

    name: str
    payload: msgspec.Raw
    request_id: str


_decoder: msgspec.json.Decoder[Trigger | Subscribe] = msgspec.json.Decoder(Trigger | Subscribe)


def read_wish(text: str | bytes) -> Trigger | Subscribe:
    """What a caller's message asks for; raises `InvalidRequest`."""
    # Trust changes hands here. The event is checked to be JSON by the decoder, and kept as text.
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the message is not a TRIGGER or SUBSCRIBE: {error}") from None
    except RecursionError:
        raise InvalidRequest("the message nests its values too deep") from None
