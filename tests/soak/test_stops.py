"""Servers that are replaced or killed under load: every call that a server took is answered, once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.knative.containers import Container, container
from tests.soak.callers import Books, Caller, Http2Caller, write_handlers

GENERATIONS = 5
SECONDS = 2.5
CALLERS = 16
HTTP2_CALLERS = 4

SETTINGS = {"max_instances": 8, "min_instances": 2, "max_waiting": 10_000, "acquire_timeout_ms": 60_000}


@asynccontextmanager
async def starting(folder: Path, cache: Path, handlers: Path, **settings: Any) -> AsyncIterator[Container]:
    """A container, started while the callers of this loop go on."""
    wanted: dict[str, Any] = {"handlers_dir": handlers, "cache_dir": cache, **SETTINGS, **settings}
    made = container(folder, **wanted)
    server = await asyncio.to_thread(made.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(made.__exit__, None, None, None)


@asynccontextmanager
async def calling(kind: type[Caller], count: int, port: Callable[[], int]) -> AsyncIterator[Books]:
    """So many callers, until the end of the block; then all their calls have come to an end."""
    books, stop = Books(), asyncio.Event()
    async with asyncio.TaskGroup() as callers:
        for number in range(count):
            callers.create_task(kind(f"c{number}", port, books).run(stop))
        try:
            yield books
        finally:
            stop.set()


def calls_logged(server: Container) -> Counter[str]:
    """The request ids of the calls a server ran."""
    return Counter(line["request_id"] for line in server.logged() if line["logger"] == "nexus.call")


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "count", "workers"),
    [(Caller, CALLERS, 1), (Http2Caller, HTTP2_CALLERS, 1), (Caller, CALLERS, 2)],
)
async def test_a_stop_under_load_loses_no_call(
    tmp_path: Path,
    new_cache: Callable[[], Path],
    kind: type[Caller],
    count: int,
    workers: int,
    tell: Callable[[str], None],
) -> None:
    """Five times a server is replaced as Kubernetes does it, under callers who keep their connections:
    new ones go to its successor, then it gets SIGTERM. Each call is answered, and was run once.
    """
    handlers, cache = tmp_path / "handlers", new_cache()
    write_handlers(handlers)
    ran, stops = Counter[str](), list[float]()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(starting(tmp_path, cache, handlers, workers=workers))
        where = [server.port]
        async with calling(kind, count, lambda: where[0]) as books:
            for generation in range(1, GENERATIONS + 1):
                await asyncio.sleep(SECONDS)
                folder = tmp_path / str(generation)
                folder.mkdir()
                made = starting(folder, cache, handlers, workers=workers)
                successor = await stack.enter_async_context(made)
                where[0] = successor.port
                began = time.monotonic()
                assert await asyncio.to_thread(server.stop) == 0
                stops.append(time.monotonic() - began)
                ran += calls_logged(server)
                server = successor
        ran += calls_logged(server)
    tell(
        f"{kind.__name__}, {workers} worker(s): {len(books.answered)} calls answered "
        f"over {books.connections} connections, {GENERATIONS} stops of {min(stops):.1f} to "
        f"{max(stops):.1f} s, {len(books.lost)} lost, {books.turned_away} sent elsewhere"
    )
    assert books.lost == []
    assert len(books.answered) > 1000
    assert ran == Counter(books.answered)


def _peers(server: Container, pid: int) -> set[int]:
    """The ports of the callers whose connections a worker holds."""
    held = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held.add(str(link.readlink()))
    peers = set()
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = row.split()
        local, remote, inode = fields[1], fields[2], fields[9]
        if int(local.split(":")[1], 16) == server.port and f"socket:[{inode}]" in held:
            peers.add(int(remote.split(":")[1], 16))
    return peers - {0}


@pytest.mark.soak
async def test_a_killed_worker_loses_its_own_calls_only(
    tmp_path: Path, new_cache: Callable[[], Path], tell: Callable[[str], None]
) -> None:
    """Three times one of two workers is killed: what is lost was under way there, all else is answered,
    and another worker takes its place.
    """
    handlers = tmp_path / "handlers"
    write_handlers(handlers)
    told = []
    async with starting(tmp_path, new_cache(), handlers, workers=2) as server:
        async with calling(Caller, CALLERS, lambda: server.port) as books:
            for _ in range(3):
                await asyncio.sleep(SECONDS)
                lost_before, answered_before = len(books.lost), len(books.answered)
                victim, other = server.workers()
                # It takes nobody in between the look at whom it serves and its end.
                os.kill(victim, signal.SIGSTOP)
                peers, others = _peers(server, victim), _peers(server, other)
                os.kill(victim, signal.SIGKILL)
                deadline = time.monotonic() + 30
                while victim in server.workers() or len(server.workers()) < 2:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.02)
                await asyncio.sleep(SECONDS)
                lost = books.lost[lost_before:]
                assert {port for _, port, _ in lost} <= peers
                assert len(lost) <= len(peers) < CALLERS
                assert len(books.answered) > answered_before
                told.append(f"{len(lost)} of {len(peers)} (others {len(others)})")
        assert await asyncio.to_thread(server.stop) == 0
    tell(f"{len(books.answered)} calls answered; lost by worker killed / its connections: {told}")
