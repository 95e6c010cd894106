"""`SessionFeed`: whoever watches a session gets every commit to it, from any worker process.

Commits of this process are read at once (`notify`), those of others by asking the store every
100 ms, and only while somebody watches: one question for all watched sessions, then the journal of
those that moved. One task does both, so commits reach each subscriber in order and once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from nexus_core.errors import InternalError, NexusError, ResourceLimitExceeded
from nexus_core.limits import MIB
from nexus_core.stores.base import Commit, StateStore
from nexus_core.stores.bounds import check_session

MAX_QUEUED_COMMITS = 256
"""Commits that wait for one subscriber."""

MAX_QUEUED_BYTES = 16 * MIB
"""Bytes of the commits that wait for one subscriber; a single commit may always wait."""

_log = logging.getLogger("nexus.feed")


class FeedOverrun(ResourceLimitExceeded):
    """A subscriber was too slow, or the journal moved on unread: commits were lost to it, and it was dropped.

    Subscribe again, then read the session's state anew.
    """


class SessionFeed:
    """Hands the commits of a store's sessions to subscribers. All of it runs on one event loop."""

    def __init__(self, store: StateStore, *, poll_seconds: float = 0.1) -> None:
        self._store = store
        self._poll_seconds = poll_seconds
        self._channels: dict[str, _Channel] = {}
        self._moved: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._failing = False

    @property
    def subscriber_count(self) -> int:
        """How many subscriptions are open."""
        return sum(len(channel.subscribers) for channel in self._channels.values())

    def notify(self, session: str) -> None:
        """Tell that this process has committed to `session`; costs nothing when nobody watches it."""
        if session in self._channels:
            self._moved.add(session)
            self._wake.set()

    @asynccontextmanager
    async def subscribe(self, session: str) -> AsyncIterator[AsyncIterator[Commit]]:
        """The commits to `session` that follow, as they come; it ends when the feed is closed.

        State that is loaded after entering may already hold the first of them: skip those whose
        `version` is not above the loaded one. The iterator raises `FeedOverrun` when commits were
        lost to it. Entering raises `InvalidRequest` for a bad session id, and what the store raises.
        """
        check_session(session)
        if self._closed:
            raise InternalError("the session feed is closed")
        latest = await self._store.latest(session)
        # No await from here to the registration: nothing can be committed unseen in between.
        if self._closed:
            raise InternalError("the session feed is closed")
        channel = self._channels.setdefault(session, _Channel(latest))
        subscription = _Subscription(max(latest, channel.sequence))
        channel.subscribers.add(subscription)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="nexus-feed")
        try:
            yield subscription
        finally:
            channel.subscribers.discard(subscription)
            if not channel.subscribers and self._channels.get(session) is channel:
                del self._channels[session]
                self._wake.set()

    async def close(self) -> None:
        """End every subscription after what is queued for it, and refuse new ones. May be called twice."""
        self._closed = True
        self._end_all()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        """Deliver until nobody watches any more."""
        clock = asyncio.get_running_loop().time
        next_poll = clock() + self._poll_seconds
        try:
            while self._channels and not self._closed:
                # Not a plain sleep of 100 ms: a busy local session must not put off the others' turn.
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(next_poll):
                        await self._wake.wait()
                self._wake.clear()
                if clock() >= next_poll:
                    await self._ask_store()
                    next_poll = clock() + self._poll_seconds
                moved, self._moved = self._moved, set()
                for session in moved:
                    await self._deliver(session)
        except Exception:  # noqa: BLE001 - whatever it is, no subscriber may wait for ever
            _log.exception("the session feed failed; its subscriptions end")
        finally:
            # The next subscriber starts a new task.
            self._task = None
            self._end_all()

    async def _ask_store(self) -> None:
        """Mark the watched sessions that another process has committed to."""
        try:
            latest = await self._store.latest_of(list(self._channels))
        except NexusError as error:
            self._failed(error)
            return
        self._failing = False
        for session, channel in self._channels.items():
            if latest.get(session, 0) > channel.sequence:
                self._moved.add(session)

    async def _deliver(self, session: str) -> None:
        """Read what is new in one session's journal and queue it for its subscribers."""
        channel = self._channels.get(session)
        if channel is None:
            return
        try:
            commits = await self._store.journal(session, channel.sequence)
        except NexusError as error:
            # The next question to the store finds the session still behind, and tries again.
            self._failed(error)
            return
        for commit in commits:
            size = _size(commit)
            for subscription in list(channel.subscribers):
                if not subscription.offer(commit, size):
                    channel.subscribers.discard(subscription)
            channel.sequence = commit.sequence

    def _failed(self, error: NexusError) -> None:
        """Log the first of a row of failures: the store is asked again ten times a second."""
        if not self._failing:
            self._failing = True
            _log.warning("the session feed cannot read the store: %s", error.message, exc_info=error)

    def _end_all(self) -> None:
        for channel in self._channels.values():
            for subscription in channel.subscribers:
                subscription.end()


class _Channel:
    """One watched session: its subscribers, and the last `sequence` that was handed to them."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.subscribers: set[_Subscription] = set()


class _Subscription:
    """A bounded queue between the feed, which never waits, and one subscriber."""

    def __init__(self, sequence: int) -> None:
        self._sequence = sequence
        self._queue: deque[tuple[Commit, int]] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()
        self._ended = False
        self._error: FeedOverrun | None = None

    def offer(self, commit: Commit, size: int) -> bool:
        """Queue the next commit; False when the subscriber must be dropped instead."""
        if commit.sequence <= self._sequence:
            return True
        if commit.sequence > self._sequence + 1:
            return self._overrun("the session's journal was cut before it was read")
        if len(self._queue) >= MAX_QUEUED_COMMITS:
            return self._overrun(f"more than {MAX_QUEUED_COMMITS} commits wait for this subscriber")
        if self._queue and self._bytes + size > MAX_QUEUED_BYTES:
            return self._overrun(f"more than {MAX_QUEUED_BYTES} bytes wait for this subscriber")
        self._sequence = commit.sequence
        self._bytes += size
        self._queue.append((commit, size))
        self._ready.set()
        return True

    def end(self) -> None:
        """Let the iterator end after what is queued."""
        self._ended = True
        self._ready.set()

    def _overrun(self, reason: str) -> bool:
        self._queue.clear()
        self._error = FeedOverrun(f"{reason}: subscribe again and read the session anew")
        self.end()
        return False

    def __aiter__(self) -> AsyncIterator[Commit]:
        return self

    async def __anext__(self) -> Commit:
        while not self._queue:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        commit, size = self._queue.popleft()
        self._bytes -= size
        return commit


def _size(commit: Commit) -> int:
    """About how many bytes a commit holds."""
    values = sum(len(mutation.key) + len(memoryview(mutation.value)) for mutation in commit.mutations)
    return values + sum(len(event.name) + len(memoryview(event.payload)) for event in commit.events)
