"""`ExecutionContext`: everything one call is told, built by a wrapper from its host's event."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nexus_core.capabilities import CapabilitySet
from nexus_core.limits import ResourceLimits


class ExecutionContext(msgspec.Struct, frozen=True, kw_only=True):
    """One call's input. JSON texts are checked by whoever builds this, at the trust boundary."""

    request_id: str
    event: bytes = b"null"
    """The event as valid JSON text."""
    scope: bytes = b"{}"
    """What the host tells beside the event (`$scope`), as a valid JSON object."""
    session: str | None = None
    """Which session's state the call reads and writes; None means none is stored."""
    state: Mapping[str, bytes] = {}
    """State of a call without a session: JSON text by key."""
    capabilities: CapabilitySet | None = None
    """Narrows the handler's own capabilities for this call; None leaves them as they are."""
    limits: ResourceLimits | None = None
    """Narrows the handler's limits for this call; None leaves them as they are."""
    traceparent: str | None = None
    """W3C trace context, passed on to extensions."""
