"""The guest side as a handler meets it: globals, courtesy and words of errors."""

from typing import Any

import msgspec
import pytest

from nexus_core.capabilities import CapabilitySet
from nexus_core.engine.flush import Flush
from nexus_core.engine.javascript_instance import JavaScriptInstance
from nexus_core.engine.javascript_kind import JavaScriptKind
from tests.engine.guests import ALL, call_text, compile_text, guest_call, policy, run


@pytest.fixture
def do(kind: JavaScriptKind, instance: JavaScriptInstance) -> Any:
    """Run the body of a handler; the flush."""

    def execute(body: str, capabilities: CapabilitySet = ALL, **call: Any) -> Flush:
        rules = policy(capabilities)
        instance.attach(compile_text(kind, f"export default async (event, ctx) => {{ {body} }};", rules))
        return run(instance.execute(guest_call(rules, **call)))

    return execute


def told(flush: Flush) -> Any:
    """What the handler returned."""
    assert flush.outcome == "returned", flush.thrown
    return msgspec.json.decode(flush.value)


def test_writes_are_told_in_order(do: Any) -> None:
    """Sets, deletes, events and view commands keep the order they were made in, per kind."""
    flush = do("$state.a = 1; $state.b = [2]; delete $state.a; $emit('x'); $emit('y', 0); $view.update('v');")
    assert [(m.op, m.key, bytes(m.value)) for m in flush.mutations] == [
        ("set", "a", b"1"),
        ("set", "b", b"[2]"),
        ("delete", "a", b"null"),
    ]
    assert [(e.name, bytes(e.payload)) for e in flush.events] == [("x", b"null"), ("y", b"0")]
    assert [(v.id, bytes(v.data)) for v in flush.view_commands] == [("v", b"null")]


def test_a_changed_object_is_written(do: Any) -> None:
    """What was handed out and changed in place is a write; what was only read, or put back, is none."""
    flush = do(
        "$state.list.push(3); $state.same.push(1); $state.same.pop(); $state.read; $state.fresh = { a: 1 }; "
        "$state.fresh.a = 2;",
        state={"list": [1, 2], "same": [], "read": {"x": 1}},
    )
    assert [(m.key, bytes(m.value)) for m in flush.mutations] == [
        ("fresh", b'{"a":1}'),
        ("list", b"[1,2,3]"),
        ("fresh", b'{"a":2}'),
    ]


def test_state_reads_as_an_object(do: Any) -> None:
    """Keys, `in`, spread, defaults and deletes work as on any object."""
    flush = do(
        "delete $state.b; $state.c = undefined; $state.d = 4;"
        "return [Object.keys($state), 'a' in $state, 'b' in $state, { ...$state }, $state.none ?? 'other'];",
        state={"a": 1, "b": 2, "c": 3},
    )
    assert told(flush) == [["a", "d"], True, False, {"a": 1, "d": 4}, "other"]


def test_a_value_that_is_no_json_is_refused_where_it_stands(do: Any) -> None:
    """A function or a symbol cannot be written, emitted or sent; the error says what it was for."""
    for body, what in (
        ("$state.a = () => 1", "$state.a"),
        ("$emit('e', Symbol('s'))", "the payload of e"),
        ("$view.update('v', () => 1)", "the data of v"),
    ):
        flush = do(body)
        assert flush.outcome == "threw"
        assert flush.thrown.name == "TypeError"
        assert what in (flush.thrown.message or "")


def test_a_refusal_can_be_caught_and_is_told(do: Any) -> None:
    """A refused operation throws where it is made; the host hears of each refusal."""
    flush = do(
        "const seen = []; for (const f of [() => $state.b, () => { $state.b = 1 }, () => $emit('e')]) "
        "try { f() } catch (error) { seen.push([error.name, error instanceof Error]) } return seen;",
        CapabilitySet.parse(["state:read:a*"]),
    )
    assert told(flush) == [["PermissionDenied", True]] * 3
    assert flush.denials == ("state:read:b", "state:write:b", "events:emit:e")


