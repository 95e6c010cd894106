"""What every state store does: this suite runs on each."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus_core.errors import InternalError, InvalidRequest, ResourceLimitExceeded, StateConflict
from nexus_core.limits import MIB
from nexus_core.result import StateMutation
from nexus_core.stores import bounds
from nexus_core.stores.base import Commit, StateSnapshot, StateStore
from nexus_core.stores.open import open_state_store
from tests.stores.flushes import drop, event, put, text_of


async def test_unknown_session_is_empty(store: StateStore) -> None:
    """A session nobody wrote is empty at version 0, and reading it leaves no trace."""
    snapshot = await store.load("new")
    assert (snapshot.version, snapshot.values) == (0, {})
    assert await store.latest("new") == 0
    assert await store.journal("new", 0) == []


async def test_commit_applies_mutations_in_order(store: StateStore) -> None:
    """A flush is applied as a whole, the last write of a key wins, and the version rises by one."""
    assert await store.commit("s", 0, "r1", [put("a"), put("b", b"[2]"), put("a", b"3")], []) == 1
    assert await store.load("s") == _snapshot(1, a=b"3", b=b"[2]")
    assert await store.commit("s", 1, "r2", [drop("a"), drop("absent"), put("c"), drop("c")], []) == 2
    assert await store.load("s") == _snapshot(2, b=b"[2]")


async def test_sessions_are_apart(store: StateStore) -> None:
    """A write to one session is not seen in another whose id is alike."""
    await store.commit("s", 0, "r", [put("a")], [event("e")])
    for other in ("S", "s1", "s:", "_"):
        assert await store.load(other) == _snapshot(0)
        assert await store.latest(other) == 0


@pytest.mark.parametrize("version", [0, 2, -1])
async def test_lost_race_applies_nothing(store: StateStore, version: int) -> None:
    """A commit on any version but the current one is `StateConflict` and changes nothing."""
    await store.commit("s", 0, "r1", [put("a")], [])
    with pytest.raises(StateConflict, match=f"session 's' is at version 1, not {version}"):
        await store.commit("s", version, "r2", [put("a", b"2")], [event("e")])
    assert await store.load("s") == _snapshot(1, a=b"1")
    assert await store.latest("s") == 1


async def test_new_session_conflicts_too(store: StateStore) -> None:
    """A first commit must be on version 0."""
    with pytest.raises(StateConflict):
        await store.commit("s", 1, "r", [put("a")], [])
    assert await store.load("s") == _snapshot(0)


async def test_one_of_many_wins_each_version(store: StateStore) -> None:
    """Of commits racing on one version exactly one succeeds."""
    for version in range(5):
        racing = (store.commit("s", version, f"r{n}", [put("a", b"%d" % n)], []) for n in range(8))
        outcomes = await asyncio.gather(*racing, return_exceptions=True)
        assert outcomes.count(version + 1) == 1
        assert sum(isinstance(outcome, StateConflict) for outcome in outcomes) == 7


async def test_events_alone_never_conflict(store: StateStore) -> None:
    """A flush of events is journaled on whatever version, and leaves the version as it is."""
    assert await store.commit("s", 9, "r1", [], [event("first")]) == 0
    await store.commit("s", 0, "r2", [put("a")], [])
    assert await store.commit("s", 0, "r3", [], [event("late", b'{"x":1}')]) == 1
    assert [commit.version for commit in await store.journal("s", 0)] == [0, 1, 1]


async def test_flush_of_nothing_leaves_no_trace(store: StateStore) -> None:
    """A flush without mutations and events tells the version and is not journaled."""
    assert await store.commit("s", 5, "r", [], []) == 0
    await store.commit("s", 0, "r", [put("a")], [])
    assert await store.commit("s", 0, "r", [], []) == 1
    assert await store.latest("s") == 1


async def test_journal_tells_every_flush(store: StateStore) -> None:
    """The journal gives flushes after a sequence, in order, as they were handed over."""
    await store.commit("s", 0, "r1", [put("a", b'{"deep":[1]}'), drop("b")], [event("e", b'"x"')])
    await store.commit("other", 0, "r", [put("a")], [])
    await store.commit("s", 1, "r2", [put("ä", b'"\xc3\xa4"')], [])
    first = Commit(1, 1, "r1", (put("a", b'{"deep":[1]}'), drop("b")), (event("e", b'"x"'),))
    second = Commit(2, 2, "r2", (put("ä", b'"\xc3\xa4"'),), ())
    assert list(await store.journal("s", 0)) == [first, second]
    assert list(await store.journal("s", 1)) == [second]
    assert list(await store.journal("s", 2)) == []
    assert await store.latest("s") == 2


async def test_journal_keeps_a_bounded_number(store: StateStore) -> None:
    """Only the newest flushes are kept, and their sequence goes on without holes."""
    for number in range(bounds.JOURNAL_COMMITS + 3):
        await store.commit("s", number, "r", [put("a")], [])
    sequences = [commit.sequence for commit in await store.journal("s", 0)]
    assert sequences == list(range(4, bounds.JOURNAL_COMMITS + 4))


async def test_journal_keeps_bounded_bytes(store: StateStore) -> None:
    """Large flushes push old ones out by their bytes; the newest is kept however large it is."""
    for number in range(6):
        await store.commit("s", number, "r", [put(f"k{n}", text_of(MIB - 2)) for n in range(2)], [])
    assert [commit.sequence for commit in await store.journal("s", 0)] == [3, 4, 5, 6]
    huge = [event("e", text_of(MIB)) for _ in range(10)]
    await store.commit("s", 6, "r", [], huge)
    assert [commit.sequence for commit in await store.journal("s", 0)] == [7]


async def test_latest_of_many(store: StateStore) -> None:
    """One question tells the newest sequence of many sessions; unknown ones are 0 or left out."""
    names = [f"s{number}" for number in range(1500)]
    await store.commit("s3", 0, "r", [put("a")], [])
    await store.commit("s3", 1, "r", [put("a")], [])
    await store.commit("s7", 0, "r", [], [event("e")])
    latest = await store.latest_of(names)
    assert {name: sequence for name, sequence in latest.items() if sequence} == {"s3": 2, "s7": 1}
    assert await store.latest_of([]) == {}


@pytest.mark.parametrize("session", ["", "a b", "a/b", "ä", "x" * 129, "a\n", "\x00"])
async def test_bad_session_ids_are_refused(store: StateStore, session: str) -> None:
    """Every operation refuses an id outside the allowed form as the caller's mistake."""
    for operation in (
        store.load(session),
        store.commit(session, 0, "r", [put("a")], []),
        store.journal(session, 0),
        store.latest(session),
        store.latest_of(["fine", session]),
    ):
        with pytest.raises(InvalidRequest, match="1 to 128"):
            await operation


