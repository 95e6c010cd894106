"""The first screen of the README, done as it says."""

import http.client
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from tests.project.sources import ROOT

README = (ROOT / "README.md").read_text()
NEXUS = str(Path(sys.executable).with_name("nexus"))
START_SECONDS = 60


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """What `make run` starts, on a port of its own and ready for calls."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free: int = probe.getsockname()[1]
    environ = os.environ | {
        "NEXUS_PORT": str(free),
        "NEXUS_CACHE_DIR": str(tmp_path / "cache"),
        "NEXUS_STORE_URL": f"sqlite:///{tmp_path}/nexus.db",
    }
    server = subprocess.Popen([NEXUS, "serve"], cwd=ROOT, env=environ)
    try:
        wait_until_ready(free, server)
        yield free
    finally:
        server.terminate()
        server.wait(timeout=START_SECONDS)


def wait_until_ready(port: int, server: subprocess.Popen[bytes]) -> None:
    """Return once the server says it is ready; fail when it stops or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server stopped while it started"
        try:
            if answer(port, "GET", "/health/ready")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    pytest.fail("the server is not ready")


def answer(port: int, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    """Status and body of one request, with the content type that `curl -d` sends."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found


def test_make_run_serves() -> None:
    """The README's first command is the target that starts the server with its defaults."""
    makefile = (ROOT / "Makefile").read_text()
    assert "```sh\nmake run\n```" in README
    assert re.search(r"^run: .*\n\t\$\(BIN\)/nexus serve$", makefile, re.MULTILINE)


def test_the_curl_command_is_answered(port: int) -> None:
    """The README's second command is answered by the hello sample."""
    command = re.search(r"^curl .*$", README, re.MULTILINE)
    assert command
    program, silent, url, data_option, data = shlex.split(command[0])
    assert (program, silent, data_option) == ("curl", "-s", "-d")
    assert urlsplit("http://" + url).port == 8080
    status, body = answer(port, "POST", urlsplit("http://" + url).path, data)
    result = msgspec.json.decode(body)
    assert (status, result["status"]) == (200, "success")
    assert "bob" in str(result["returnValue"])
