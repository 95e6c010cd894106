"""The whole process: `nexus invoke` with a filled cache, from `exec` to exit, and what imports take of it.

Runs alternate between the command and a bare `python -c pass`, so that the note can say what the
interpreter alone costs here. The import share is what `python -X importtime` adds up for a run of the
same command: imports inside functions are in it, and so is the cost of telling it.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from bench.peers import ROOT
from bench.table import Aim, Row
from bench.topic import Bench, Topic

_INVOKE = Row(
    name="process.invoke",
    what="nexus invoke handlers/hello.js, filled cache",
    unit="ms",
    aim=Aim("figure", "at most", 350),
)
_IMPORT = Row(
    name="process.import", what="imports of that process", unit="ms", aim=Aim("figure", "at most", 150)
)
_RUN_SECONDS = 60
# `import time: self [us] | cumulative | name`; the self times of all lines add up to all imports.
_IMPORT_LINE = re.compile(r"^import time: +(\d+) \|", re.MULTILINE)


class CommandFailed(Exception):
    """A measured command did not succeed, so its time means nothing."""


def _measure(bench: Bench, wanted: frozenset[str]) -> Iterator[Row]:
    script = str(Path(sys.executable).parent / "nexus")
    arguments = [script, "invoke", "handlers/hello.js", "--event", '{"who":"bob"}']
    with tempfile.TemporaryDirectory() as folder:
        environ = {
            **os.environ,
            "NEXUS_CACHE_DIR": f"{folder}/cache",
            "NEXUS_STORE_URL": f"sqlite:///{folder}/nexus.db",
        }
        _seconds([sys.executable, *arguments], environ)  # fills the cache
        if _INVOKE.name in wanted:
            yield _invoke(bench, [sys.executable, *arguments], environ)
        if _IMPORT.name in wanted:
            bench.progress.doing(_IMPORT.name)
            command = [sys.executable, "-X", "importtime", *arguments]
            totals = [import_ms(_output(command, environ)) for _ in range(bench.pick(full=9, quick=2))]
            yield replace(_IMPORT, figure=statistics.median(totals))


def _invoke(bench: Bench, command: Sequence[str], environ: Mapping[str, str]) -> Row:
    whole, bare = [], []
    for _ in range(bench.pick(full=15, quick=2)):
        bench.progress.doing(_INVOKE.name)
        whole.append(_seconds(command, environ) * 1000)
        bare.append(_seconds([sys.executable, "-c", "pass"], environ) * 1000)
    note = f"a bare `python -c pass` takes {statistics.median(bare):.0f} ms here"
    return replace(_INVOKE, figure=statistics.median(whole), note=note)


def _seconds(command: Sequence[str], environ: Mapping[str, str]) -> float:
    start = time.perf_counter()
    _output(command, environ)
    return time.perf_counter() - start


def _output(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """What the command writes on stderr. Raises `CommandFailed` when it does not succeed."""
    done = subprocess.run(
        command,
        env=dict(environ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=_RUN_SECONDS,
    )
    if done.returncode != 0:
        raise CommandFailed(
            f"{' '.join(command[1:])!r} ended with {done.returncode}: {done.stderr.strip()[-300:]}"
        )
    return done.stderr


def import_ms(importtime_output: str) -> float:
    """Milliseconds of all imports told by `-X importtime`."""
    return sum(map(int, _IMPORT_LINE.findall(importtime_output))) / 1000


TOPIC = Topic("process", (_INVOKE, _IMPORT), _measure)
