"""Handlers that return, throw, log or write strange values."""

import json
from typing import Any

import pytest

from nexus_core.context import ExecutionContext
from nexus_core.errors import ErrorCode
from tests.hostile.ring import SHORT_MS, Ring, failure, handler, value

pytestmark = pytest.mark.asyncio(loop_scope="module")


def deep(levels: int, nest: str) -> str:
    """JavaScript that makes a value `deep` of so many levels."""
    return f"let deep = 1; for (let i = 0; i < {levels}; i++) deep = {nest};"


@pytest.mark.parametrize(
    ("thrown", "name", "message"),
    [
        ("undefined", "Error", "undefined"),
        ("null", "Error", "null"),
        ("false", "Error", "false"),
        ("-0", "Error", "0"),
        ("10n", "Error", "10"),
        ("Symbol('s')", "Error", "Symbol(s)"),
        ("'text'", "Error", "text"),
        ("''", "Error", ""),
        ("[1, 2]", "Error", "[1,2]"),
        ("() => 1", "Error", None),
        ("{}", "Error", "{}"),
        ("{ message: 'm', name: 'N' }", "N", "m"),
        ("{ message: 5, name: null }", "null", "5"),
        ("{ get message() { throw 1 }, get name() { throw 2 }, get stack() { throw 3 } }", "Error", None),
        ("{ get message() { return { toString() { throw 1 } } } }", "Error", None),
        ("Object.create(null)", "Error", "{}"),
        ("(() => { const a = {}; a.a = a; return a })()", "Error", "<unprintable>"),
        ("new Proxy({}, { get() { throw new Error('trap') } })", "Error", "<unprintable>"),
        (
            "new Proxy({}, { get() { throw new Error('t') }, getPrototypeOf() { throw 1 } })",
            "Error",
            "<unprintable>",
        ),
        ("(() => { const p = Proxy.revocable({}, {}); p.revoke(); return p.proxy })()", "Error", None),
        ("(() => { const p = Proxy.revocable(() => 1, {}); p.revoke(); return p.proxy })()", "Error", None),
        ("Promise.reject(1)", "Error", None),
        ("'x'.repeat(1e7)", "Error", "x" * 8192),
        ("new Error('x'.repeat(1e7))", "Error", "x" * 8192),
        ("Object.assign(new Error('m'), { name: 'n'.repeat(1e6) })", "n" * 200, "m"),
        ("Object.assign(new Error('m'), { stack: 's'.repeat(1e6) })", "Error", "m"),
        ("Object.assign(new Error('m'), { stack: { toString() { throw 1 } } })", "Error", "m"),
        ("new AggregateError([1, 2], 'many')", "AggregateError", "many"),
        ("new Error('\\ud800half')", "Error", "\ufffdhalf"),
        ("'\\udc00'", "Error", "\ufffd"),
        ("new Error('line\\nline\\u0000\\u2028')", "Error", "line\nline\x00\u2028"),
        ("globalThis", "Error", None),
        ("{ toJSON() { throw 1 } }", "Error", "<unprintable>"),
        ("{ toJSON() { return undefined } }", "Error", "[object Object]"),
        ("{ then() {} }", "Error", "{}"),
    ],
)
@pytest.mark.parametrize("how", ["throw", "reject"])
async def test_anything_thrown_is_an_execution_error(
    ring: Ring, how: str, thrown: str, name: str, message: str | None
) -> None:
    """Whatever is thrown or rejected with, the caller gets a typed error with words of bounded length."""
    start = "async " if how == "reject" else ""
    result = await ring.attack(f"export default {start}() => {{ throw {thrown}; }}")
    error = failure(result, ErrorCode.EXECUTION_ERROR)
    if message is not None:
        assert (error.name, error.message) == (name, message)


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("undefined", None),
        ("() => 1", None),
        ("Symbol('x')", None),
        ("NaN", None),
        ("-Infinity", None),
        ("-0", 0),
        ("new Date(0)", "1970-01-01T00:00:00.000Z"),
        ("new Map([[1, 2]])", {}),
        ("new Uint8Array(2)", {"0": 0, "1": 0}),
        ("[undefined, () => 1]", [None, None]),
        ('JSON.parse(\'{"__proto__": {"x": 1}}\')', {"__proto__": {"x": 1}}),
        ("Object.create({ inherited: 1 })", {}),
        ("'\\ud83d\\ude00'", "\U0001f600"),
        ("'\\ud800'", "\ufffd"),
        ("['\\udc00', '\\\\ud800', '\\\\\\ud800']", ["\ufffd", "\\ud800", "\\\ufffd"]),
        ("({ ['\\ud800']: 1 })", {"\ufffd": 1}),
        ("'\\u0000\\u001f\\u2028\\u2029'", "\x00\x1f\u2028\u2029"),
        ("new Proxy([1, 2], {})", [1, 2]),
        ("new Proxy({ a: 1 }, { ownKeys: () => ['a', 'b'] })", {"a": 1}),
        ("({ toJSON: () => 'mine' })", "mine"),
        ("({ toJSON: 5 })", {"toJSON": 5}),
        ("Promise.resolve(Promise.resolve(7))", 7),
        ("({ then(resolve) { resolve(1); resolve(2); throw 3 } })", 1),
        ("({ then: 5 })", {"then": 5}),
        ("new (class extends Promise {})((resolve) => resolve(4))", 4),
        ("1e308 * 10", None),
    ],
)
async def test_what_a_handler_returns_is_json(ring: Ring, returned: str, expected: Any) -> None:
    """A returned value becomes what `JSON.stringify` makes of it, as text that any reader takes."""
    result = await ring.attack(f"export default () => {returned};")
    assert value(result) == expected
    assert json.loads(bytes(result.return_value).decode()) == expected


