"""What one call brings to a guest, whatever its kind, and what it is held to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property

import msgspec

from nexus_core.capabilities import CapabilitySet
from nexus_core.engine.flush import Usage
from nexus_core.limits import ResourceLimits


class CallPolicy:
    """What a call may do, and what it is told of its handler. Narrowing makes another one."""

    def __init__(
        self, handler: str, capabilities: CapabilitySet, limits: ResourceLimits, env: Mapping[str, str]
    ) -> None:
        self.handler = handler
        self.capabilities = capabilities
        self.limits = limits
        self.env = env

    @classmethod
    def none(cls) -> CallPolicy:
        """The policy of code that may do nothing."""
        return cls("", CapabilitySet(), ResourceLimits(), {})

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
                "handler": self.handler,
                "env": dict(self.env),
            }
        )

    @cached_property
    def digest(self) -> int:
        """Tells whether an image was captured with this policy: 62 bits of SHA-256 over `text`."""
        return int.from_bytes(hashlib.sha256(self.text).digest()[:8]) >> 2


class GuestCall(msgspec.Struct, kw_only=True):
    """One call's input: JSON texts are valid, and `state` holds only what the handler may read."""

    event: bytes
    scope: bytes
    state: Mapping[str, bytes]
    request_id: str
    session: str | None
    deadline_ms: int | None
    """When the call's wall limit ends, in milliseconds since 1970; None = never."""
    policy: CallPolicy
    usage: Usage
