"""One warm instance: whatever a call did, however it ended, the next one finds the image, byte for byte."""

from typing import Any

import msgspec
import pytest

from nexus_core.engine.driver import RunCancelled, TimeBudget, finish
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
from tests.engine.guests import (
    ALL,
    GENEROUS_MS,
    call_text,
    check_pristine,
    compile_text,
    guest_call,
    policy,
    run,
)


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
        run(instance.execute(guest_call(rules)), 50 if error is HandlerTimeout else GENEROUS_MS)
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
