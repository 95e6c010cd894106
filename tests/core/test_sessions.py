"""Sessions through the runtime: what a call reads and writes, when others see it, and who loses a race."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from nexus_core.capabilities import CapabilitySet
from nexus_core.errors import ErrorCode, StateConflict
from nexus_core.limits import ResourceLimits
from nexus_core.result import EmittedEvent, StateMutation
from nexus_core.runtime import Runtime
from nexus_core.stores.base import StateSnapshot
from nexus_core.stores.memory import MemoryStateStore
from tests.core.runtimes import Doors, RuntimeFactory, body, call, decoded, error, handler, value
from tests.core.scraping import scrape
from tests.core.scraping import value as sample

COUNTER = handler(
    body("$state.count = ($state.count ?? 0) + 1; $emit('counted', $state.count); return $state.count"),
    "state:read:count",
    "state:write:count",
    "events:emit:counted",
    name="counter",
)
PATIENT = handler(
    body("""
        $state.seen = [event]; $emit('began', event);
        const answer = await $ext.doors.pass(event);
        $state.seen.push(answer); $emit('ended', event);
        return $state.seen;
    """),
    "state:read:seen",
    "state:write:seen",
    "events:emit:*",
    "ext:doors",
    name="patient",
    timeout_ms=60_000,
)


async def test_state_lives_from_call_to_call(runtime: Runtime) -> None:
    """Each call reads what the last one of its session wrote; another session knows nothing of it."""
    for count in (1, 2, 3):
        result = await runtime.execute_source(COUNTER, call(session="one", request_id=f"r{count}"))
        assert value(result) == count
        assert [
            (mutation.op, mutation.key, decoded(mutation.value)) for mutation in result.state_mutations
        ] == [("set", "count", count)]
        assert [(event.name, decoded(event.payload)) for event in result.events] == [("counted", count)]
    assert value(await runtime.execute_source(COUNTER, call(session="two"))) == 1
    commits = await runtime.state_store.journal("one", 0)
    assert [(commit.sequence, commit.version, commit.request_id) for commit in commits] == [
        (1, 1, "r1"),
        (2, 2, "r2"),
        (3, 3, "r3"),
    ]


async def test_a_call_without_a_session_keeps_nothing(runtime: Runtime) -> None:
    """It reads the state it was given, and what it writes is only in its result."""
    context = call(state={"count": b"41"})
    for _ in range(2):
        result = await runtime.execute_source(COUNTER, context)
        assert value(result) == 42
        assert decoded(result.state_mutations[0].value) == 42


async def test_a_handler_sees_only_the_keys_it_may_read(runtime: Runtime) -> None:
    """What the capabilities do not name never enters the sandbox."""
    source = handler(body("return Object.keys($state)"), "state:read:user.*", "state:read:count")
    state = {"user.name": b'"ada"', "user": b"1", "count": b"2", "secret": b"3"}
    assert value(await runtime.execute_source(source, call(state=state))) == ["user.name", "count"]


async def test_a_call_that_throws_commits_nothing(runtime: Runtime) -> None:
    """Writes and events before the error are gone."""
    source = handler(
        body("$state.a = 1; $emit('a'); throw new Error('no')"), "state:write:*", "events:emit:*"
    )
    result = await runtime.execute_source(source, call(session="s"))
    assert error(result).message == "no"
    assert (result.state_mutations, result.events) == ((), ())
    assert await runtime.state_store.latest("s") == 0


async def test_a_call_that_never_settles_commits_nothing(runtime: Runtime) -> None:
    """Nothing will wake it, so what it wrote before it fell asleep for ever is gone."""
    source = handler(body("$state.a = 1; await new Promise(() => {})"), "state:write:*")
    result = await runtime.execute_source(source, call(session="s"))
    assert "never settled" in error(result).message
    assert result.state_mutations == ()
    assert await runtime.state_store.latest("s") == 0


async def test_a_watcher_sees_what_is_written_before_an_await(runtime: Runtime, doors: Doors) -> None:
    """The flush before an await is delivered while the handler still waits; the rest comes after it."""
    # A commit of this process is not left to be found by the next poll.
    runtime.feed._poll_seconds = 3600
    async with asyncio.timeout(20), runtime.feed.subscribe("s") as commits:
        running = asyncio.create_task(runtime.execute_source(PATIENT, call("a", session="s")))
        began = await anext(commits)
        assert not running.done()
        assert [decoded(mutation.value) for mutation in began.mutations] == [["a"]]
        assert [event.name for event in began.events] == ["began"]
        doors.open("a", "through")
        ended = await anext(commits)
        assert [decoded(mutation.value) for mutation in ended.mutations] == [["a", "through"]]
        assert [event.name for event in ended.events] == ["ended"]
        result = await running
    assert value(result) == ["a", "through"]
    assert [event.name for event in result.events] == ["began", "ended"]
    assert len(result.state_mutations) == 2


async def test_a_call_that_fails_after_an_await_keeps_what_was_flushed(runtime: Runtime) -> None:
    """Its result tells what was applied, and that the call failed."""
    source = handler(
        body("$state.a = 1; await $ext.doors.echo(); $state.b = 2; throw new Error('late')"),
        "state:write:*",
        "ext:doors",
    )
    result = await runtime.execute_source(source, call(session="s"))
    assert error(result).message == "late"
    assert [mutation.key for mutation in result.state_mutations] == ["a"]
    assert (await runtime.state_store.load("s")).values == {"a": b"1"}


@pytest.mark.parametrize("store_url", ["memory:", "sqlite:///{folder}/state.db"])
async def test_the_loser_of_a_race_gets_a_conflict(
    start: RuntimeFactory, doors: Doors, tmp_path: object, store_url: str
) -> None:
    """Of two overlapping calls of a session, who commits second gets `STATE_CONFLICT` and applies no more."""
    runtime = await start(store_url=store_url.format(folder=tmp_path))
    slow = asyncio.create_task(runtime.execute_source(PATIENT, call("a", session="s")))
    await doors.reached("a")
    quick = handler(body("$state.quick = 1"), "state:write:quick", name="quick")
    value(await runtime.execute_source(quick, call(session="s")))
    doors.open("a", "late")
    result = await slow
    info = error(result)
    assert (info.code, info.retryable) == (ErrorCode.STATE_CONFLICT, True)
    assert [event.name for event in result.events] == ["began"]
    assert (await runtime.state_store.load("s")).values == {"seen": b'["a"]', "quick": b"1"}
    assert [
        [event.name for event in commit.events] for commit in await runtime.state_store.journal("s", 0)
    ] == [
        ["began"],
        [],
    ]
    assert sample(scrape(runtime.metrics), "nexus_errors_total", code="STATE_CONFLICT") == 1


async def test_overlapping_calls_of_one_session_count_right(runtime: Runtime) -> None:
    """Of many calls at once, each that succeeds has counted once; the others conflict."""
    results = await asyncio.gather(
        *(runtime.execute_source(COUNTER, call(session="s", request_id=f"r{n}")) for n in range(40))
    )
    counts = sorted(value(result) for result in results if result.status == "success")
    assert counts == list(range(1, len(counts) + 1))
    assert {error(result).code for result in results if result.status == "error"} <= {
        ErrorCode.STATE_CONFLICT
    }
    assert (await runtime.state_store.load("s")).values == {"count": str(len(counts)).encode()}


class FailingStore(MemoryStateStore):
    """A store whose commits fail, and whose answers are late, as the test says."""

    failure: Exception | None = None
    load_seconds = 0.0

    async def load(self, session: str) -> StateSnapshot:
        """See `StateStore`."""
        await asyncio.sleep(self.load_seconds)
        return await super().load(session)

    async def commit(
        self,
        session: str,
        version: int,
        request_id: str,
        mutations: Sequence[StateMutation],
        events: Sequence[EmittedEvent],
    ) -> int:
        """See `StateStore`."""
        if self.failure is not None:
            raise self.failure
        return await super().commit(session, version, request_id, mutations, events)


class Listener:
    """An event sink that keeps what it is given, or fails."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.failure: Exception | None = None

    async def publish(self, handler: str, session: str | None, events: Sequence[EmittedEvent]) -> None:
        """See `EventSink`."""
        if self.failure is not None:
            raise self.failure
        self.heard += [f"{handler}/{session}/{event.name}" for event in events]

    async def close(self) -> None:
        """See `EventSink`."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FailingStore:
    """The state store of runtimes that are started after it."""
    made = FailingStore()
    monkeypatch.setattr("nexus_core.build.open_state_store", lambda _url: made)
    return made


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Listener:
    """The event sink of runtimes that are started after it."""
    made = Listener()
    monkeypatch.setattr("nexus_core.build.open_event_sink", lambda _url, _attributes: made)
    return made


async def test_events_are_published_after_their_commit(sink: Listener, start: RuntimeFactory) -> None:
    """The sink hears of each event, with its handler and session; events need no session."""
    runtime = await start()
    value(await runtime.execute_source(COUNTER, call(session="s")))
    value(await runtime.execute_source(COUNTER, call()))
    assert sink.heard == ["counter/s/counted", "counter/None/counted"]


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (StateConflict("another was first"), ErrorCode.STATE_CONFLICT),
        (OSError("disk of the host"), ErrorCode.INTERNAL_ERROR),
    ],
)
async def test_no_event_is_published_when_its_commit_fails(
    store: FailingStore, sink: Listener, start: RuntimeFactory, failure: Exception, code: ErrorCode
) -> None:
    """Nobody hears of what was not applied, and the result holds none of it."""
    runtime = await start()
    store.failure = failure
    result = await runtime.execute_source(COUNTER, call(session="s"))
    info = error(result)
    assert info.code is code
    assert "host" not in info.message
    assert (result.state_mutations, result.events, sink.heard) == ((), (), [])
    assert runtime.pool.active_count == 0


async def test_a_call_whose_time_went_to_the_store_does_not_begin(
    store: FailingStore, start: RuntimeFactory
) -> None:
    """Waiting for the host counts: with no time left the handler is not even started."""
    runtime = await start()
    store.load_seconds = 0.05
    result = await runtime.execute_source(COUNTER, call(session="s", limits=ResourceLimits(timeout_ms=20)))
    info = error(result)
    assert (info.code, info.limit and info.limit.name) == (ErrorCode.TIMEOUT, "timeout_ms")
    assert result.metrics.cpu_us == 0
    assert (await runtime.state_store.load("s")).version == 0


async def test_what_is_committed_is_told_though_the_sink_fails(sink: Listener, start: RuntimeFactory) -> None:
    """The call fails, but its result does not hide the state that was written."""
    runtime = await start()
    sink.failure = OSError("sink of the host")
    result = await runtime.execute_source(COUNTER, call(session="s"))
    assert error(result).code is ErrorCode.INTERNAL_ERROR
    assert [mutation.key for mutation in result.state_mutations] == ["count"]
    assert (await runtime.state_store.load("s")).version == 1


@pytest.mark.parametrize("session", ["", "a b", "ü", "x" * 129])
async def test_a_bad_session_id_is_refused(runtime: Runtime, session: str) -> None:
    """Ids come from callers: a bad one is an invalid request."""
    info = error(await runtime.execute_source(COUNTER, call(session=session)))
    assert info.code is ErrorCode.INVALID_REQUEST


async def test_capabilities_are_narrowed_for_one_call(runtime: Runtime) -> None:
    """What the caller leaves out is refused, also after a call that had it; the next call has it again."""
    narrow = CapabilitySet.parse(["state:read:*", "state:write:*"])
    value(await runtime.execute_source(COUNTER, call(session="s")))
    result = await runtime.execute_source(COUNTER, call(session="s", capabilities=narrow))
    info = error(result)
    assert (info.code, info.message) == (
        ErrorCode.PERMISSION_DENIED,
        "the handler has no capability events:emit:counted",
    )
    assert value(await runtime.execute_source(COUNTER, call(session="s"))) == 2


async def test_capabilities_are_never_widened(runtime: Runtime) -> None:
    """A caller that asks for more than the handler has gets no more; the state it reads is narrowed too."""
    everything = CapabilitySet.parse(["state:read:*", "state:write:*", "events:emit:*", "ext:*"])
    source = handler(body("return [Object.keys($state), $state.other]"), "state:read:count")
    context = call(state={"count": b"1", "other": b"2"}, capabilities=everything)
    info = error(await runtime.execute_source(source, context))
    assert (info.code, info.message) == (
        ErrorCode.PERMISSION_DENIED,
        "the handler has no capability state:read:other",
    )
    source = handler(body("return Object.keys($state)"), "state:read:*")
    narrow = CapabilitySet.parse(["state:read:other"])
    context = call(state={"count": b"1", "other": b"2"}, capabilities=narrow)
    assert value(await runtime.execute_source(source, context)) == ["other"]
