"""The feed of sessions' commits."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path

import pytest

from nexus_core.errors import InternalError, InvalidRequest
from nexus_core.feed import MAX_QUEUED_BYTES, MAX_QUEUED_COMMITS, FeedOverrun, SessionFeed
from nexus_core.limits import MIB
from nexus_core.stores.base import Commit, StateStore
from nexus_core.stores.bounds import JOURNAL_COMMITS
from nexus_core.stores.memory import MemoryStateStore
from nexus_core.stores.open import open_state_store
from tests.stores.flushes import event, put, text_of
from tests.stores.processes import read_line, send_line, writer

NEVER = 3600.0


class CountingStore(MemoryStateStore):
    """Counts what it is asked, and fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.questions = 0
        self.journals = 0
        self.broken = False

    async def latest_of(self, sessions: Collection[str]) -> Mapping[str, int]:
        """Count the question."""
        self.questions += 1
        if self.broken:
            raise InternalError("the state store failed; try again")
        return await super().latest_of(sessions)

    async def journal(self, session: str, after: int) -> Sequence[Commit]:
        """Count the reading."""
        self.journals += 1
        if self.broken:
            raise InternalError("the state store failed; try again")
        return await super().journal(session, after)


@pytest.fixture
async def store() -> AsyncIterator[CountingStore]:
    """A store in memory."""
    opened = CountingStore()
    yield opened
    await opened.close()


async def take(commits: AsyncIterator[Commit], count: int) -> list[int]:
    """The sequences of the next commits; fails when they do not come."""
    async with asyncio.timeout(30):
        return [(await anext(commits)).sequence for _ in range(count)]


async def add(store: StateStore, session: str = "s", count: int = 1) -> None:
    """Commit events to a session."""
    for _ in range(count):
        await store.commit(session, 0, "r", [], [event("e")])


async def until(condition: object) -> None:
    """Give the feed turns until a callable says so."""
    assert callable(condition)
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - there is no event for what the test waits for
            await asyncio.sleep(0.001)


async def test_local_commits_come_at_once(store: CountingStore) -> None:
    """A commit that is notified reaches every subscriber of its session without a poll, and nobody else."""
    feed = SessionFeed(store, poll_seconds=NEVER)
    async with feed.subscribe("s") as one, feed.subscribe("s") as two, feed.subscribe("other") as other:
        await store.commit("s", 0, "r1", [put("a", b"7")], [event("e")])
        feed.notify("s")
        first = await anext(one)
        assert first == Commit(1, 1, "r1", (put("a", b"7"),), (event("e"),))
        assert await anext(two) == first
        await add(store, "other")
        feed.notify("other")
        assert await take(other, 1) == [1]
    assert store.questions == 0
    await feed.close()


async def test_commits_of_others_come_by_polling(store: CountingStore) -> None:
    """A commit nobody notified is found by asking the store, several in their order."""
    feed = SessionFeed(store, poll_seconds=0.01)
    async with feed.subscribe("s") as commits:
        await add(store, count=3)
        assert await take(commits, 3) == [1, 2, 3]
        await add(store)
        assert await take(commits, 1) == [4]
    await feed.close()


async def test_busy_local_session_does_not_put_off_others(store: CountingStore) -> None:
    """While one session is notified without pause, commits of other processes are still found."""
    feed = SessionFeed(store, poll_seconds=0.01)
    async with feed.subscribe("busy"), feed.subscribe("s") as commits:
        await add(store)
        async with asyncio.timeout(30):
            waiting = asyncio.ensure_future(anext(commits))
            while not waiting.done():
                feed.notify("busy")
                await asyncio.sleep(0)
        assert (await waiting).sequence == 1
    await feed.close()


async def test_commits_from_another_process_arrive(tmp_path: Path) -> None:
    """Every commit of a writer in another process arrives once and in order."""
    url = f"sqlite:///{tmp_path}/nexus.db"
    store = open_state_store(url)
    feed = SessionFeed(store, poll_seconds=0.02)
    with writer(url, 50) as process:
        assert await asyncio.to_thread(read_line, process) == "ready"
        async with feed.subscribe("s") as commits:
            send_line(process)
            assert await take(commits, 50) == list(range(1, 51))
    await feed.close()
    await store.close()


