"""One warm instance: whatever a call did, however it ended, the next one finds the image, byte for byte."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus_core.engine.driver import RunCancelled, TimeBudget, finish
from nexus_core.engine.image import HeapImage
from nexus_core.engine.javascript import IMAGE_SIZES
from nexus_core.engine.javascript_instance import JavaScriptInstance
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.errors import (
    GuestError,
    HandlerTimeout,
    MemoryLimitExceeded,
    NexusError,
    ResourceLimitExceeded,
    StackOverflow,
)
from nexus_core.limits import MIB, ResourceLimits
from nexus_core.result import AsyncResult
from tests.engine.guests import ALL, GENEROUS_MS, call_text, compile_text, guest_call, policy, run

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


def check_pristine(instance: JavaScriptInstance) -> None:
    """Every byte of the memory, and the one mutable global, are the image's."""
    image, heap = instance._heap.image, instance._heap
    assert image is not None
    assert heap.changed_pages() == frozenset()
    assert heap.read(0, instance.memory_used) == image.contents()
    assert instance._guest.stack_pointer == image.stack_pointer


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


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
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


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("export default () => { for (;;); }", HandlerTimeout),
        ("const f = () => f() + 1; export default () => f();", StackOverflow),
        (
            "export default () => { const a = []; for (;;) a.push(new Array(99).fill(a)); }",
            MemoryLimitExceeded,
        ),
        ("export default () => { for (;;) $emit('a', 1); }", ResourceLimitExceeded),
        ("export default () => $ext.http.get('x'.repeat(1e7));", MemoryLimitExceeded),
    ],
)
def test_an_aborted_call_leaves_a_clean_instance(
    kind: JavaScriptKind, instance: JavaScriptInstance, text: str, error: type[NexusError]
) -> None:
    """After each kind of abort the instance is proven clean, or says that it must go."""
    rules = policy(ALL, memory_limit_bytes=6 * MIB)
    image = compile_text(kind, text, rules)
    instance.attach(image)
    with pytest.raises(error):
        run(instance.execute(guest_call(rules)), 50)
    if instance.reset():
        check_pristine(instance)
    else:
        assert instance.memory_used > image.memory_size


def test_an_instance_outlives_a_thousand_aborted_runs(
    kind: JavaScriptKind, instance: JavaScriptInstance
) -> None:
    """A run unwound in its middle takes nothing with it: calls before and after it are alike."""
    image = compile_text(kind, "export default (n) => { while (n) ; return [1, 2, 3].map((x) => x * 2); }")
    instance.attach(image)
    for _ in range(20):
        steps = instance.execute(guest_call(event=1))
        next(steps)
        steps.close()
        assert instance.reset()
        check_pristine(instance)
    for _ in range(1_000):
        assert call_text(instance, guest_call(event=0)) == [2, 4, 6]
        assert instance.reset()
    check_pristine(instance)


def test_a_run_dropped_without_a_word_is_unwound(kind: JavaScriptKind, instance: JavaScriptInstance) -> None:
    """A run that nobody drives any more does no harm when Python forgets it."""
    instance.attach(compile_text(kind, "export default (n) => { while (n) ; return 1; }"))
    steps = instance.execute(guest_call(event=1))
    next(steps)
    del steps
    assert instance.reset()
    assert call_text(instance, guest_call(event=0)) == 1


def test_a_cancelled_run_is_unwound(kind: JavaScriptKind, instance: JavaScriptInstance) -> None:
    """Giving up ends the guest at its next tick."""
    instance.attach(compile_text(kind, "export default () => { for (;;); }"))
    budget = TimeBudget(GENEROUS_MS, 0)
    steps = instance.execute(guest_call())
    next(steps)
    budget.cancelled = True
    with pytest.raises(RunCancelled):
        finish(steps, budget)
    assert instance.reset()
    check_pristine(instance)


RANDOM = """export default async (event) => {
  const first = [Math.random(), Math.random(), crypto.randomUUID()];
  const answer = await $ext.http.get(1);
  return [first, answer, [Math.random(), Math.random(), crypto.randomUUID()]];
};"""


