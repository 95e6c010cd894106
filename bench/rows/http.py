"""HTTP: the rate of `POST /invoke/hello` beside other hosts of the same handler, and beside bare servers.

All servers run at once and idle, and are loaded in turn, several rounds, every other round backwards. The
answer is `{"greeting":"hello bob"}` everywhere, checked before anything is timed; Nexus is asked with
`Prefer: return=minimal`, which makes its body the same, and once more for its full result. Every server
may use both cores: Nexus, granian and uvicorn have two workers, workerd has one thread by design,
`wasmtime serve` a thread per core. None of them writes a line of log per request.

What differs between the hosts: Nexus gives each request a pristine heap, `wasmtime serve` a fresh
instance, workerd reuses one isolate, and the bare servers have no sandbox at all.

The load generator shares the processor with the server, so a note under each row gives the server's own
processor time per request too: it hardly depends on what else the machine is doing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from msgspec.structs import replace

from bench.load import LoadFailed, LoadResult, load
from bench.peers import GUESTS, HANDLERS, ROOT, PeerMissing, Peers
from bench.servers import RunningServer, ServerFailed, ServerPlan, serving
from bench.table import Aim, Row
from bench.timing import paired_ratio
from bench.topic import Bench, Topic

WORKERS = "2"
OURS = "http.nexus"
_MINIMAL = {"prefer": "return=minimal"}
_WARM_UP_SECONDS = 1

_ROWS = (
    Row(name=OURS, what="POST /invoke/hello, 2 workers, return=minimal", unit="req/s"),
    Row(name="http.nexus-full", what="the same, full WasmResult", unit="req/s"),
    Row(
        name="http.workerd",
        what="workerd, one reused isolate",
        unit="req/s",
        aim=Aim("ratio", "at least", 0.7),
    ),
    Row(
        name="http.wasmtime-serve",
        what="wasmtime serve, fresh instance per request",
        unit="req/s",
        aim=Aim("ratio", "at least", 8),
    ),
    Row(name="http.granian-rsgi", what="bare granian, RSGI, 2 workers, no sandbox", unit="req/s"),
    Row(name="http.granian-asgi", what="bare granian, ASGI, 2 workers, no sandbox", unit="req/s"),
    Row(name="http.uvicorn", what="bare uvicorn, ASGI, 2 workers, no sandbox", unit="req/s"),
)


def _nexus(folder: Path, headers: Mapping[str, str]) -> ServerPlan:
    environ = {
        "NEXUS_HANDLERS_DIR": str(HANDLERS),
        "NEXUS_CACHE_DIR": str(folder / "cache"),
        "NEXUS_STORE_URL": f"sqlite:///{folder / 'nexus.db'}",
        "NEXUS_PORT": "{port}",
        "NEXUS_WORKERS": WORKERS,
        "NEXUS_LOG_LEVEL": "warning",
    }
    command = [str(Path(sys.executable).parent / "nexus"), "serve"]
    return ServerPlan(command, environ, path="/invoke/hello", headers=headers)


def _workerd(peers: Peers) -> ServerPlan:
    config = str(GUESTS / "workerd.capnp")
    return ServerPlan([str(peers.workerd), "serve", config, "--socket-addr", "http=127.0.0.1:{port}"], {})


def _wasmtime_serve(peers: Peers) -> ServerPlan:
    options = ["-S", "cli", "--allow-precompiled", "--max-instance-reuse-count", "1"]
    component = str(peers.wasi_http_component)
    return ServerPlan([str(peers.wasmtime), "serve", *options, "--addr", "127.0.0.1:{port}", component], {})


def _granian(interface: str) -> ServerPlan:
    if importlib.util.find_spec("granian") is None:
        raise PeerMissing("granian is not installed: `pip install granian`")
    command = [sys.executable, "-m", "granian", "--interface", interface, "--workers", WORKERS, "--no-ws"]
    address = ["--host", "127.0.0.1", "--port", "{port}", "--log-level", "error"]
    return ServerPlan([*command, *address, f"bench.floor:{interface}"], {"PYTHONPATH": str(ROOT)})


def _uvicorn() -> ServerPlan:
    command = [sys.executable, "-m", "uvicorn", "--workers", WORKERS, "--log-level", "warning"]
    address = ["--host", "127.0.0.1", "--port", "{port}"]
    return ServerPlan([*command, *address, "bench.floor:asgi"], {"PYTHONPATH": str(ROOT)})


def _plans(peers: Peers, folder: Path) -> dict[str, Callable[[], ServerPlan]]:
    """How each row's server is started; a plan raises `PeerMissing` where its program is not installed."""
    return {
        OURS: lambda: _nexus(folder, _MINIMAL),
        "http.nexus-full": lambda: _nexus(folder, {}),
        "http.workerd": lambda: _workerd(peers),
        "http.wasmtime-serve": lambda: _wasmtime_serve(peers),
        "http.granian-rsgi": lambda: _granian("rsgi"),
        "http.granian-asgi": lambda: _granian("asgi"),
        "http.uvicorn": _uvicorn,
    }


