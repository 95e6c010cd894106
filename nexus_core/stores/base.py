"""The interfaces of the stores. One contract test suite runs on every implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from nexus_core.result import EmittedEvent, StateMutation


class StateSnapshot(msgspec.Struct, frozen=True):
    """A session as it was read: `values` holds JSON text by key; `version` counts commits, 0 = never written."""

    version: int
    values: Mapping[str, bytes]


class Commit(msgspec.Struct, frozen=True, rename="camel"):
    """One flush in a session's journal, in the order of `sequence` (rises, may skip)."""

    sequence: int
    version: int
    request_id: str
    mutations: tuple[StateMutation, ...]
    events: tuple[EmittedEvent, ...]


class StateStore(Protocol):
    """Versioned session state with optimistic commits, shared by all worker processes."""

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
        there are mutations. Events alone never conflict.
        """

    async def journal(self, session: str, after: int) -> Sequence[Commit]:
        """The session's recent flushes with `sequence` above `after`, oldest first (a bounded number is kept)."""

    async def latest(self, session: str) -> int:
        """The highest `sequence` of the session's journal, 0 when it has none."""

    async def close(self) -> None:
        """Release files and connections. May be called twice."""


class EventSink(Protocol):
    """Where emitted events go after their flush is committed."""

    async def publish(self, handler: str, session: str | None, events: Sequence[EmittedEvent]) -> None:
        """Hand the events over, in order."""

    async def close(self) -> None:
        """Release what the sink holds. May be called twice."""
