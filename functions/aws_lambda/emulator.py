"""`Emulator`: one Lambda function under AWS's own emulator, on this machine and without a container.

The emulator (Lambda Runtime Interface Emulator, a program of AWS that comes with the SAM CLI) starts AWS's
runtime client `awslambdaric`, which imports the function: what runs is what runs on Lambda. What it does not
do: cap memory or processor time, run the start before the first event, or keep the event size to 6 MB.
`make lambda-local`, the tests and the benchmark start it from here.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

HOST = "127.0.0.1"
HANDLER = "functions.aws_lambda.entry.handler"
INVOKE_PATH = "/2015-03-31/functions/function/invocations"
MAX_PAYLOAD_BYTES = 6_291_556
"""What Lambda takes and gives in one synchronous invocation."""

# Below 3.12 the runtime client waits for events where no signal can reach it.
EXECUTION_ENV = "AWS_Lambda_python3.13"
_ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
_START_SECONDS = 30.0
_STOP_SECONDS = 5.0
_GRACE_SECONDS = 30.0
"""How much longer than the function's timeout an answer is waited for: the first one starts the function."""

_INIT = re.compile(r"INIT REPORT\(durationMs: ([0-9.]+)")
_TIMED_OUT = re.compile(rb"Task timed out after [0-9.]+ seconds")


class EmulatorMissing(Exception):
    """The emulator's program is not installed; the message tells how to get it."""


class EmulatorFailed(Exception):
    """The emulator did not start, or went away. The message is `reason` and what it wrote until then."""

    def __init__(self, reason: str, log: str = "") -> None:
        super().__init__(f"{reason}:\n{log}" if log else reason)
        self.reason = reason


@dataclass(frozen=True)
class FunctionPlan:
    """How a function is started. `prefix` is a command that is given the whole command to run."""

    task_root: Path
    handler: str = HANDLER
    environ: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: int = 30
    memory_mib: int = 512
    python: str = sys.executable
    prefix: Sequence[str] = ()


@dataclass(frozen=True)
class Reply:
    """What an invocation answered. The emulator says 200 for failures of the function as well."""

    status: int
    body: bytes

    @property
    def value(self) -> Any:
        """The answer as data; raises `ValueError` when it is not JSON, as after a timeout of the function."""
        return json.loads(self.body)

    @property
    def error_type(self) -> str | None:
        """The kind of failure of the function, None when it returned. Told by the answer's shape."""
        if _TIMED_OUT.fullmatch(self.body):
            return "Sandbox.Timedout"
        with contextlib.suppress(ValueError):
            value = self.value
            if isinstance(value, dict) and value.keys() >= {"errorType", "errorMessage"}:
                return str(value["errorType"])
        return None


def find_program(root: Path) -> Path:
    """The emulator: `aws-lambda-rie` of the PATH, else the one that `make sam-tools` put below `root`.

    Raises `EmulatorMissing`.
    """
    found = shutil.which("aws-lambda-rie")
    if found is not None:
        return Path(found)
    name = f"aws-lambda-rie-{_ARCHITECTURES.get(platform.machine(), platform.machine())}"
    for path in root.glob(f".venv-sam/lib/python3*/site-packages/samcli/local/rapid/{name}"):
        return path
    raise EmulatorMissing("AWS's Lambda emulator is not installed: `make sam-tools` brings it")


