"""HTTP load by `wrk` (Debian package): one thread, sixteen connections, a bounded time."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import msgspec

from bench.peers import PeerMissing
from bench.servers import REQUEST_BODY, RunningServer

CONNECTIONS = 16
_SLACK_SECONDS = 15

# wrk's own report is for people; `done` gets the same numbers. Latencies are in microseconds.
_REPORT_LUA = """
done = function(summary, latency)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  io.write("REPORT ", string.format(
    '{"requests":%d,"microseconds":%d,"refused":%d,"lost":%d,"p50":%d,"p99":%d}\\n',
    summary.requests, summary.duration, errors.status, lost,
    latency:percentile(50), latency:percentile(99)))
end
"""


class LoadFailed(Exception):
    """Some requests of a load were not answered, or answered with an error status: its rate means nothing."""


class LoadResult(msgspec.Struct, frozen=True):
    """What one load did. Latencies are microseconds; `cpu_us` is the server's processor time per request."""

    rate: float
    p50: float
    p99: float
    cpu_us: float


class _Report(msgspec.Struct, frozen=True):
    requests: int
    microseconds: int
    refused: int
    lost: int
    p50: int
    p99: int


def load(server: RunningServer, seconds: int) -> LoadResult:
    """Load a server for so many seconds. Raises `LoadFailed` unless every request was answered with 2xx."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise PeerMissing("wrk is not installed: it is a Debian package")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "work.lua"
        script.write_text(_request_lua(server) + _REPORT_LUA)
        command = [
            wrk,
            "-t1",
            f"-c{CONNECTIONS}",
            f"-d{seconds}",
            "--timeout",
            "10",
            "-s",
            str(script),
            server.url,
        ]
        cpu_before = server.cpu_seconds()
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=seconds + _SLACK_SECONDS
        )
        cpu = server.cpu_seconds() - cpu_before
    if done.returncode != 0:
        raise LoadFailed(f"wrk ended with {done.returncode}: {done.stderr.strip()[:200]}")
    return parse_report(done.stdout, cpu)


def parse_report(output: str, cpu_seconds: float) -> LoadResult:
    """The result in wrk's output. Raises `LoadFailed` when there is none or a request went wrong."""
    line = next((line for line in output.splitlines() if line.startswith("REPORT ")), None)
    if line is None:
        raise LoadFailed(f"wrk gave no report: {output[:200]!r}")
    report = msgspec.json.decode(line.removeprefix("REPORT "), type=_Report)
    if report.refused or report.lost or not report.requests:
        raise LoadFailed(
            f"{report.requests} requests: {report.refused} answered with an error, {report.lost} not answered"
        )
    return LoadResult(
        rate=report.requests * 1_000_000 / report.microseconds,
        p50=report.p50,
        p99=report.p99,
        cpu_us=cpu_seconds * 1_000_000 / report.requests,
    )


def _request_lua(server: RunningServer) -> str:
    lines = ['wrk.method = "POST"', f"wrk.body = [[{REQUEST_BODY.decode()}]]"]
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in server.headers.items()]
    return "\n".join(lines) + "\n"
