"""AWS Lambda: what Nexus adds to the start and to a warm invocation of an empty Python function.

Both functions run under AWS's emulator and runtime client, with the same interpreter. INIT is what the
emulator reports of it (`INIT REPORT`), each time a fresh process: Nexus with a seed filled by `nexus build`,
as it ships in the package, and an empty cache directory, as in a new sandbox. A warm invocation is timed from
outside, one at a time, both functions taking turns.
"""

from __future__ import annotations

import asyncio
import importlib.util
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from bench.machine import group_cpu_seconds
from bench.peers import HANDLERS, ROOT, PeerMissing
from bench.servers import EXPECTED
from bench.table import Aim, Row
from bench.timing import alternate, paired_difference, sync_block
from bench.topic import Bench, Topic
from functions.aws_lambda.emulator import Emulator, EmulatorMissing, FunctionPlan, Reply, find_program

_INIT = Row(
    name="lambda.init",
    what="INIT above an empty Python function",
    unit="ms",
    aim=Aim("figure", "at most", 150),
)
_WARM = Row(name="lambda.warm", what="warm invocation above an empty Python function", unit="us")
_BUILD_SECONDS = 120
_EVENT = {"handler": "hello", "event": {"who": "bob"}}
_EMPTY = f"def handler(event, context):\n    return {{'returnValue': {EXPECTED!r}}}\n"


class _Starts(NamedTuple):
    """What each start of a function took."""

    init_ms: list[float]
    cpu_ms: list[float]


class AnswerWrong(Exception):
    """A function under measurement did not do the work."""


def _measure(bench: Bench, wanted: frozenset[str]) -> Iterator[Row]:
    program = _program()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty.py").write_text(_EMPTY)
        empty = FunctionPlan(folder, handler="empty.handler")
        bench.progress.doing("lambda: nexus build")
        _build_seed(folder / "seed")
        if _INIT.name in wanted:
            yield _init(bench, program, empty, folder)
        if _WARM.name in wanted:
            yield _warm(bench, program, empty, folder)


def _init(bench: Bench, program: Path, empty: FunctionPlan, folder: Path) -> Row:
    ours, theirs = _Starts([], []), _Starts([], [])
    for number in range(bench.pick(full=15, quick=2)):
        bench.progress.doing(f"{_INIT.name}: start {number}")
        plans = [(ours, _nexus(folder, f"init-{number}")), (theirs, empty)]
        # Every other round goes backwards, so that none always follows the other.
        for starts, plan in plans if number % 2 else reversed(plans):
            with Emulator(program, plan) as emulator:
                check_answer(emulator.invoke(_EVENT))
                starts.init_ms.append(emulator.init_ms)
                starts.cpu_ms.append(sum(map(group_cpu_seconds, emulator.function_pids)) * 1000)
    note = (
        f"Nexus {statistics.median(ours.init_ms):.0f} ms, "
        f"the empty function {statistics.median(theirs.init_ms):.0f} ms; "
        f"of processor, with one invocation, {statistics.median(ours.cpu_ms):.0f} ms "
        f"and {statistics.median(theirs.cpu_ms):.0f} ms"
    )
    return replace(_INIT, figure=paired_difference(ours.init_ms, theirs.init_ms), note=note)


def _warm(bench: Bench, program: Path, empty: FunctionPlan, folder: Path) -> Row:
    bench.progress.doing(_WARM.name)
    with (
        Emulator(program, _nexus(folder, "warm")) as nexus_emulator,
        Emulator(program, empty) as empty_emulator,
    ):
        for emulator in (nexus_emulator, empty_emulator):
            check_answer(emulator.invoke(_EVENT))
        contenders = {
            "nexus": (sync_block(lambda: nexus_emulator.invoke(_EVENT)), 50),
            "empty": (sync_block(lambda: empty_emulator.invoke(_EVENT)), 50),
        }
        medians = asyncio.run(alternate(contenders, bench.pick(full=20, quick=2)))
    ours, theirs = medians["nexus"], medians["empty"]
    note = f"Nexus {statistics.median(ours):,.0f} us, the empty function {statistics.median(theirs):,.0f} us"
    return replace(_WARM, figure=paired_difference(ours, theirs), note=note)


def _nexus(folder: Path, name: str) -> FunctionPlan:
    """Nexus as it is deployed, in a sandbox of its own."""
    environ = {
        "NEXUS_HANDLERS_DIR": str(HANDLERS),
        "NEXUS_CACHE_SEED_DIR": str(folder / "seed"),
        "NEXUS_CACHE_DIR": str(folder / name / "cache"),
        "NEXUS_STORE_URL": f"sqlite:///{folder / name}.db",
    }
    return FunctionPlan(ROOT, environ=environ)


def _build_seed(seed: Path) -> None:
    command = [str(Path(sys.executable).with_name("nexus")), "build", "--handlers-dir", str(HANDLERS)]
    subprocess.run([*command, "--out", str(seed)], check=True, capture_output=True, timeout=_BUILD_SECONDS)


def check_answer(reply: Reply) -> None:
    """Raises `AnswerWrong` unless the function did the work: a greeting as its return value."""
    value = reply.value if reply.status == 200 else None
    if not isinstance(value, dict) or value.get("returnValue") != EXPECTED:
        raise AnswerWrong(f"expected {EXPECTED} in the answer, got {reply.status} {reply.body[:300]!r}")


def _program() -> Path:
    if importlib.util.find_spec("awslambdaric") is None:
        raise PeerMissing(
            "awslambdaric, Lambda's runtime client, is not installed: `pip install awslambdaric`"
        )
    try:
        return find_program(ROOT)
    except EmulatorMissing as missing:
        raise PeerMissing(str(missing)) from missing


TOPIC = Topic("lambda", (_INIT, _WARM), _measure)
"""What `python -m bench --only lambda` measures."""