@pytest.mark.parametrize(
    ("returned", "name"),
    [
        ("1n", "TypeError"),
        ("(() => { const a = []; a[0] = a; return a })()", "TypeError"),
        ("({ get a() { throw new RangeError('boom') } })", "RangeError"),
        ("({ toJSON() { throw new RangeError('boom') } })", "RangeError"),
        ("new Proxy({}, { ownKeys() { throw new RangeError('boom') } })", "RangeError"),
        ("(() => { const p = Proxy.revocable({}, {}); p.revoke(); return p.proxy })()", "TypeError"),
        ("({ get then() { throw new RangeError('boom') } })", "RangeError"),
        ("({ then(_, reject) { reject(new RangeError('boom')) } })", "RangeError"),
        ("Promise.reject(new RangeError('boom'))", "RangeError"),
    ],
)
async def test_a_value_that_is_no_json_is_an_execution_error(ring: Ring, returned: str, name: str) -> None:
    """What cannot be written as JSON fails the call with the guest's own error."""
    result = await ring.attack(f"export default () => {returned};")
    assert failure(result, ErrorCode.EXECUTION_ERROR).name == name


@pytest.mark.parametrize(
    "promise",
    [
        "new Promise(() => {})",
        "({ then() {} })",
        "Promise.race([])",
        "(async () => { await new Promise(() => {}) })()",
        "(async () => { for await (const _ of (async function* () { await new Promise(() => {}) })()); })()",
    ],
)
async def test_a_promise_nobody_settles_is_an_error(ring: Ring, promise: str) -> None:
    """A handler that waits for nothing does not wait for its deadline."""
    error = failure(await ring.attack(f"export default () => {promise};"), ErrorCode.EXECUTION_ERROR)
    assert "never settled" in error.message


@pytest.mark.parametrize(
    "loop",
    [
        "({ get then() { for (;;); } })",
        "({ then() { for (;;); } })",
        "({ toJSON() { for (;;); } })",
        "new Proxy({}, { ownKeys() { for (;;); } })",
        "Promise.reject({ get message() { for (;;); } })",
        "Promise.reject({ toString() { for (;;); }, toJSON() { for (;;); } })",
        "($state.a = { toJSON() { for (;;); } })",
        "$emit('a', { toJSON() { for (;;); } })",
        "$emit({ toString() { for (;;); } }, 1)",
        "console.log({ toJSON() { for (;;); } })",
    ],
)
async def test_a_loop_where_a_value_is_read_ends_at_the_deadline(ring: Ring, loop: str) -> None:
    """Code that runs while a value is written as JSON is held to the call's time like any other."""
    source = handler(f"export default () => {loop};", timeout_ms=SHORT_MS)
    error = failure(await ring.attack(source), ErrorCode.TIMEOUT)
    assert error.limit is not None
    assert (error.limit.name, error.limit.value) == ("timeout_ms", SHORT_MS)


@pytest.mark.parametrize(
    ("use", "levels", "nest"),
    [
        ("return deep", 100_000, "[deep]"),
        ("return deep", 25_000, "{ a: deep }"),
        ("throw deep", 25_000, "[deep]"),
        ("$state.a = deep", 25_000, "{ a: deep }"),
        ("$emit('a', deep)", 25_000, "[deep]"),
        ("return $ext.http.get(deep)", 25_000, "[deep]"),
    ],
)
async def test_deep_values_out_are_typed_errors(ring: Ring, use: str, levels: int, nest: str) -> None:
    """Any number of levels, wherever they are handed over, ends the call and nothing else."""
    result = await ring.attack(f"export default () => {{ {deep(levels, nest)} {use}; }}")
    assert result.error is not None
    assert result.error.code in (ErrorCode.STACK_OVERFLOW, ErrorCode.EXECUTION_ERROR)


