"""What `--only` picks, and what becomes of rows that cannot be measured."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench import selection
from bench.peers import PeerMissing, Peers
from bench.progress import Progress
from bench.table import Row
from bench.topic import Bench, Topic

ONE = Row(name="first.one", what="one", unit="us")
TWO = Row(name="first.two", what="two", unit="us")
THREE = Row(name="second.three", what="three", unit="us")


def topic(name: str, rows: tuple[Row, ...], error: Exception | None = None) -> Topic:
    """A topic that fills its first wanted row with 1 and then raises `error`, or fills them all."""

    def measure(_bench: Bench, wanted: frozenset[str]) -> Iterator[Row]:
        for row in rows:
            if row.name in wanted:
                yield replace(row, figure=1.0)
                if error is not None:
                    raise error

    return Topic(name, rows, measure)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A run with no peer installed and no terminal."""
    return Bench(Peers(tmp_path), quick=True, progress=Progress(3, io.StringIO()))


TOPICS = (topic("first", (ONE, TWO)), topic("second", (THREE,)))


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (None, ["first.one", "first.two", "second.three"]),
        ("first", ["first.one", "first.two"]),
        ("second.three, first.two", ["first.two", "second.three"]),
        ("first.one,first", ["first.one", "first.two"]),
    ],
)
def test_only_picks_rows_and_whole_topics(bench: Bench, only: str | None, names: list[str]) -> None:
    """Rows come in table order, each once, whatever order they were asked for in."""
    rows = selection.run(bench, selection.choose(TOPICS, only), io.StringIO())
    assert [row.name for row in rows] == names


@pytest.mark.parametrize("only", ["third", "first.one,first.onee", "", ","])
def test_an_unknown_row_is_refused_with_the_known_ones(only: str) -> None:
    """A slip of the pen does not silently measure less."""
    with pytest.raises(selection.UnknownRow, match=r"there is: first, first\.one, first\.two, second"):
        selection.choose(TOPICS, only)


def test_a_missing_peer_is_told_in_the_row_and_is_no_fault(bench: Bench) -> None:
    """What was measured before the peer was missed stays; the rest says how to get it."""
    missing = topic("first", (ONE, TWO), PeerMissing("workerd is not installed"))
    errors = io.StringIO()
    rows = selection.run(bench, selection.choose((missing, TOPICS[1]), None), errors)
    assert [row.figure for row in rows] == [1.0, None, 1.0]
    assert rows[1].note == "workerd is not installed"
    assert not any(row.failed for row in rows)
    assert not errors.getvalue()


def test_a_fault_is_told_in_the_row_and_ends_no_other_topic(bench: Bench) -> None:
    """The traceback goes to the error stream, the row is marked as failed, later topics still run."""
    broken = topic("first", (ONE, TWO), ZeroDivisionError("by zero"))
    errors = io.StringIO()
    rows = selection.run(bench, selection.choose((broken, TOPICS[1]), None), errors)
    assert [(row.figure, row.failed) for row in rows] == [(1.0, False), (None, True), (1.0, False)]
    assert rows[1].note == "failed: ZeroDivisionError: by zero"
    assert "Traceback" in errors.getvalue()


def test_a_row_that_its_topic_forgot_is_marked_as_failed(bench: Bench) -> None:
    """A declared row never just vanishes from the table."""
    forgetful = Topic("first", (ONE, TWO), lambda _bench, _wanted: [ONE])
    rows = selection.run(bench, selection.choose((forgetful,), None), io.StringIO())
    assert [(row.name, row.failed) for row in rows] == [("first.one", False), ("first.two", True)]
