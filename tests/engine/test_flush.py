"""What a guest hands over is checked in full: a forged text breaks nothing and gains nothing."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.capabilities import CapabilitySet
from nexus_core.engine.flush import Flush, FlushReader, Usage
from nexus_core.errors import (
    GuestError,
    NexusError,
    PayloadTooLarge,
    PermissionDenied,
    ResourceLimitExceeded,
)
from nexus_core.limits import ResourceLimits
from tests.engine.guests import ALL

READER = FlushReader()


def text(**fields: Any) -> bytes:
    """A flush as the bootstrap writes it, with some fields of another content."""
    whole = {"outcome": "returned", "operations": [], "calls": [], "logs": [], "denials": []} | fields
    return json.dumps(whole).encode()


def read(
    data: bytes,
    capabilities: CapabilitySet = ALL,
    usage: Usage | None = None,
    limits: ResourceLimits | None = None,
) -> Flush:
    """The checked flush."""
    return READER.read(data, capabilities, limits or ResourceLimits(), usage or Usage())


def call(call_id: Any = 1, **fields: Any) -> dict[str, Any]:
    """An extension call as the bootstrap writes it."""
    return {"callId": call_id, "extension": "http", "method": "get", "args": []} | fields


def test_an_honest_flush_is_read_in_order() -> None:
    """Operations, calls and logs come out as they were made, and each is counted."""
    usage = Usage()
    operations = [["set", "a", {"b": [1]}], ["emit", "e", None], ["delete", "a"], ["view", "v", 1]]
    flush = read(
        text(
            value={"x": 1},
            operations=operations,
            calls=[call(1), call(2)],
            logs=[{"level": "info", "message": "hi"}],
        ),
        usage=usage,
    )
    assert bytes(flush.value) == b'{"x": 1}'
    assert [(m.op, m.key, bytes(m.value)) for m in flush.mutations] == [
        ("set", "a", b'{"b": [1]}'),
        ("delete", "a", b"null"),
    ]
    assert [event.name for event in flush.events] == ["e"]
    assert [command.id for command in flush.view_commands] == ["v"]
    assert [pending.call_id for pending in flush.calls] == [1, 2]
    assert dict(usage.host_calls) == {"state_set": 1, "state_delete": 1, "emit": 1, "view": 1, "ext_call": 2}
    assert (usage.mutations, usage.events, usage.last_call_id) == (2, 1, 2)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b'{"outcome":"returned"}',
        text(outcome="done"),
        text(operations={}),
        text(operations=[["set", "a"]]),
        text(operations=[["set", 1, 2]]),
        text(operations=[["set"]]),
        text(operations=[["drop", "a"]]),
        text(operations=[[]]),
        text(operations=["set"]),
        text(calls=[call("1")]),
        text(calls=[call(1.5)]),
        text(calls=[call(True)]),
        text(calls=[call(extension=None)]),
        text(calls=[call(args={})]),
        text(calls=[call(args="[]")]),
        text(calls=[call(args=None)]),
        text(logs=[{"level": "info"}]),
        text(logs=[{"level": "fatal", "message": ""}]),
        text(logs=[{"level": "x" * 1000, "message": ""}]),
        text(denials=[1]),
        text(error="boom"),
        text(error={"name": 1}),
        text() + b"x",
        text()[:-1],
        b'{"outcome":"returned","operations":[],"calls":[],"logs":[],"denials":[],"value":01}',
    ],
)
def test_a_forged_text_is_the_guests_error(data: bytes) -> None:
    """What is not a flush ends the call as the handler's own failure, and says nothing of the host."""
    with pytest.raises(GuestError) as caught:
        read(data)
    assert caught.value.message in (
        "the handler broke the text its sandbox hands over",
        "the guest handed over a malformed extension call",
    )


@pytest.mark.parametrize("field", ["value", "operation", "payload", "args"])
@pytest.mark.parametrize("broken", [b"\xed\xa0\x80", b"\xff", b"\xc0\x80", b"\xf5\x80\x80\x80"])
def test_only_utf8_leaves_the_sandbox(field: str, broken: bytes) -> None:
    """Values are kept as the guest's text, so that text must be UTF-8 in every corner."""
    forged = {
        "value": text(value="@"),
        "operation": text(operations=[["set", "a", "@"]]),
        "payload": text(operations=[["emit", "a", "@"]]),
        "args": text(calls=[call(args=["@"])]),
    }
    with pytest.raises(GuestError):
        read(forged[field].replace(b"@", broken))


