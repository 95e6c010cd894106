"""Sleeping calls: their instances serve others, and they go on with their heap."""

from __future__ import annotations

import asyncio

import pytest

from nexus_core.engine.flush import Usage
from nexus_core.engine.image import HeapImage
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.errors import ErrorCode, InternalError, NexusError, PoolExhausted, SuspensionNotFound
from nexus_core.metrics import MetricsCollector
from tests.core.pools import (
    SMALL,
    Faults,
    NewPool,
    answer,
    compile_image,
    execute,
    fall_asleep,
    finish,
    in_line,
    resume,
    retired,
    returned,
    told,
)
from tests.core.runtimes import until
from tests.core.scraping import scrape, value


async def test_a_sleeping_call_keeps_its_instance_while_nobody_needs_it(
    new_pool: NewPool, sleeper: HeapImage, metrics: MetricsCollector
) -> None:
    """Nothing is copied for a call that sleeps in a pool with room; it wakes where it fell asleep."""
    pool = new_pool()
    with await fall_asleep(pool, sleeper, "a") as lease:
        instance = lease.instance
        assert repr(pool) == "<InstancePool free=0 reserved=0 running=0 suspended=1 asleep=1 waiting=0>"
        assert value(scrape(metrics), "nexus_suspensions", where="memory") == 1
        assert pool.get_suspended("a") is lease
        (await pool.acquire(sleeper)).release()
        assert await pool.unpark("a") is lease
        assert lease.instance is instance
        assert pool.suspended_count == 0
        assert finish(lease) == told("a")
    assert value(scrape(metrics), "nexus_suspensions", where="memory") == 0


