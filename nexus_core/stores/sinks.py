"""The event sinks that need no service: `none:` and `log:`."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from nexus_core.result import EmittedEvent

MAX_LOGGED_BYTES = 4096
"""An event's payload is cut to this many bytes in the log."""

_log = logging.getLogger("nexus.events")


class NullEventSink:
    """Drops events: sessions' journals and results have them anyway."""

    async def publish(self, handler: str, session: str | None, events: Sequence[EmittedEvent]) -> None:
        """See `EventSink`."""

    async def close(self) -> None:
        """See `EventSink`."""


class LogEventSink:
    """Writes each event as one record of the logger `nexus.events`, at level INFO."""

    async def publish(self, handler: str, session: str | None, events: Sequence[EmittedEvent]) -> None:
        """See `EventSink`."""
        for event in events:
            # Names and payloads come from the guest: the log's writer escapes what is not printable.
            payload = bytes(event.payload)[:MAX_LOGGED_BYTES].decode(errors="replace")
            _log.info("event %s handler=%s session=%s payload=%s", event.name, handler, session, payload)

    async def close(self) -> None:
        """See `EventSink`."""
