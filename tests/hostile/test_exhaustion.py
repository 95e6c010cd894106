"""Handlers that take all they can get of time, memory, stack and counts."""

import itertools

import pytest

from nexus_core.errors import ErrorCode
from nexus_core.limits import KIB, MIB, ResourceLimits
from tests.hostile.ring import SHORT_MS, Ring, failure, handler, value

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    "loop",
    [
        "for (;;);",
        "do { [].push(1) } while (true)",
        "const f = () => Promise.resolve().then(() => { f(); }); f(); await new Promise(() => {});",
        "const f = () => queueMicrotask(f); f(); await new Promise(() => {});",
        "for await (const x of (async function* () { for (;;) yield 1; })());",
        "for (const x of (function* () { for (;;) yield 1; })());",
        "/^(a+)+$/.test('a'.repeat(40) + 'b')",
        "/(x+x+)+y/.test('x'.repeat(60))",
        "/^(([a-z])+.)+[A-Z]([a-z])+$/.test('a'.repeat(60))",
        "'a'.repeat(1e6).replace(/(?:a*)*b/g, '')",
        "new Array(4294967295).join('x')",
        "Array.prototype.indexOf.call({ length: Number.MAX_SAFE_INTEGER }, 1)",
        "for (let i = 0n; ; i++) { i * i }",
        "[...{ *[Symbol.iterator]() { for (;;) ; } }]",
        "new Proxy({}, { get: () => { for (;;); } }).x",
        "[3, 1, 2].sort(() => { for (;;); })",
        "'x'.replace(/x/, () => { for (;;); })",
        "JSON.parse('[1]', () => { for (;;); })",
        "while (ctx.remainingMs() > 0); for (;;);",
        "try { for (;;); } finally { for (;;); }",
        "eval('for (;;);')",
        "new Function('for (;;);')()",
        "class A { static { for (;;); } }",
        "const r = /a/y; for (;;) r.test('b');",
    ],
)
async def test_what_never_ends_ends_at_its_deadline(ring: Ring, loop: str) -> None:
    """No loop, of whatever kind, outlives `timeout_ms`, and no handler can catch its end."""
    text = f"export default async (event, ctx) => {{ try {{ {loop} }} catch {{ }} for (;;); }};"
    result = await ring.attack(handler(text, timeout_ms=SHORT_MS, memory_limit_bytes=256 * MIB))
    error = failure(result, ErrorCode.TIMEOUT)
    assert error.limit is not None
    assert (error.limit.name, error.limit.value) == ("timeout_ms", SHORT_MS)
    assert error.limit.used > SHORT_MS
    assert error.retryable


async def test_computing_time_is_its_own_limit(ring: Ring) -> None:
    """`cpu_ms` ends a handler that computes, though its wall time would last."""
    error = failure(
        await ring.attack(handler("export default () => { for (;;); }", cpu_ms=50)), ErrorCode.TIMEOUT
    )
    assert error.limit is not None
    assert (error.limit.name, error.limit.value) == ("cpu_ms", 50)


