"""`sqlite:///PATH`: session state in one file that all worker processes of a host share. The default."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from nexus_core.limits import KIB
from nexus_core.result import EmittedEvent, StateMutation
from nexus_core.stores import bounds
from nexus_core.stores.base import Commit, StateSnapshot
from nexus_core.stores.sqlite_database import SqliteDatabase, writing

_MIGRATIONS = (
    """
    CREATE TABLE session (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        version INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        keys INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        journal_bytes INTEGER NOT NULL
    );
    CREATE TABLE state (
        session INTEGER NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (session, key)
    ) WITHOUT ROWID;
    CREATE TABLE journal (
        session INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        version INTEGER NOT NULL,
        request_id TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        mutations BLOB NOT NULL,
        events BLOB NOT NULL,
        PRIMARY KEY (session, sequence)
    ) WITHOUT ROWID
    """,
)

# Up to this size a session is read on the event loop. A small one takes 10 µs so, 150 through the thread;
# at 64 KiB reading takes as long as the change of threads.
_SMALL_BYTES = 64 * KIB

_encode = msgspec.json.Encoder().encode
_decode_mutations = msgspec.json.Decoder(tuple[StateMutation, ...]).decode
_decode_events = msgspec.json.Decoder(tuple[EmittedEvent, ...]).decode


class _Flush(NamedTuple):
    session: str
    version: int
    request_id: str
    mutations: Sequence[StateMutation]
    events: Sequence[EmittedEvent]
    size: int


class _Head(NamedTuple):
    """A row of `session`: what a flush must know before it writes."""

    id: int
    version: int
    sequence: int
    keys: int
    bytes: int
    journal_bytes: int


class SqliteStateStore:
    """A `StateStore` in a file; `ConfigError` when the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self._database = SqliteDatabase(path, _MIGRATIONS)

    async def load(self, session: str) -> StateSnapshot:
        """See `StateStore`."""
        bounds.check_session(session)
        small = await self._database.read(partial(_load, session, _SMALL_BYTES))
        if small is not None:
            return small
        whole = await self._database.run(partial(_load, session, bounds.MAX_SESSION_BYTES))
        return whole or StateSnapshot(0, MappingProxyType({}))

    async def commit(
        self,
        session: str,
        version: int,
        request_id: str,
        mutations: Sequence[StateMutation],
        events: Sequence[EmittedEvent],
    ) -> int:
        """See `StateStore`."""
        bounds.check_session(session)
        size = bounds.check_flush(mutations, events)
        flush = _Flush(session, version, request_id, mutations, events, size)
        return await self._database.run(partial(_commit, flush))

    async def journal(self, session: str, after: int) -> Sequence[Commit]:
        """See `StateStore`."""
        bounds.check_session(session)
        return await self._database.run(partial(_journal, session, after))

    async def latest(self, session: str) -> int:
        """See `StateStore`."""
        return (await self.latest_of([session])).get(session, 0)

    async def latest_of(self, sessions: Collection[str]) -> Mapping[str, int]:
        """See `StateStore`."""
        for session in sessions:
            bounds.check_session(session)
        return await self._database.run(partial(_latest_of, json.dumps(list(sessions))))

    async def close(self) -> None:
        """See `StateStore`."""
        await self._database.close()


def _load(session: str, most: int, connection: sqlite3.Connection) -> StateSnapshot | None:
    """The session, or None when it holds more than `most` bytes."""
    # One statement sees one state of the file, so version and values belong together.
    rows = connection.execute(
        "SELECT session.version, session.bytes, state.key, state.value FROM session"
        " LEFT JOIN state ON state.session = session.id AND session.bytes <= ? WHERE session.name = ?",
        (most, session),
    ).fetchall()
    if not rows:
        return StateSnapshot(0, MappingProxyType({}))
    version, size, *_ = rows[0]
    if size > most:
        return None
    return StateSnapshot(
        version, MappingProxyType({key: value for _, _, key, value in rows if key is not None})
    )


