"""The Python extension API: what `$ext.<name>.<method>(...)` calls.

An extension is any object with `name`, `methods` and `close`. Operators add their own through the
entry-point group `nexus.extensions`: the entry point has the extension's name and points at a
callable that takes the `RuntimeConfig` and returns the extension. See `registry` for an example.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec


class ExtensionError(Exception):
    """Rejects the handler's promise with an `Error` of this name and message; both are shown to the guest."""

    def __init__(self, message: str, *, name: str = "ExtensionError") -> None:
        super().__init__(message)
        self.name = name
        self.message = message


class ExtensionCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of an extension method. `args` came from the guest: JSON values, otherwise unchecked."""

    method: str
    args: tuple[Any, ...]
    handler: str
    request_id: str
    remaining_seconds: float | None
    """Time left of the call's wall limit; None means no limit. The runtime cancels at the end of it."""
    settings: Mapping[str, Any] = {}
    """The manifest's table of the extension's name, e.g. `[http]`."""
    traceparent: str | None = None


ExtensionMethod = Callable[[ExtensionCall], Awaitable[Any]]
"""Returns a JSON value (anything msgspec can encode) or raises `ExtensionError`."""


class Extension(Protocol):
    """One entry under `$ext`. Several calls run at once, of several handlers."""

    @property
    def name(self) -> str:
        """The name under `$ext`, and of the capability `ext:<name>`."""

    @property
    def methods(self) -> Mapping[str, ExtensionMethod]:
        """The methods by name."""

    async def close(self) -> None:
        """Release connections; called once at shutdown."""


@runtime_checkable
class ChecksSettings(Protocol):
    """An extension that can tell before any call whether a manifest's table for it is right."""

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raises `InvalidHandler` that names the key, the value and what is allowed."""


@runtime_checkable
class HoldsConnections(Protocol):
    """An extension, or a store, that keeps connections open between calls."""

    async def disconnect(self) -> None:
        """Close them while no call runs; the next call opens new ones. They may be long dead."""
