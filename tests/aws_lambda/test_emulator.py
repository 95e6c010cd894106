"""The harness around AWS's emulator, on functions of its own."""

import os
import signal
import socket
from pathlib import Path

import pytest

from functions.aws_lambda.emulator import (
    HOST,
    Emulator,
    EmulatorFailed,
    EmulatorMissing,
    FunctionPlan,
    Reply,
    find_program,
    session_of,
)

_FUNCTION = """
import os, subprocess, sys
print("started by", os.environ.get("NOT_FOR_LAMBDA"), flush=True)
def handler(event, context):
    if event == "child":
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
    if event == "fail":
        raise KeyError("nothing")
    return [event, sorted(os.environ), context.function_name]
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> FunctionPlan:
    """A function that needs nothing of Nexus."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "plain.py").write_text(_FUNCTION)
    return FunctionPlan(folder, handler="plain.handler", environ={"MINE": "1"})


def test_a_function_starts_with_its_first_event_in_a_clean_environment(
    program: Path, plan: FunctionPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the event and its own variables, and none of the machine's; its start is measured."""
    monkeypatch.setenv("NOT_FOR_LAMBDA", "a secret")
    with Emulator(program, plan) as emulator:
        assert emulator.function_pids == ()
        with pytest.raises(EmulatorFailed, match="has not started"):
            _ = emulator.init_ms
        event, names, function = emulator.invoke({"a": [1]}).value
        assert (event, function) == ({"a": [1]}, "nexus")
        assert "MINE" in names
        assert not {"NOT_FOR_LAMBDA", "HOME", "USER"} & set(names)
        emulator.wait_for("started by None")
        assert emulator.init_ms > 0
        assert emulator.invoke("fail").error_type == "KeyError"


def test_what_a_function_started_is_gone_with_it(program: Path, plan: FunctionPlan) -> None:
    """No process of the session outlives the emulator, children of the function among them."""
    with Emulator(program, plan) as emulator:
        child = emulator.invoke("child").value
        assert child in emulator.function_pids
        leader = os.getsid(child)
    assert session_of(leader) == []
    emulator.stop()


def test_an_emulator_that_died_is_told(program: Path, plan: FunctionPlan) -> None:
    """An event for one that is gone fails with what it wrote until then."""
    with Emulator(program, plan) as emulator:
        (pid,) = {os.getsid(pid) for pid in _with_function(emulator)}
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EmulatorFailed, match=r"gave no answer(.|\n)*START RequestId"):
            emulator.invoke({})


def _with_function(emulator: Emulator) -> tuple[int, ...]:
    emulator.invoke({})
    return emulator.function_pids


def test_a_port_that_is_taken_is_named(program: Path, plan: FunctionPlan) -> None:
    """It is not started where another server would get its events."""
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(EmulatorFailed, match=f"port {port} of {HOST} is in use"):
            Emulator(program, plan, port=port).__enter__()


def test_an_emulator_that_is_not_there_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the program the message names the command that brings it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmulatorMissing, match="make sam-tools"):
        find_program(tmp_path)


@pytest.mark.parametrize(
    ("body", "error_type"),
    [
        (b"Task timed out after 3.00 seconds", "Sandbox.Timedout"),
        (b'{"errorMessage": "no", "errorType": "TIMEOUT"}', "TIMEOUT"),
        (b'{"errorMessage": "no"}', None),
        (b"null", None),
        (b"not JSON", None),
    ],
)
def test_failures_are_told_by_shape(body: bytes, error_type: str | None) -> None:
    """The emulator says 200 to all, so an answer itself tells whether the function failed."""
    assert Reply(200, body).error_type == error_type