async def test_longest_session_id_is_accepted(store: StateStore) -> None:
    """An id of 128 characters with every kind of allowed sign works."""
    session = "Az09_.:-".ljust(128, "x")
    await store.commit(session, 0, "r", [put("a")], [])
    assert (await store.load(session)).version == 1


async def test_keys_are_bounded_in_length(store: StateStore) -> None:
    """A key may have 512 characters of any kind, not 513, and no half of a surrogate pair."""
    await store.commit("s", 0, "r", [put("ä" * 512), put(""), put("a\x00b")], [])
    assert set((await store.load("s")).values) == {"ä" * 512, "", "a\x00b"}
    for key, reason in (("a" * 513, "513 used, 512 allowed"), ("\ud800", "surrogate")):
        with pytest.raises(ResourceLimitExceeded, match=reason):
            await store.commit("s", 1, "r", [put("b"), put(key)], [])
    assert (await store.load("s")).version == 1


async def test_values_are_bounded_in_bytes(store: StateStore) -> None:
    """A value may have 1 MiB and not a byte more."""
    await store.commit("s", 0, "r", [put("a", text_of(MIB))], [])
    with pytest.raises(ResourceLimitExceeded, match="1,048,577 used") as caught:
        await store.commit("s", 1, "r", [put("b", text_of(MIB + 1))], [])
    assert caught.value.breach == ("state_value_bytes", MIB, MIB + 1)
    assert list((await store.load("s")).values) == ["a"]


