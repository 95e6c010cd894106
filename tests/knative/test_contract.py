"""Knative's runtime contract, and what a platform may do to a container, against the real process."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.http.serving import read_response, request_bytes
from tests.http.test_server import await_running
from tests.knative.containers import ENTRY, Container, container, root_command

HELLO = request_bytes("/invoke/hello", b'{"who": "bob"}')
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOBODY = 65532
_CONFINED = f"""
    mount --bind "$1" /tmp
    mount -o remount,bind,ro /
    shift
    exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --inh-caps=-all --bounding-set=-all "$@"
"""


class _Echo(BaseHTTPRequestHandler):
    """Answers with the headers it was sent."""

    def do_GET(self) -> None:
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def echo_port() -> Iterator[int]:
    """A server that shows what a handler's request to it looked like."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def cache(new_cache: Callable[[], Path]) -> Path:
    """A cache that holds the engine's code."""
    return new_cache()


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, cache: Path, echo_port: int, new_handlers: Callable[[int], Path]
) -> Iterator[Container]:
    """One container for all tests that leave it as it was: two instances, and nobody waits for one."""
    with container(
        tmp_path_factory.mktemp("served"),
        cache_dir=cache,
        handlers_dir=new_handlers(echo_port),
        max_instances=2,
        min_instances=2,
        max_waiting=0,
        egress_allow_private="true",
    ) as made:
        yield made


@pytest.fixture(scope="module")
def new_handlers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Makes a folder of handlers, one of which may ask the echo server."""

    def make(port: int) -> Path:
        folder = tmp_path_factory.mktemp("handlers")
        (folder / "hello.js").write_text('export default (event) => "hello " + event.who;')
        (folder / "slow.js").write_text(
            "export default (event) => { const end = Date.now() + event.ms; while (Date.now() < end); };"
        )
        url = json.dumps(f"http://127.0.0.1:{port}/")
        (folder / "relay.js").write_text(f"export default async () => (await $ext.http.get({url})).body;")
        (folder / "relay.toml").write_text(
            f'capabilities = ["ext:http"]\n[http]\nallow = ["127.0.0.1:{port}"]\n'
        )
        return folder

    return make


def test_one_connection_serves_many_requests(served: Container) -> None:
    """HTTP/1.1 connections are kept open at the port that PORT names."""
    with served.connect() as connection, connection.makefile("rb") as stream:
        for _ in range(3):
            connection.sendall(HELLO)
            status, headers, body = read_response(stream)
            assert (status, json.loads(body)["returnValue"]) == (200, "hello bob")
            assert "connection" not in headers


def test_http2_with_prior_knowledge(served: Container) -> None:
    """The same port takes HTTP/2 over cleartext, which a port named h2c promises."""
    with httpx.Client(http1=False, http2=True) as client:
        answer = client.post(f"{served.url}/invoke/hello", json={"who": "eve"})
    assert (answer.http_version, answer.json()["returnValue"]) == ("HTTP/2", "hello eve")


@pytest.mark.parametrize("host", ["hello.default.svc.cluster.local", "hello.example.com:8080", "[::1]:1"])
def test_any_host_is_served(served: Container, host: str) -> None:
    """The name a caller used is the platform's business."""
    answer = httpx.post(f"{served.url}/invoke/hello", json={}, headers={"host": host})
    assert answer.status_code == 200


def test_a_request_id_is_kept(served: Container) -> None:
    """The proxy's id is in the answer and in the log line of the call."""
    answer = httpx.post(f"{served.url}/invoke/hello", json={}, headers={"x-request-id": "proxy-1"})
    assert answer.headers["x-request-id"] == "proxy-1"
    lines = [line for line in served.logged() if line["logger"] == "nexus.call"]
    assert "proxy-1" in {line["request_id"] for line in lines}


def test_a_trace_goes_on_in_what_handlers_ask_for(served: Container) -> None:
    """The caller's traceparent is a header of the request a handler makes."""
    answer = httpx.post(f"{served.url}/invoke/relay", json={}, headers={"traceparent": TRACE})
    assert answer.json()["returnValue"]["traceparent"] == TRACE


