"""The server as a process of its own, and the tokens and bytes to talk to it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt

HANDLERS = Path(__file__).parent / "handlers"
SECRET = "a-secret-of-the-tests-" + "0123456789abcdef" * 3

_PROGRAM = """
import os, sys
from functions.http.server import serve
from nexus_core.config import ConfigError, load_config
try:
    sys.exit(serve(load_config(os.environ)))
except ConfigError as error:
    sys.exit(f"error: {error.message}")
"""


class Server:
    """A running server process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def connect(self) -> socket.socket:
        """A raw connection, which fails rather than hang."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def stop(self) -> int:
        """Ask it to stop, and give its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def workers(self) -> list[int]:
        """The process ids of its workers."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


def environment(tmp_path: Path, **settings: Any) -> dict[str, str]:
    """The environment of a server with these settings over the tests' usual ones."""
    given = {
        "handlers_dir": HANDLERS,
        "cache_dir": tmp_path / "cache",
        "store_url": f"sqlite:///{tmp_path / 'state.db'}",
        "min_instances": 1,
        "log_format": "text",
        **settings,
    }
    ours = {f"NEXUS_{name.upper()}": str(value) for name, value in given.items()}
    return {**os.environ, **ours}


def start(env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A server process that may still be starting."""
    return subprocess.Popen([sys.executable, "-c", _PROGRAM], env=env, stderr=subprocess.PIPE)


@contextmanager
def serving(tmp_path: Path, **settings: Any) -> Iterator[Server]:
    """A server that is ready; it is stopped at the end if it is not yet."""
    port = free_port()
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], env=environment(tmp_path, port=port, **settings), stderr=log
        )
    server = Server(process, port)
    try:
        await_ready(server, tmp_path / "server.log")
        yield server
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a process that still runs, by force if it does not listen."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_ready(server: Server, log: Path) -> None:
    """Ask until the server says that it takes calls."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended at once: {log.read_text()}")
        try:
            if httpx.get(f"{server.url}/health/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError(f"the server did not get ready: {log.read_text()}")


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def token(
    scope: object = "read admin invoke:*", *, seconds: float = 600, key: str = SECRET, **claims: Any
) -> str:
    """A signed token that lives for `seconds`."""
    return jwt.encode({"exp": int(time.time() + seconds), "scope": scope, **claims}, key, algorithm="HS256")


def bearer(*args: Any, **kwargs: Any) -> dict[str, str]:
    """The header that shows a token."""
    return {"authorization": f"Bearer {token(*args, **kwargs)}"}


def request_bytes(path: str, body: bytes = b"null", *, method: str = "POST", headers: str = "") -> bytes:
    """One HTTP/1.1 request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def read_response(stream: Any) -> tuple[int, dict[str, str], bytes]:
    """One response with a length, from a buffered stream."""
    status = int(stream.readline().split(b" ")[1])
    headers: dict[str, str] = {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return status, headers, stream.read(int(headers["content-length"]))