def test_half_surrogate_pairs_become_replacement_characters() -> None:
    """JavaScript's JSON may hold half a pair; what leaves is text any reader takes."""
    flush = read(
        text(
            outcome="threw",
            value=["\ud800", "a\udc00b", "\\ud800", "\\\udfff"],
            operations=[["set", "\ud800", "\udbff"], ["emit", "\udc00", {"\ud800": 1}]],
            logs=[{"level": "info", "message": "x\ud83d"}],
            error={"name": "\ud800", "message": "\udfff"},
        )
    )
    assert msgspec.json.decode(flush.value) == ["\ufffd", "a\ufffdb", "\\ud800", "\\\ufffd"]
    assert flush.mutations[0].key == "\ufffd"
    assert msgspec.json.decode(flush.mutations[0].value) == "\ufffd"
    assert flush.events[0].name == "\ufffd"
    assert msgspec.json.decode(flush.events[0].payload) == {"\ufffd": 1}
    assert flush.logs[0].message == "x\ufffd"
    assert (flush.thrown.name, flush.thrown.message) == ("\ufffd", "\ufffd")


@given(st.text(st.characters(codec=None), max_size=20))
def test_any_javascript_string_survives(value: str) -> None:
    """A string keeps every whole character, backslashes too, whatever stands beside it."""
    quoted = json.dumps([value], ensure_ascii=False)
    as_javascript = quoted.encode("utf-8", "backslashreplace")
    flush = read(text(value=0).replace(b'"value": 0', b'"value": ' + as_javascript))
    expected = "".join("\ufffd" if "\ud800" <= each <= "\udfff" else each for each in value)
    assert msgspec.json.decode(flush.value) == [expected]


@pytest.mark.parametrize("pair", [("[", "]"), ('{"a":', "}")])
def test_too_deep_a_value_is_the_guests_error(pair: tuple[str, str]) -> None:
    """A value nested past what any interpreter reads is refused by name, and nothing overflows."""
    (opening, closing), depth = pair, 100_000
    deep = (opening * depth + "1" + closing * depth).encode()
    with pytest.raises(GuestError, match="nested too deeply"):
        read(text(value=0).replace(b'"value": 0', b'"value": ' + deep))


@pytest.mark.parametrize(
    ("fields", "token"),
    [
        ({"operations": [["set", "b", 1]]}, "state:write:b"),
        ({"operations": [["delete", "b"]]}, "state:write:b"),
        ({"operations": [["set", "a", 1], ["set", "__proto__", 1]]}, "state:write:__proto__"),
        ({"operations": [["emit", "other", 1]]}, "events:emit:other"),
        ({"operations": [["view", "other", 1]]}, "view:update:other"),
        ({"calls": [call(extension="callback")]}, "ext:callback"),
        ({"operations": [["set", "k" * 100_000, 1]]}, ("state:write:" + "k" * 300)[:300]),
    ],
)
def test_a_forged_operation_is_refused(fields: dict[str, Any], token: str) -> None:
    """The host checks each operation, whatever the bootstrap let through, and names the token."""
    allowed = CapabilitySet.parse(["state:write:a", "events:emit:e", "view:update:v", "ext:http"])
    with pytest.raises(PermissionDenied) as caught:
        read(text(**fields), allowed)
    assert caught.value.token == token


def test_one_refused_operation_refuses_the_whole_flush() -> None:
    """Nothing of a flush with a forbidden operation is handed on or counted as done."""
    usage = Usage()
    with pytest.raises(PermissionDenied):
        read(
            text(operations=[["set", "a", 1], ["set", "b", 1]]),
            CapabilitySet.parse(["state:write:a"]),
            usage,
        )
    assert usage.mutations == 0


@pytest.mark.parametrize(
    ("name", "kind"), [("max_events", "emit"), ("max_state_mutations", "set"), ("max_host_calls", "view")]
)
def test_counts_at_their_limit_and_one_above(name: str, kind: str) -> None:
    """A count may be reached; one more names the limit, its value and what was used."""
    operations = [[kind, "a", 1]] * 7
    limits = ResourceLimits(**{name: 7})
    read(text(operations=operations), limits=limits)
    read(text(operations=operations[1:]), limits=limits)
    with pytest.raises(ResourceLimitExceeded) as caught:
        read(text(operations=[*operations, [kind, "a", 1]]), limits=limits)
    assert caught.value.breach == (name, 7, 8)


def test_counts_go_over_all_flushes_of_a_call() -> None:
    """A guest gains nothing by handing over in portions."""
    usage = Usage()
    for _ in range(3):
        read(text(operations=[["emit", "a", 1]] * 2), usage=usage, limits=ResourceLimits(max_events=6))
    with pytest.raises(ResourceLimitExceeded):
        read(text(operations=[["emit", "a", 1]]), usage=usage, limits=ResourceLimits(max_events=6))


def test_a_flood_is_refused_before_it_is_looked_at() -> None:
    """A million forged operations cost their decoding, and are then refused by number alone."""
    usage = Usage()
    with pytest.raises(ResourceLimitExceeded) as caught:
        read(text(operations=[["delete", "a"]] * 1_000_000), usage=usage)
    assert caught.value.breach == ("max_host_calls", 10_000, 1_000_000)
    assert not usage.host_calls


