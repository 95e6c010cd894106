"""The server as a process: addresses, signals and workers."""

import concurrent.futures
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from functions.http import server as server_module
from nexus_core.config import ConfigError, load_config
from tests.http.serving import (
    SECRET,
    Server,
    environment,
    free_port,
    read_response,
    request_bytes,
    serving,
    start,
)

HELLO = request_bytes("/invoke/hello", b'{"who": "bob"}')


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_lets_running_calls_finish(tmp_path: Path, cache_dir: Path, workers: int) -> None:
    """After SIGTERM no new caller is let in, running calls are answered, and the exit code is 0."""
    with (
        serving(tmp_path, cache_dir=cache_dir, workers=workers, max_instances=4) as server,
        concurrent.futures.ThreadPoolExecutor(4) as threads,
    ):
        calls = [
            threads.submit(httpx.post, server.url + path, json={"ms": 1500}, timeout=30)
            for path in ("/invoke/slow", "/invoke/slow", "/invoke/s%6cow", "/invoke/s%6cow")
        ]
        await_running(server, 4)
        assert server.stop() == 0
        assert [call.result().json()["returnValue"] for call in calls] == ["done"] * 4
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health/live")


def await_running(server: Server, count: int) -> None:
    """Wait until so many calls run, in all workers together."""
    text = ""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        text = httpx.get(f"{server.url}/metrics").text
        running = sum(
            float(value) for value in re.findall(r'nexus_pool_instances\{.*state="running".*\} (\S+)', text)
        )
        if running >= count:
            return
    raise AssertionError(text)


def test_a_stop_does_not_wait_for_ever(tmp_path: Path, cache_dir: Path) -> None:
    """A call that outlasts `shutdown_timeout_ms` is aborted, and the server still ends with code 0."""
    with serving(tmp_path, cache_dir=cache_dir, shutdown_timeout_ms=500, timeout_ms=60_000) as server:
        caller = threading.Thread(target=_call_for_long, args=(server,))
        caller.start()
        await_running(server, 1)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 20
        caller.join(20)
        assert not caller.is_alive()


def _call_for_long(server: Server) -> None:
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{server.url}/invoke/slow", json={"ms": 50_000}, timeout=60)


def test_a_stop_closes_idle_connections(tmp_path: Path, cache_dir: Path) -> None:
    """Connections kept open without a request do not hold the server up."""
    with (
        serving(tmp_path, cache_dir=cache_dir) as server,
        server.connect() as used,
        server.connect() as unused,
        used.makefile("rb") as stream,
    ):
        used.sendall(HELLO)
        read_response(stream)
        assert server.stop() == 0
        assert (used.recv(1), unused.recv(1)) == (b"", b"")


def test_metrics_are_those_of_all_workers(server: Server) -> None:
    """Whichever worker is asked, the counts are those of both."""
    pattern = re.compile(r'nexus_handler_executions_total\{handler="mirror",status="success"\} (\S+)')
    for _ in range(20):
        httpx.post(f"{server.url}/invoke/mirror", json={})
    for _ in range(10):
        found = pattern.search(httpx.get(f"{server.url}/metrics").text)
        assert found is not None
        assert float(found[1]) == 20
    assert len(server.workers()) == 2


def test_state_is_shared_by_workers(server: Server) -> None:
    """Calls of one session see each other's state whichever workers they meet."""
    counts = [
        httpx.post(f"{server.url}/invoke/counter?session=shared").json()["returnValue"] for _ in range(10)
    ]
    assert counts == list(range(1, 11))


def test_a_dead_worker_is_replaced(tmp_path: Path, cache_dir: Path) -> None:
    """When a worker is killed another takes its place, and nobody is refused meanwhile."""
    with serving(tmp_path, cache_dir=cache_dir, workers=2) as server:
        victim = server.workers()[0]
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and (victim in server.workers() or len(server.workers()) < 2):
            time.sleep(0.01)
        for _ in range(20):
            assert httpx.post(f"{server.url}/invoke/hello", json={}, timeout=30).status_code == 200
        assert server.stop() == 0


def test_workers_do_not_outlive_their_parent(tmp_path: Path, cache_dir: Path) -> None:
    """When the parent is killed the workers end as well and free the port."""
    with serving(tmp_path, cache_dir=cache_dir, workers=2) as server:
        workers = server.workers()
        server.process.kill()
        server.process.wait()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in workers):
            time.sleep(0.01)
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_open_address_needs_tokens(tmp_path: Path, host: str) -> None:
    """An address that others can reach is refused before anything listens, and told what to do."""
    process = start(environment(tmp_path, host=host, port=free_port()))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"NEXUS_JWT_SECRET" in said
    assert b"NEXUS_AUTH=off" in said


@pytest.mark.parametrize("settings", [{"jwt_secret": SECRET}, {"auth": "off"}])
def test_an_open_address_may_be_guarded(tmp_path: Path, cache_dir: Path, settings: dict[str, str]) -> None:
    """With a secret, or with the operator's word, any address is served."""
    with serving(tmp_path, cache_dir=cache_dir, host="0.0.0.0", **settings) as server:
        status = httpx.post(
            f"{server.url}/invoke/hello", json={}, headers={"host": "nexus.example"}
        ).status_code
        assert status == (401 if "jwt_secret" in settings else 200)


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    """A port that somebody else holds stops the start with its name, with one worker and with several."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        for workers in ("1", "2"):
            config = load_config({"NEXUS_PORT": str(port), "NEXUS_WORKERS": workers})
            with pytest.raises(ConfigError, match=f"NEXUS_PORT: {port}"):
                server_module.serve(config)


def test_an_unknown_host_is_told() -> None:
    """A host that is no address stops the start with its name."""
    with pytest.raises(ConfigError, match="NEXUS_HOST: 'not an address'"):
        server_module.serve(load_config({"NEXUS_HOST": "not an address"}))


def test_a_start_that_fails_ends_all(tmp_path: Path) -> None:
    """When workers cannot start, the server ends with an error instead of trying for ever."""
    env = environment(
        tmp_path, port=free_port(), workers=2, store_url=f"sqlite:///{tmp_path}/no/such/folder/x.db"
    )
    process = start(env)
    process.communicate(timeout=60)
    assert process.returncode == 1


STUBBORN = """
import signal, sys, time
from functions.http.workers import run_workers

def work(index):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("working", flush=True)
    time.sleep(60)
    return 0

sys.exit(run_workers(1, work, [], stop_seconds=0.2))
"""


def test_a_stubborn_worker_is_killed() -> None:
    """A worker that does not stop in time is killed, and the exit code tells."""
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"working\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 1