@pytest.mark.parametrize("nest", ["[deep]", "{ a: deep }"])
async def test_deep_values_come_whole_or_are_refused_by_name(ring: Ring, nest: str) -> None:
    """How deep a value is read is the interpreter's: past it, the error says what is wrong."""
    result = await ring.attack(f"export default () => {{ {deep(2_000, nest)} return deep; }}")
    if result.error is None:
        assert bytes(result.return_value).count(nest[0].encode()) == 2_000
    else:
        assert "nested too deeply" in failure(result, ErrorCode.EXECUTION_ERROR).message


@pytest.mark.parametrize("pair", [("[", "]"), ('{"a":', "}")])
async def test_deep_values_in_are_typed_errors(ring: Ring, pair: tuple[str, str]) -> None:
    """An event of a hundred thousand levels is the guest's stack overflow, not the host's."""
    event = (pair[0] * 100_000 + "1" + pair[1] * 100_000).encode()
    result = await ring.runtime.execute_source(
        handler("export default () => 1"), ExecutionContext(request_id="deep", event=event)
    )
    failure(result, ErrorCode.STACK_OVERFLOW)
    await ring.check_whole()


@pytest.mark.parametrize(
    "operation",
    [
        "$state['\\ud800'] = '\\ud800'",
        "$emit('\\ud800', { '\\udfff': '\\ud800' })",
        "$view.update('\\ud800', '\\ud800')",
        "console.log('\\ud800', '\\udfff')",
        "delete $state['\\ud800']",
    ],
)
async def test_half_surrogate_pairs_leave_as_replacement_characters(ring: Ring, operation: str) -> None:
    """Half a pair in a key, a name, a value or a log line does not fail the call, and does not get out."""
    result = await ring.attack(f"export default () => {{ {operation}; return 1; }}")
    assert value(result) == 1
    told = repr([*result.state_mutations, *result.events, *result.view_commands, *result.logs])
    assert "\\ud" not in told
    assert "\ufffd" in told


async def test_proto_is_a_key_like_any_other(ring: Ring) -> None:
    """`__proto__` in an event, in the state and in a return value is data, and poisons nothing."""
    source = handler(
        """export default (event) => {
          $state.__proto__ = { polluted: 1 };
          $state.constructor = 2;
          const inherited = [({}).polluted ?? null, $state.toString ?? null];
          return [event, Object.keys($state), $state.__proto__, inherited];
        }"""
    )
    hostile = {"__proto__": {"polluted": 1}, "constructor": {"prototype": {"polluted": 1}}}
    result = await ring.attack(source, hostile, state={"__proto__": b'{"old":1}', "x": b"1"})
    event, keys, own, inherited = value(result)
    assert event == hostile
    assert sorted(keys) == ["__proto__", "constructor", "x"]
    assert own == {"polluted": 1}
    assert inherited == [None, None]
    assert [mutation.key for mutation in result.state_mutations] == ["__proto__", "constructor"]


@pytest.mark.parametrize("size", ["7e6", "2e7"])
@pytest.mark.parametrize("unit", ["x", "\\u4e00", "\\u0000"])
async def test_an_oversized_return_is_refused(ring: Ring, size: str, unit: str) -> None:
    """More bytes than `max_output_bytes`, or than the guest can even write, is a typed error."""
    result = await ring.attack(f"export default () => '{unit}'.repeat({size});")
    assert result.error is not None
    assert result.error.code in (ErrorCode.PAYLOAD_TOO_LARGE, ErrorCode.MEMORY_LIMIT)
    assert result.error.limit is not None
    assert result.error.limit.name in ("max_output_bytes", "memory_limit_bytes")


async def test_floods_of_logs_are_cut(ring: Ring) -> None:
    """A million lines, and one line of megabytes, cost the call nothing and the log its limit."""
    many = await ring.attack(
        "export default () => { for (let i = 0; i < 1e6; i++) console.log(i); return 1 }"
    )
    large = await ring.attack("export default () => { console.log('\\u4e00'.repeat(3e6)); return 1 }")
    for result in (many, large):
        assert value(result) == 1
        assert sum(len(record.message.encode()) for record in result.logs) <= 64 * 1024
