"""Pools over real instances, and runs of guests in them by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

from msgspec import Raw

from nexus_core.capabilities import CapabilitySet
from nexus_core.engine.call import CallPolicy, GuestCall
from nexus_core.engine.flush import Flush, Usage
from nexus_core.engine.image import HeapImage
from nexus_core.engine.javascript import IMAGE_SIZES
from nexus_core.engine.javascript_instance import JavaScriptInstance
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.limits import ResourceLimits
from nexus_core.metrics import MetricsCollector
from nexus_core.pool import InstancePool, PooledInstance, PoolSettings
from nexus_core.result import AsyncResult
from tests.core.runtimes import decoded, until
from tests.core.scraping import scrape

POLICY = CallPolicy("handler", CapabilitySet.parse(["ext:*"]), ResourceLimits(), {})

SMALL, ROOMY = IMAGE_SIZES[:2]

NewPool = Callable[..., InstancePool]

ECHO = "export default (event) => event"
SLEEPER = """
let count = 0;
export default async (event) => {
  const mine = { event, order: [++count] };
  const add = (step) => mine.order.push(step);
  add(await $ext.doors.pass("a"));
  add(await $ext.doors.pass("b"));
  return { ...mine, count };
}
"""


def compile_image(kind: JavaScriptKind, code: str, least_size: int = 0) -> HeapImage:
    """The heap image of a handler of one file."""
    image: HeapImage = _end_of(kind.compile("index.js", {"index.js": code}, POLICY, least_size))
    return image


def execute(lease: PooledInstance, event: bytes, usage: Usage | None = None) -> Flush:
    """Start a call on a leased instance and run it until it settles or sleeps."""
    flush: Flush = _end_of(lease.instance.execute(_guest_call(event, usage or Usage())))
    return flush


def resume(lease: PooledInstance, *results: AsyncResult, usage: Usage | None = None) -> Flush:
    """Answer a sleeping call and run on."""
    flush: Flush = _end_of(lease.instance.resume(results, _guest_call(b"null", usage or Usage())))
    return flush


def answer(call_id: int, text: bytes) -> AsyncResult:
    """A good answer to one extension call."""
    return AsyncResult(call_id=call_id, ok=True, value=Raw(text))


def returned(flush: Flush) -> Any:
    """What the handler returned."""
    assert flush.outcome == "returned", flush
    return decoded(flush.value)


def _guest_call(event: bytes, usage: Usage) -> GuestCall:
    return GuestCall(
        event=event,
        scope=b"{}",
        state={},
        request_id="request-1",
        session=None,
        deadline_ms=None,
        policy=POLICY,
        usage=usage,
    )


def _end_of(steps: Generator[None, None, Any]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


class Faults:
    """Makes instances whose next steps fail as told: each entry of a list is raised once, None passes."""

    def __init__(self, kind: JavaScriptKind) -> None:
        self._kind = kind
        self.creating: list[Exception | None] = []
        self.attaching: list[Exception | None] = []
        self.resetting: list[Exception | bool | None] = []
        self.saving: list[Exception | None] = []
        self.made: list[JavaScriptInstance] = []

    def __call__(self) -> JavaScriptInstance:
        """A new instance, or the next failure to make one."""
        _raise_next(self.creating)
        instance = self._kind.new_instance()
        self._spoil(instance, "attach", lambda: self.attaching)
        self._spoil(instance, "reset", lambda: self.resetting)
        self._spoil(instance, "save", lambda: self.saving)
        self.made.append(instance)
        return instance

    @staticmethod
    def _spoil(instance: JavaScriptInstance, name: str, faults: Callable[[], list[Any]]) -> None:
        right: Callable[..., Any] = getattr(instance, name)

        def step(*arguments: Any) -> Any:
            wrong = _raise_next(faults())
            return right(*arguments) if wrong is None else wrong

        setattr(instance, name, step)


def _raise_next(faults: list[Any]) -> bool | None:
    fault: Exception | bool | None = faults.pop(0) if faults else None
    if isinstance(fault, Exception):
        raise fault
    return fault


def pool_of(faults: Faults, metrics: MetricsCollector, **settings: Any) -> InstancePool:
    """A pool of instances from `faults`; its `acquire_timeout_seconds` is met by no test by accident."""
    given = {"max_instances": 2, "acquire_timeout_seconds": 60.0, **settings}
    return InstancePool(faults, PoolSettings(**given), metrics)


def retired(metrics: MetricsCollector) -> dict[str, int]:
    """How many instances were thrown away, by reason."""
    return {
        dict(labels)["reason"]: int(count)
        for (name, labels), count in scrape(metrics).items()
        if name == "nexus_instances_retired_total"
    }


async def in_line(pool: InstancePool, image: HeapImage) -> asyncio.Task[PooledInstance]:
    """A call that waits in the pool's line now."""
    before = pool.statistics().waiting
    task = asyncio.create_task(pool.acquire(image))
    await until(lambda: pool.statistics().waiting == before + 1)
    return task


async def fall_asleep(pool: InstancePool, image: HeapImage, name: str) -> PooledInstance:
    """A call of the sleeper that sleeps under `name`, which was its event too."""
    lease = await pool.acquire(image)
    assert execute(lease, f'"{name}"'.encode()).outcome == "pending"
    pool.park(lease, name)
    return lease


def finish(lease: PooledInstance) -> object:
    """Answer a woken call of the sleeper to its end; its value."""
    usage = Usage()
    usage.last_call_id = 1
    assert resume(lease, answer(1, b'"first"'), usage=usage).outcome == "pending"
    return returned(resume(lease, answer(2, b'"second"'), usage=usage))


def told(name: str) -> dict[str, object]:
    """What the sleeper returns that was called by this name."""
    return {"event": name, "order": [1, "first", "second"], "count": 1}