def test_a_return_value_at_its_limit_and_one_above() -> None:
    """`max_output_bytes` counts the JSON text of the return value."""
    assert len(read(text(value="x" * 8), limits=ResourceLimits(max_output_bytes=10)).value) == 10
    with pytest.raises(PayloadTooLarge) as caught:
        read(text(value="x" * 9), limits=ResourceLimits(max_output_bytes=10))
    assert caught.value.breach == ("max_output_bytes", 10, 11)


@pytest.mark.parametrize("ids", [[1, 1], [2, 1], [0], [-5]])
def test_call_ids_only_rise(ids: list[int]) -> None:
    """A forged id can never take the answer of another call, of this flush or an earlier one."""
    with pytest.raises(GuestError, match="malformed extension call"):
        read(text(calls=[call(number) for number in ids]))
    usage = Usage()
    read(text(calls=[call(7)]), usage=usage)
    with pytest.raises(GuestError, match="malformed extension call"):
        read(text(calls=[call(7)]), usage=usage)


def test_logs_are_cut_by_bytes() -> None:
    """Messages are cut at `max_log_bytes` of UTF-8, in the middle of no character."""
    logs = [{"level": "info", "message": "é" * 10}, {"level": "warn", "message": "lost"}]
    flush = read(text(logs=logs), limits=ResourceLimits(max_log_bytes=7))
    assert [record.message for record in flush.logs] == ["ééé"]


def test_empty_log_lines_are_not_free() -> None:
    """A million forged empty lines end where the limit says, like any others."""
    flush = read(
        text(logs=[{"level": "info", "message": ""}] * 100_000), limits=ResourceLimits(max_log_bytes=50)
    )
    assert len(flush.logs) == 50


def test_an_error_beside_a_result_is_no_error() -> None:
    """Only a handler that threw has thrown."""
    assert read(text(error={"name": "InternalError", "message": "out of memory"})).thrown.name is None


def test_what_a_guest_says_of_itself_is_cut() -> None:
    """Megabytes in an error or a refusal reach neither caller nor log."""
    usage = Usage()
    forged = text(
        outcome="threw",
        error={"name": "n" * 10**6, "message": "m" * 10**6, "stack": "s" * 10**6},
        denials=["d" * 1_000] * 1_000,
    )
    flush = read(forged, usage=usage)
    assert flush.thrown.name is not None
    assert len(flush.thrown.name) == 200
    assert len(flush.thrown.message or "") == len(flush.thrown.stack or "") == 8192
    assert [len(token) for token in flush.denials] == [300] * 100
    assert len(read(forged, usage=usage).denials) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
operations = st.tuples(
    st.sampled_from(["set", "delete", "emit", "view", "call"]), st.sampled_from(["a", "b", ""]), json_values
)
forged_flushes = st.fixed_dictionaries(
    {"outcome": st.sampled_from(["returned", "threw", "pending", "x"])},
    optional={
        "operations": st.lists(operations, max_size=6) | json_values,
        "calls": st.lists(
            st.fixed_dictionaries(
                {
                    "callId": st.integers(-1, 5),
                    "extension": st.sampled_from(["http", "b"]),
                    "method": st.text(max_size=3),
                    "args": json_values,
                }
            ),
            max_size=3,
        )
        | json_values,
        "logs": st.lists(st.fixed_dictionaries({"level": json_values, "message": json_values}), max_size=3),
        "denials": st.lists(st.text(max_size=3), max_size=3) | json_values,
        "value": json_values,
        "error": json_values,
    },
)


@given(st.binary(max_size=60) | forged_flushes.map(lambda forged: text(**forged)))
def test_whatever_comes_out_is_allowed(data: bytes) -> None:
    """For any text: a typed error, or a flush within every capability and every limit."""
    allowed = CapabilitySet.parse(["state:write:a", "events:emit:a", "view:update:a", "ext:http"])
    limits = ResourceLimits(
        max_host_calls=4, max_state_mutations=2, max_events=1, max_output_bytes=20, max_log_bytes=5
    )
    usage = Usage()
    try:
        flush = READER.read(data, allowed, limits, usage)
    except NexusError:
        return
    names = [*(m.key for m in flush.mutations), *(e.name for e in flush.events)]
    assert {*names, *(view.id for view in flush.view_commands)} <= {"a"}
    assert {pending.extension for pending in flush.calls} <= {"http"}
    assert len(flush.mutations) <= 2
    assert len(flush.events) <= 1
    assert sum(usage.host_calls.values()) <= 4
    assert len(flush.value) <= 20
    assert sum(len(record.message.encode()) for record in flush.logs) <= 5
    assert all(isinstance(json.loads(bytes(pending.args)), list) for pending in flush.calls)
