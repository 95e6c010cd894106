"""The pool keeps house: made ahead, retired when idle, held to its memory, and closed in the end."""

from __future__ import annotations

import asyncio

import pytest

from nexus_core.engine.image import HeapImage
from nexus_core.errors import PoolExhausted
from nexus_core.metrics import MetricsCollector
from tests.core.pools import (
    ROOMY,
    SMALL,
    Faults,
    NewPool,
    execute,
    fall_asleep,
    finish,
    in_line,
    retired,
    returned,
    told,
)
from tests.core.runtimes import until
from tests.core.scraping import scrape, value


@pytest.mark.parametrize(("least", "most"), [(0, 2), (1, 2), (2, 2), (2, 1)])
async def test_prewarming_makes_min_instances(
    new_pool: NewPool, echo: HeapImage, least: int, most: int
) -> None:
    """`min_instances` are made ahead, never more than `max_instances`; doing it again makes none."""
    pool = new_pool(min_instances=least, max_instances=most)
    pool.prewarm()
    pool.prewarm()
    assert pool.available_count == pool.instances_created == min(least, most)
    with await pool.acquire(echo) as lease:
        assert lease.created == (least == 0)


async def test_prewarming_counts_instances_of_sleeping_calls(new_pool: NewPool, sleeper: HeapImage) -> None:
    """An instance that belongs to a sleeping call counts towards `min_instances`."""
    pool = new_pool(min_instances=2, max_instances=3)
    with await pool.acquire(sleeper) as lease:
        pool.park(lease, "asleep")
        pool.prewarm()
        assert repr(pool) == "<InstancePool free=1 reserved=0 running=0 suspended=1 asleep=1 waiting=0>"


async def test_a_failed_prewarming_leaves_the_pool_whole(
    new_pool: NewPool, echo: HeapImage, faults: Faults
) -> None:
    """The failure is told to who starts the pool, and no place is lost by it."""
    pool = new_pool(min_instances=2, max_instances=2, max_waiting=0)
    faults.creating = [None, OSError("no memory")]
    with pytest.raises(OSError, match="no memory"):
        pool.prewarm()
    assert pool.available_count == 1
    with await pool.acquire(echo), await pool.acquire(echo):
        assert pool.active_count == 2


async def test_idle_instances_are_retired_down_to_the_minimum(
    new_pool: NewPool, echo: HeapImage, metrics: MetricsCollector
) -> None:
    """Those idle for too long are closed, but `min_instances` stay."""
    pool = new_pool(min_instances=1, max_instances=3, idle_timeout_seconds=1e-9)
    leases = [await pool.acquire(echo) for _ in range(3)]
    assert pool.retire_idle() == 0
    for lease in leases:
        lease.release()
    assert pool.retire_idle() == 2
    assert pool.retire_idle() == 0
    assert (pool.available_count, pool.total_memory) == (1, SMALL)
    assert retired(metrics) == {"idle": 2}


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
async def test_instances_that_are_not_idle_long_enough_stay(
    new_pool: NewPool, echo: HeapImage, seconds: float
) -> None:
    """Before the idle timeout nothing is closed; a timeout of 0 means never."""
    pool = new_pool(idle_timeout_seconds=seconds)
    (await pool.acquire(echo)).release()
    assert pool.retire_idle() == 0
    assert pool.available_count == 1


async def test_instances_of_running_and_sleeping_calls_count_as_the_minimum(
    new_pool: NewPool, sleeper: HeapImage
) -> None:
    """With enough instances in use, every idle one may go."""
    pool = new_pool(min_instances=2, max_instances=3, idle_timeout_seconds=1e-9)
    with await pool.acquire(sleeper), await pool.acquire(sleeper) as asleep:
        (await pool.acquire(sleeper)).release()
        pool.park(asleep, "asleep")
        assert pool.retire_idle() == 1


@pytest.mark.parametrize(("budget", "made"), [(2 * SMALL - 1, 1), (2 * SMALL, 2), (2 * SMALL + 1, 2)])
async def test_no_instance_is_made_past_the_memory_budget(
    new_pool: NewPool, echo: HeapImage, budget: int, made: int
) -> None:
    """A second instance is made only when both fit `max_total_memory_bytes`; else the call waits."""
    pool = new_pool(max_instances=3, max_waiting=0, max_total_memory_bytes=budget)
    leases = [await pool.acquire(echo) for _ in range(made)]
    with pytest.raises(PoolExhausted):
        await pool.acquire(echo)
    assert pool.total_memory == made * SMALL <= budget
    for lease in leases:
        lease.release()


async def test_an_instance_counts_to_the_budget_before_it_is_made(
    new_pool: NewPool, echo: HeapImage, faults: Faults
) -> None:
    """One that is promised to a waiting call leaves no room for another that is made meanwhile."""
    pool = new_pool(max_instances=3, max_total_memory_bytes=2 * SMALL)
    one, two = await pool.acquire(echo), await pool.acquire(echo)
    waiting = await in_line(pool, echo)
    faults.resetting = [False]
    one.release()
    assert repr(pool) == "<InstancePool free=0 reserved=1 running=1 suspended=0 asleep=0 waiting=0>"
    assert pool.total_memory == 2 * SMALL
    (await waiting).release()
    two.release()