def _measure(bench: Bench, wanted: frozenset[str]) -> Iterator[Row]:
    """Every ratio is to `http.nexus`, so that is measured whatever else is wanted."""
    rows = {row.name: row for row in _ROWS if row.name in wanted | {OURS}}
    with contextlib.ExitStack() as stack:
        plans = _plans(bench.peers, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        servers: dict[str, RunningServer] = {}
        for name, row in rows.items():
            bench.progress.doing(f"{name}: starting")
            try:
                servers[name] = stack.enter_context(serving(plans[name]()))
            except (PeerMissing, ServerFailed) as error:
                rows[name] = _unmeasured(row, error)
        results, failures = _take_turns(bench, servers)
    our_loads = results.get(OURS)
    for name, row in rows.items():
        if name in results:
            rows[name] = _filled(row, results[name], our_loads if name != OURS else None)
        elif name in failures:
            rows[name] = _unmeasured(row, failures[name])
    yield from (row for name, row in rows.items() if name in wanted)


def _take_turns(
    bench: Bench, servers: Mapping[str, RunningServer]
) -> tuple[dict[str, list[LoadResult]], dict[str, LoadFailed]]:
    """Load each server in each round. One that fails drops out, since its rate would mean nothing."""
    rounds, seconds = bench.pick(full=7, quick=2), bench.pick(full=3, quick=1)
    results: dict[str, list[LoadResult]] = {name: [] for name in servers}
    failures: dict[str, LoadFailed] = {}
    for number in range(rounds + 1):
        for name in list(results) if number % 2 else reversed(list(results)):
            bench.progress.doing(f"{name}: round {number} of {rounds}")
            try:
                result = load(servers[name], seconds if number else _WARM_UP_SECONDS)
            except LoadFailed as error:
                failures[name] = error
                del results[name]
                continue
            if number:
                results[name].append(result)
    return results, failures


def _unmeasured(row: Row, error: Exception) -> Row:
    return replace(row, note=str(error), failed=not isinstance(error, PeerMissing))


def _filled(row: Row, loads: list[LoadResult], our_loads: list[LoadResult] | None) -> Row:
    def middle(of: Callable[[LoadResult], float]) -> float:
        return statistics.median(map(of, loads))

    ratio = None
    if our_loads is not None:
        ratio = paired_ratio([ours.rate for ours in our_loads], [theirs.rate for theirs in loads])
    note = (
        f"latency p50 {middle(lambda it: it.p50) / 1000:.2f} ms, "
        f"p99 {middle(lambda it: it.p99) / 1000:.2f} ms; "
        f"server {middle(lambda it: it.cpu_us):.0f} us of processor per request"
    )
    return replace(row, figure=middle(lambda it: it.rate), ratio=ratio, note=note)


TOPIC = Topic("http", _ROWS, _measure)
