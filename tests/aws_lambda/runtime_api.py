"""Lambda's Runtime API on loopback, as the runtime client meets it under SnapStart.

AWS's emulator cannot restore snapshots. This server answers the same paths, so that the real client runs
through its real phases: INIT, `before snapshot` hooks, a wait at `/runtime/restore/next` that ends with the
restore, `after restore` hooks, events. Several processes may ask it: the copies of one snapshot.
"""

import json
import os
import queue
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from functions.aws_lambda.emulator import FunctionPlan, lambda_environ, session_of
from tests.aws_lambda.emulated import SECONDS

_HOST = "127.0.0.1"
_VERSION = "/2018-06-01/runtime"


class Invocation(NamedTuple):
    """One event on its way to a process, and the time it has."""

    request_id: str
    event: bytes
    deadline_ms: int


class Answer(NamedTuple):
    """What a process answered: `response` or `error`, and its body."""

    kind: str
    body: bytes

    @property
    def value(self) -> Any:
        """The answer as data."""
        return json.loads(self.body)


class RuntimeApi:
    """A context manager around the server."""

    def __init__(self) -> None:
        self._server = _Server((_HOST, 0), _Requests)
        self._server.api = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._changed = threading.Condition()
        self._idle: list[queue.SimpleQueue[Invocation]] = []
        self._answers: dict[str, Answer] = {}
        self._restored = threading.Event()
        self.at_snapshot = 0
        """Processes that have asked for the restore."""
        self.failures: list[Any] = []
        """What processes reported of an INIT or a restore that failed."""

    @property
    def address(self) -> str:
        """What a process finds it by: `AWS_LAMBDA_RUNTIME_API`."""
        return f"{_HOST}:{self._server.server_port}"

    def wait_for_snapshot(self, copies: int = 1) -> None:
        """Return once so many processes have come to the point where the snapshot is taken."""
        self._wait(lambda: self.at_snapshot == copies)

    def restore(self) -> None:
        """Let every process go on, as if its memory had just been restored."""
        self._restored.set()

    def invoke(self, event: object, *, copies: int = 1, time_ms: int = SECONDS * 1000) -> Answer:
        """Hand an event to the process that waits longest, once all `copies` wait, and give its answer.

        So several copies take turns, and never run at once.
        """
        self._wait(lambda: len(self._idle) == copies)
        deadline_ms = int(time.time() * 1000) + time_ms
        asked = Invocation(str(uuid.uuid4()), json.dumps(event).encode(), deadline_ms)
        with self._changed:
            self._idle.pop(0).put(asked)
        self._wait(lambda: asked.request_id in self._answers)
        return self._answers[asked.request_id]

    def wait_until_idle(self) -> None:
        """Return once a process waits for an event."""
        self._wait(lambda: bool(self._idle))

    def next(self) -> Invocation:
        """For one asking process: its next event."""
        mine: queue.SimpleQueue[Invocation] = queue.SimpleQueue()
        with self._changed:
            self._idle.append(mine)
            self._changed.notify_all()
        return mine.get()

    def restored(self) -> None:
        """For one asking process: return when it is to go on."""
        with self._changed:
            self.at_snapshot += 1
            self._changed.notify_all()
        self._restored.wait()

    def answered(self, request_id: str, answer: Answer) -> None:
        """For one answering process."""
        with self._changed:
            self._answers[request_id] = answer
            self._changed.notify_all()

    def failed(self, failure: Any) -> None:
        """For one process whose start failed."""
        with self._changed:
            self.failures.append(failure)
            self._changed.notify_all()

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition() or bool(self.failures), SECONDS)
            assert not self.failures, self.failures

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restored.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """A thread for each connection, none of them waited for: some wait for an event for ever."""

    daemon_threads = True
    block_on_close = False
    api: RuntimeApi

    def handle_error(self, request: object, client_address: object) -> None:
        """A process that was ended while it waited is no news."""


class _Requests(BaseHTTPRequestHandler):
    """The paths of the API."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Wait for the restore, or for an event."""
        if self.path == f"{_VERSION}/restore/next":
            self.server.api.restored()
            self._answer(200, b"", {})
            return
        invocation = self.server.api.next()
        headers = {
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:123456789012:function:nexus",
            "Content-Type": "application/json",
        }
        self._answer(200, invocation.event, headers)

    def do_POST(self) -> None:
        """Take an answer, or the news of a failed start."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = self.path.removeprefix(f"{_VERSION}/").split("/")
        if parts[0] == "invocation":
            self.server.api.answered(parts[1], Answer(parts[2], body))
        else:
            self.server.api.failed(json.loads(body))
        self._answer(202, b"{}", {})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Keep quiet."""

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def started(api: RuntimeApi, plan: FunctionPlan, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The runtime client with the function, under SnapStart and this API; gone after, with all its copies."""
    environ = lambda_environ(plan) | {
        "AWS_LAMBDA_RUNTIME_API": api.address,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [plan.python, "-m", "awslambdaric", plan.handler],
            cwd=plan.task_root,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for pid in session_of(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
