"""Handlers that change the world the bootstrap lives in, and forge what it hands over."""

import msgspec
import pytest

from nexus_core.capabilities import CapabilitySet
from nexus_core.errors import ErrorCode
from nexus_core.handler_source import HandlerSource
from nexus_core.limits import ResourceLimits
from tests.hostile.ring import ALL, SHORT_MS, Ring, failure, handler, value

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = """export default async (event) => {
  $state.a = { n: 1 };
  $emit("e", [1]);
  console.log("line", { a: 1 });
  await null;
  return { a: [1, "x"], event };
};"""

TAMPERED = {
    "JSON": "JSON.stringify = () => 'evil'; JSON.parse = () => { throw 1 };",
    "no JSON": "globalThis.JSON = undefined;",
    "toJSON everywhere": "Object.defineProperty(Object.prototype, 'toJSON', { get() { return undefined } });",
    "array iterator": "Array.prototype[Symbol.iterator] = () => { throw 1 };",
    "array methods": "for (const k of Object.getOwnPropertyNames(Array.prototype)) if (k !== 'length' && "
    "k !== 'constructor') Array.prototype[k] = () => { throw 1 };",
    "string methods": "for (const k of Object.getOwnPropertyNames(String.prototype)) if (k !== 'length') "
    "String.prototype[k] = () => { throw 1 };",
    "function methods": "Function.prototype.call = Function.prototype.apply = Function.prototype.bind = "
    "() => { throw 1 };",
    "promise methods": "for (const k of ['then', 'catch', 'finally']) "
    "Promise.prototype[k] = Promise.resolve = () => { throw 1 };",
    "reflect": "Reflect.ownKeys = Reflect.defineProperty = () => { throw 1 }; "
    "Object.hasOwn = Object.create = null;",
    "globals": "for (const k of Object.getOwnPropertyNames(globalThis)) "
    "if (!/^[$_]|^globalThis$|^console$/.test(k)) try { globalThis[k] = null } catch {}",
    "instanceof": "Object.defineProperty(Error, Symbol.hasInstance, { value: () => { throw 1 } });",
    "getters for indexes": "Object.defineProperty(Object.prototype, '0', "
    "{ get() { return 'evil' }, set() {} });",
    "descriptor fields": "Object.prototype.get = () => 'evil'; Object.prototype.enumerable = 1;",
    "date": "Date.now = () => { throw 1 }; globalThis.Date = null;",
    "random": "Math.random = () => { throw 1 };",
    "frozen": "for (const o of [Object, Array, Promise, Function]) Object.freeze(o.prototype);",
    "console": "globalThis.noise = console.log; globalThis.$log = null;",
}


@pytest.mark.parametrize("kind", TAMPERED)
async def test_the_bootstrap_needs_nothing_a_handler_can_change(ring: Ring, kind: str) -> None:
    """Tampering with built-ins leaves the handler's own writes, events and result as they are."""
    result = await ring.attack(f"{TAMPERED[kind]}\n{BODY}", {"who": "bob"})
    assert value(result) == {"a": [1, "x"], "event": {"who": "bob"}}
    assert [bytes(mutation.value) for mutation in result.state_mutations] == [b'{"n":1}']
    assert [bytes(event.payload) for event in result.events] == [b"[1]"]


SETTERS = {
    "swallow": "set() {}",
    "throw": "set() { throw new Error('no') }",
    "recurse": "set(v) { this[0] = v }",
    "loop": "set() { for (;;); }",
}


@pytest.mark.parametrize("prototype", ["Array", "Object"])
@pytest.mark.parametrize("setter", SETTERS)
async def test_setters_for_indexes_harm_only_their_handler(ring: Ring, setter: str, prototype: str) -> None:
    """A setter where the bootstrap keeps its lists ends in a typed error, or spoils its own call."""
    text = (
        f"Object.defineProperty({prototype}.prototype, '0', {{ {SETTERS[setter]}, get() {{ return 'x' }} }});"
        f"\n{BODY}"
    )
    result = await ring.attack(handler(text, timeout_ms=SHORT_MS))
    if result.error is not None:
        assert result.error.code in (
            ErrorCode.EXECUTION_ERROR,
            ErrorCode.STACK_OVERFLOW,
            ErrorCode.TIMEOUT,
        )


