"""The pool's line: bounded, first come first served, and nothing lost when somebody leaves it."""

from __future__ import annotations

import asyncio
import time

import pytest

from nexus_core.engine.image import HeapImage
from nexus_core.errors import PoolExhausted
from tests.core.pools import (
    SMALL,
    NewPool,
    in_line,
)
from tests.core.runtimes import until


async def test_no_more_than_max_waiting_wait(new_pool: NewPool, echo: HeapImage) -> None:
    """The line takes `max_waiting` calls and refuses the next; who left it makes room."""
    pool = new_pool(max_instances=1, max_waiting=2)
    lease = await pool.acquire(echo)
    first, second = await in_line(pool, echo), await in_line(pool, echo)
    with pytest.raises(PoolExhausted, match=r"max_waiting \(2\) calls wait already"):
        await pool.acquire(echo)
    first.cancel()
    await asyncio.wait([first])
    third = await in_line(pool, echo)
    lease.release()
    (await second).release()
    (await third).release()


async def test_waiting_calls_are_served_in_their_order(
    new_pool: NewPool, echo: HeapImage, other: HeapImage
) -> None:
    """The line is first come, first served, whatever the handlers."""
    pool = new_pool(max_instances=1)
    lease = await pool.acquire(echo)
    served: list[int] = []

    async def wait(number: int) -> None:
        with await pool.acquire(other if number % 2 else echo):
            served.append(number)

    tasks = []
    for number in range(6):
        tasks.append(asyncio.create_task(wait(number)))
        await until(lambda number=number: pool.statistics().waiting == number + 1)  # type: ignore[misc]
    lease.release()
    await asyncio.gather(*tasks)
    assert served == list(range(6))


async def test_a_newcomer_does_not_pass_the_line(new_pool: NewPool, echo: HeapImage) -> None:
    """An instance that was handed to a waiting call is gone, although that call has not woken yet."""
    pool = new_pool(max_instances=1, max_waiting=1)
    lease = await pool.acquire(echo)
    waiting = await in_line(pool, echo)
    lease.release()
    assert repr(pool) == "<InstancePool free=0 reserved=1 running=0 suspended=0 asleep=0 waiting=0>"
    newcomer = asyncio.create_task(pool.acquire(echo))
    (await waiting).release()
    (await newcomer).release()


async def test_a_wait_ends_with_the_acquire_timeout(new_pool: NewPool, echo: HeapImage) -> None:
    """Who waits too long is refused and out of the line; the instance goes on to whoever comes next."""
    pool = new_pool(max_instances=1, acquire_timeout_seconds=0.01)
    lease = await pool.acquire(echo)
    with pytest.raises(PoolExhausted, match=r"within acquire_timeout_ms \(10\)"):
        await pool.acquire(echo)
    assert pool.statistics().waiting == 0
    lease.release()
    (await pool.acquire(echo)).release()


async def test_a_wait_ends_with_the_time_of_the_call(new_pool: NewPool, echo: HeapImage) -> None:
    """A call waits no longer than it has time, whatever the acquire timeout."""
    pool = new_pool(max_instances=1, acquire_timeout_seconds=3600)
    with await pool.acquire(echo):
        with pytest.raises(PoolExhausted, match=r"within the call's time \(10\)"):
            await pool.acquire(echo, 0.01)
        assert pool.statistics().waiting == 0


async def test_a_timeout_of_zero_waits_for_nothing(new_pool: NewPool, echo: HeapImage) -> None:
    """With `acquire_timeout_ms` 0 a call is refused at once, though the line has room."""
    pool = new_pool(max_instances=1, acquire_timeout_seconds=0.0)
    with await pool.acquire(echo), pytest.raises(PoolExhausted, match="acquire_timeout_ms is 0"):
        await pool.acquire(echo)


async def test_a_call_that_could_be_served_waits_behind_one_that_cannot(
    new_pool: NewPool, echo: HeapImage, roomy: HeapImage
) -> None:
    """A larger image that the memory budget has no room for is not passed, until it leaves the line."""
    pool = new_pool(max_instances=3, max_total_memory_bytes=2 * SMALL)
    running = await pool.acquire(echo)
    large, small = await in_line(pool, roomy), await in_line(pool, echo)
    late = await in_line(pool, echo)
    assert pool.active_count == 1
    large.cancel()
    (await small).release()
    (await late).release()
    running.release()


async def test_cancelling_a_waiting_call_leaves_the_others_their_order(
    new_pool: NewPool, echo: HeapImage
) -> None:
    """A call that leaves the line takes nothing with it."""
    pool = new_pool(max_instances=1)
    lease = await pool.acquire(echo)
    first, second, third = [await in_line(pool, echo) for _ in range(3)]
    second.cancel()
    await asyncio.wait([second])
    assert pool.statistics().waiting == 2
    lease.release()
    (await first).release()
    (await third).release()
    assert second.cancelled()
    assert pool.available_count == 1


@pytest.mark.parametrize("followers", [0, 1])
async def test_a_call_cancelled_at_the_hand_over_passes_its_instance_on(
    new_pool: NewPool, echo: HeapImage, followers: int
) -> None:
    """An instance given to a call that was cancelled in that moment goes to the next in line, or is free."""
    pool = new_pool(max_instances=1)
    lease = await pool.acquire(echo)
    unlucky = await in_line(pool, echo)
    behind = [await in_line(pool, echo) for _ in range(followers)]
    lease.release()
    unlucky.cancel()
    await asyncio.wait([unlucky])
    assert unlucky.cancelled()
    for task in behind:
        (await task).release()
    assert pool.available_count == 1


async def test_a_wait_that_ends_at_the_hand_over_passes_its_instance_on(
    new_pool: NewPool, echo: HeapImage
) -> None:
    """An instance given to a call in the moment of its timeout is not lost."""
    pool = new_pool(max_instances=1, acquire_timeout_seconds=0.01)
    lease = await pool.acquire(echo)
    late = await in_line(pool, echo)
    # Both are due when the event loop turns next: first the release, then, in the same turn, the timeout.
    asyncio.get_running_loop().call_at(0, lease.release)
    time.sleep(0.02)  # noqa: ASYNC251 - the loop must not turn meanwhile
    await asyncio.wait([late])
    assert isinstance(late.exception(), PoolExhausted)
    assert pool.available_count == 1


async def test_cancelling_a_running_call_gives_its_instance_back(new_pool: NewPool, echo: HeapImage) -> None:
    """A lease that is left by cancellation is released, and the next in line gets the instance."""
    pool = new_pool(max_instances=1)
    running = asyncio.Event()

    async def run() -> None:
        with await pool.acquire(echo):
            running.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await running.wait()
    waiting = await in_line(pool, echo)
    task.cancel()
    (await waiting).release()
    assert task.cancelled()
