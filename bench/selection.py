"""Which rows are run: `--only` picks rows by name, or a whole topic, and the run gathers what they give."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence
from typing import TextIO

from msgspec.structs import replace

from bench.peers import PeerMissing
from bench.table import Row
from bench.topic import Bench, Topic

Chosen = Sequence[tuple[Topic, frozenset[str]]]
"""Topics to run, each with the names of its rows that are wanted."""


class UnknownRow(Exception):
    """`--only` names neither a row nor a topic; the message lists what there is."""


def choose(topics: Iterable[Topic], only: str | None) -> Chosen:
    """The topics and rows that `only` (names apart by commas; None = all) asks for, in table order."""
    topics = tuple(topics)
    everything = [(topic, frozenset(row.name for row in topic.rows)) for topic in topics]
    if only is None:
        return everything
    asked = {name.strip() for name in only.split(",") if name.strip()}
    known = {topic.name for topic in topics}.union(*(names for _, names in everything))
    if not asked or asked - known:
        unknown = ", ".join(sorted(asked - known)) or "nothing"
        raise UnknownRow(f"--only asks for {unknown}; there is: {', '.join(sorted(known))}")
    picked = [(topic, names if topic.name in asked else names & asked) for topic, names in everything]
    return [(topic, names) for topic, names in picked if names]


def run(bench: Bench, chosen: Chosen, errors: TextIO) -> list[Row]:
    """Measure what was chosen. A topic's fault is told in its rows and on `errors`; the others go on."""
    rows: list[Row] = []
    for topic, wanted in chosen:
        rows += _run_topic(bench, topic, wanted, errors)
    return rows


def _run_topic(bench: Bench, topic: Topic, wanted: frozenset[str], errors: TextIO) -> list[Row]:
    given: dict[str, Row] = {}
    note, failed = "not measured", True
    bench.progress.doing(topic.name)
    try:
        for row in topic.measure(bench, wanted):
            given[row.name] = row
            bench.progress.done()
    except PeerMissing as missing:
        note, failed = str(missing), False
    except Exception as error:  # noqa: BLE001 - one topic's fault must not lose the figures of the others
        note = f"failed: {type(error).__name__}: {error}"
        bench.progress.close()
        traceback.print_exc(file=errors)
    bench.progress.done(len(wanted) - len(given))
    return [
        given.get(row.name) or replace(row, note=note, failed=failed)
        for row in topic.rows
        if row.name in wanted
    ]
