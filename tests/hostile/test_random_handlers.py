"""Random handlers: whatever one does and however it ends, nothing of it is left in its instance."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus_core.engine.driver import TimeBudget, finish
from nexus_core.engine.image import HeapImage
from nexus_core.engine.javascript_instance import JavaScriptInstance
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.errors import NexusError
from nexus_core.limits import MIB
from nexus_core.result import AsyncResult
from tests.engine.guests import ALL, call_text, check_pristine, compile_text, guest_call, policy

WORLD = """
const keep = [];
const cache = new Map();
let counter = 0;
const sticky = /x/gy;
const registry = new FinalizationRegistry((held) => { counter += held; });
const given = { log: console.log, emit: $emit, stringify: JSON.stringify, random: Math.random };
class Own { static made = 0; }

const shape = (object) => Reflect.ownKeys(object).map((key) => {
  const { value, get, set, ...flags } = Reflect.getOwnPropertyDescriptor(object, key);
  const told = typeof value === "function" ? value.name + value.length : typeof value;
  return [String(key), told, typeof get, typeof set, JSON.stringify(flags)].join();
});
const look = () => [
  ...[globalThis, Object.prototype, Array.prototype, Function.prototype, Promise.prototype, String.prototype,
      RegExp.prototype, Map.prototype, Error, Error.prototype, JSON, Math, Reflect, Symbol, Promise, Object,
      Array, Date, console, Own].map((object) => shape(object)),
  keep.length, [...cache], counter, sticky.lastIndex, Object.isFrozen(Object.prototype),
  given.log === console.log, given.emit === $emit, given.stringify === JSON.stringify,
  given.random === Math.random, Object.keys($state), typeof $args, Own.made,
];
"""

HANDLER = (
    WORLD
    + """
export default (event, ctx) => {
  if (event.look) return look();
  const work = async () => {
    for (const code of event.code) await eval(code);
    return event.end ? await eval(event.end) : null;
  };
  return event.sync ? eval(event.code.filter((code) => !code.includes("await")).join("\\n")) : work();
};"""
)

OTHER = WORLD + "export default () => look();"

names = st.sampled_from(["a", "b", "__proto__", "toString", "length", "0"])
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 1 << 40),
    st.text(max_size=12),
    st.lists(st.integers(), max_size=3),
).map(json.dumps)
sizes = st.sampled_from([1, 100, 5_000, 70_000, 700_000])

ACTIONS = (
    "globalThis[NAME] = VALUE",
    "globalThis['made' + NAME] = VALUE",
    "Object.prototype['p' + NAME] = VALUE",
    "Object.defineProperty(Array.prototype, 'q' + NAME, { get() { return VALUE } })",
    "Array.prototype.map = () => VALUE",
    "delete String.prototype.trim",
    "JSON.stringify = () => 'x'",
    "Object.freeze(Object.prototype)",
    "const { then } = Promise.prototype; Promise.prototype.then = function (f) { return then.call(this, f) }",
    "Error.prepareStackTrace = () => VALUE",
    "Error.stackTraceLimit = SIZE",
    "keep.push(new Uint8Array(SIZE).fill(7))",
    "keep.push(new Float64Array(SIZE >> 3).map((_, i) => i))",
    "keep.push('y'.repeat(SIZE) + counter)",
    "keep.push(Array.from({ length: SIZE >> 4 }, (_, i) => ({ i })))",
    "keep.push(() => keep, (function* () { yield keep })(), Symbol('s'), SIZEn ** 3n)",
    "keep.length = 0",
    "cache.set(NAME, VALUE).set(SIZE, keep)",
    "counter += SIZE",
    "sticky.lastIndex = SIZE; sticky.test('xx')",
    "keep.push(Symbol.for('registry' + NAME + SIZE))",
    "keep.push(new WeakRef({}), new WeakRef(keep)); registry.register({}, 1); registry.register(keep, 2)",
    "Own.made = VALUE; Own.prototype.extra = 1",
    "console.log = () => counter++",
    "console.log(NAME, VALUE)",
    "$state[NAME] = VALUE",
    "$state.list = [1]; $state.list.push(SIZE)",
    "$emit(NAME, VALUE)",
    "$view.update(NAME, VALUE)",
    "globalThis.$emit = null",
    "ctx.mark = event.mark = VALUE",
    "Math.random(); Math.random()",
    "Math.random = () => 0.5",
    "crypto.getRandomValues(new Uint8Array(40))",
    "Promise.resolve().then(() => { keep.push(counter) })",
    "queueMicrotask(() => { throw 1 })",
    "new Promise(() => {})",
    "Promise.reject(VALUE)",
    "eval('var evaluated' + SIZE + ' = 1'); (0, eval)('var global' + SIZE + ' = 1')",
    "globalThis.Date = null",
    "Object.setPrototypeOf(globalThis, { inherited: VALUE })",
    "await null",
    "keep.push(structure = { counter })",
)
actions = st.builds(
    lambda action, name, value, size: (
        action.replace("NAME", json.dumps(name)).replace("VALUE", value).replace("SIZE", str(size))
    ),
    st.sampled_from(ACTIONS),
    names,
    values,
    sizes,
)

ENDINGS = (
    "",
    "1",
    "'z'.repeat(100000)",
    "(() => { throw new Error('end') })()",
    "Promise.reject(undefined)",
    "new Promise(() => {})",
    "(() => { const f = () => f() + 1; f() })()",
    "(() => { for (;;) keep.push(new Array(1000).fill({})) })()",
    "(() => { for (;;) $emit('a', 1) })()",
    "(() => { for (;;); })()",
    "(async () => { for (;;) await null; })()",
    "$ext.http.get(1)",
    "Promise.all([$ext.http.get(1), $ext.http.get(2)])",
    "new ArrayBuffer(1 << 30)",
    "JSON.parse('['.repeat(1e6))",
)
LIMITS = policy(ALL, memory_limit_bytes=8 * MIB)


@pytest.fixture(scope="module")
def image(kind: JavaScriptKind) -> HeapImage:
    """The handler that does what its event says."""
    return compile_text(kind, HANDLER, LIMITS)


@pytest.fixture(scope="module")
def other(kind: JavaScriptKind) -> HeapImage:
    """Another handler, which only looks."""
    return compile_text(kind, OTHER, LIMITS)


@pytest.fixture(scope="module")
def looks(kind: JavaScriptKind, image: HeapImage, other: HeapImage) -> tuple[Any, Any]:
    """What the two handlers see in instances that nobody used before."""
    seen = []
    for each in (image, other):
        fresh = kind.new_instance()
        fresh.attach(each)
        seen.append(call_text(fresh, guest_call(LIMITS, {"look": 1})))
        fresh.terminate()
    return seen[0], seen[1]


class Bench:
    """The instances a property works on; one that must go is replaced, as the pool does it."""

    def __init__(self, kind: JavaScriptKind) -> None:
        self._kind = kind
        self.instance = kind.new_instance()

    def attach(self, image: HeapImage) -> JavaScriptInstance:
        """The instance with this image."""
        if not self.instance.fits(image):
            self.renew()
        if self.instance.image is not image:
            self.instance.attach(image)
        return self.instance

    def renew(self) -> None:
        """Drop the instance for a new one."""
        self.instance.terminate()
        self.instance = self._kind.new_instance()

    def release(self) -> None:
        """What the pool does at the end of a lease; then every byte must be the image's."""
        image = self.instance.image
        assert image is not None
        grown = self.instance.memory_used != image.memory_size
        if self.instance.reset():
            assert not grown
            check_pristine(self.instance)
        else:
            assert grown
            self.renew()


