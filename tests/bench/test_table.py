"""Rows, aims, and the two forms a report is written in."""

from __future__ import annotations

import msgspec
import pytest

from bench import table
from bench.table import Aim, Report, Row


@pytest.mark.parametrize(
    ("bound", "measured", "met"),
    [
        ("at most", 89.9, True),
        ("at most", 90.0, True),
        ("at most", 90.1, False),
        ("at least", 90.1, True),
        ("at least", 90.0, True),
        ("at least", 89.9, False),
    ],
)
def test_an_aim_is_met_up_to_its_bound(bound: str, measured: float, met: bool) -> None:
    """The bound itself reaches the aim; one step past it does not."""
    aim = msgspec.convert({"of": "figure", "bound": bound, "value": 90}, Aim)
    assert Row(name="a", what="b", figure=measured, aim=aim).met is met


def test_a_ratio_aim_looks_at_the_ratio_alone() -> None:
    """A row with an aim for its ratio is not judged by its figure."""
    row = Row(name="a", what="b", figure=1.0, ratio=9.0, aim=Aim("ratio", "at least", 8))
    assert row.met is True


@pytest.mark.parametrize(
    "row",
    [
        Row(name="a", what="no aim", figure=1.0),
        Row(name="a", what="nothing measured", aim=Aim("figure", "at most", 1)),
        Row(name="a", what="no ratio measured", figure=1.0, aim=Aim("ratio", "at least", 1)),
    ],
)
def test_a_row_without_aim_or_measure_is_neither_met_nor_missed(row: Row) -> None:
    """Where there is nothing to judge, `met` is None."""
    assert row.met is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.707, "0.71"),
        (9.994, "9.99"),
        (58.24, "58.2"),
        (128.4, "128"),
        (12_800.2, "12,800"),
        (-0.5, "-0.50"),
    ],
)
def test_a_figure_is_told_with_the_digits_that_matter(value: float, text: str) -> None:
    """Small figures keep their fraction, large ones lose it and gain a mark at the thousands."""
    assert table.number(value) == text


def test_the_table_shows_figure_ratio_aim_and_verdict() -> None:
    """One line holds all of a row; its note stands under it."""
    row = Row(
        name="http.peer",
        what="a peer",
        figure=12_800,
        unit="req/s",
        ratio=0.7,
        aim=Aim("ratio", "at least", 0.7),
        note="p50 1 ms",
    )
    lines = table.render([row]).splitlines()
    assert lines[0].split() == ["row", "what", "figure", "ratio", "aim", "met?"]
    assert " ".join(lines[2].split()) == "http.peer a peer 12,800 req/s 0.70 x >= 0.7 x yes"
    assert lines[3] == "  p50 1 ms"


def test_a_missed_aim_and_a_missing_figure_stand_out() -> None:
    """A missed aim reads NO, what was not measured reads as a dash."""
    aim = Aim("figure", "at most", 90)
    missed = Row(name="a", what="b", figure=91.0, unit="us", aim=aim)
    missing = Row(name="c", what="d", unit="us", aim=aim, note="wrk is not installed")
    lines = table.render([missed, missing]).splitlines()
    assert lines[2].endswith("NO")
    assert " ".join(lines[3].split()) == "c d - - <= 90 us -"


def test_the_json_form_holds_the_report_and_each_verdict() -> None:
    """Everything of the table is in the JSON, `met` included, and a reader needs no knowledge of ours."""
    row = Row(name="a", what="b", figure=80.0, unit="us", aim=Aim("figure", "at most", 90))
    report = Report(
        date="2026-01-01", machine={"cores": "2"}, versions={"python": "3.11"}, quick=True, rows=()
    )
    document = msgspec.json.decode(table.to_json(table.with_rows(report, [row])))
    assert document["quick"] is True
    assert document["machine"] == {"cores": "2"}
    assert document["rows"][0] | {"met": True, "figure": 80.0, "name": "a"} == document["rows"][0]
    assert document["rows"][0]["aim"] == {"of": "figure", "bound": "at most", "value": 90}


def test_the_heading_warns_of_a_quick_run() -> None:
    """Figures of a quick run cannot be taken for real ones."""
    report = Report(
        date="2026-01-01", machine={"system": "x"}, versions={"python": "3.11"}, quick=True, rows=()
    )
    assert "too few samples" in table.heading(report)
    assert "2026-01-01" in table.heading(report)
    assert "python 3.11" in table.heading(report)
