"""`Row`, what one line of the benchmark says, and the two forms it is written in: text and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace


class Aim(msgspec.Struct, frozen=True):
    """What a row must reach: its `figure` or its `ratio`, at most or at least `value`."""

    of: Literal["figure", "ratio"]
    bound: Literal["at most", "at least"]
    value: float

    def met_by(self, measured: float) -> bool:
        """Whether a measured value reaches this aim; the bound itself does."""
        return measured <= self.value if self.bound == "at most" else measured >= self.value


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One measured line.

    `figure` is in `unit`; `ratio` says how many times better Nexus is than the peer the row names
    (under 1: worse), measured in the same run. A row that could not be measured has neither, and
    its `note` says why; `failed` tells a fault from a peer that is merely not installed.
    """

    name: str
    what: str
    figure: float | None = None
    unit: str = ""
    ratio: float | None = None
    aim: Aim | None = None
    note: str = ""
    failed: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached; None where there is no aim or nothing was measured."""
        if self.aim is None:
            return None
        measured = self.figure if self.aim.of == "figure" else self.ratio
        return None if measured is None else self.aim.met_by(measured)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run: when, where, with what, and its rows. `quick` runs are too short to quote."""

    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    quick: bool
    rows: tuple[Row, ...]


_HEADINGS = ("row", "what", "figure", "ratio", "aim", "met?")
_RIGHT_ALIGNED = ("figure", "ratio")


def number(value: float) -> str:
    """A figure with three meaningful digits and thousands marked: `58.2`, `12,800`, `0.71`."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _cells(row: Row) -> tuple[str, ...]:
    figure = "-" if row.figure is None else f"{number(row.figure)} {row.unit}".rstrip()
    ratio = "-" if row.ratio is None else f"{number(row.ratio)} x"
    aim = ""
    if row.aim is not None:
        sign = "<=" if row.aim.bound == "at most" else ">="
        unit = "x" if row.aim.of == "ratio" else row.unit
        aim = f"{sign} {row.aim.value:g} {unit}".rstrip()
    met = {True: "yes", False: "NO", None: "-"}[row.met]
    return (row.name, row.what, figure, ratio, aim, met)


def render(rows: Sequence[Row]) -> str:
    """The rows as a text table; a row's note stands under it, indented."""
    cells = [_cells(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *cells, strict=True)]

    def line(values: Sequence[str]) -> str:
        padded = [
            value.rjust(width) if heading in _RIGHT_ALIGNED else value.ljust(width)
            for heading, value, width in zip(_HEADINGS, values, widths, strict=True)
        ]
        return "  ".join(padded).rstrip()

    lines = [line(_HEADINGS), "  ".join("-" * width for width in widths)]
    for row, values in zip(rows, cells, strict=True):
        lines.append(line(values))
        if row.note:
            lines.append(f"  {row.note}")
    return "\n".join(lines)


def heading(report: Report) -> str:
    """The lines above the table: date, machine and versions, so that a figure can be placed."""
    lines = [f"date      {report.date}"]
    lines += [f"{key:<9} {value}" for key, value in report.machine.items()]
    lines.append("versions  " + ", ".join(f"{key} {value}" for key, value in report.versions.items()))
    if report.quick:
        lines.append("mode      quick: too few samples to quote")
    return "\n".join(lines)


def with_rows(report: Report, rows: Sequence[Row]) -> Report:
    """The report with what was measured."""
    return replace(report, rows=tuple(rows))


def to_json(report: Report) -> bytes:
    """The report as indented JSON; each row also carries `met`."""
    rows = [msgspec.to_builtins(row) | {"met": row.met} for row in report.rows]
    return msgspec.json.format(msgspec.json.encode(msgspec.to_builtins(report) | {"rows": rows}), indent=2)
