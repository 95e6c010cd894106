"""`python -m bench`: measure, print the table, and write it as JSON where asked. See `--help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import machine, selection, table
from bench.peers import Peers
from bench.progress import Progress
from bench.rows import aws_lambda, calls, compiling, container, http, memory, process
from bench.topic import Bench

TOPICS = (
    calls.TOPIC,
    compiling.TOPIC,
    process.TOPIC,
    http.TOPIC,
    memory.TOPIC,
    aws_lambda.TOPIC,
    container.TOPIC,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 when every row was measured or its peer is missing, 1 when one failed, 2 for bad usage.

    An aim that is not met is told in the table and is no failure: a busy machine misses aims.
    """
    options = _parser().parse_args(arguments)
    try:
        chosen = selection.choose(TOPICS, options.only)
    except selection.UnknownRow as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    peers = Peers()
    progress = Progress(sum(len(names) for _, names in chosen), sys.stderr)
    report = table.Report(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine.describe(),
        versions=machine.versions() | peers.versions(),
        quick=options.quick,
        rows=(),
    )
    print(table.heading(report), end="\n\n", flush=True)
    try:
        rows = selection.run(Bench(peers, options.quick, progress), chosen, sys.stderr)
    finally:
        progress.close()
    print(table.render(rows))
    if options.json is not None:
        options.json.write_bytes(table.to_json(table.with_rows(report, rows)) + b"\n")
    return int(any(row.failed for row in rows))


def _parser() -> argparse.ArgumentParser:
    names = ", ".join(row.name for topic in TOPICS for row in topic.rows)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="What Nexus must reach, measured beside its peers in one run.",
        epilog=f"Topics: {', '.join(topic.name for topic in TOPICS)}. Rows: {names}. "
        "The peers are brought by `python -m bench.peers install`.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there as well, as JSON")
    parser.add_argument("--only", metavar="ROW,...", help="measure only these rows or topics")
    parser.add_argument("--quick", action="store_true", help="a few samples of each: does it run at all?")
    return parser


if __name__ == "__main__":
    sys.exit(main())
