"""A `nexus serve` or `nexus dev` that a test started."""

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.cli.command import Command

SECONDS = 60
"""How long anything may take on a busy machine before a test gives up."""


class Server:
    """A context manager around the process: ready inside, stopped by SIGTERM at the end."""

    def __init__(self, nexus: Command, *arguments: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.process = nexus.start(*arguments, "--port", str(self.port))
        self._written: list[bytes] = []
        # A pipe that nobody reads would stop the server in the middle of a line.
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def output(self) -> str:
        """What it has written so far."""
        return b"".join(self._written).decode()

    def call(self, handler: str, event: str = "null") -> bytes:
        """The return value of one call; fails when the call does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request("POST", f"/invoke/{handler}", event, {"Prefer": "return=minimal"})
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, body
            return body
        finally:
            connection.close()

    def health(self) -> Any:
        """What `/health` tells."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request("GET", "/health")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once the condition holds; fail when that takes too long or the server ends."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Return once `text` was written so many times."""
        self.wait_until(lambda: self.output.count(text) >= times)

    def stop(self) -> int:
        """Ask it to stop, wait until it has, and give its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=SECONDS)
        self._reader.join(timeout=SECONDS)
        return code

    def __enter__(self) -> Self:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
            try:
                connection.request("GET", "/health/ready")
                if connection.getresponse().status == 200:
                    return self
            except OSError:
                pass
            finally:
                connection.close()
            time.sleep(0.05)
        self.__exit__(None, None, None)
        raise AssertionError(f"the server is not ready: {self.output}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop()
        self._reader.join(timeout=SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._written.append(line)