async def test_saved_pages_count_when_an_instance_is_made(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """What is kept of sleeping calls takes the place of instances in the budget."""
    settings = {"max_total_memory_bytes": 2 * SMALL, "idle_timeout_seconds": 1e-9, "max_waiting": 0}
    pool = new_pool(max_instances=3, **settings)
    with await fall_asleep(pool, sleeper, "a"):
        with await pool.acquire(echo), await pool.acquire(echo):
            assert pool.statistics().saved_bytes > 0
        assert pool.retire_idle() == 2
        with await pool.acquire(echo), pytest.raises(PoolExhausted):
            await pool.acquire(echo)


async def test_the_first_instance_is_made_whatever_the_budget(new_pool: NewPool, echo: HeapImage) -> None:
    """A budget smaller than one instance still lets calls run, one at a time."""
    pool = new_pool(max_instances=2, max_waiting=0, max_total_memory_bytes=1)
    with await pool.acquire(echo), pytest.raises(PoolExhausted):
        await pool.acquire(echo)


async def test_free_instances_are_given_up_while_the_budget_is_passed(
    new_pool: NewPool, echo: HeapImage, roomy: HeapImage, metrics: MetricsCollector
) -> None:
    """An instance that grew past the budget for a larger image costs idle ones their place."""
    pool = new_pool(max_instances=2, max_total_memory_bytes=ROOMY)
    with await pool.acquire(echo), await pool.acquire(echo):
        pass
    assert pool.total_memory == 2 * SMALL
    with await pool.acquire(roomy):
        assert pool.total_memory == ROOMY
    assert retired(metrics) == {"budget": 1}


async def test_prewarming_keeps_to_the_budget(new_pool: NewPool) -> None:
    """Making instances ahead stops where the budget is reached."""
    pool = new_pool(min_instances=2, max_instances=2, max_total_memory_bytes=1)
    pool.prewarm()
    assert pool.available_count == 1


async def test_a_shutdown_lets_running_calls_end(new_pool: NewPool, echo: HeapImage) -> None:
    """It waits for the running call, refuses new and waiting ones, and closes every instance."""
    pool = new_pool(max_instances=1)
    lease = await pool.acquire(echo)
    waiting = await in_line(pool, echo)
    ending = asyncio.create_task(pool.shutdown(60))
    with pytest.raises(PoolExhausted, match="shutting down"):
        await waiting
    with pytest.raises(PoolExhausted, match="shutting down"):
        await pool.acquire(echo)
    assert not ending.done()
    assert returned(execute(lease, b"1")) == 1
    lease.release()
    assert await ending
    assert pool.available_count == 0


@pytest.mark.parametrize("awake", [True, False])
async def test_a_shutdown_lets_sleeping_calls_end(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage, awake: bool
) -> None:
    """A sleeper whose instance serves another call gets one still, whether it waits already or not."""
    pool = new_pool(max_instances=1)
    lease = await fall_asleep(pool, sleeper, "a")
    busy = await pool.acquire(echo)
    waking = asyncio.create_task(pool.unpark("a"))
    if awake:
        await until(lambda: pool.statistics().waiting == 1)
    ending = asyncio.create_task(pool.shutdown(60))
    await until(lambda: pool._closing and pool.statistics().waiting == 1)
    busy.release()
    await waking
    assert not ending.done()
    assert finish(lease) == told("a")
    lease.release()
    assert await ending


async def test_a_shutdown_ends_when_the_last_sleeper_is_given_up(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """A call that sleeps without an instance and is released does not keep the pool waiting."""
    pool = new_pool(max_instances=1)
    lease = await fall_asleep(pool, sleeper, "a")
    (await pool.acquire(echo)).release()
    ending = asyncio.create_task(pool.shutdown(3600))
    await until(lambda: pool._closing)
    lease.release()
    assert await asyncio.wait_for(ending, 10)


async def test_a_shutdown_does_not_wait_past_its_deadline(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """It tells that calls still ran; what they give back later is closed, and nobody wakes any more."""
    pool = new_pool(max_instances=2)
    running = await pool.acquire(echo)
    asleep = await fall_asleep(pool, sleeper, "a")
    evicted = await fall_asleep(pool, sleeper, "b")
    third = await pool.acquire(echo)
    assert not await pool.shutdown(0)
    with pytest.raises(PoolExhausted, match="shutting down"):
        await pool.unpark("a")
    for lease in (running, asleep, evicted, third):
        lease.release()
    assert pool.total_memory == 0
    assert await pool.shutdown(0)


async def test_a_waking_call_is_refused_when_the_pool_has_closed(
    new_pool: NewPool, sleeper: HeapImage, echo: HeapImage
) -> None:
    """At the deadline nobody waits on for an instance that will not come."""
    pool = new_pool(max_instances=1)
    lease = await fall_asleep(pool, sleeper, "a")
    busy = await pool.acquire(echo)
    waking = asyncio.create_task(pool.unpark("a"))
    await until(lambda: pool.statistics().waiting == 1)
    assert not await pool.shutdown(0)
    with pytest.raises(PoolExhausted, match="shutting down"):
        await waking
    busy.release()
    lease.release()


async def test_statistics_are_a_copy(new_pool: NewPool, echo: HeapImage, metrics: MetricsCollector) -> None:
    """What was asked for does not change afterwards, and the counters reach the metrics."""
    pool = new_pool()
    before = pool.statistics()
    with await pool.acquire(echo):
        pass
    assert before.created_total == 0
    assert pool.statistics().created_total == 1
    samples = scrape(metrics)
    assert value(samples, "nexus_instances_created_total") == 1
    assert value(samples, "nexus_pool_wait_seconds_count") == 1
