"""The instance pool on real instances: who gets which, and what becomes of broken ones."""

from __future__ import annotations

import pytest

from nexus_core.engine.image import HeapImage
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.errors import NexusError, PoolExhausted
from nexus_core.metrics import MetricsCollector
from tests.core.pools import (
    ROOMY,
    SMALL,
    Faults,
    NewPool,
    compile_image,
    execute,
    in_line,
    retired,
    returned,
)


async def test_a_lease_passes_through_its_states(new_pool: NewPool, echo: HeapImage) -> None:
    """A new pool is empty; a lease makes an instance that runs, and is free after the release."""
    pool = new_pool()
    assert repr(pool) == "<InstancePool free=0 reserved=0 running=0 suspended=0 asleep=0 waiting=0>"
    with await pool.acquire(echo) as lease:
        assert lease.created
        assert repr(pool) == "<InstancePool free=0 reserved=0 running=1 suspended=0 asleep=0 waiting=0>"
        assert (pool.active_count, pool.available_count, pool.total_memory) == (1, 0, SMALL)
        assert returned(execute(lease, b"[1]")) == [1]
    assert repr(pool) == "<InstancePool free=1 reserved=0 running=0 suspended=0 asleep=0 waiting=0>"
    assert (pool.active_count, pool.available_count, pool.instances_created) == (0, 1, 1)


async def test_a_lease_is_released_when_its_block_fails(new_pool: NewPool, echo: HeapImage) -> None:
    """Whatever leaves the block, the instance goes back."""
    pool = new_pool()
    with pytest.raises(ZeroDivisionError), await pool.acquire(echo):
        raise ZeroDivisionError
    assert pool.available_count == 1


async def test_releasing_twice_is_harmless(new_pool: NewPool, echo: HeapImage) -> None:
    """The second release does nothing, even when the instance runs for somebody else by then."""
    pool = new_pool(max_instances=1)
    first = await pool.acquire(echo)
    first.release()
    second = await pool.acquire(echo)
    first.release()
    assert pool.active_count == 1
    with pytest.raises(NexusError, match="holds no instance"):
        _ = first.instance
    second.release()


async def test_an_instance_with_the_image_is_preferred(
    new_pool: NewPool, echo: HeapImage, other: HeapImage
) -> None:
    """A call gets the free instance that has its handler, however long another one has been free."""
    pool = new_pool()
    with await pool.acquire(other) as one, await pool.acquire(echo) as two:
        instances = {id(other): one.instance, id(echo): two.instance}
    for image in (echo, other, other, echo):
        with await pool.acquire(image) as lease:
            assert lease.instance is instances[id(image)]
            assert not lease.created


async def test_the_instance_used_last_is_used_next(new_pool: NewPool, echo: HeapImage) -> None:
    """Of several with the image the warmest one is taken, so that the others become idle."""
    pool = new_pool(max_instances=3)
    leases = [await pool.acquire(echo) for _ in range(3)]
    last = leases[1].instance
    for lease in (leases[0], leases[2], leases[1]):
        lease.release()
    with await pool.acquire(echo) as lease:
        assert lease.instance is last


async def test_another_free_instance_is_attached_before_one_is_made(
    new_pool: NewPool, echo: HeapImage, other: HeapImage
) -> None:
    """A free instance belongs to nobody: it becomes the other handler's, with nothing of the first."""
    pool = new_pool()
    with await pool.acquire(echo) as lease:
        instance = lease.instance
    with await pool.acquire(other) as lease:
        assert lease.instance is instance
        assert returned(execute(lease, b"1")) == ["other", 1]
    assert pool.instances_created == 1


async def test_an_instance_too_large_for_an_image_is_left_alone(
    new_pool: NewPool, echo: HeapImage, roomy: HeapImage
) -> None:
    """While one more may be made, an instance that a smaller image does not fit keeps its handler."""
    pool = new_pool(max_instances=2)
    (await pool.acquire(roomy)).release()
    with await pool.acquire(echo) as lease:
        assert lease.created
        assert pool.available_count == 1


