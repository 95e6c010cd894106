"""Callers who share one making of a value."""

import asyncio
import gc
from typing import Any

import pytest

from nexus_core.caches.single_flight import SingleFlight


class Maker:
    """Makes a numbered value when it is let go; counts how often it was asked."""

    def __init__(self) -> None:
        self.started = 0
        self.start = asyncio.Event()
        self.cancelled = 0
        self.go = asyncio.Event()
        self.failure: Exception | None = None

    async def make(self) -> int:
        """Wait to be let go, then give the number of this making, or fail."""
        self.started += 1
        self.start.set()
        number = self.started
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        return number


@pytest.fixture
async def maker() -> Maker:
    """A maker of the running loop."""
    return Maker()


def callers(flights: SingleFlight[str, int], maker: Maker, count: int) -> list[asyncio.Task[int]]:
    """So many callers of the same key."""
    return [asyncio.create_task(flights.run("key", maker.make)) for _ in range(count)]


async def test_fifty_first_calls_make_it_once(maker: Maker) -> None:
    """All get the same value, and nothing is left behind."""
    flights: SingleFlight[str, int] = SingleFlight()
    waiting = callers(flights, maker, 50)
    await maker.start.wait()
    assert len(flights) == 1
    maker.go.set()
    assert await asyncio.gather(*waiting) == [1] * 50
    assert maker.started == 1
    assert len(flights) == 0


async def test_nothing_is_remembered(maker: Maker) -> None:
    """A call after the work ended makes anew: remembering is the caches' task."""
    flights: SingleFlight[str, int] = SingleFlight()
    maker.go.set()
    assert [await flights.run("key", maker.make) for _ in range(2)] == [1, 2]


async def test_keys_do_not_wait_for_each_other(maker: Maker) -> None:
    """One slow making holds up nobody who wants something else."""
    flights: SingleFlight[str, int] = SingleFlight()
    slow = callers(flights, maker, 1)
    other = Maker()
    other.go.set()
    assert await flights.run("other", other.make) == 1
    maker.go.set()
    assert await asyncio.gather(*slow) == [1]


async def test_a_failure_goes_to_all_who_wait_and_to_no_later_caller(maker: Maker) -> None:
    """Every waiter gets the error itself; the next caller tries again."""
    flights: SingleFlight[str, int] = SingleFlight()
    maker.failure = ValueError("no")
    waiting = callers(flights, maker, 5)
    await maker.start.wait()
    maker.go.set()
    assert await asyncio.gather(*waiting, return_exceptions=True) == [maker.failure] * 5
    maker.failure = None
    assert await flights.run("key", maker.make) == 2


async def test_a_failure_before_the_first_wait_is_shared_too() -> None:
    """It makes no difference whether the work ever waited, or could even be started."""
    flights: SingleFlight[str, int] = SingleFlight()

    def refuse() -> Any:
        raise ValueError("at once")

    waiting = [asyncio.create_task(flights.run("key", refuse)) for _ in range(2)]
    for caller in waiting:
        with pytest.raises(ValueError, match="at once"):
            await caller
    assert len(flights) == 0


@pytest.mark.parametrize("leaving", [0, 1, 2])
async def test_one_who_leaves_does_not_take_the_work_along(maker: Maker, leaving: int) -> None:
    """Cancelling any one caller, the first included, leaves the others their value."""
    flights: SingleFlight[str, int] = SingleFlight()
    waiting = callers(flights, maker, 3)
    await maker.start.wait()
    gone = waiting.pop(leaving)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    maker.go.set()
    assert await asyncio.gather(*waiting) == [1, 1]
    assert (maker.started, maker.cancelled) == (1, 0)


async def test_the_last_who_leaves_ends_the_work(maker: Maker) -> None:
    """Work nobody waits for is cancelled, and who comes next gets work of its own at once."""
    flights: SingleFlight[str, int] = SingleFlight()
    waiting = callers(flights, maker, 3)
    await maker.start.wait()
    for caller in waiting:
        caller.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    maker.start.clear()
    next_one = callers(flights, maker, 1)
    await maker.start.wait()
    assert maker.cancelled == 1
    assert len(flights) == 1
    maker.go.set()
    assert await next_one[0] == 2


async def test_work_that_is_slow_to_end_does_not_disturb_its_successor() -> None:
    """The end of cancelled work leaves the flight that took its place alone."""
    flights: SingleFlight[str, str] = SingleFlight()
    ending, ended, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def old() -> str:
        try:
            await go.wait()
        except asyncio.CancelledError:
            ending.set()
            await ended.wait()
            raise
        return "old"

    async def new() -> str:
        await go.wait()
        return "new"

    first = asyncio.create_task(flights.run("key", old))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await ending.wait()
    second = asyncio.create_task(flights.run("key", new))
    await asyncio.sleep(0)
    ended.set()
    await asyncio.gather(first, return_exceptions=True)
    await asyncio.sleep(0)
    third = asyncio.create_task(flights.run("key", old))
    await asyncio.sleep(0)
    go.set()
    assert tuple(await asyncio.gather(second, third)) == ("new", "new")


async def test_a_failure_nobody_waits_for_is_silent() -> None:
    """Work that fails while it is cancelled does not cry into the log of the loop."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    flights: SingleFlight[str, int] = SingleFlight()
    started = asyncio.Event()

    async def stubborn() -> int:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("while ending") from None
        return 1

    caller = asyncio.create_task(flights.run("key", stubborn))
    await started.wait()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await asyncio.sleep(0)
    del caller
    gc.collect()
    assert complaints == []
