"""What one call brings to a guest, whatever its kind, and what it is held to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import msgspec

from nexus_core.capabilities import CapabilitySet
from nexus_core.engine.flush import Usage
from nexus_core.limits import ResourceLimits


class CallPolicy:
    """The capabilities and limits of a call. A handler's own is made once; narrowing makes another."""

    def __init__(self, capabilities: CapabilitySet, limits: ResourceLimits) -> None:
        self.capabilities = capabilities
        self.limits = limits

    @cached_property
    def text(self) -> bytes:
        """The policy as the JavaScript bootstrap reads it: its courtesy checks, not the host's."""
        patterns = self.capabilities.patterns
        return msgspec.json.encode(
            {
                "read": patterns("state:read"),
                "write": patterns("state:write"),
                "emit": patterns("events:emit"),
                "view": patterns("view:update"),
                "ext": patterns("ext"),
                "crypto": patterns("crypto"),
                "calls": self.limits.max_host_calls,
                "mutations": self.limits.max_state_mutations,
                "events": self.limits.max_events,
                "logs": self.limits.max_log_bytes,
            }
        )


class GuestCall(msgspec.Struct, kw_only=True):
    """One call's input: JSON texts are valid, and `state` holds only what the handler may read."""

    event: bytes
    scope: bytes
    state: Mapping[str, bytes]
    context: bytes
    """`{requestId, handler, session, env}` as JSON text."""
    deadline_ms: int | None
    """When the call's wall limit ends, in milliseconds since 1970; None = never."""
    policy: CallPolicy
    usage: Usage