async def test_an_instance_too_large_for_an_image_is_replaced(
    new_pool: NewPool, echo: HeapImage, roomy: HeapImage, metrics: MetricsCollector
) -> None:
    """When no more may be made, the one that does not fit gives way: memory never shrinks."""
    pool = new_pool(max_instances=1)
    (await pool.acquire(roomy)).release()
    assert pool.total_memory == ROOMY
    with await pool.acquire(echo) as lease:
        assert lease.created
        assert pool.total_memory == SMALL
    assert retired(metrics) == {"size": 1}


async def test_a_small_instance_grows_for_a_larger_image(
    new_pool: NewPool, echo: HeapImage, roomy: HeapImage
) -> None:
    """A larger image takes a free smaller instance, and its memory is counted."""
    pool = new_pool()
    (await pool.acquire(echo)).release()
    with await pool.acquire(roomy) as lease:
        assert not lease.created
        assert returned(execute(lease, b"2")) == 2
        assert pool.total_memory == ROOMY
    assert pool.statistics().peak_memory_bytes == ROOMY


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_no_more_than_max_instances_run(new_pool: NewPool, echo: HeapImage, most: int) -> None:
    """As many as `max_instances` are leased at once; one more is refused when nobody may wait."""
    pool = new_pool(max_instances=most, max_waiting=0)
    leases = [await pool.acquire(echo) for _ in range(most)]
    with pytest.raises(
        PoolExhausted, match=rf"all {most} instances are busy and max_waiting \(0\)"
    ) as caught:
        await pool.acquire(echo)
    assert caught.value.retryable
    for lease in leases:
        lease.release()
    assert pool.instances_created == most


async def test_a_failed_creation_costs_only_its_own_call(
    new_pool: NewPool, echo: HeapImage, faults: Faults
) -> None:
    """When an instance cannot be made, the caller gets the error and the place is free again."""
    pool = new_pool(max_instances=1)
    faults.creating = [OSError("no memory")]
    with pytest.raises(OSError, match="no memory"):
        await pool.acquire(echo)
    assert repr(pool) == "<InstancePool free=0 reserved=0 running=0 suspended=0 asleep=0 waiting=0>"
    assert pool.total_memory == 0
    (await pool.acquire(echo)).release()
    assert pool.instances_created == 1


async def test_a_failed_attach_retires_the_instance_and_serves_the_next(
    new_pool: NewPool, echo: HeapImage, other: HeapImage, faults: Faults, metrics: MetricsCollector
) -> None:
    """An instance whose memory may be half replaced is thrown away; the next in line gets a new one."""
    pool = new_pool(max_instances=1)
    lease = await pool.acquire(echo)
    faults.attaching = [OSError("no mapping")]
    unlucky, lucky = await in_line(pool, other), await in_line(pool, echo)
    lease.release()
    with pytest.raises(OSError, match="no mapping"):
        await unlucky
    with await lucky as lease:
        assert returned(execute(lease, b"3")) == 3
        assert lease.created
    assert retired(metrics) == {"broken": 1}


@pytest.mark.parametrize("fault", [False, ValueError("half mapped")])
async def test_an_instance_that_cannot_be_reset_is_never_used_again(
    new_pool: NewPool, echo: HeapImage, faults: Faults, metrics: MetricsCollector, fault: Exception | bool
) -> None:
    """A reset that fails, or breaks, retires the instance; the place stays."""
    pool = new_pool(max_instances=1)
    faults.resetting = [fault]
    (await pool.acquire(echo)).release()
    assert pool.available_count == 0
    assert retired(metrics) == {"reset": 1}
    with await pool.acquire(echo) as lease:
        assert lease.created


async def test_an_instance_that_outgrew_its_image_is_retired(
    new_pool: NewPool, kind: JavaScriptKind, metrics: MetricsCollector
) -> None:
    """Memory that grew during a call is described by no image: the instance goes, and the lease tells."""
    image = compile_image(kind, "export default () => new Uint8Array(4 << 20).length")
    pool = new_pool()
    lease = await pool.acquire(image)
    assert returned(execute(lease, b"null")) == 4 << 20
    lease.release()
    assert lease.outgrew_image
    assert retired(metrics) == {"outgrown": 1}
    assert pool.total_memory == 0
    assert pool.statistics().peak_memory_bytes > 4 << 20
