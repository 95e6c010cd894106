"""The container's start: from `exec` of `python -m functions.knative` to the answer of its first call.

Each start has a port, a store and an empty cache directory of its own, as a new pod has; starts with a seed
filled by `nexus build`, as it ships in the image, and without one take turns. The first call is sent as soon
as the port takes connections, so the wait for it is within the figure.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from bench.machine import group_cpu_seconds
from bench.peers import HANDLERS, ROOT
from bench.servers import ServerFailed, answers_the_work, ask, free_port
from bench.table import Row
from bench.topic import Bench, Topic

_START = Row(name="container.start", what="container, from exec to its first answer", unit="ms")
_UNSEEDED = Row(name="container.start-unseeded", what="the same without a seed", unit="ms")
_HEADERS = {"content-type": "application/json"}
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_BUILD_SECONDS = 120
_POLL_SECONDS = 0.001


class _Starts(NamedTuple):
    """What each start took."""

    wall_ms: list[float]
    cpu_ms: list[float]


def _measure(bench: Bench, wanted: frozenset[str]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench.progress.doing("container: nexus build")
        _build_seed(folder / "seed")
        plans = [
            (row, _Starts([], []), extra)
            for row, extra in ((_START, {"NEXUS_CACHE_SEED_DIR": str(folder / "seed")}), (_UNSEEDED, {}))
            if row.name in wanted
        ]
        for number in range(bench.pick(full=9, quick=1)):
            # Every other round goes backwards, so that none always follows the other.
            for row, starts, extra in plans if number % 2 else reversed(plans):
                bench.progress.doing(f"{row.name}: start {number}")
                wall, cpu = _start({**_settings(folder / f"{row.name}-{number}"), **extra})
                starts.wall_ms.append(wall * 1000)
                starts.cpu_ms.append(cpu * 1000)
    for row, starts, _ in plans:
        note = f"{statistics.median(starts.cpu_ms):.0f} ms of processor time"
        yield replace(row, figure=statistics.median(starts.wall_ms), note=note)


def _settings(folder: Path) -> dict[str, str]:
    folder.mkdir()
    return {
        "NEXUS_HANDLERS_DIR": str(HANDLERS),
        "NEXUS_CACHE_DIR": str(folder / "cache"),
        "NEXUS_STORE_URL": f"sqlite:///{folder}/nexus.db",
        "NEXUS_AUTH": "off",
        "NEXUS_HOST": "127.0.0.1",
        "NEXUS_LOG_LEVEL": "error",
    }


def _start(settings: Mapping[str, str]) -> tuple[float, float]:
    """Seconds until the first answer, and of processor time until then; the server is ended."""
    port = free_port()
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "functions.knative"],
        env={**os.environ, **settings, "PORT": str(port)},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        status, body = _first_answer(process, port)
        seconds = time.perf_counter() - begun
        if not answers_the_work(status, body):
            raise ServerFailed(f"the first answer was {status} {body[:200]!r}")
        return seconds, group_cpu_seconds(process.pid)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        process.kill()
        process.wait()


def _first_answer(process: subprocess.Popen[bytes], port: int) -> tuple[int, bytes]:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return ask(port, "/invoke/hello", _HEADERS)
        except (OSError, http.client.HTTPException):
            time.sleep(_POLL_SECONDS)
    raise ServerFailed(f"no answer within {_START_SECONDS:.0f} s; exit code {process.poll()}")


def _build_seed(seed: Path) -> None:
    command = [str(Path(sys.executable).with_name("nexus")), "build", "--handlers-dir", str(HANDLERS)]
    subprocess.run([*command, "--out", str(seed)], check=True, capture_output=True, timeout=_BUILD_SECONDS)


TOPIC = Topic("container", (_START, _UNSEEDED), _measure)
"""What `python -m bench --only container` measures."""
