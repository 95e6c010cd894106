"""The JSON form of results: the same names on every host, and of an error only what a caller may know."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.errors import (
    CompilationError,
    ErrorCode,
    GuestError,
    HandlerTimeout,
    InvalidHandler,
    LimitBreach,
    NexusError,
    PermissionDenied,
    PoolExhausted,
    SourceLocation,
)
from nexus_core.result import (
    AsyncResult,
    EmittedEvent,
    ErrorInfo,
    ExecutionMetrics,
    LogRecord,
    PendingCall,
    StateMutation,
    Suspension,
    ViewCommand,
    WasmResult,
)
from nexus_core.runtime import Runtime
from tests.core.runtimes import body, call, handler

PLACE = SourceLocation("index.js", 3, 9)


def wire(result: object) -> Any:
    """A value as its JSON reader sees it."""
    return json.loads(msgspec.json.encode(result))


def test_a_result_has_the_names_of_the_design() -> None:
    """An empty result shows every name there is, in camel case."""
    assert wire(WasmResult(status="success")) == {
        "status": "success",
        "returnValue": None,
        "stateMutations": [],
        "events": [],
        "viewCommands": [],
        "suspension": None,
        "error": None,
        "metrics": {
            "durationUs": 0,
            "cpuUs": 0,
            "memoryUsedBytes": 0,
            "memoryPeakBytes": 0,
            "hostCalls": {},
            "cacheHit": True,
            "compilationTimeUs": None,
            "coldStart": False,
        },
        "logs": [],
    }


def test_json_texts_are_part_of_the_result_as_they_are() -> None:
    """Values of the guest are not decoded and encoded again on their way."""
    text = msgspec.Raw(b'{"a":[1,2.50,"\\u00e9"]}')
    result = WasmResult(
        status="suspended",
        return_value=text,
        state_mutations=(
            StateMutation(op="set", key="k", value=text),
            StateMutation(op="delete", key="gone"),
        ),
        events=(EmittedEvent(name="e", payload=text),),
        view_commands=(ViewCommand(id="v", data=text),),
        suspension=Suspension(
            id="s", pending=(PendingCall(call_id=1, extension="x", method="m", args=text),)
        ),
        logs=(LogRecord(level="info", message="m"),),
    )
    decoded = {"a": [1, 2.5, "é"]}
    shown = wire(result)
    assert shown["returnValue"] == decoded
    assert shown["stateMutations"] == [
        {"op": "set", "key": "k", "value": decoded},
        {"op": "delete", "key": "gone", "value": None},
    ]
    assert shown["events"] == [{"name": "e", "payload": decoded}]
    assert shown["viewCommands"] == [{"id": "v", "data": decoded}]
    assert shown["suspension"] == {
        "id": "s",
        "pending": [{"callId": 1, "extension": "x", "method": "m", "args": decoded}],
    }
    assert msgspec.json.encode(result).count(bytes(text)) == 5


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        (
            GuestError("m", name="TypeError", stack="at x", location=PLACE, snippet="  3 | x"),
            {
                "code": "EXECUTION_ERROR",
                "retryable": False,
                "name": "TypeError",
                "stack": "at x",
                "location": {"file": "index.js", "line": 3, "column": 9},
                "snippet": "  3 | x",
            },
        ),
        (
            CompilationError("m", name="SyntaxError", location=PLACE),
            {
                "code": "COMPILATION_ERROR",
                "retryable": False,
                "name": "SyntaxError",
                "location": {"file": "index.js", "line": 3, "column": 9},
            },
        ),
        (
            InvalidHandler("m", location=PLACE, snippet="x"),
            {
                "code": "INVALID_HANDLER",
                "retryable": False,
                "location": {"file": "index.js", "line": 3, "column": 9},
                "snippet": "x",
            },
        ),
        (
            HandlerTimeout("m", LimitBreach("timeout_ms", 5, 6)),
            {"code": "TIMEOUT", "retryable": True, "limit": {"name": "timeout_ms", "value": 5, "used": 6}},
        ),
        (HandlerTimeout("m"), {"code": "TIMEOUT", "retryable": True}),
        (PermissionDenied("m", token="ext:http"), {"code": "PERMISSION_DENIED", "retryable": False}),
        (PoolExhausted("m"), {"code": "POOL_EXHAUSTED", "retryable": True}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, NexusError) else "",
)
def test_an_error_shows_what_its_kind_knows(raised: NexusError, shown: dict[str, object]) -> None:
    """Code, message and retry always; place, stack and limit where there is one; no more fields."""
    nothing = dict.fromkeys(("name", "stack", "location", "snippet", "limit"))
    assert wire(ErrorInfo.of(raised)) == {"message": "m", **nothing, **shown}


def test_an_error_shows_nothing_of_its_cause() -> None:
    """What an error was raised from stays in the log."""
    raised = GuestError("m")
    raised.__cause__ = OSError("/etc/secret")
    assert "secret" not in repr(wire(ErrorInfo.of(raised)))


def test_results_cannot_be_changed() -> None:
    """A result may be handed around: nobody can alter what was answered."""
    result = WasmResult(status="success", metrics=ExecutionMetrics(host_calls={"emit": 1}))
    with pytest.raises(AttributeError):
        result.status = "error"  # type: ignore[misc]


def test_metrics_of_two_results_are_not_one_object() -> None:
    """The default of a field is never shared."""
    one, two = ExecutionMetrics(), ExecutionMetrics()
    one.host_calls["emit"] = 1
    assert two.host_calls == {}


@given(ok=st.booleans(), call_id=st.integers(1, 2**31), name=st.text(), message=st.text())
def test_answers_of_extensions_survive_the_wire(ok: bool, call_id: int, name: str, message: str) -> None:
    """Any text in an answer reads back as it was."""
    made = AsyncResult(call_id=call_id, ok=ok, error_name=name, error_message=message)
    read = msgspec.json.decode(msgspec.json.encode(made), type=AsyncResult)
    assert (read.call_id, read.ok, read.error_name, read.error_message) == (call_id, ok, name, message)


async def test_a_failed_call_has_the_whole_shape(runtime: Runtime) -> None:
    """An error of a real call has every name of a result, and its own in `error`."""
    result = await runtime.execute_source(handler(body("throw new TypeError('no')")), call())
    shown = wire(result)
    assert set(shown) == set(wire(WasmResult(status="success")))
    assert (shown["status"], shown["returnValue"]) == ("error", None)
    assert shown["error"]["code"] == ErrorCode.EXECUTION_ERROR
    assert (shown["error"]["name"], shown["error"]["message"]) == ("TypeError", "no")


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("undefined", None),
        ("null", None),
        ("NaN", None),
        ("-0", 0),
        ("[undefined, () => 1]", [None, None]),
        ("({ a: undefined, b: Symbol() })", {}),
        ("({ toJSON: () => 'mine' })", "mine"),
        ("new Date(0)", "1970-01-01T00:00:00.000Z"),
        ("'\\u0000\\u2028'", "\0\u2028"),
        ("JSON.parse('{\"__proto__\": 1}')", {"__proto__": 1}),
        ("2 ** 53", 2**53),
    ],
)
async def test_return_values_follow_the_rules_of_json(
    runtime: Runtime, expression: str, shown: object
) -> None:
    """What `JSON.stringify` makes of a value is what the caller gets."""
    result = await runtime.execute_source(handler(body(f"return {expression}")), call())
    assert result.status == "success"
    assert wire(result)["returnValue"] == shown


@pytest.mark.parametrize("expression", ["10n", "(() => { const a = []; a.push(a); return a })()"])
async def test_a_value_that_is_no_json_is_the_handlers_error(runtime: Runtime, expression: str) -> None:
    """A big integer or a circle cannot be answered, and says so."""
    result = await runtime.execute_source(handler(body(f"return {expression}")), call())
    assert wire(result)["error"]["code"] == "EXECUTION_ERROR"
    assert wire(result)["error"]["name"] == "TypeError"
