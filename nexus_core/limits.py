"""`ResourceLimits`: what one call may use. Design and defaults: docs/limits.md."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

KIB = 1024
MIB = 1024 * KIB

# The engine's wasm stack is fixed for the whole process; a handler can only ask for less.
ENGINE_STACK_BYTES = MIB

Milliseconds = Annotated[int, Meta(ge=0, le=24 * 3600 * 1000)]
Count = Annotated[int, Meta(ge=0, le=10_000_000)]


class ResourceLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hard limits of one call. Times are milliseconds (0 means none), sizes are bytes.

    A limit is reached, not passed, by using exactly its value: one more is a breach.
    """

    timeout_ms: Milliseconds = 5_000
    """Wall time of the call, waits on the host included; 0 = none."""
    cpu_ms: Milliseconds = 0
    """Time the guest itself computes; 0 = no limit beside `timeout_ms`."""
    memory_limit_bytes: Annotated[int, Meta(ge=4 * MIB, le=4096 * MIB - 64 * KIB)] = 32 * MIB
    """Linear memory of the guest, its own runtime included."""
    stack_size_bytes: Annotated[int, Meta(ge=64 * KIB, le=ENGINE_STACK_BYTES)] = ENGINE_STACK_BYTES
    """Stack of the guest; the engine's own is `ENGINE_STACK_BYTES` for every handler."""
    max_host_calls: Count = 10_000
    """Operations handed to the host: state writes, events, view commands, extension calls, random."""
    max_state_mutations: Count = 1_000
    """Writes and deletes of `$state` keys."""
    max_events: Count = 100
    """Calls of `$emit`."""
    max_input_bytes: Annotated[int, Meta(ge=0, le=256 * MIB)] = 6 * MIB
    """JSON text of the event."""
    max_output_bytes: Annotated[int, Meta(ge=0, le=256 * MIB)] = 6 * MIB
    """JSON text of the return value."""
    max_log_bytes: Annotated[int, Meta(ge=0, le=64 * MIB)] = 64 * KIB
    """Text of log messages; more is cut, which is no breach."""

    def narrowed(self, other: ResourceLimits) -> ResourceLimits:
        """The tighter of the two for each limit: a caller may narrow, never widen."""
        pairs = {
            field: (getattr(self, field), getattr(other, field)) for field in self.__struct_fields__
        }
        return ResourceLimits(
            **{
                field: (mine or theirs) if field in ("timeout_ms", "cpu_ms") and not (mine and theirs)
                else min(mine, theirs)
                for field, (mine, theirs) in pairs.items()
            }
        )