class Emulator:
    """A context manager around the emulator's process: takes events inside, gone with its children after.

    The function itself starts with the first event. Everything they write is kept in `log`, and goes to
    `echo` as well.
    """

    def __init__(
        self, program: Path, plan: FunctionPlan, *, port: int | None = None, echo: TextIO | None = None
    ) -> None:
        self.port = port or _free_port()
        self.url = f"http://{HOST}:{self.port}{INVOKE_PATH}"
        self._plan = plan
        self._command = _command(program, plan, self.port)
        self._echo = echo
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread(target=self._read, name="lambda-log")
        self._lines: list[str] = []
        self._invoked = False
        # The emulator crashes when two events overlap; Lambda itself never does that to one environment.
        self._one_at_a_time = threading.Lock()

    @property
    def log(self) -> str:
        """What the emulator and the function have written so far."""
        return "".join(self._lines)

    @property
    def init_ms(self) -> float:
        """How long the last start of the function took; fails before the first event."""
        if not self._invoked:
            raise EmulatorFailed("the function has not started", self.log)
        # The answer may be here before what was written on the way to it.
        self._wait_until(lambda: bool(_INIT.search(self.log)), _GRACE_SECONDS, "it reported no start")
        return float(_INIT.findall(self.log)[-1])

    @property
    def function_pids(self) -> tuple[int, ...]:
        """The processes of the function; none before the first event, another one after it died."""
        own = self._running().pid
        return tuple(pid for pid in session_of(own) if pid != own)

    def invoke(self, event: object, headers: Mapping[str, str] | None = None) -> Reply:
        """Hand over an event, bytes as they are and anything else as JSON, and wait for the answer."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        with self._one_at_a_time:
            self._invoked = True
            connection = http.client.HTTPConnection(
                HOST, self.port, timeout=self._plan.timeout_seconds + _GRACE_SECONDS
            )
            try:
                connection.request("POST", INVOKE_PATH, body, dict(headers or {}))
                answer = connection.getresponse()
                return Reply(answer.status, answer.read())
            except (OSError, http.client.HTTPException) as error:
                raise EmulatorFailed(f"Lambda's emulator gave no answer ({error!r})", self.log) from error
            finally:
                connection.close()

    def wait_for(self, text: str, seconds: float = _GRACE_SECONDS) -> None:
        """Return once `text` is in the log; raises `EmulatorFailed` when that takes too long."""
        self._wait_until(lambda: text in self.log, seconds, f"{text!r} was not written")

    def stop(self) -> None:
        """End the emulator as the platform does, with SIGTERM, then whatever is left. Harmless when ended."""
        process = self._process
        if process is None:
            return
        # Whoever started with it is in its session, also when it died without ending them.
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        for pid in session_of(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        self._reader.join()

    def __enter__(self) -> Self:
        if self._listening():
            raise EmulatorFailed(f"port {self.port} of {HOST} is in use")
        self._process = subprocess.Popen(
            self._command,
            cwd=self._plan.task_root,
            env=lambda_environ(self._plan),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader.start()
        try:
            self._wait_until(self._listening, _START_SECONDS, "it does not listen")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EmulatorFailed("the emulator was not started")
        return self._process

    def _listening(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
            return True
        return False

    def _wait_until(self, condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if self._running().poll() is not None or time.monotonic() > deadline:
                if condition():
                    return
                raise EmulatorFailed(f"Lambda's emulator failed: {otherwise}", self.log)
            time.sleep(0.02)

    def _read(self) -> None:
        """Take what is written: a pipe that nobody reads would stop the function in the middle of a line."""
        output = self._running().stdout
        if output is None:
            return
        with output:
            for line in output:
                text = line.decode(errors="replace")
                self._lines.append(text)
                if self._echo is not None:
                    self._echo.write(text)
                    self._echo.flush()


def _command(program: Path, plan: FunctionPlan, port: int) -> list[str]:
    addresses = ["--runtime-interface-emulator-address", f"{HOST}:{port}"]
    addresses += ["--runtime-api-address", f"{HOST}:{_free_port()}"]
    runtime = [plan.python, "-m", "awslambdaric", plan.handler]
    return [*plan.prefix, str(program), "--log-level", "info", *addresses, *runtime]


def lambda_environ(plan: FunctionPlan) -> dict[str, str]:
    """What Lambda sets for a function, and nothing of this machine, which the emulator would pass on."""
    return {
        "PATH": os.defpath,
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "AWS_EXECUTION_ENV": EXECUTION_ENV,
        "AWS_LAMBDA_FUNCTION_NAME": "nexus",
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(plan.timeout_seconds),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(plan.memory_mib),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "LAMBDA_TASK_ROOT": str(plan.task_root),
        **plan.environ,
    }


def _free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def session_of(leader: int) -> list[int]:
    """Every living process of the session that this process leads or led, itself too."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # After the name, which may hold anything: state, parent, process group, session.
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == leader and state != "Z":
                    members.append(int(entry.name))
    return members