async def test_earlier_commits_are_not_told(store: CountingStore) -> None:
    """A subscriber gets what is committed after it has entered, also when another one watched before."""
    feed = SessionFeed(store, poll_seconds=NEVER)
    await add(store, count=2)
    async with feed.subscribe("s") as early:
        await add(store)
        async with feed.subscribe("s") as late:
            await add(store)
            feed.notify("s")
            assert await take(early, 2) == [3, 4]
            assert await take(late, 1) == [4]
    await feed.close()


async def test_nothing_is_asked_while_nobody_watches(store: CountingStore) -> None:
    """The store is asked only while there is a subscriber; notifying without one costs nothing."""
    feed = SessionFeed(store, poll_seconds=0.001)
    feed.notify("s")
    async with feed.subscribe("s"):
        await until(lambda: store.questions >= 3)
    assert feed.subscriber_count == 0
    await until(lambda: not _feed_tasks())
    asked = store.questions
    feed.notify("s")
    await asyncio.sleep(0.02)
    assert (store.questions, store.journals) == (asked, 0)
    async with feed.subscribe("s") as again:
        await add(store)
        assert await take(again, 1) == [1]
    await feed.close()


def _feed_tasks() -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "nexus-feed"]


async def test_slow_subscriber_is_told_and_dropped(store: CountingStore) -> None:
    """As many commits as the bound may wait; one more ends that subscription by an error, and no other."""
    feed = SessionFeed(store, poll_seconds=NEVER)
    async with feed.subscribe("s") as slow, feed.subscribe("s") as quick:
        for number in range(1, MAX_QUEUED_COMMITS + 2):
            await add(store)
            feed.notify("s")
            assert await take(quick, 1) == [number]
            if number == MAX_QUEUED_COMMITS:
                assert feed.subscriber_count == 2
        assert feed.subscriber_count == 1
        with pytest.raises(FeedOverrun, match=f"more than {MAX_QUEUED_COMMITS} commits wait"):
            await anext(slow)
        with pytest.raises(StopAsyncIteration):
            await anext(slow)
    await feed.close()


async def test_full_queue_is_handed_out(store: CountingStore) -> None:
    """A subscriber that wakes up with its queue just full loses nothing, and has room again after."""
    feed = SessionFeed(store, poll_seconds=NEVER)
    async with feed.subscribe("s") as commits:
        for _ in range(2):
            await add(store, count=MAX_QUEUED_COMMITS)
            feed.notify("s")
            assert len(await take(commits, MAX_QUEUED_COMMITS)) == MAX_QUEUED_COMMITS
    await feed.close()


