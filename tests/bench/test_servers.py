"""Servers under measurement: a real one is started, asked, loaded and always ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from bench import load, servers
from bench.peers import ROOT, PeerMissing
from bench.servers import ServerFailed, ServerPlan, answers_the_work, serving

GRANIAN = ServerPlan(
    [
        *(sys.executable, "-m", "granian", "--interface", "rsgi", "--no-ws", "--log-level", "error"),
        *("--host", "127.0.0.1", "--port", "{port}", "bench.floor:rsgi"),
    ],
    {"PYTHONPATH": str(ROOT)},
)


def group_is_gone(group: int) -> bool:
    """Whether no process of the group is left, within some seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_a_server_is_ready_when_it_has_answered_and_is_gone_afterwards() -> None:
    """Inside the block it answers and has used processor time; after it none of its processes is left."""
    with contextlib.suppress(KeyboardInterrupt), serving(GRANIAN) as server:
        assert server.cpu_seconds() > 0
        raise KeyboardInterrupt
    assert group_is_gone(server.process_group)


def test_a_process_that_outlives_its_server_is_ended_too() -> None:
    """A worker that ignores SIGTERM would load the machine for every later row."""
    stubborn = "(trap '' TERM; while :; do sleep 0.1; done) & exec \"$@\""
    plan = ServerPlan(["sh", "-c", stubborn, "sh", *GRANIAN.command], GRANIAN.environ)
    with serving(plan) as server:
        pass
    assert group_is_gone(server.process_group)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_load_gives_rate_latency_and_processor_time() -> None:
    """A short real load of a real server has all four figures."""
    with serving(GRANIAN) as server:
        result = load.load(server, seconds=1)
    assert result.rate > 0
    assert 0 < result.p50 <= result.p99
    assert result.cpu_us > 0


def test_a_missing_wrk_is_a_missing_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row can say which package to install."""
    monkeypatch.setenv("PATH", "")
    server = servers.RunningServer("http://127.0.0.1:1/", {}, 0)
    with pytest.raises(PeerMissing, match="wrk is not installed"):
        load.load(server, seconds=1)


def test_a_server_that_ends_tells_its_last_words() -> None:
    """A start that fails is told at once, with what the server wrote."""
    plan = ServerPlan([sys.executable, "-c", "raise SystemExit('no such thing')"], {})
    with pytest.raises(ServerFailed, match="ended with 1: no such thing"), serving(plan):
        pass


def test_a_server_that_answers_wrongly_is_refused(tmp_path: Path) -> None:
    """No rate is told of a server that does other work: here one that knows no POST."""
    plan = ServerPlan(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), "{port}"],
        {},
    )
    with pytest.raises(ServerFailed, match=r"expected .*hello bob.* got 501"), serving(plan):
        pass


@pytest.mark.parametrize(
    ("status", "body", "right"),
    [
        (200, b'{"greeting": "hello bob"}', True),
        (200, b'{"status":"success","returnValue":{"greeting":"hello bob"}}', True),
        (200, b'{"status":"error","returnValue":{"greeting":"hello bob"}}', False),
        (500, b'{"greeting":"hello bob"}', False),
        (200, b'{"greeting":"hello alice"}', False),
        (200, b"hello bob", False),
        (200, b"[]", False),
    ],
)
def test_only_the_greeting_counts_as_an_answer(status: int, body: bytes, right: bool) -> None:
    """Bare, or as the return value of a full result."""
    assert answers_the_work(status, body) is right


REPORT = '{"requests":200,"microseconds":2000000,"refused":%d,"lost":%d,"p50":900,"p99":4000}'


def test_a_report_of_wrk_becomes_figures() -> None:
    """Rate from requests and time, processor time shared out among the requests."""
    result = load.parse_report(f"Running 2s test\nREPORT {REPORT % (0, 0)}\n", cpu_seconds=0.05)
    assert result == load.LoadResult(rate=100.0, p50=900, p99=4000, cpu_us=250.0)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (f"REPORT {REPORT % (3, 0)}", "3 answered with an error, 0 not answered"),
        (f"REPORT {REPORT % (0, 2)}", "0 answered with an error, 2 not answered"),
        (f"REPORT {(REPORT % (0, 0)).replace('200,', '0,', 1)}", "0 requests"),
        ("unable to connect", "no report"),
    ],
)
def test_a_load_with_errors_has_no_rate(output: str, message: str) -> None:
    """Refusing fast must never look like being fast."""
    with pytest.raises(load.LoadFailed, match=message):
        load.parse_report(output, cpu_seconds=1.0)