ROBBED = "Object.defineProperty(Array.prototype, '0', {{ configurable: true, set(v) {{ {code} }} }});"


def forging(
    operations: str, capabilities: CapabilitySet = ALL, use: str = "$emit('allowed', 1)"
) -> HandlerSource:
    """A handler that puts a text of its own where the bootstrap keeps its operations."""
    put = (
        f"const value = typeof v === 'string' ? {operations} : v; "
        "Object.defineProperty(this, '0', { value, writable: true, configurable: true })"
    )
    return handler(
        ROBBED.format(code=f"{put};") + f"\nexport default async () => {{ await {use}; return 1; }};",
        capabilities=capabilities,
    )


ALLOWED = CapabilitySet.parse(["events:emit:allowed"])


@pytest.mark.parametrize(
    ("forged", "token"),
    [
        ('["set","secret",1]', "state:write:secret"),
        ('["delete","secret"]', "state:write:secret"),
        ('["emit","other",1]', "events:emit:other"),
        ('["view","v",1]', "view:update:v"),
        ('["emit","allowed",1],["set","secret",1]', "state:write:secret"),
    ],
)
async def test_a_forged_operation_is_denied(ring: Ring, forged: str, token: str) -> None:
    """The host asks for the capability again, applies nothing and tells the operator which it was."""
    result = await ring.attack(forging(repr(forged), ALLOWED))
    failure(result, ErrorCode.PERMISSION_DENIED)
    assert token in (result.error.message if result.error else "")
    assert (result.state_mutations, result.events) == ((), ())


@pytest.mark.parametrize(
    "forged",
    [
        "'garbage'",
        "'[\"set\"]'",
        "'[\"set\",1,2]'",
        '\'["emit","allowed",1,]\'',
        "'[\"unknown\",1]'",
        "'\"\\ud800\"'",
        '\'["emit","allowed","\\ud800"]\'',
        "'[\"emit\",\"allowed\",' + '['.repeat(1e5) + ']'.repeat(1e5) + ']'",
        "']}'",
        '\'],"outcome":"returned"}{\'',
        '\'],"logs":[{"level":"\' + \'x\'.repeat(1e6) + \'","message":""}],"operations":[\'',
        '\'],"calls":[{"callId":1e400,"extension":"http","method":"g","args":[]}],"operations":[\'',
        "'\\u0000'",
    ],
)
async def test_a_broken_text_is_the_handlers_error(ring: Ring, forged: str) -> None:
    """What is not the text of the bootstrap ends the call; how the host reads it stays the host's."""
    failure(await ring.attack(forging(forged)), ErrorCode.EXECUTION_ERROR)


@pytest.mark.parametrize(
    ("forged", "limit"),
    [
        ('\'["emit","allowed",1],\'.repeat(2e5) + \'["emit","allowed",1]\'', "max_host_calls"),
        ('\'["emit","allowed",1],\'.repeat(100) + \'["emit","allowed",1]\'', "max_events"),
        ('\'["set","a",1],\'.repeat(1000) + \'["set","a",1]\'', "max_state_mutations"),
        ('\'["view","a",1],\'.repeat(10000) + \'["view","a",1]\'', "max_host_calls"),
    ],
)
async def test_a_forged_flood_is_a_breach(ring: Ring, forged: str, limit: str) -> None:
    """Counts are the host's: a bootstrap that was kept from counting changes nothing."""
    error = failure(await ring.attack(forging(forged)), ErrorCode.RESOURCE_LIMIT)
    assert error.limit is not None
    assert error.limit.name == limit


FORGED_CALL = '{"callId":1,"extension":"EXT","method":"get","args":ARGS}'


@pytest.mark.parametrize(
    ("extension", "args", "code"),
    [
        ("callback", "[]", ErrorCode.PERMISSION_DENIED),
        ("http", "{}", ErrorCode.EXECUTION_ERROR),
        ("http", "[" * 990 + "]" * 990, ErrorCode.EXECUTION_ERROR),
        ("http", "[1e400]", ErrorCode.EXECUTION_ERROR),
        ("http", '[{"__proto__":1}]', ErrorCode.EXECUTION_ERROR),
    ],
)
async def test_a_forged_extension_call_is_checked(
    ring: Ring, extension: str, args: str, code: ErrorCode
) -> None:
    """Its extension must be allowed and its arguments readable; its answer reaches only its own call."""
    forged = repr(FORGED_CALL.replace("EXT", extension).replace("ARGS", args))
    allowed = CapabilitySet.parse(["ext:http"])
    failure(await ring.attack(forging(forged, allowed, "$ext.http.get(1)")), code)