def test_no_two_calls_have_the_same_random_numbers(kind: JavaScriptKind) -> None:
    """Numbers differ from call to call, from instance to instance, and after a resume here or elsewhere."""
    image = compile_text(kind, RANDOM)
    one, two = kind.new_instance(), kind.new_instance()
    seen: list[Any] = []
    answer = [AsyncResult(call_id=1, ok=True, value=msgspec.Raw(b"1"))]
    for instance in (one, two):
        instance.attach(image)
        for _ in range(5):
            call = guest_call()
            run(instance.execute(call))
            delta = instance.save()
            flush = run(instance.resume(answer, call))
            assert instance.reset()
            first, told, last = msgspec.json.decode(flush.value)
            assert told == 1
            seen += [*first, *last]
            instance.restore(delta)
            again = guest_call()
            again.usage.awaited = 1
            flush = run(instance.resume(answer, again))
            assert msgspec.json.decode(flush.value)[0] == first
            seen += msgspec.json.decode(flush.value)[2]
            assert instance.reset()
    assert len(set(seen)) == len(seen)
    numbers = [number for number in seen if isinstance(number, float)]
    assert all(0 <= number < 1 for number in numbers)
    assert 0.2 < sum(numbers) / len(numbers) < 0.8
    one.terminate()
    two.terminate()


def test_an_image_that_grew_says_so(kind: JavaScriptKind, instance: JavaScriptInstance) -> None:
    """A call that outgrew its image leaves an instance that cannot be reset, and its memory is counted."""
    image = compile_text(kind, "export default (n) => new Uint8Array(n).length")
    instance.attach(image)
    assert image.memory_size == IMAGE_SIZES[0] == instance.memory_used
    assert call_text(instance, guest_call(event=10_000)) == 10_000
    assert instance.reset()
    assert call_text(instance, guest_call(event=3 * MIB)) == 3 * MIB
    assert IMAGE_SIZES[0] + MIB < instance.memory_used <= 32 * MIB
    assert not instance.reset()
    assert not instance.fits(image)


def test_a_smaller_image_does_not_fit_a_larger_instance(
    kind: JavaScriptKind, instance: JavaScriptInstance
) -> None:
    """Memory never shrinks, so an instance of a large handler cannot become one of a small handler."""
    small = compile_text(kind, "export default () => 1")
    large = compile_text(kind, "export const a = new Uint8Array(4 << 20); export default () => a.length")
    assert instance.fits(small)
    instance.attach(small)
    instance.attach(large)
    assert call_text(instance) == 4 << 20
    assert instance.reset()
    assert not instance.fits(small)
    assert instance.fits(large)


def test_a_large_event_goes_in_by_another_way(kind: JavaScriptKind, instance: JavaScriptInstance) -> None:
    """Events around and far above the size of the prepared buffer arrive whole."""
    instance.attach(compile_text(kind, "export default (e) => [e.length, e[0], e[e.length - 1]]"))
    for size in (1, 65_000, 65_400, 65_536, 70_000, 1_000_000):
        text = "ä" + "x" * size + "ö"
        assert call_text(instance, guest_call(event=text)) == [size + 2, "ä", "ö"]
        if not instance.reset():
            break


def test_an_event_larger_than_the_memory_is_a_breach(
    kind: JavaScriptKind, instance: JavaScriptInstance
) -> None:
    """An event the guest has no room for is its memory limit, not a crash."""
    rules = policy(ALL, memory_limit_bytes=4 * MIB)
    instance.attach(compile_text(kind, "export default (e) => e.length", rules))
    with pytest.raises(MemoryLimitExceeded):
        run(instance.execute(guest_call(rules, "x" * 5 * MIB)))


def test_state_and_words_of_a_call_reach_the_handler(
    kind: JavaScriptKind, instance: JavaScriptInstance
) -> None:
    """Event, scope, state, request and deadline are what the host said, and nothing else."""
    text = "export default (e, ctx) => [e, $args === e, $scope, { ...$state }, ctx.requestId, ctx.session, "
    text += "ctx.handler, ctx.env, ctx.remainingMs() === Infinity]"
    instance.attach(compile_text(kind, text))
    told = call_text(instance, guest_call(event={"a": 1}, state={"k": [1], '"': "\u2028"}))
    assert told == [{"a": 1}, True, {}, {"k": [1], '"': "\u2028"}, "r", None, "h", {}, True]


