"""What a session may be called and how much it may hold: checked here for every store."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nexus_core.errors import InternalError, InvalidRequest, LimitBreach, ResourceLimitExceeded, StateConflict
from nexus_core.limits import MIB
from nexus_core.result import EmittedEvent, StateMutation

MAX_KEY_LENGTH = 512
"""Characters of one `$state` key."""

MAX_VALUE_BYTES = MIB
"""JSON text of one value."""

MAX_SESSION_BYTES = 8 * MIB
"""All keys (as UTF-8) and values of one session together."""

MAX_SESSION_KEYS = 10_000
"""Keys of one session."""

MAX_FLUSH_BYTES = 16 * MIB
"""All mutations and events of one flush together: a key written twice counts twice."""

JOURNAL_COMMITS = 256
"""Flushes kept per session."""

JOURNAL_BYTES = 8 * MIB
"""Size from which on a session's oldest flushes are dropped; its newest one is always kept."""

_SESSION = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def check_session(session: str) -> None:
    """Refuse what can be no session id, with `InvalidRequest`."""
    # Trust changes hands here: ids come from callers' headers and addresses.
    if not _SESSION.fullmatch(session):
        raise InvalidRequest("a session id must be 1 to 128 of A-Z, a-z, 0-9, '_', '.', ':' and '-'")


def check_flush(mutations: Sequence[StateMutation], events: Sequence[EmittedEvent]) -> int:
    """Refuse keys and values that are too large, with `ResourceLimitExceeded`; gives the flush's bytes."""
    # Trust changes hands here: keys and values come from the guest.
    total = 0
    for mutation in mutations:
        if len(mutation.key) > MAX_KEY_LENGTH:
            raise _breach("state key characters", MAX_KEY_LENGTH, len(mutation.key))
        size = len(memoryview(mutation.value))
        if size > MAX_VALUE_BYTES:
            raise _breach("state value bytes", MAX_VALUE_BYTES, size)
        total += key_bytes(mutation.key) + size
    total += sum(len(event.name) + len(memoryview(event.payload)) for event in events)
    if total > MAX_FLUSH_BYTES:
        raise _breach("flush bytes", MAX_FLUSH_BYTES, total)
    return total


def check_session_size(keys: int, size: int) -> None:
    """Refuse a flush that would leave the session too large, with `ResourceLimitExceeded`."""
    if keys > MAX_SESSION_KEYS:
        raise _breach("session keys", MAX_SESSION_KEYS, keys)
    if size > MAX_SESSION_BYTES:
        raise _breach("session bytes", MAX_SESSION_BYTES, size)


def key_bytes(key: str) -> int:
    """What a key counts, in UTF-8. Half a surrogate pair, which no store can hold, is refused."""
    try:
        return len(key) if key.isascii() else len(key.encode())
    except UnicodeEncodeError:
        raise ResourceLimitExceeded(
            "a state key must be valid Unicode: it holds half a surrogate pair"
        ) from None


def conflict(session: str, expected: int, found: int) -> StateConflict:
    """The error of a lost race."""
    return StateConflict(
        f"session {session!r} is at version {found}, not {expected}: another call committed first"
    )


def closed() -> InternalError:
    """The error of using a store after its end."""
    return InternalError("the state store is closed")


def _breach(name: str, allowed: int, used: int) -> ResourceLimitExceeded:
    return ResourceLimitExceeded(
        f"{name}: {used:,} used, {allowed:,} allowed", LimitBreach(name.replace(" ", "_"), allowed, used)
    )
