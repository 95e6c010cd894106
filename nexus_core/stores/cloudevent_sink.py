"""The event sink of `http://` and `https://` URLs: each emitted event is POSTed as a CloudEvent.

Loaded only for such a URL, since httpx and the CloudEvents SDK take a while to import.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import httpx
import msgspec
from cloudevents.core.bindings.http import HTTPMessage, to_binary
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from nexus_core.config import ConfigError
from nexus_core.errors import InternalError
from nexus_core.redelivery import is_redelivered
from nexus_core.result import EmittedEvent

_log = logging.getLogger("nexus.events")

_PAUSES: Final = (0.1, 0.5)
"""Seconds before the second and the third try."""
_TRY_SECONDS: Final = 3.0


class CloudEventSink:
    """Delivers events in their order, each until it is accepted (2xx), at most three times.

    `attributes` are extension attributes put on every event. Raises `ConfigError` for ones that no
    CloudEvent may have.
    """

    def __init__(self, url: str, attributes: Mapping[str, str], *, pauses: Sequence[float] = _PAUSES) -> None:
        self._url = url
        self._attributes = dict(attributes)
        self._pauses = pauses
        self._client = httpx.AsyncClient(timeout=_TRY_SECONDS, trust_env=False)
        try:
            self._written("check", None, EmittedEvent("check"))
        except CloudEventValidationError as error:
            names = ", ".join(sorted(error.errors))
            raise ConfigError(f"NEXUS_EVENT_ATTRIBUTES: no CloudEvent may have these: {names}") from None

    async def publish(self, handler: str, session: str | None, events: Sequence[EmittedEvent]) -> None:
        """See `EventSink`. Raises `InternalError` when an event could not be delivered.

        Who sent the event that was handled then tries again, and nothing is lost; what the call has
        stored stays.
        """
        for event in events:
            message = self._written(handler, session, event)
            if not await self._delivered(message):
                raise InternalError("an event of this call could not be delivered to the event sink")

    async def close(self) -> None:
        """See `EventSink`."""
        await self._client.aclose()

    def _written(self, handler: str, session: str | None, event: EmittedEvent) -> HTTPMessage:
        attributes: dict[str, object] = {
            **self._attributes,
            "specversion": "1.0",
            "id": secrets.token_hex(16),
            "source": f"/handlers/{handler}",
            # The guest's choice, which may be empty: the binding percent-encodes what no header may hold.
            "type": event.name or "unnamed",
            "time": datetime.now(UTC),
            "datacontenttype": "application/json",
        }
        if session is not None:
            attributes["subject"] = session
        return to_binary(CloudEvent(attributes, bytes(event.payload)), JSONFormat())

    async def _delivered(self, message: HTTPMessage) -> bool:
        for pause in (*self._pauses, None):
            try:
                answer = await self._client.post(self._url, content=message.body, headers=message.headers)
                if answer.is_success:
                    return True
                trouble, again = f"status {answer.status_code}", is_redelivered(answer.status_code)
            except httpx.HTTPError as error:
                trouble, again = type(error).__name__, True
            _log.warning("event %s not delivered: %s", message.headers["ce-id"], trouble)
            if pause is None or not again:
                break
            await asyncio.sleep(pause)
        return False


def parse_attributes(text: str) -> dict[str, str]:
    """The extension attributes that `NEXUS_EVENT_ATTRIBUTES` names; raises `ConfigError`."""
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except msgspec.DecodeError:
        raise ConfigError(
            'NEXUS_EVENT_ATTRIBUTES: a JSON object of texts is needed, as {"team": "shop"}'
        ) from None
