"""What a topic of the benchmark is given, and what it declares: the rows it can measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.peers import Peers
from bench.progress import Progress
from bench.table import Row


@dataclass(frozen=True)
class Bench:
    """One run: where the peers are, whether it is a quick one, and its progress bar."""

    peers: Peers
    quick: bool
    progress: Progress

    def pick(self, full: int, quick: int) -> int:
        """A number of rounds, calls or seconds: the full one, or the quick run's."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Topic:
    """Rows that are measured together.

    `rows` are empty ones: name, what and aim. `measure` is told which of them are wanted and gives
    them filled in, in any order; it may raise, and then the rows it has not given yet say why.
    """

    name: str
    rows: tuple[Row, ...]
    measure: Callable[[Bench, frozenset[str]], Iterable[Row]]