async def test_an_answer_is_not_given_twice(ring: Ring) -> None:
    """Two forged calls with one id end the call, so that no answer can be given to the wrong promise."""
    twice = repr(",".join([FORGED_CALL.replace("EXT", "http").replace("ARGS", "[]")] * 2))
    error = failure(await ring.attack(forging(twice, ALL, "$ext.http.get(1)")), ErrorCode.EXECUTION_ERROR)
    assert "malformed extension call" in error.message


async def test_extra_fields_are_ignored(ring: Ring) -> None:
    """A text with more in it than the bootstrap writes is read for what it should hold, and no more."""
    result = await ring.attack(
        forging('\'["emit","allowed",1]],"admin":true,"operations":[["emit","allowed",2]\'')
    )
    assert value(result) == 1
    assert [bytes(event.payload) for event in result.events] == [b"2"]


STOLEN = """
const stolen = {};
Error.prepareStackTrace = (error, sites) => {
  for (const site of sites) {
    const f = site.getFunction?.();
    if (typeof f === "function") stolen[f.name] = f;
  }
  return "";
};
const steal = () => { new Error("look").stack; };
"""


async def test_stolen_functions_of_the_bootstrap_give_no_rights(ring: Ring) -> None:
    """A handler that gets hold of the bootstrap's functions can lie to them, not to the host."""
    text = (
        STOLEN
        + """
    Object.defineProperty(Array.prototype, "0", {
      configurable: true,
      set(v) { steal(); Object.defineProperty(this, "0", { value: v, writable: true }); },
    });
    export default () => {
      $emit("allowed", 1);
      delete Array.prototype[0];
      const { operate, invoke } = stolen;
      if (!operate || !invoke) return Object.keys(stolen);
      operate('["set","secret",1]');
    };"""
    )
    error = failure(await ring.attack(handler(text, capabilities=ALLOWED)), ErrorCode.PERMISSION_DENIED)
    assert "state:write:secret" in error.message


async def test_randomness_is_admitted_by_the_host(ring: Ring) -> None:
    """Without `crypto:random` no random byte of the host is had, and with it each is counted."""
    text = "export default (n) => { for (let i = 0; i < n; i++) crypto.randomUUID(); return 1 };"
    denied = await ring.attack(handler(text, capabilities=CapabilitySet()), 1)
    assert "crypto:random" in failure(denied, ErrorCode.PERMISSION_DENIED).message
    allowed = CapabilitySet.parse(["crypto:random"])
    result = await ring.attack(handler(text, capabilities=allowed, max_host_calls=5), 5)
    assert value(result) == 1
    assert result.metrics.host_calls == {"random": 5}
    result = await ring.attack(handler(text, capabilities=allowed, max_host_calls=5), 6)
    error = failure(result, ErrorCode.RESOURCE_LIMIT)
    assert error.limit is not None
    assert (error.limit.name, error.limit.value, error.limit.used) == ("max_host_calls", 5, 6)


async def test_a_forged_limit_is_no_limit(ring: Ring) -> None:
    """What a handler says of its own error is only words: it names no limit of the host's."""
    text = "export default () => { throw Object.assign(new Error('x'), { name: 'PermissionDenied' }) };"
    assert failure(await ring.attack(text), ErrorCode.EXECUTION_ERROR).name == "PermissionDenied"


@pytest.mark.parametrize(
    "take",
    [
        "globalThis.$state = {};",
        "globalThis.$emit = () => 'mine';",
        "Object.defineProperty(globalThis, '$args', { set() { throw 1 }, get() { return 'mine' } });",
        "Object.defineProperty(globalThis, '$scope', { value: 'mine', writable: false });",
        "globalThis.console = { log() {} };",
        "delete globalThis.$ext; delete globalThis.crypto;",
        "Object.freeze(globalThis);",
        "Promise.prototype.constructor = { [Symbol.species]: function () { throw 1 } };",
    ],
)
async def test_replaced_globals_are_the_handlers_own(ring: Ring, take: str) -> None:
    """A handler may spoil what it is given, for itself and for this image only."""
    result = await ring.attack(f"{take}\nexport default async (event) => event;", {"a": 1})
    assert result.error is None or result.error.code is ErrorCode.EXECUTION_ERROR


