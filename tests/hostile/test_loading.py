"""Handlers that attack while their module is loaded, before any call."""

import pytest

from nexus_core.errors import CompilationError, ErrorCode
from nexus_core.limits import MIB
from tests.hostile.ring import SHORT_MS, Ring, failure, handler, value

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOOD = "\nexport default () => 1;"


@pytest.mark.parametrize(
    "loop",
    [
        "for (;;);",
        "const f = () => queueMicrotask(f); f(); await new Promise(() => {});",
        "const f = () => Promise.resolve().then(() => { f(); }); f();",
        "/^(a+)+$/.test('a'.repeat(40) + 'b');",
        "class A { static x = (() => { for (;;); })() }",
        "Object.defineProperty(globalThis, '__nexus_register', { get() { for (;;); } });",
        "throw { get message() { for (;;); } };",
    ],
)
async def test_a_module_that_never_loads_ends_at_its_deadline(ring: Ring, loop: str) -> None:
    """Loading is held to the handler's time as a call is."""
    result = await ring.attack(handler(loop + GOOD, timeout_ms=SHORT_MS))
    error = failure(result, ErrorCode.TIMEOUT)
    assert error.limit is not None
    assert error.limit.name == "timeout_ms"


@pytest.mark.parametrize(
    "greed",
    [
        "const a = []; for (;;) a.push(new Array(1000).fill({}));",
        "const a = new ArrayBuffer(1 << 30);",
        "const a = 'x'.repeat(5e7);",
        "let a = null; for (;;) a = { a };",
        "const f = () => Promise.resolve().then(f); await f();",
        "export const a = new Uint8Array(31 << 20).fill(1);",
        "await null; const a = []; for (;;) a.push({});",
    ],
)
async def test_a_module_too_large_for_its_memory_says_so(ring: Ring, greed: str) -> None:
    """Memory that loading needs counts against `memory_limit_bytes`, and the error names it."""
    error = failure(await ring.attack(greed + GOOD), ErrorCode.MEMORY_LIMIT)
    assert error.limit is not None
    assert (error.limit.name, error.limit.value) == ("memory_limit_bytes", 32 * MIB)


async def test_a_module_may_fill_what_it_is_allowed(ring: Ring) -> None:
    """An image is as large as its handler needs, up to the limit itself, though sizes are few."""
    result = await ring.attack(
        "export const a = new Uint8Array(27 << 20).fill(7);\nexport default () => a[9];"
    )
    assert value(result) == 7
    assert result.metrics.memory_used_bytes <= 32 * MIB


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("null.x;", "TypeError", "cannot read property 'x' of null"),
        ("throw new RangeError('at load');", "RangeError", "at load"),
        ("throw undefined;", "Error", "undefined"),
        ("throw null;", "Error", "null"),
        ("throw Symbol('s');", "Error", "Symbol(s)"),
        ("throw { get message() { throw 1 } };", "Error", "<unprintable>"),
        ("throw 'x'.repeat(1e6);", "Error", "x" * 8192),
        ("await null; throw new RangeError('later');", "RangeError", "later"),
        ("await Promise.reject(new RangeError('later'));", "RangeError", "later"),
        ("await new Promise(() => {});", "Error", "top-level await does not settle"),
        ("await { then() {} };", "Error", "top-level await does not settle"),
        ("const f = () => f() + 1; f();", "StackOverflow", "recursed too deeply"),
        ("let p = {}; for (let i = 0; i < 1e5; i++) p = new Proxy(p, {}); p.x;", "StackOverflow", "deeply"),
        ("(" * 100_000 + "1" + ")" * 100_000 + ";", "StackOverflow", "recursed too deeply"),
        ("[" * 100_000 + "]" * 100_000 + ";", "StackOverflow", "recursed too deeply"),
        ("globalThis.__nexus_register = () => {};", "Error", "took away"),
        ("Object.defineProperty(globalThis, '__nexus_register', { value() {} });", "Error", "took away"),
        ("globalThis.__nexus_register = 5;", "TypeError", "not a function"),
        ("$state.a = 1;", "TypeError", "not while its module loads"),
        ("$state.a;", "TypeError", "not while its module loads"),
        ("$emit('a', 1);", "TypeError", "not while its module loads"),
        ("crypto.randomUUID();", "TypeError", "not while its module loads"),
        ("await $ext.http.get('https://example.com');", "TypeError", "not while its module loads"),
        ("import './missing.js';", "Error", "missing.js"),
        ("import fs from 'fs';", "Error", "fs"),
        ("import '../../etc/passwd';", "Error", "passwd"),
        ("import 'file:///etc/passwd';", "Error", "passwd"),
        ("const x = ;", "SyntaxError", "unexpected token"),
    ],
)
async def test_a_module_that_fails_tells_why(ring: Ring, code: str, name: str, message: str) -> None:
    """The author reads what really went wrong, whatever was thrown and whenever."""
    error = failure(await ring.attack(code + GOOD), ErrorCode.COMPILATION_ERROR)
    assert message in error.message
    assert name in ("Error", error.name)


