"""`ResourceLimits`: what one call may use. Design and defaults: docs/limits.md."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

KIB = 1024
MIB = 1024 * KIB

# The engine's wasm stack is fixed for the whole process; a handler can only ask for less.
ENGINE_STACK_BYTES = MIB
# A wasm32 guest addresses 4 GiB; the last page stays out, so that its length fits 32 bits.
MAX_GUEST_MEMORY_BYTES = 4096 * MIB - 64 * KIB

_DAY_MS = 24 * 3600 * 1000
_MAX_COUNT = 10_000_000
_UNLIMITED_WHEN_ZERO = frozenset({"timeout_ms", "cpu_ms"})


class ResourceLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hard limits of one call. Times are milliseconds (0 means none), sizes are bytes.

    A limit is reached, not passed, by using exactly its value: one more is a breach.
    Ranges are checked where limits are decoded (manifest, config, request), not by the constructor.
    """

    timeout_ms: Annotated[
        int,
        Meta(ge=0, le=_DAY_MS, description="Wall time of the call, waits on the host included; 0 = none."),
    ] = 5_000
    cpu_ms: Annotated[
        int,
        Meta(ge=0, le=_DAY_MS, description="Time the guest itself computes; 0 = only `timeout_ms`."),
    ] = 0
    memory_limit_bytes: Annotated[
        int,
        Meta(
            ge=4 * MIB,
            le=MAX_GUEST_MEMORY_BYTES,
            description="Linear memory of the guest, its own runtime included.",
        ),
    ] = 32 * MIB
    stack_size_bytes: Annotated[
        int,
        Meta(
            ge=64 * KIB,
            le=ENGINE_STACK_BYTES,
            description="Stack a handler may ask for; the engine gives all of them the largest.",
        ),
    ] = ENGINE_STACK_BYTES
    max_host_calls: Annotated[
        int,
        Meta(
            ge=0,
            le=_MAX_COUNT,
            description="Operations handed to the host: state writes, events, view commands, "
            "extension calls, random.",
        ),
    ] = 10_000
    max_state_mutations: Annotated[
        int, Meta(ge=0, le=_MAX_COUNT, description="Writes and deletes of `$state` keys.")
    ] = 1_000
    max_events: Annotated[int, Meta(ge=0, le=_MAX_COUNT, description="Calls of `$emit`.")] = 100
    max_input_bytes: Annotated[int, Meta(ge=0, le=256 * MIB, description="JSON text of the event.")] = 6 * MIB
    max_output_bytes: Annotated[
        int, Meta(ge=0, le=256 * MIB, description="JSON text of the return value.")
    ] = 6 * MIB
    max_log_bytes: Annotated[
        int, Meta(ge=0, le=64 * MIB, description="Text of log messages; more is cut, which is no breach.")
    ] = 64 * KIB

    def narrowed(self, other: ResourceLimits) -> ResourceLimits:
        """The tighter of the two for each limit: a caller may narrow, never widen."""
        return ResourceLimits(
            **{
                name: _tighter(name, getattr(self, name), getattr(other, name))
                for name in self.__struct_fields__
            }
        )

    def within(self, timeout_ms: int) -> ResourceLimits:
        """These limits with at most `timeout_ms` (1 or more) of wall time: what a host has left."""
        return msgspec.structs.replace(self, timeout_ms=_tighter("timeout_ms", self.timeout_ms, timeout_ms))


def _tighter(name: str, mine: int, theirs: int) -> int:
    """The smaller value, where the 0 of a time means "none" and so is the loosest."""
    if name in _UNLIMITED_WHEN_ZERO and 0 in (mine, theirs):
        return max(mine, theirs)
    return min(mine, theirs)