@pytest.mark.parametrize(
    "misuse",
    [
        "Object.defineProperty($state, 'a', { value: 1 })",
        "Object.setPrototypeOf($state, {})",
        "Object.preventExtensions($state)",
        "Object.freeze($state)",
        "$view.update = 1",
        "$ext.http = 1",
        "$ext.http.get = 1",
        "$log.info = 1",
        "crypto.randomUUID = 1",
    ],
)
async def test_what_the_host_gives_cannot_be_bent(ring: Ring, misuse: str) -> None:
    """The given objects refuse to be redefined."""
    assert failure(
        await ring.attack(f"export default () => {{ {misuse}; return 'bent'; }};"), ErrorCode.EXECUTION_ERROR
    ).name == ("TypeError")


@pytest.mark.parametrize(
    ("operation", "token"),
    [
        ("$state.b", "state:read:b"),
        ("'b' in $state", "state:read:b"),
        ("$state.b = 1", "state:write:b"),
        ("delete $state.b", "state:write:b"),
        ("$emit('b')", "events:emit:b"),
        ("$view.update('b')", "view:update:b"),
        ("await $ext.b.get()", "ext:b"),
        ("crypto.randomUUID()", "crypto:random"),
        ("$emit('x'.repeat(1e6))", "events:emit:xxx"),
        ("$emit(Symbol('s'))", "events:emit:Symbol(s)"),
    ],
)
async def test_an_honest_refusal_names_what_was_missing(ring: Ring, operation: str, token: str) -> None:
    """Every operation asks first, and a refused call applies nothing."""
    few = CapabilitySet.parse(["state:read:a", "state:write:a", "events:emit:a", "view:update:a", "ext:a"])
    text = f"export default async () => {{ $state.a = 1; {operation}; }};"
    result = await ring.attack(handler(text, capabilities=few))
    assert token in failure(result, ErrorCode.PERMISSION_DENIED).message
    assert result.state_mutations == ()


async def test_a_narrowed_call_is_held_to_less(ring: Ring) -> None:
    """A caller's narrower capabilities and limits bind the call, and the next call has its own again."""
    source = handler("export default () => { $emit('a', 1); $emit('b', 1); return 1; };")
    narrow = CapabilitySet.parse(["events:emit:a"])
    for _ in range(2):
        denied = await ring.attack(source, capabilities=narrow)
        assert "events:emit:b" in failure(denied, ErrorCode.PERMISSION_DENIED).message
        breach = await ring.attack(source, limits=ResourceLimits(max_events=1))
        failure(breach, ErrorCode.RESOURCE_LIMIT)
        assert value(await ring.attack(source)) == 1


async def test_a_tampered_guest_cannot_widen_a_narrowed_call(ring: Ring) -> None:
    """The bootstrap learns a narrowed policy inside the image; whatever the image does, the host knows it."""
    source = handler(
        "Object.defineProperty(Object.prototype, 'all', { get: () => true, set() {} });\n"
        "export default () => { $emit('b', 1); return 1; };"
    )
    result = await ring.attack(source, capabilities=CapabilitySet.parse(["events:emit:a"]))
    failure(result, ErrorCode.PERMISSION_DENIED)


async def test_ctx_and_event_are_fresh_for_every_call(ring: Ring) -> None:
    """What a handler hangs on the objects it is given is gone with the call."""
    source = handler(
        "export default (event, ctx) => { const seen = [event.mark, ctx.mark, $scope.mark, console.mark]; "
        "for (const o of [event, ctx, $scope, console]) o.mark = 1; return seen.map((x) => x ?? null); };"
    )
    for _ in range(3):
        assert value(await ring.attack(source, {})) == [None] * 4


async def test_a_call_sees_only_the_state_it_may_read(ring: Ring) -> None:
    """State outside the read capability never enters the sandbox at all."""
    source = handler(
        "export default () => [Object.keys($state), JSON.stringify([$args, $scope])];",
        capabilities=CapabilitySet.parse(["state:read:open*"]),
    )
    result = await ring.attack(source, state={"open1": b"1", "secret": b'"s3cr3t"'})
    assert msgspec.json.decode(result.return_value) == [["open1"], "[null,{}]"]