def test_options_lists_post(served: Container) -> None:
    """Who asks what an event's address takes is told POST."""
    answer = httpx.options(f"{served.url}/")
    assert (answer.status_code, "POST" in answer.headers["allow"]) == (200, True)


def test_calls_over_the_pool_are_refused_at_once(served: Container) -> None:
    """With no line to wait in, the third call of two instances gets 503 and the time to come back."""
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        slow = [
            threads.submit(httpx.post, f"{served.url}/invoke/slow", json={"ms": 2000}, timeout=30)
            for _ in range(2)
        ]
        await_running(served, 2)
        refused = httpx.post(f"{served.url}/invoke/hello", json={}, timeout=30)
        assert [call.result().status_code for call in slow] == [200, 200]
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "POOL_EXHAUSTED")
    assert int(refused.headers["retry-after"]) > 0
    assert httpx.post(f"{served.url}/invoke/hello", json={}).status_code == 200


def test_nothing_goes_to_standard_error(served: Container) -> None:
    """Every line is a JSON object on standard output, and no input is waited for."""
    levels = {line["level"] for line in served.logged()}
    assert "info" in levels
    assert served.complaints() == ""


def test_a_stop_is_told_before_it_happens(
    tmp_path: Path, cache: Path, new_handlers: Callable[[int], Path]
) -> None:
    """From not ready over ready to SIGTERM: not ready, idle callers sent elsewhere, sockets told to
    reconnect, running calls answered, exit code 0.
    """
    with container(
        tmp_path, ready=False, cache_dir=cache, handlers_dir=new_handlers(9), min_instances=2, workers=1
    ) as stopping:
        stopping.await_ready()
        # The first answer of all is given by a warm pool.
        assert httpx.get(f"{stopping.url}/health").json()["pool"]["free"] >= 2
        with (
            concurrent.futures.ThreadPoolExecutor(1) as threads,
            stopping.connect() as idle,
            idle.makefile("rb") as stream,
            connect(f"ws://127.0.0.1:{stopping.port}/sessions/s/ws") as socket,
        ):
            idle.sendall(HELLO)
            assert read_response(stream)[0] == 200
            slow = threads.submit(httpx.post, f"{stopping.url}/invoke/slow", json={"ms": 2000}, timeout=30)
            await_running(stopping, 1)
            stopping.process.terminate()
            _await_not_ready(stopping)
            idle.sendall(HELLO)
            status, headers, _ = read_response(stream)
            assert (status, headers["connection"], idle.recv(1)) == (200, "close", b"")
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(timeout=20)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            assert slow.result().status_code == 200
            assert stopping.process.wait(30) == 0


def _await_not_ready(stopping: Container) -> None:
    deadline = time.monotonic() + 20
    while httpx.get(f"{stopping.url}/health/ready").status_code != 503:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_it_runs_as_nobody_on_a_root_that_is_read_only(tmp_path: Path, cache: Path) -> None:
    """Only /tmp can be written to, the user has no name and no rights, and calls are answered."""
    working = tmp_path / "tmp"
    probe = root_command(_CONFINED, tmp_path, sys.executable, "-c", "import functions.knative")
    if (tried := subprocess.run(probe, capture_output=True, check=False)).returncode != 0:
        pytest.skip(f"nobody may not run this Python: {tried.stderr.decode().strip()[-200:]}")
    shutil.copytree(cache, working / "nexus-cache")
    for path in (working, *working.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    command = root_command(_CONFINED, working, *ENTRY)
    with container(tmp_path, command=command, cache_dir="/tmp/nexus-cache", store_url="memory:") as confined:
        status = Path(f"/proc/{confined.process.pid}/status").read_text()
        assert f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}" in status
        assert "CapEff:\t0000000000000000" in status
        answer = httpx.post(f"{confined.url}/invoke/hello", json={"who": "bob"})
        assert (answer.status_code, answer.json()["status"]) == (200, "success")
        assert confined.stop() == 0
