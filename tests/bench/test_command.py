"""`python -m bench` through its front door."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.__main__ import TOPICS
from bench.peers import ROOT
from bench.rows.process import import_ms


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_quick_run_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    """A cheap row, end to end: machine and versions on top, the figure in both forms."""
    file = tmp_path / "table.json"
    done = run("--quick", "--only", "compile.memory", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    for expected in ("cores", "python 3.", "quick: too few samples", "compile.memory", "<= 20 us"):
        assert expected in done.stdout
    document = msgspec.json.decode(file.read_bytes())
    (row,) = document["rows"]
    assert row["name"] == "compile.memory"
    assert row["figure"] > 0
    assert row["met"] is (row["figure"] <= 20)
    assert document["versions"]["wasmtime"]


def test_an_unknown_row_is_bad_usage() -> None:
    """Exit code 2 and the names there are, before anything is measured."""
    done = run("--only", "http.nexsus")
    assert done.returncode == 2
    assert "http.nexsus; there is: call, call.execute" in done.stderr
    assert not done.stdout


def test_rows_have_names_of_their_own_under_their_topic() -> None:
    """`--only` is never ambiguous, and an aim says in which unit it is."""
    names = [row.name for topic in TOPICS for row in topic.rows]
    assert len(names) == len(set(names))
    for topic in TOPICS:
        for row in topic.rows:
            assert row.name.startswith(topic.name + ".")
            assert row.unit


@pytest.mark.parametrize(
    ("row", "of", "bound", "value"),
    [
        ("call.warm", "figure", "at most", 90),
        ("call.execute", "figure", "at most", 60),
        ("call.quickjs-new", "ratio", "at least", 12),
        ("call.quickjs-shared", "ratio", "at least", 2.5),
        ("compile.first", "figure", "at most", 15),
        ("compile.disk", "figure", "at most", 2),
        ("compile.memory", "figure", "at most", 20),
        ("process.invoke", "figure", "at most", 350),
        ("process.import", "figure", "at most", 150),
        ("http.workerd", "ratio", "at least", 0.7),
        ("http.wasmtime-serve", "ratio", "at least", 8),
        ("lambda.init", "figure", "at most", 150),
    ],
)
def test_the_aims_are_those_that_were_set(row: str, of: str, bound: str, value: float) -> None:
    """An aim moves only on purpose."""
    aim = next(each.aim for topic in TOPICS for each in topic.rows if each.name == row)
    assert aim is not None
    assert (aim.of, aim.bound, aim.value) == (of, bound, value)


def test_import_time_is_the_sum_of_what_each_import_took_itself() -> None:
    """Nested imports are not counted twice, and other lines on the stream do not matter."""
    output = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:       500 |        500 |   encodings.aliases\n"
        "some warning\n"
        "import time:      1000 |       1500 | encodings\n"
    )
    assert import_ms(output) == 1.5