async def test_waiting_bytes_are_bounded(store: CountingStore) -> None:
    """Few but large commits overrun a subscriber too; a single one may be as large as the bound allows."""
    feed = SessionFeed(store, poll_seconds=NEVER)
    large = [event("", text_of(MIB)) for _ in range(MAX_QUEUED_BYTES // MIB)]
    async with feed.subscribe("s") as slow, feed.subscribe("s") as quick:
        await store.commit("s", 0, "r", [], large)
        feed.notify("s")
        assert await take(quick, 1) == [1]
        assert feed.subscriber_count == 2
        await add(store)
        feed.notify("s")
        assert await take(quick, 1) == [2]
        with pytest.raises(FeedOverrun, match=f"more than {MAX_QUEUED_BYTES} bytes wait"):
            await anext(slow)
    await feed.close()


async def test_taken_bytes_make_room(store: CountingStore) -> None:
    """A subscriber that keeps up may be sent any number of bytes in all."""
    feed = SessionFeed(store, poll_seconds=NEVER)
    async with feed.subscribe("s") as commits:
        for number in range(1, 4):
            await store.commit("s", 0, "r", [], [event("e", text_of(7 * MIB))])
            await add(store)
            feed.notify("s")
            assert await take(commits, 2) == [2 * number - 1, 2 * number]
    await feed.close()


async def test_lost_commits_are_told(store: CountingStore) -> None:
    """When the journal was cut before it was read, the subscriber is told instead of missing something."""
    feed = SessionFeed(store, poll_seconds=NEVER)
    async with feed.subscribe("s") as commits:
        await add(store, count=JOURNAL_COMMITS + 1)
        feed.notify("s")
        with pytest.raises(FeedOverrun, match="cut before it was read"):
            await anext(commits)
    await feed.close()


async def test_feed_outlives_a_broken_store(store: CountingStore, caplog: pytest.LogCaptureFixture) -> None:
    """While the store fails the feed goes on asking, with one line in the log; then everything arrives."""
    caplog.set_level(logging.WARNING)
    feed = SessionFeed(store, poll_seconds=0.001)
    async with feed.subscribe("s") as commits:
        store.broken = True
        await add(store)
        feed.notify("s")
        asked = store.questions
        await until(lambda: store.questions > asked + 5)
        store.broken = False
        assert await take(commits, 1) == [1]
    assert [record.name for record in caplog.records] == ["nexus.feed"]
    await feed.close()


async def test_close_ends_subscriptions(store: CountingStore) -> None:
    """Closing lets each subscriber take what waits for it and then end; later ones are refused."""
    feed = SessionFeed(store, poll_seconds=NEVER)
    async with feed.subscribe("s") as idle, feed.subscribe("s") as behind:
        waiting = asyncio.ensure_future(_rest(idle))
        await add(store)
        feed.notify("s")
        await until(lambda: store.journals == 1)
        await feed.close()
        await feed.close()
        async with asyncio.timeout(30):
            assert await waiting == [1]
            assert await _rest(behind) == [1]
    with pytest.raises(InternalError, match="closed"):
        async with feed.subscribe("s"):
            pass
    assert not _feed_tasks()


async def _rest(commits: AsyncIterator[Commit]) -> list[int]:
    return [commit.sequence async for commit in commits]


async def test_error_of_ours_ends_subscriptions(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug below the feed is logged and leaves nobody waiting: subscriptions end, new ones are served."""
    feed = SessionFeed(store, poll_seconds=NEVER)

    async def fail(session: str, after: int) -> Sequence[Commit]:
        raise ZeroDivisionError

    async with feed.subscribe("s") as commits:
        with monkeypatch.context() as patch:
            patch.setattr(store, "journal", fail)
            feed.notify("s")
            async with asyncio.timeout(30):
                assert await _rest(commits) == []
        async with feed.subscribe("s") as again:
            await add(store)
            feed.notify("s")
            assert await take(again, 1) == [1]
    await feed.close()
    assert "ZeroDivisionError" in caplog.text


async def test_close_while_somebody_enters(store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscriber that was entering when the feed was closed is refused, not left waiting."""
    feed = SessionFeed(store, poll_seconds=NEVER)

    async def close_meanwhile(session: str) -> int:
        await feed.close()
        return 0

    monkeypatch.setattr(store, "latest", close_meanwhile)
    with pytest.raises(InternalError, match="closed"):
        async with feed.subscribe("s"):
            pass


async def test_bad_session_is_refused(store: CountingStore) -> None:
    """Subscribing to what is no session id is the caller's mistake."""
    feed = SessionFeed(store)
    with pytest.raises(InvalidRequest):
        async with feed.subscribe("a b"):
            pass
    assert feed.subscriber_count == 0


async def test_leaving_by_an_error_unsubscribes(store: CountingStore) -> None:
    """However a subscriber leaves, cancelled while it waits included, nothing of it stays."""
    feed = SessionFeed(store, poll_seconds=NEVER)

    async def watch() -> None:
        async with feed.subscribe("s") as commits:
            await anext(commits)

    watching = asyncio.create_task(watch())
    await until(lambda: feed.subscriber_count == 1)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert feed.subscriber_count == 0
    await until(lambda: not _feed_tasks())
    await feed.close()