def test_answers_find_their_promises(kind: JavaScriptKind, instance: JavaScriptInstance) -> None:
    """Answers in any order, failed ones and unknown ones: each promise settles once, with its own."""
    text = """export default async () => {
      const settled = await Promise.allSettled([$ext.a.x(1), $ext.b.y(2), $ext.c.z(3)]);
      return settled.map((s) => s.value ?? [s.reason.name, s.reason.message, s.reason instanceof Error]);
    }"""
    instance.attach(compile_text(kind, text))
    call = guest_call()
    flush = run(instance.execute(call))
    assert [(c.call_id, c.extension, c.method, bytes(c.args)) for c in flush.calls] == [
        (1, "a", "x", b"[1]"),
        (2, "b", "y", b"[2]"),
        (3, "c", "z", b"[3]"),
    ]
    assert call.usage.awaited == 3
    late = AsyncResult(call_id=3, ok=True, value=msgspec.Raw(b'{"third":3}'))
    bad = AsyncResult(call_id=1, ok=False, error_name="NetError", error_message="refused\u2028")
    unknown = AsyncResult(call_id=99, ok=True, value=msgspec.Raw(b"0"))
    assert run(instance.resume([late, bad, unknown], call)).outcome == "pending"
    again = AsyncResult(call_id=3, ok=True, value=msgspec.Raw(b'"other"'))
    last = AsyncResult(call_id=2, ok=True, value=msgspec.Raw(b"2"))
    flush = run(instance.resume([again, last], call))
    assert msgspec.json.decode(flush.value) == [["NetError", "refused\u2028", True], 2, {"third": 3}]


def test_a_policy_of_another_call_is_taken_on(kind: JavaScriptKind, instance: JavaScriptInstance) -> None:
    """An image made under one policy serves a call under another, which starts with the narrower one."""
    image = compile_text(kind, "export default (e, ctx) => { $emit('a', 1); return ctx.handler; }")
    instance.attach(image)
    assert call_text(instance, guest_call(policy(name="renamed"))) == "renamed"
    assert instance.reset()
    flush = run(instance.execute(guest_call(policy(type(ALL)()))))
    assert flush.outcome == "threw"
    assert flush.thrown.name == "PermissionDenied"
    assert flush.denials == ("events:emit:a",)
    assert instance.reset()
    assert call_text(instance) == "h"


@pytest.mark.parametrize("limits", [ResourceLimits(memory_limit_bytes=2 * MIB)])
def test_a_limit_below_the_image_is_a_breach(
    kind: JavaScriptKind, instance: JavaScriptInstance, limits: ResourceLimits
) -> None:
    """A call that may have less memory than its image takes does not start."""
    instance.attach(compile_text(kind, "export default () => 1"))
    with pytest.raises(MemoryLimitExceeded):
        instance.execute(guest_call(policy(ALL, memory_limit_bytes=limits.memory_limit_bytes)))


def test_an_instance_without_an_image_runs_nothing(instance: JavaScriptInstance) -> None:
    """Calls and resets need an attached image."""
    with pytest.raises(ValueError, match="no image is attached"):
        instance.execute(guest_call())
    with pytest.raises(ValueError, match="no image is attached"):
        instance.reset()


def test_terminating_twice_is_harmless(kind: JavaScriptKind) -> None:
    """An instance may be terminated by several owners."""
    made = kind.new_instance()
    made.terminate()
    made.terminate()


def test_a_trap_says_nothing_of_the_host(kind: JavaScriptKind, instance: JavaScriptInstance) -> None:
    """What wasmtime tells of a trap stays in the log."""
    instance.attach(compile_text(kind, "const f = () => f() + 1; export default () => f();"))
    with pytest.raises(StackOverflow) as caught:
        run(instance.execute(guest_call()))
    assert caught.value.__cause__ is None
    assert "wasm" not in caught.value.message
    assert isinstance(GuestError("x"), NexusError)