@pytest.mark.parametrize(
    "growth",
    [
        "const a = []; for (;;) a.push({});",
        "const a = []; for (;;) a.push([1, 2, 3]);",
        "const a = []; for (;;) a.push(new Array(1000).fill(0));",
        "const a = []; for (;;) a.push(new Uint8Array(65536).fill(1));",
        "const a = []; for (;;) a.push(new Uint8Array(1 << 20));",
        "const a = []; for (let i = 0; ; i++) a.push('x'.repeat(1000) + i);",
        "const a = []; for (let i = 0; ; i++) a.push(() => i);",
        "const a = new Map(); for (let i = 0; ; i++) a.set(i, { i });",
        "let a = null; for (;;) a = { a };",
        "const a = {}; for (let i = 0; ; i++) a['key' + i] = i;",
        "const a = new Array(3e7).fill(1);",
        "const a = new ArrayBuffer(1 << 30);",
        "const a = new Uint8Array(40 << 20).fill(1);",
        "const a = new SharedArrayBuffer(1 << 30);",
        "const a = 'x'.repeat(5e7);",
        "const a = ['x'.repeat(1e7)]; for (;;) a.push(a[0] + a.length);",
        "const a = []; for (;;) a.push(new Promise(() => {}));",
        "const a = []; for (;;) a.push(Promise.resolve().then(() => a));",
        "const a = []; for (;;) a.push((function* () { yield 1; })());",
        "const a = []; for (let i = 1n; ; i <<= 64n) a.push(i);",
        "const a = []; const r = /(?:a|b)*c/; r.test('ab'.repeat(2e6));",
        "const a = new Array(1e9); a.fill(1);",
        "const f = () => Promise.resolve().then(f); await f();",
    ],
)
@pytest.mark.parametrize("where", ["sync", "job"])
async def test_what_grows_for_ever_ends_at_the_memory_limit(ring: Ring, growth: str, where: str) -> None:
    """However memory is taken, the call ends as a breach of `memory_limit_bytes`, and used no more."""
    pause = "await null; " if where == "job" else ""
    result = await ring.attack(handler(f"export default async () => {{ {pause}{growth} }};"))
    error = failure(result, ErrorCode.MEMORY_LIMIT)
    assert error.limit is not None
    assert (error.limit.name, error.limit.value) == ("memory_limit_bytes", 32 * MIB)
    assert result.metrics.memory_peak_bytes <= 32 * MIB


async def test_memory_may_be_used_to_the_limit_and_given_back(ring: Ring) -> None:
    """A handler that catches its exhaustion and lets go may go on; the instance serves the next call."""
    text = """export default () => {
      let most = 0;
      const list = [];
      try { for (;;) list.push(new Uint8Array(65536).fill(1)); } catch (error) { most = list.length; }
      list.length = 0;
      return most;
    }"""
    result = await ring.attack(text)
    assert value(result) * 65536 > 24 * MIB
    assert 31 * MIB < result.metrics.memory_peak_bytes <= 32 * MIB


@pytest.mark.parametrize(
    "limits", [ResourceLimits(memory_limit_bytes=3 * MIB), ResourceLimits(memory_limit_bytes=MIB)]
)
async def test_a_caller_can_narrow_memory(ring: Ring, limits: ResourceLimits) -> None:
    """A narrowed limit holds, also below what the handler's image has already."""
    result = await ring.attack("export default () => new Uint8Array(4 << 20).length", limits=limits)
    error = failure(result, ErrorCode.MEMORY_LIMIT)
    assert error.limit is not None
    assert error.limit.value == limits.memory_limit_bytes


RECURSIONS = {
    "function": "const f = () => f() + 1; f()",
    "caught": "const f = () => { try { return f() + 1 } catch { return 1 } }; f()",
    "finally": "const f = () => { try { f() } finally { f() } }; f()",
    "method": "const o = { get a() { return this.a } }; o.a",
    "toString": "const o = { toString: () => '' + o }; '' + o",
    "valueOf": "const o = { valueOf: () => o + 1 }; o + 1",
    "constructor": "class A { constructor() { new A() } } new A()",
    "generator": "function* g() { yield* g() } g().next()",
    "async": "const f = async () => { await f() }; await f()",
    "proxy": "let p = {}; for (let i = 0; i < 1e5; i++) p = new Proxy(p, {}); p.x",
    "proxy trap": "const p = new Proxy({}, { get: (t, k) => p[k] }); p.x",
    "bind": "let f = Math.abs, n = { value: '' }; "
    "for (let i = 0; i < 3e4; i++) Object.defineProperty(f = f.bind(), 'name', n); f()",
    "sort": "const f = () => [2, 1].sort(f); f()",
    "replace": "const f = () => 'x'.replace('x', f); f()",
    "apply": "const f = () => Reflect.apply(f, null, []); f()",
    "tag": "const f = () => f``; f()",
    "json parse": "JSON.parse('['.repeat(1e6))",
    "json revive": "JSON.parse('['.repeat(3e4) + ']'.repeat(3e4), (k, v) => v)",
    "json stringify": "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; JSON.stringify(a)",
    "flat": "let a = []; for (let i = 0; i < 1e5; i++) a = [a]; a.flat(Infinity)",
    "regexp": "new RegExp('(?:'.repeat(1e5) + ')'.repeat(1e5)).test('a')",
    "eval": "eval('('.repeat(1e5) + '1' + ')'.repeat(1e5))",
    "function body": "new Function('return ' + '['.repeat(1e5) + ']'.repeat(1e5))()",
    "getter on state": "const o = { toJSON() { $state.a = o } }; $state.a = o",
    "random": "const f = () => { crypto.randomUUID(); return f() + 1 }; f()",
    "log": "const o = { toJSON: () => { console.log(o); return '' } }; console.log(o)",
}