def _commit(flush: _Flush, connection: sqlite3.Connection) -> int:
    with writing(connection):
        head = _head(flush.session, connection)
        found = head.version if head else 0
        if flush.mutations and found != flush.version:
            raise bounds.conflict(flush.session, flush.version, found)
        if not flush.mutations and not flush.events:
            return found
        if head is None:
            made = connection.execute("INSERT INTO session VALUES (NULL, ?, 0, 0, 0, 0, 0)", (flush.session,))
            head = _Head(made.lastrowid or 0, 0, 0, 0, 0, 0)
        if flush.mutations:
            head = _apply(head, flush.mutations, connection)
        head = _append(head, flush, connection)
        connection.execute(
            "UPDATE session SET version = ?, sequence = ?, keys = ?, bytes = ?, journal_bytes = ?"
            " WHERE id = ?",
            (*head[1:], head.id),
        )
        return head.version


def _head(session: str, connection: sqlite3.Connection) -> _Head | None:
    row = connection.execute(
        "SELECT id, version, sequence, keys, bytes, journal_bytes FROM session WHERE name = ?", (session,)
    ).fetchone()
    return _Head(*row) if row else None


def _apply(head: _Head, mutations: Sequence[StateMutation], connection: sqlite3.Connection) -> _Head:
    """Write the last mutation of each key; gives the session's new version and size, which it checks."""
    keys, size = head.keys, head.bytes
    for key, mutation in {mutation.key: mutation for mutation in mutations}.items():
        old = connection.execute(
            "SELECT length(value) FROM state WHERE session = ? AND key = ?", (head.id, key)
        ).fetchone()
        if old:
            keys, size = keys - 1, size - bounds.key_bytes(key) - old[0]
        if mutation.op == "set":
            value = bytes(mutation.value)
            keys, size = keys + 1, size + bounds.key_bytes(key) + len(value)
            connection.execute(
                "INSERT INTO state VALUES (?, ?, ?)"
                " ON CONFLICT (session, key) DO UPDATE SET value = excluded.value",
                (head.id, key, value),
            )
        elif old:
            connection.execute("DELETE FROM state WHERE session = ? AND key = ?", (head.id, key))
    bounds.check_session_size(keys, size)
    return head._replace(version=head.version + 1, keys=keys, bytes=size)


def _append(head: _Head, flush: _Flush, connection: sqlite3.Connection) -> _Head:
    """Add the flush to the journal and drop what is too old or too much."""
    sequence = head.sequence + 1
    connection.execute(
        "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            head.id,
            sequence,
            head.version,
            flush.request_id,
            flush.size,
            _encode(flush.mutations),
            _encode(flush.events),
        ),
    )
    size = head.journal_bytes + flush.size
    rows = connection.execute(
        "SELECT sequence, bytes FROM journal WHERE session = ? ORDER BY sequence", (head.id,)
    )
    oldest = sequence - bounds.JOURNAL_COMMITS + 1
    for old, old_size in rows:
        if old == sequence or (old >= oldest and size <= bounds.JOURNAL_BYTES):
            oldest = old
            break
        size -= old_size
    # Read to its end or closed: an open cursor would keep the transaction from ending.
    rows.close()
    connection.execute("DELETE FROM journal WHERE session = ? AND sequence < ?", (head.id, oldest))
    return head._replace(sequence=sequence, journal_bytes=size)


def _journal(session: str, after: int, connection: sqlite3.Connection) -> Sequence[Commit]:
    rows = connection.execute(
        "SELECT journal.sequence, journal.version, request_id, mutations, events FROM journal"
        " JOIN session ON session.id = journal.session"
        " WHERE session.name = ? AND journal.sequence > ? ORDER BY journal.sequence",
        (session, after),
    )
    return [
        Commit(sequence, version, request_id, _decode_mutations(mutations), _decode_events(events))
        for sequence, version, request_id, mutations, events in rows
    ]


def _latest_of(names: str, connection: sqlite3.Connection) -> Mapping[str, int]:
    # One parameter for any number of names: the count of parameters is bounded, a JSON text is not.
    rows = connection.execute(
        "SELECT name, sequence FROM session WHERE name IN (SELECT value FROM json_each(?))", (names,)
    )
    return dict(rows.fetchall())