async def test_sessions_are_bounded_in_bytes(store: StateStore) -> None:
    """A session may hold exactly 8 MiB of keys and values; what is overwritten or deleted counts no more."""
    full = [put(str(number), text_of(MIB - 1)) for number in range(8)]
    await store.commit("s", 0, "r", full, [])
    with pytest.raises(ResourceLimitExceeded, match="session bytes"):
        await store.commit("s", 1, "r", [drop("0"), put("0", text_of(MIB))], [])
    assert (await store.load("s")).version == 1
    await store.commit("s", 1, "r", [put("0", text_of(MIB - 2))], [])
    await store.commit("s", 2, "r", [put("", b"1")], [])
    with pytest.raises(ResourceLimitExceeded, match="session bytes"):
        await store.commit("s", 3, "r", [put("", b"12")], [])
    await store.commit("s", 3, "r", [drop("1"), put("ä", text_of(MIB - 2))], [])
    assert (await store.load("s")).version == 4


async def test_sessions_are_bounded_in_keys(store: StateStore) -> None:
    """A session may hold as many keys as the bound, not one more, and deleting makes room."""
    await store.commit("s", 0, "r", [put(str(number)) for number in range(bounds.MAX_SESSION_KEYS)], [])
    with pytest.raises(ResourceLimitExceeded, match="session keys"):
        await store.commit("s", 1, "r", [put("more")], [])
    await store.commit("s", 1, "r", [drop("0"), put("more")], [])
    assert len((await store.load("s")).values) == bounds.MAX_SESSION_KEYS


async def test_flushes_are_bounded_in_bytes(store: StateStore) -> None:
    """What one flush carries is bounded even when the session would stay small."""
    same = [put("a", text_of(MIB - 1)) for _ in range(16)]
    await store.commit("s", 0, "r", same, [])
    with pytest.raises(ResourceLimitExceeded, match="flush bytes"):
        await store.commit("s", 1, "r", same, [event("e")])


async def test_refused_flush_makes_no_session(store: StateStore) -> None:
    """A first flush that is too large leaves the session unknown."""
    with pytest.raises(ResourceLimitExceeded):
        await store.commit("s", 0, "r", [put(str(number), text_of(MIB)) for number in range(9)], [])
    assert await store.load("s") == _snapshot(0)
    assert await store.commit("s", 0, "r", [put("a")], []) == 1


async def test_snapshot_does_not_change(store: StateStore) -> None:
    """What was loaded stays as it was whatever is committed later, and cannot be written to."""
    await store.commit("s", 0, "r", [put("a")], [])
    before = await store.load("s")
    await store.commit("s", 1, "r", [put("a", b"2"), put("b")], [])
    assert before.values == {"a": b"1"}
    with pytest.raises(TypeError):
        before.values["a"] = b"3"  # type: ignore[index]


async def test_closed_store_refuses_work(store: StateStore) -> None:
    """Closing twice is fine; anything else after closing is an error of ours, not a crash."""
    await store.close()
    await store.close()
    for operation in (store.load("s"), store.commit("s", 0, "r", [put("a")], []), store.latest("s")):
        with pytest.raises(InternalError, match="closed"):
            await operation


FLUSHES = st.lists(
    st.lists(
        st.one_of(
            st.builds(put, st.sampled_from("abc"), st.integers().map(lambda number: b"%d" % number)),
            st.builds(drop, st.sampled_from("abc")),
        ),
        max_size=5,
    ),
    max_size=8,
)


@settings(
    max_examples=settings().max_examples * 25 // 100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(flushes=FLUSHES)
def test_any_history_equals_a_dict(store_url: str, flushes: list[list[StateMutation]]) -> None:
    """After any flushes the session equals a dict they were applied to, and so does the journal's replay."""

    async def check() -> None:
        store = open_state_store(store_url)
        before, sequence = await store.load("s"), await store.latest("s")
        version, model, replayed = before.version, dict(before.values), dict(before.values)
        for flush in flushes:
            version = await store.commit("s", version, "r", flush, [])
            _replay(model, flush)
        assert await store.load("s") == _snapshot(version, **model)
        for commit in await store.journal("s", sequence):
            _replay(replayed, commit.mutations)
        assert replayed == model
        await store.close()

    asyncio.run(check())


def _replay(values: dict[str, bytes], flush: Sequence[StateMutation]) -> None:
    for mutation in flush:
        values.pop(mutation.key, None)
        if mutation.op == "set":
            values[mutation.key] = bytes(mutation.value)


def _snapshot(version: int, **values: bytes) -> StateSnapshot:
    return StateSnapshot(version, values)