@pytest.fixture(scope="module")
def bench(kind: JavaScriptKind) -> Iterator[Bench]:
    """Instances for the properties of this module."""
    made = Bench(kind)
    yield made
    made.instance.terminate()


def attempt(instance: JavaScriptInstance, event: Any, stop_after: int | None) -> bool:
    """Run a call to its end, or to its end by force after some ticks; whether it waits for answers."""
    steps = instance.execute(guest_call(LIMITS, event, state={"old": [1]}))
    try:
        if stop_after is None:
            flush = finish(steps, TimeBudget(60, 0))
        else:
            for _ in range(stop_after):
                next(steps)
            steps.close()
            return False
    except (NexusError, StopIteration):
        return False
    return flush.outcome == "pending" and bool(flush.calls)


@settings(max_examples=settings().max_examples * 60 // 100, suppress_health_check=list(HealthCheck))
@given(
    code=st.lists(actions, max_size=6),
    end=st.sampled_from(ENDINGS),
    sync=st.booleans(),
    stop_after=st.sampled_from([None, None, None, 0, 1, 3]),
    answer=st.sampled_from(["none", "here", "elsewhere"]),
)
def test_nothing_of_a_call_is_left(
    bench: Bench,
    image: HeapImage,
    other: HeapImage,
    looks: tuple[Any, Any],
    code: list[str],
    end: str,
    sync: bool,
    stop_after: int | None,
    answer: str,
) -> None:
    """Whatever a call wrote, however it ended: every byte is the image's, and no later call sees a trace."""
    instance = bench.attach(image)
    if attempt(instance, {"code": code, "end": end, "sync": sync}, stop_after) and answer != "none":
        call = guest_call(LIMITS)
        if answer == "elsewhere":
            delta = instance.save()
            bench.release()
            bench.renew()
            instance = bench.attach(image)
            instance.restore(delta)
        results = [AsyncResult(call_id=number, ok=True, value=msgspec.Raw(b"1")) for number in (1, 2)]
        with contextlib.suppress(NexusError):
            finish(instance.resume(results, call), TimeBudget(60, 0))
    bench.release()
    assert call_text(bench.attach(image), guest_call(LIMITS, {"look": 1})) == looks[0]
    bench.release()
    assert call_text(bench.attach(other), guest_call(LIMITS, {"look": 1})) == looks[1]
    bench.release()
