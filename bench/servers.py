"""Servers under measurement: started on a free loopback port, checked by one real answer, always ended.

Each is a process group of its own, so that its workers end with it, and asks the kernel to be killed
should the benchmark itself be killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import msgspec

from bench.machine import group_cpu_seconds

HOST = "127.0.0.1"
REQUEST_BODY = b'{"who":"bob"}'
EXPECTED = {"greeting": "hello bob"}
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_LOG_TAIL_BYTES = 2_000
_PR_SET_PDEATHSIG = 1


class ServerFailed(Exception):
    """A server did not start, or answered something else than the work asks for."""


@dataclass(frozen=True)
class ServerPlan:
    """How a server is started and asked. `{port}` in a command's parts stands for its port."""

    command: Sequence[str]
    environ: Mapping[str, str]
    path: str = "/"
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True)
class RunningServer:
    """A server that has answered once."""

    url: str
    headers: Mapping[str, str]
    process_group: int

    def cpu_seconds(self) -> float:
        """Processor time its processes have used so far."""
        return group_cpu_seconds(self.process_group)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(plan: ServerPlan) -> Iterator[RunningServer]:
    """Start the server, wait for its first right answer, and end its process group on every exit."""
    port = free_port()
    command = [part.replace("{port}", str(port)) for part in plan.command]
    environ = {
        **os.environ,
        **{key: value.replace("{port}", str(port)) for key, value in plan.environ.items()},
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - the benchmark has no other thread when it forks
        )
        try:
            headers = {"content-type": "application/json", **(plan.headers or {})}
            server = RunningServer(f"http://{HOST}:{port}{plan.path}", headers, process.pid)
            _wait_until_ready(process, server, port, log)
            yield server
        finally:
            _end(process)


def ask(port: int, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """One `POST` of the work: status and body."""
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("POST", path, body=REQUEST_BODY, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def answers_the_work(status: int, body: bytes) -> bool:
    """Whether an answer is the greeting, bare or as the return value of a full Nexus result."""
    if status != 200:
        return False
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return False
    if isinstance(document, dict) and document.get("status") == "success":
        document = document.get("returnValue")
    return bool(document == EXPECTED)


def _wait_until_ready(
    process: subprocess.Popen[bytes], server: RunningServer, port: int, log: IO[bytes]
) -> None:
    path = server.url.partition(f":{port}")[2]
    deadline = time.monotonic() + _START_SECONDS
    told = "no answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailed(f"ended with {process.returncode}: {_tail(log)}")
        try:
            status, body = ask(port, path, server.headers)
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
            continue
        if answers_the_work(status, body):
            return
        told = f"{status} {body[:200]!r}"
        if status != 503:
            break  # only a server that is not ready yet may answer otherwise first
        time.sleep(0.05)
    raise ServerFailed(f"expected {EXPECTED} within {_START_SECONDS:.0f} s, got {told}: {_tail(log)}")


def _tail(log: IO[bytes]) -> str:
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - _LOG_TAIL_BYTES))
    return " ".join(log.read().decode(errors="replace").split()) or "it wrote nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL for whatever of the group is left: a worker may outlive its master."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