async def test_a_sleeping_call_goes_on_in_another_instance_with_its_heap(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """Its instance serves another handler meanwhile; variables, closures and module state come back."""
    pool = new_pool(max_instances=1)
    with await fall_asleep(pool, sleeper, "a") as lease:
        with await pool.acquire(echo) as taker:
            assert not taker.created
            assert returned(execute(taker, b'"pristine"')) == "pristine"
            assert repr(pool) == "<InstancePool free=0 reserved=0 running=1 suspended=0 asleep=1 waiting=0>"
            assert 0 < pool.statistics().saved_bytes < SMALL
            with pytest.raises(NexusError, match="holds no instance"):
                _ = lease.instance
        await pool.unpark("a")
        assert pool.statistics().saved_bytes == 0
        assert finish(lease) == told("a")


async def test_a_call_that_sleeps_lets_the_next_in_line_run(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """A call that waits already gets the instance in the moment another falls asleep."""
    pool = new_pool(max_instances=1)
    lease = await pool.acquire(sleeper)
    waiting = await in_line(pool, echo)
    assert execute(lease, b'"a"').outcome == "pending"
    pool.park(lease, "a")
    with await waiting as taker:
        assert returned(execute(taker, b"1")) == 1
    await pool.unpark("a")
    assert finish(lease) == told("a")
    lease.release()


async def test_the_longest_sleeper_loses_its_instance_first(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """Who fell asleep last is likeliest to wake next, and keeps its place."""
    pool = new_pool(max_instances=2)
    with await fall_asleep(pool, sleeper, "a") as one, await fall_asleep(pool, sleeper, "b") as two:
        with await pool.acquire(echo):
            assert (one.slot is None, two.slot is None) == (True, False)
            with await pool.acquire(echo):
                assert two.slot is None
        for name, lease in (("b", two), ("a", one)):
            await pool.unpark(name)
            assert finish(lease) == told(name)


async def test_many_calls_sleep_in_one_instance(new_pool: NewPool, sleeper: HeapImage) -> None:
    """Every sleeper finds its own heap again, in whatever order they wake."""
    pool = new_pool(max_instances=1)
    names = [f"call-{number}" for number in range(8)]
    leases = {name: await fall_asleep(pool, sleeper, name) for name in names}
    for name in reversed(names):
        with leases[name] as lease:
            await pool.unpark(name)
            assert finish(lease) == told(name)


async def test_a_grown_sleeper_takes_its_memory_along(
    new_pool: NewPool, kind: JavaScriptKind, echo: HeapImage, metrics: MetricsCollector
) -> None:
    """A call that outgrew its image before it slept wakes with all of its memory, in another instance."""
    code = """export default async () => {
        const data = new Uint8Array(4 << 20).fill(7);
        await $ext.doors.pass("a");
        return data.reduce((sum, byte) => sum + byte, 0);
    }"""
    image = compile_image(kind, code)
    pool = new_pool(max_instances=1)
    usage = Usage()
    with await pool.acquire(image) as lease:
        assert execute(lease, b"null", usage).outcome == "pending"
        pool.park(lease, "a")
        assert pool.total_memory > 4 << 20
        with await pool.acquire(echo) as taker:
            assert taker.created
            assert pool.total_memory == SMALL
            assert pool.statistics().saved_bytes >= 4 << 20
        assert retired(metrics) == {"outgrown": 1}
        await pool.unpark("a")
        assert returned(resume(lease, answer(1, b"null"), usage=usage)) == 7 * (4 << 20)
    assert lease.outgrew_image
    assert retired(metrics) == {"outgrown": 2}


@pytest.mark.parametrize("most", [0, 1, 2])
async def test_what_is_kept_of_sleeping_calls_is_bounded(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage, most: int
) -> None:
    """When `max_saved` calls sleep without an instance, a new call takes no sleeper's, but waits."""
    pool = new_pool(max_instances=1, max_waiting=0, max_saved=most)
    leases = {f"{number}": await fall_asleep(pool, sleeper, f"{number}") for number in range(most + 1)}
    with pytest.raises(PoolExhausted):
        await pool.acquire(echo)
    assert pool.suspended_count == most + 1
    for name, lease in leases.items():
        await pool.unpark(name)
        assert finish(lease) == told(name)
        lease.release()


async def test_what_is_kept_of_sleeping_calls_is_bounded_by_bytes(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """The same bound by size: once it is reached, new calls wait."""
    pool = new_pool(max_instances=1, max_waiting=0, max_saved_bytes=1)
    with await fall_asleep(pool, sleeper, "a") as one, await fall_asleep(pool, sleeper, "b") as two:
        with pytest.raises(PoolExhausted):
            await pool.acquire(echo)
        for name, lease in (("a", one), ("b", two)):
            await pool.unpark(name)
            assert finish(lease) == told(name)
            lease.release()


async def test_what_is_kept_of_sleeping_calls_counts_to_the_memory_budget(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """Instances and saved pages share `max_total_memory_bytes`."""
    pool = new_pool(max_instances=2, max_waiting=0, max_total_memory_bytes=SMALL)
    with await fall_asleep(pool, sleeper, "a") as one, await fall_asleep(pool, sleeper, "b"):
        assert one.slot is None
        with pytest.raises(PoolExhausted):
            await pool.acquire(echo)


async def test_a_forgotten_sleeper_makes_room_for_who_waits(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """When a call without an instance is given up, the next sleeper can be put aside for who waits."""
    pool = new_pool(max_instances=1, max_saved=1)
    gone, stays = await fall_asleep(pool, sleeper, "gone"), await fall_asleep(pool, sleeper, "stays")
    waiting = await in_line(pool, echo)
    gone.release()
    (await waiting).release()
    assert pool.suspended_count == 1
    await pool.unpark("stays")
    assert finish(stays) == told("stays")
    stays.release()


async def test_a_waking_call_waits_beyond_the_bounds_of_new_ones(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """A call that is half done is neither refused for a full line nor for a long wait."""
    pool = new_pool(max_instances=1, max_waiting=0, acquire_timeout_seconds=0.01)
    lease = await fall_asleep(pool, sleeper, "a")
    with await pool.acquire(echo):
        waking = asyncio.create_task(pool.unpark("a"))
        await until(lambda: pool.statistics().waiting == 1)
        await asyncio.wait([waking], timeout=0.05)
        assert not waking.done()
    await waking
    assert finish(lease) == told("a")
    lease.release()


async def test_a_waking_call_takes_no_place_of_a_new_one(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """`max_waiting` counts new calls only."""
    pool = new_pool(max_instances=1, max_waiting=1)
    lease = await fall_asleep(pool, sleeper, "a")
    busy = await pool.acquire(echo)
    waking = asyncio.create_task(pool.unpark("a"))
    await until(lambda: pool.statistics().waiting == 1)
    newcomer = await in_line(pool, echo)
    with pytest.raises(PoolExhausted):
        await pool.acquire(echo)
    busy.release()
    await waking
    lease.release()
    (await newcomer).release()


async def test_a_waking_call_passes_new_ones_that_must_not_put_a_sleeper_aside(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """When no more may be kept of sleepers, one that wakes still changes places with one that sleeps."""
    pool = new_pool(max_instances=1, max_saved=1)
    first, second = await fall_asleep(pool, sleeper, "first"), await fall_asleep(pool, sleeper, "second")
    newcomer = await in_line(pool, echo)
    assert await asyncio.wait_for(pool.unpark("first"), 20) is first
    assert not newcomer.done()
    assert finish(first) == told("first")
    first.release()
    (await newcomer).release()
    await pool.unpark("second")
    assert finish(second) == told("second")
    second.release()


async def test_a_waking_call_waits_no_longer_than_it_has_time(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """Its own time bounds its wait, and it leaves nothing behind."""
    pool = new_pool(max_instances=1)
    lease = await fall_asleep(pool, sleeper, "a")
    with await pool.acquire(echo):
        with pytest.raises(PoolExhausted, match=r"within the call's time \(10\)"):
            await pool.unpark("a", 0.01)
        assert pool.statistics().saved_bytes == 0
    lease.release()


async def test_a_waking_call_has_its_turn_in_the_line(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """A waking call passes nobody who waits already, so that sleepers cannot starve new calls."""
    pool = new_pool(max_instances=1)
    lease = await fall_asleep(pool, sleeper, "a")
    busy = await pool.acquire(echo)
    first = await in_line(pool, echo)
    waking = asyncio.create_task(pool.unpark("a"))
    await until(lambda: pool.statistics().waiting == 2)
    busy.release()
    with await first:
        assert not waking.done()
    await waking
    lease.release()


async def test_cancelling_a_waking_call_in_the_line_leaves_nothing_behind(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """Its pages are dropped, its place is free, and the instance goes to others."""
    pool = new_pool(max_instances=1)
    lease = await fall_asleep(pool, sleeper, "a")
    with await pool.acquire(echo):
        waking = asyncio.create_task(pool.unpark("a"))
        await until(lambda: pool.statistics().waiting == 1)
        waking.cancel()
        await asyncio.wait([waking])
        assert pool.statistics().saved_bytes == 0
    lease.release()
    assert repr(pool) == "<InstancePool free=1 reserved=0 running=0 suspended=0 asleep=0 waiting=0>"


async def test_a_waking_call_cancelled_at_the_hand_over_passes_its_instance_on(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """The instance it was given in that moment is not lost."""
    pool = new_pool(max_instances=1)
    lease = await fall_asleep(pool, sleeper, "a")
    busy = await pool.acquire(echo)
    waking = asyncio.create_task(pool.unpark("a"))
    await until(lambda: pool.statistics().waiting == 1)
    busy.release()
    waking.cancel()
    await asyncio.wait([waking])
    lease.release()
    assert pool.available_count == 1


async def test_a_failed_wake_up_retires_the_instance(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage, faults: Faults
) -> None:
    """When no instance can be made for a waking call it fails, and the pool goes on."""
    pool = new_pool(max_instances=1)
    lease = await fall_asleep(pool, sleeper, "a")
    faults.resetting = [None, False]
    (await pool.acquire(echo)).release()
    faults.creating = [OSError("no memory")]
    with pytest.raises(OSError, match="no memory"):
        await pool.unpark("a")
    lease.release()
    (await pool.acquire(echo)).release()


async def test_a_sleeper_that_cannot_be_saved_is_lost_alone(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage, faults: Faults
) -> None:
    """Who took the instance runs on a clean heap; the sleeper learns of its end when it wakes."""
    pool = new_pool(max_instances=1)
    lease = await fall_asleep(pool, sleeper, "a")
    faults.saving = [MemoryError()]
    with await pool.acquire(echo) as taker:
        assert returned(execute(taker, b"1")) == 1
    with pytest.raises(InternalError, match="could not be saved"):
        await pool.unpark("a")
    lease.release()
    assert pool.available_count == 1


async def test_only_a_running_call_can_be_parked_and_once(new_pool: NewPool, sleeper: HeapImage) -> None:
    """A second park, one under an id that is taken, and one without an instance are refused."""
    pool = new_pool()
    one, two = await pool.acquire(sleeper), await pool.acquire(sleeper)
    pool.park(one, "a")
    for lease, call_id in ((one, "b"), (two, "a")):
        with pytest.raises(InternalError, match="only a call that runs can be parked"):
            pool.park(lease, call_id)
    two.release()
    with pytest.raises(InternalError, match="only a call that runs can be parked"):
        pool.park(two, "c")
    assert pool.suspended_count == 1
    one.release()
    assert pool.suspended_count == 0


async def test_an_unknown_sleeper_is_reported(new_pool: NewPool) -> None:
    """Asking for, or waking, a call that does not sleep names its id; forgetting it is harmless."""
    pool = new_pool()
    with pytest.raises(SuspensionNotFound, match="no suspended call has the id 'nobody'") as caught:
        pool.get_suspended("nobody")
    assert caught.value.code is ErrorCode.SUSPENSION_NOT_FOUND
    with pytest.raises(SuspensionNotFound):
        await pool.unpark("nobody")
    pool.forget("nobody")


async def test_a_forgotten_sleeper_runs_on_in_its_instance_until_it_is_released(
    new_pool: NewPool, sleeper: HeapImage
) -> None:
    """Forgetting ends the sleep, not the lease."""
    pool = new_pool()
    lease = await fall_asleep(pool, sleeper, "a")
    pool.forget("a")
    assert repr(pool) == "<InstancePool free=0 reserved=0 running=1 suspended=0 asleep=0 waiting=0>"
    lease.release()
