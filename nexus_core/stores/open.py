"""Choosing a store by its URL. A store's library is imported only when its URL is asked for."""

from __future__ import annotations

from pathlib import Path

from nexus_core.config import ConfigError
from nexus_core.stores.base import EventSink, StateStore

_SQLITE = "sqlite:///"


def open_state_store(url: str) -> StateStore:
    """The store of a URL: `memory:`, or `sqlite:///PATH` (relative; absolute with four slashes).

    Raises `ConfigError` when the URL is not known or what it names cannot be used.
    """
    if url == "memory:":
        from nexus_core.stores.memory import MemoryStateStore

        return MemoryStateStore()
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        from nexus_core.stores.sqlite import SqliteStateStore

        return SqliteStateStore(Path(url.removeprefix(_SQLITE)))
    raise ConfigError(
        f"NEXUS_STORE_URL: {_scheme(url)!r} is no state store; allowed are 'memory:' and 'sqlite:///PATH'"
    )


def open_event_sink(url: str, attributes: str = "{}") -> EventSink:
    """The sink of a URL: `none:` drops events, `log:` writes them to the log, HTTP gets CloudEvents.

    `attributes` is a JSON object of what is put on each CloudEvent. Raises `ConfigError`.
    """
    if url == "none:":
        from nexus_core.stores.sinks import NullEventSink

        return NullEventSink()
    if url == "log:":
        from nexus_core.stores.sinks import LogEventSink

        return LogEventSink()
    if url.startswith(("http://", "https://")):
        from nexus_core.stores.cloudevent_sink import CloudEventSink, parse_attributes

        return CloudEventSink(url, parse_attributes(attributes))
    raise ConfigError(
        f"NEXUS_EVENT_SINK: {_scheme(url)!r} is no event sink; allowed are 'none:', 'log:' and an HTTP URL"
    )


def _scheme(url: str) -> str:
    """The part of a URL that can hold no secret."""
    scheme, colon, _ = url.partition(":")
    return f"{scheme[:40]}{colon}"
