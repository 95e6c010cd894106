"""X-Ray: what its daemon gets to hear of calls, and that the SDK stays away while nothing is traced."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

PATIENCE_SECONDS = 20.0
HEADER = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled="

# In a process of its own: the SDK decides at its import whether it is in Lambda.
PROGRAM = """
import json, os, sys
from functions.aws_lambda.log_lines import TRACE_VARIABLE
from functions.aws_lambda.observer import Observer
from nexus_core.config import RuntimeConfig
from nexus_core.errors import ErrorCode

class Context:
    aws_request_id = "one"

def log_call(handler, code, duration_us):
    status = "error" if code else "success"
    about = {"status": status, "code": code, "duration_us": duration_us, "cold_start": False}
    observer.log.call("r1", handler, None, **about)

def invocation(sampled):
    os.environ[TRACE_VARIABLE] = f"{sys.argv[1]}{sampled}"
    with observer.invocation({}, Context, "direct"):
        log_call("hello", None, 1_500_000)
        log_call("orders", ErrorCode.TIMEOUT, 10)
        log_call("orders", ErrorCode.INVALID_REQUEST, 10)
    return "aws_xray_sdk" in sys.modules

observer = Observer(os.environ, RuntimeConfig(), sys.stderr.buffer)
print(json.dumps(["aws_xray_sdk" in sys.modules, invocation(0), invocation(1)]))
"""


@pytest.fixture
def daemon() -> Iterator[socket.socket]:
    """The port of X-Ray's daemon."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.bind(("127.0.0.1", 0))
        port.settimeout(PATIENCE_SECONDS)
        yield port


def run(address: str, **environ: str) -> tuple[list[bool], str]:
    """Whether the SDK was imported at INIT, after an untraced, after a traced invocation; what was logged."""
    lambdas = {"LAMBDA_TASK_ROOT": "/var/task", "AWS_XRAY_DAEMON_ADDRESS": address}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, HEADER],
        env={**os.environ, **lambdas, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    imported: list[bool] = json.loads(done.stdout)
    return imported, done.stderr


def address_of(port: socket.socket) -> str:
    """Where a socket listens, as the SDK is told."""
    return f"127.0.0.1:{port.getsockname()[1]}"


def received(port: socket.socket) -> dict[str, Any]:
    """The next subsegment that came."""
    head, _, document = port.recv(65_536).partition(b"\n")
    assert json.loads(head) == {"format": "json", "version": 1}
    subsegment: dict[str, Any] = json.loads(document)
    return subsegment


def test_a_call_of_a_traced_invocation_is_a_subsegment(daemon: socket.socket) -> None:
    """It tells handler, status and code, how long the call took and whose fault it was."""
    imported, _ = run(address_of(daemon))
    assert imported == [False, False, True]
    success, timeout, invalid = (received(daemon) for _ in range(3))
    assert success["name"] == "## hello"
    assert success["annotations"] == {"handler": "hello", "status": "success"}
    assert success["trace_id"] == "1-5759e988-bd862e3fe1be46a994272793"
    assert success["parent_id"] == "53995c3f42cd8ad8"
    assert success["end_time"] - success["start_time"] >= 1.5
    assert timeout["annotations"] == {"handler": "orders", "status": "error", "code": "TIMEOUT"}
    assert (timeout.get("fault"), timeout.get("error")) == (True, None)
    assert (invalid.get("fault"), invalid.get("error")) == (None, True)


@pytest.mark.parametrize(
    "environ", [{"POWERTOOLS_TRACE_DISABLED": "true"}, {"LAMBDA_TASK_ROOT": ""}, {"AWS_SAM_LOCAL": "true"}]
)
def test_tracing_is_off_where_powertools_has_it_off(environ: dict[str, str], daemon: socket.socket) -> None:
    """By its variable and outside of Lambda nothing is imported, whatever an invocation's header says."""
    imported, _ = run(address_of(daemon), **environ)
    assert imported == [False, False, False]


def test_tracing_that_is_said_to_be_on_is_ready_at_init(daemon: socket.socket) -> None:
    """Who says that it is not disabled pays for the SDK at INIT instead of in the first traced invocation."""
    imported, _ = run(address_of(daemon), POWERTOOLS_TRACE_DISABLED="false")
    assert imported == [True, True, True]
    assert received(daemon)["name"] == "## hello"


def test_a_missing_daemon_fails_no_call() -> None:
    """When nobody listens, calls go on."""
    imported, _ = run("127.0.0.1:1")
    assert imported == [False, False, True]


@pytest.mark.parametrize("environ", [{}, {"POWERTOOLS_TRACE_DISABLED": "false"}])
def test_an_address_that_is_none_fails_no_call(environ: dict[str, str]) -> None:
    """Tracing that cannot start says so once and is off, at INIT or later."""
    _, logged = run("nonsense", **environ)
    assert logged.count("tracing is off") == 1
    assert "call not traced" not in logged
