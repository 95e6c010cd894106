"""Callers who hold connections and give or take little: the others are answered as if they were not there."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.http.serving import read_response, request_bytes
from tests.knative.containers import Container, container
from tests.soak.callers import write_handlers

IDLE = 10_000
EACH = 150
"""Callers of each slow kind."""
SECONDS = 15.0
WITHIN = 1.0
"""The time in which a call is to be answered meanwhile."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_TCP_REPAIR = 19
_BIG = 1_000_000
_LIVE = request_bytes("/health/live", b"", method="GET")


@pytest.fixture
def most_files() -> Iterator[int]:
    """How many files this process and those it starts may open: as many as they are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def server(tmp_path: Path, new_cache: Callable[[], Path], most_files: int) -> Iterator[Container]:
    """A container with one worker."""
    handlers = tmp_path / "handlers"
    write_handlers(handlers)
    (handlers / "big.js").write_text(f"export default () => 'x'.repeat({_BIG});")
    with container(tmp_path, handlers_dir=handlers, cache_dir=new_cache(), max_instances=4) as made:
        yield made


def _times_of_calls(server: Container, seconds: float) -> list[float]:
    """The seconds that calls took, each by a connection of its own, for so long."""
    times: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        with server.connect() as connection, connection.makefile("rb") as stream:
            connection.sendall(request_bytes("/invoke/count", b"%d" % len(times)))
            _, _, body = read_response(stream)
        assert json.loads(body)["returnValue"] == len(times)
        times.append(time.monotonic() - began)
    return times


def _told(times: list[float]) -> str:
    return (
        f"{len(times)} calls meanwhile, median {statistics.median(times) * 1000:.0f} ms, "
        f"slowest {max(times) * 1000:.0f} ms"
    )


def _memory_mib(server: Container) -> float:
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize() / 2**20


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


@pytest.mark.soak
def test_idle_connections_cost_nobody_anything(
    server: Container, most_files: int, tell: Callable[[str], None]
) -> None:
    """With 10,000 connections open and idle, calls are answered within a second, and so is the stop."""
    wanted = min(IDLE, most_files - 500)
    before = _memory_mib(server)
    with contextlib.ExitStack() as stack:
        idle = []
        for _ in range(wanted):
            connection = stack.enter_context(server.connect())
            connection.sendall(_LIVE)
            with connection.makefile("rb") as stream:
                assert read_response(stream)[0] == 200
            idle.append(connection)
        times = _times_of_calls(server, SECONDS / 3)
        still = sum(map(_is_open, idle))
        used = _memory_mib(server) - before
        began = time.monotonic()
        assert server.stop() == 0
        stopped = time.monotonic() - began
    tell(
        f"{still} of {wanted} connections idle (of {IDLE} asked for), {used:.0f} MiB for them; "
        f"{_told(times)}; stop in {stopped:.1f} s"
    )
    assert still == wanted
    assert max(times) < WITHIN


class _Drip:
    """Connections that send a byte each now and then."""

    def __init__(self, server: Container, start: bytes, byte: bytes, stack: contextlib.ExitStack) -> None:
        self._byte = byte
        self.connections = [stack.enter_context(server.connect()) for _ in range(EACH)]
        for connection in self.connections:
            connection.sendall(start)

    def drip(self) -> None:
        """One byte more, on each connection that is still there."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.send(self._byte)

    def open(self) -> int:
        """How many the server has not closed."""
        return sum(map(_is_open, self.connections))


@pytest.mark.soak
def test_slow_callers_hold_up_nobody(server: Container, tell: Callable[[str], None]) -> None:
    """Heads, short and long bodies that come byte by byte, answers nobody reads, callers that vanished and
    silent HTTP/2: calls are answered within a second meanwhile, and those who send too slowly are cut off.
    """
    with contextlib.ExitStack() as stack:
        post = b"POST /invoke/count HTTP/1.1\r\nHost: a\r\n"
        drips = {
            "heads": _Drip(server, post + b"X-A: ", b"a", stack),
            "short bodies": _Drip(server, post + b"Content-Length: 1000\r\n\r\n", b"1", stack),
            "long bodies": _Drip(server, post + b"Content-Length: 100000\r\n\r\n", b"1", stack),
            "silent HTTP/2": _Drip(server, _PREFACE + bytes.fromhex("000000040000000000"), b"", stack),
            "nothing said": _Drip(server, b"", b"", stack),
        }
        for _ in range(EACH):
            _ask_and_never_read(server, stack)
        vanished = sum(_ask_and_vanish(server, stack) for _ in range(EACH))
        done = threading.Event()
        dripping = threading.Thread(target=_keep_dripping, args=(list(drips.values()), done))
        dripping.start()
        try:
            times = _times_of_calls(server, SECONDS)
        finally:
            done.set()
            dripping.join()
        left = {name: drip.open() for name, drip in drips.items()}
        memory = _memory_mib(server)
        assert server.stop() == 0
    tell(
        f"{EACH} of each kind, {vanished} of them vanished without a word; {_told(times)}; "
        f"still open after {SECONDS:.0f} s: {left}; {memory:.0f} MiB"
    )
    assert max(times) < WITHIN
    assert (left["heads"], left["short bodies"], left["nothing said"]) == (0, 0, 0)


def _keep_dripping(drips: list[_Drip], done: threading.Event) -> None:
    while not done.wait(0.5):
        for drip in drips:
            drip.drip()


def _ask_and_never_read(server: Container, stack: contextlib.ExitStack) -> None:
    connection = stack.enter_context(socket.socket())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    connection.settimeout(30)
    connection.sendall(request_bytes("/invoke/big"))
    # So far, and no further: the call has been run.
    assert connection.recv(1) == b"H"


def _ask_and_vanish(server: Container, stack: contextlib.ExitStack) -> bool:
    """A connection whose caller is gone without a word; whether this machine lets us do that."""
    connection = stack.enter_context(server.connect())
    connection.sendall(_LIVE)
    with connection.makefile("rb") as stream:
        assert read_response(stream)[0] == 200
    try:
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    except PermissionError:
        return False
    connection.close()
    return True