async def test_a_module_without_a_default_function_is_told_what_to_export(ring: Ring) -> None:
    """The message shows the line to write."""
    for code in ("export const a = 1;", "export default 5;", "export default { a: 1 };"):
        error = failure(await ring.attack(code), ErrorCode.COMPILATION_ERROR)
        assert "export default async function" in error.message


@pytest.mark.parametrize(
    "code",
    [
        "Object.defineProperty(Array.prototype, '0', { set(v) { const f = () => f() + 1; f(); } });",
        "globalThis.ArrayBuffer = function f() { return f() + 1; };",
        "Object.defineProperty(Object.prototype, 'all', { set(v) { const f = () => f() + 1; f(); } });",
        "Array.prototype[Symbol.iterator] = function f() { return f() + 1; };",
        "globalThis.__nexus_register({ default: () => 'stolen' });",
        "const o = __nexus_register; Object.defineProperty(globalThis, '__nexus_register', { value: o });",
        "new FinalizationRegistry(() => { for (;;); }).register({}, 1);",
        "const a = []; for (let i = 0; i < 5e4; i++) a[i >> 1] = [a, new Uint8Array(8)];",
    ],
)
async def test_traps_laid_while_loading_catch_nobody(ring: Ring, code: str) -> None:
    """What a module leaves behind for the steps after it neither breaks nor changes them."""
    assert value(await ring.attack(code + GOOD)) == 1


@pytest.mark.parametrize(
    "expression",
    [
        "import('./h.js')",
        "import('./other.js')",
        "import('std')",
        "import('os')",
        "import('nexus:main')",
        "import('/etc/passwd')",
        "import({ toString() { throw new Error('mine') } })",
        "import('x'.repeat(1e6))",
        "import('\\ud800')",
        "(0, eval)('import(\"./other.js\")')",
        "new Function('return import(\"./other.js\")')()",
    ],
)
async def test_nothing_is_imported_during_a_call(ring: Ring, expression: str) -> None:
    """The files of a handler are there while it loads; a call can load nothing more."""
    source = handler(f"export default () => {expression};", files={"other.js": "export const a = 1;"})
    failure(await ring.attack(source), ErrorCode.EXECUTION_ERROR)


async def test_dynamic_import_works_while_loading(ring: Ring) -> None:
    """A module may choose what it loads, from its own files."""
    source = handler(
        "const { a } = await import('./other.js');\nexport default () => a;",
        files={"other.js": "export const a = 42;"},
    )
    assert value(await ring.attack(source)) == 42


async def test_a_module_may_need_many_jobs_to_load(ring: Ring) -> None:
    """All jobs of a module run before its picture is taken, however many they are."""
    text = (
        "let n = 0; const f = (done) => { if (++n < 50000) queueMicrotask(() => f(done)); else done(); };"
        "\nawait new Promise(f);\nexport default () => n;"
    )
    assert value(await ring.attack(text)) == 50_000


async def test_cyclic_and_wide_imports_load(ring: Ring) -> None:
    """Files that import each other, and hundreds of them, are no trouble."""
    files = {f"m{number}.js": f"export const v = {number};" for number in range(200)}
    files["m0.js"] = "import { entry } from './h.js';\nexport const v = 0;\nexport const back = () => entry;"
    lines = [f"import {{ v as v{number} }} from './m{number}.js';" for number in range(200)]
    total = " + ".join(f"v{number}" for number in range(200))
    text = "\n".join(lines) + f"\nexport const entry = 1;\nexport default () => {total};"
    assert value(await ring.attack(handler(text, files=files))) == sum(range(200))


async def test_eval_stays_in_the_sandbox(ring: Ring) -> None:
    """Code made at run time is the handler's own code."""
    text = "export default () => [eval('1 + 1'), new Function('return 2')(), (0, eval)('typeof $state')];"
    assert value(await ring.attack(text)) == [2, 2, "object"]


async def test_checking_a_hostile_module_raises_only_our_errors(ring: Ring) -> None:
    """`Runtime.check`, which the command line uses, answers with a typed error as a call does."""
    with pytest.raises(CompilationError):
        await ring.runtime.check(handler("const f = () => f() + 1; f();" + GOOD))
    await ring.check_whole()
