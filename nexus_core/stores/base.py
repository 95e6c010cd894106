"""The interfaces of the stores. One contract test suite runs on every implementation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from nexus_core.result import EmittedEvent, StateMutation


class StateSnapshot(msgspec.Struct, frozen=True):
    """A session as it was read: JSON text by key, and the count of commits that led there (0 = none)."""

    version: int
    values: Mapping[str, bytes]


class Commit(msgspec.Struct, frozen=True, rename="camel"):
    """One flush in a session's journal. `sequence` counts the session's flushes from 1, without holes.

    `version` is the session's after this flush; one without mutations leaves it as it was.
    """

    sequence: int
    version: int
    request_id: str
    mutations: tuple[StateMutation, ...]
    events: tuple[EmittedEvent, ...]


class StateStore(Protocol):
    """Versioned session state with optimistic commits, shared by all worker processes.

    Session ids and sizes are checked by `nexus_core.stores.bounds` in every implementation:
    `InvalidRequest` for a bad session id, `ResourceLimitExceeded` for state that is too large.
    Values are JSON text, checked by whoever made the mutation.
    """

    async def load(self, session: str) -> StateSnapshot:
        """The session as it is now; an unknown session is empty at version 0."""

    async def commit(
        self,
        session: str,
        version: int,
        request_id: str,
        mutations: Sequence[StateMutation],
        events: Sequence[EmittedEvent],
    ) -> int:
        """Apply one flush in one transaction and return the new version (+1 when there are mutations).

        Raises `StateConflict`, applying nothing, when the session is no longer at `version` and
        there are mutations. Events alone never conflict; a flush of nothing leaves no trace.
        """

    async def journal(self, session: str, after: int) -> Sequence[Commit]:
        """The session's recent flushes with `sequence` above `after`, oldest first.

        At least the newest one is kept, at most `bounds.JOURNAL_COMMITS` and about
        `bounds.JOURNAL_BYTES`; a first `sequence` above `after + 1` tells that older ones are gone.
        """

    async def latest(self, session: str) -> int:
        """The highest `sequence` of the session's journal, 0 when it has none."""

    async def latest_of(self, sessions: Collection[str]) -> Mapping[str, int]:
        """`latest` of many sessions in one round trip; a session without a journal may be left out."""

    async def close(self) -> None:
        """Release files and connections. May be called twice; later use is an `InternalError`."""


class EventSink(Protocol):
    """Where emitted events go after their flush is committed."""

    async def publish(self, handler: str, session: str | None, events: Sequence[EmittedEvent]) -> None:
        """Hand the events over, in order."""

    async def close(self) -> None:
        """Release what the sink holds. May be called twice."""