@pytest.mark.parametrize(
    ("tokens", "key", "allowed"),
    [
        (["state:read:*"], "anything", True),
        (["state:read:user.*"], "user.name", True),
        (["state:read:user.*"], "user.", True),
        (["state:read:user.*"], "user", False),
        (["state:read:a", "state:read:b"], "b", True),
        (["state:read:a"], "aa", False),
        (["state:read:a"], "__proto__", False),
        (["state:read:a"], "constructor", False),
        ([], "a", False),
    ],
)
def test_patterns_mean_the_same_to_the_guest(do: Any, tokens: list[str], key: str, allowed: bool) -> None:
    """The early check and the host's agree on what a pattern covers."""
    capabilities = CapabilitySet.parse(tokens)
    assert capabilities.allows("state:read", key) is allowed
    assert (do(f"$state[{key!r}]; return 1;", capabilities).outcome == "returned") is allowed


def test_levels_of_logs(do: Any) -> None:
    """`$log` and `console` write the same levels, and values become readable words."""
    flush = do(
        "console.log('a', 1, null, { b: [2] }); console.warn(new RangeError('r')); $log.debug(undefined); "
        "$log.error(Symbol('s'), 5n, () => 1); console.info(''); console.trace('t');"
    )
    assert [
        (record.level, record.message.splitlines()[0] if record.message else "") for record in flush.logs
    ] == [
        ("info", 'a 1 null {"b":[2]}'),
        ("warn", "RangeError: r"),
        ("debug", "undefined"),
        ("error", "Symbol(s) 5 () => 1"),
        ("info", ""),
        ("debug", "t"),
    ]


def test_an_unprintable_value_does_not_fail_the_call(do: Any) -> None:
    """Logging never throws."""
    flush = do(
        "const c = {}; c.c = c; console.log(c, { get a() { throw 1 } }, Object.create(null)); return 1;"
    )
    assert told(flush) == 1
    assert flush.logs[0].message == "<unprintable> <unprintable> {}"


def test_context_tells_of_the_call(do: Any) -> None:
    """`ctx` has the words of the call and the time that is left."""
    rules = "return [ctx.requestId, ctx.handler, ctx.session, ctx.env, ctx.remainingMs()];"
    assert told(do(rules)) == ["r", "h", None, {}, None]


def test_crypto_gives_bytes(do: Any) -> None:
    """UUIDs have their form, typed arrays of any kind are filled, and too much is refused."""
    flush = do(
        "const filled = crypto.getRandomValues(new Uint32Array(40)); const many = crypto.randomUUID();"
        "let refused = 0; for (const bad of [[], 'x', null, new Uint8Array(65537)]) "
        "try { crypto.getRandomValues(bad) } catch (error) { refused += error instanceof TypeError }"
        "return [many, new Set(filled).size > 30, refused];"
    )
    uuid, filled, refused = told(flush)
    assert len(uuid) == 36
    assert (uuid[14], uuid[8], uuid[19] in "89ab") == ("4", "-", True)
    assert (filled, refused) == (True, 4)


def test_extensions_are_asked_by_name(do: Any) -> None:
    """`$ext.<name>.<method>(...)` hands over a call; an extension is never taken for a promise."""
    flush = do("await $ext.http; await $ext; $ext.a.b(1, { c: 2 }); return $ext.http.get('x').then;")
    assert [(c.extension, c.method, bytes(c.args)) for c in flush.calls] == [
        ("a", "b", b'[1,{"c":2}]'),
        ("http", "get", b'["x"]'),
    ]


def test_the_pristine_world_has_no_trace_of_the_host(
    kind: JavaScriptKind, instance: JavaScriptInstance
) -> None:
    """A handler sees the language, the documented globals and nothing else."""
    text = "export default () => Object.getOwnPropertyNames(globalThis);"
    instance.attach(compile_text(kind, text))
    names = set(call_text(instance))
    assert {"$state", "$args", "$scope", "$emit", "$view", "$ext", "$log", "console", "crypto"} <= names
    assert not {name for name in names if name.startswith("__")}
    assert not names & {"std", "os", "process", "require", "fetch", "bjson", "print", "scriptArgs", "load"}
