"""`memory:`: session state in this process only, gone with it. For tests and one-off calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from nexus_core.result import EmittedEvent, StateMutation
from nexus_core.stores import bounds
from nexus_core.stores.base import Commit, StateSnapshot


class _Session:
    __slots__ = ("journal", "journal_bytes", "sequence", "size", "values", "version")

    def __init__(self) -> None:
        self.version = 0
        self.sequence = 0
        self.values: dict[str, bytes] = {}
        self.size = 0
        self.journal: deque[tuple[Commit, int]] = deque()
        self.journal_bytes = 0


class MemoryStateStore:
    """A `StateStore` in a dict. It holds every session until it is closed."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}
        self._closed = False

    async def load(self, session: str) -> StateSnapshot:
        """See `StateStore`."""
        found = self._find(session)
        return StateSnapshot(found.version, MappingProxyType(dict(found.values)))

    async def commit(
        self,
        session: str,
        version: int,
        request_id: str,
        mutations: Sequence[StateMutation],
        events: Sequence[EmittedEvent],
    ) -> int:
        """See `StateStore`."""
        found = self._find(session)
        size = bounds.check_flush(mutations, events)
        if mutations and found.version != version:
            raise bounds.conflict(session, version, found.version)
        if not mutations and not events:
            return found.version
        if mutations:
            values = dict(found.values)
            for mutation in mutations:
                values.pop(mutation.key, None)
                if mutation.op == "set":
                    values[mutation.key] = bytes(mutation.value)
            total = sum(bounds.key_bytes(key) + len(value) for key, value in values.items())
            bounds.check_session_size(len(values), total)
            # Nothing may raise below: a flush is applied as a whole or not at all.
            found.values, found.size, found.version = values, total, found.version + 1
        found.sequence += 1
        commit = Commit(found.sequence, found.version, request_id, tuple(mutations), tuple(events))
        _append(found, commit, size)
        self._sessions[session] = found
        return found.version

    async def journal(self, session: str, after: int) -> Sequence[Commit]:
        """See `StateStore`."""
        return [commit for commit, _ in self._find(session).journal if commit.sequence > after]

    async def latest(self, session: str) -> int:
        """See `StateStore`."""
        return self._find(session).sequence

    async def latest_of(self, sessions: Collection[str]) -> Mapping[str, int]:
        """See `StateStore`."""
        return {session: self._find(session).sequence for session in sessions}

    async def close(self) -> None:
        """See `StateStore`."""
        self._closed = True
        self._sessions.clear()

    def _find(self, session: str) -> _Session:
        bounds.check_session(session)
        if self._closed:
            raise bounds.closed()
        return self._sessions.get(session) or _Session()


def _append(session: _Session, commit: Commit, size: int) -> None:
    """Add to the journal and drop what is too old or too much."""
    session.journal.append((commit, size))
    session.journal_bytes += size
    while len(session.journal) > bounds.JOURNAL_COMMITS or (
        session.journal_bytes > bounds.JOURNAL_BYTES and len(session.journal) > 1
    ):
        session.journal_bytes -= session.journal.popleft()[1]