@pytest.mark.parametrize("kind", RECURSIONS)
async def test_recursion_of_any_kind_is_a_stack_overflow(ring: Ring, kind: str) -> None:
    """No depth crashes the host, and the handler cannot catch the end of its stack."""
    text = f"export default async () => {{ {RECURSIONS[kind]}; return 'survived'; }};"
    error = failure(await ring.attack(handler(text)), ErrorCode.STACK_OVERFLOW)
    assert error.limit is not None
    assert (error.limit.name, error.limit.value) == ("stack_size_bytes", MIB)


async def test_a_smaller_stack_ends_sooner(ring: Ring) -> None:
    """The depth a handler reaches grows with `stack_size_bytes`, up to the largest one."""
    text = "const dive = (n) => n === 0 ? 0 : 1 + dive(n - 1); export default (n) => dive(n);"
    depths = []
    for size in (64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB, MIB):
        low, high = 1, 20_000
        while low < high:
            middle = (low + high + 1) // 2
            result = await ring.call(handler(text, stack_size_bytes=size), middle)
            if result.error is not None:
                failure(result, ErrorCode.STACK_OVERFLOW)
            low, high = (low, middle - 1) if result.error is not None else (middle, high)
        depths.append(low)
    assert all(smaller * 1.2 < larger for smaller, larger in itertools.pairwise(depths)), depths
    await ring.check_whole()


@pytest.mark.parametrize(
    ("flood", "limit"),
    [
        ("$emit('a', i)", "max_events"),
        ("$state['k' + i] = i", "max_state_mutations"),
        ("delete $state.a", "max_state_mutations"),
        ("$view.update('v', i)", "max_host_calls"),
        ("$ext.http.get('https://example.com').catch(() => {})", "max_host_calls"),
        ("crypto.randomUUID()", "max_host_calls"),
        ("crypto.getRandomValues(new Uint8Array(65536))", "max_host_calls"),
    ],
)
async def test_floods_end_at_their_count(ring: Ring, flood: str, limit: str) -> None:
    """A million of anything ends at its limit, uncatchable, with nothing applied."""
    text = f"export default () => {{ for (let i = 0; i < 1e6; i++) try {{ {flood} }} catch {{ }} return 1 }};"
    result = await ring.attack(text)
    error = failure(result, ErrorCode.RESOURCE_LIMIT)
    assert error.limit is not None
    assert error.limit.name == limit
    assert error.limit.used == error.limit.value + 1
    assert (result.state_mutations, result.events, result.view_commands) == ((), (), ())


async def test_atomics_cannot_block_the_host(ring: Ring) -> None:
    """There is nothing with which a handler could put the host's thread to sleep."""
    text = "export default () => [typeof Atomics, typeof setTimeout, typeof std, typeof os, typeof process]"
    assert value(await ring.attack(text)) == ["undefined"] * 5
