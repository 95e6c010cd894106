"""From a place in the text the guest runs back to the place in the author's file.

TypeScript is printed anew without its types, and the printer gives no map, so `Alignment` matches the
two token sequences, and only when an error must be shown. The result is a judgement, good for pointing
a person at a line and nothing else. Both texts may be hostile, so the work is bounded.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from nexus_core.engine.lexer import Kind, Token, tokens

# Bounds for hostile text, together about a second; past them a place falls back to a token before it.
_MAX_TOKENS = 100_000
_MAX_STEPS = 1_500_000
_STEPS_PER_ANCHORED_TOKEN = 8
_LONGEST_RUN = 4
_SMALL_GAP = 400
_WINDOW = 12
# Printing anew adds and drops these, so they carry nothing for the alignment.
_UNSTABLE = frozenset("(){};,")
_PLAIN_TEXT = re.compile(r"[ !#-&(-\[\]-_a-~]*+\Z")


MAX_LINE = 100_000
"""Places on later lines are not looked up."""


class Position(NamedTuple):
    """A place in a text; `line` and `column` count from 1, columns in characters."""

    line: int
    column: int


def normalize_newlines(text: str) -> str:
    """`text` with every line end as one line feed, which JavaScript itself cannot tell apart."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def position_at(text: str, offset: int) -> Position:
    """The place of the character at `offset`."""
    offset = max(0, min(offset, len(text)))
    return Position(text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset))


def engine_offset(text: str, line: int, column: int) -> int | None:
    """The offset in `text` of a place as QuickJS states it; None when `text` has no such line.

    QuickJS counts columns in UTF-8 bytes, from 1, but on the first line from 0 (and never less than 1).
    """
    if not 1 <= line <= MAX_LINE:
        return None
    start = 0
    for _ in range(line - 1):
        start = text.find("\n", start) + 1
        if start == 0:
            return None
    end = text.find("\n", start)
    row = text[start : end if end >= 0 else len(text)]
    skipped = column if line == 1 and column > 1 else column - 1
    if row.isascii():
        return start + max(0, min(skipped, len(row)))
    before = row.encode("utf-8", "surrogatepass")[: max(0, skipped)]
    return start + len(before.decode("utf-8", "ignore"))


class Alignment:
    """Where the tokens of a printed text stand in the source it was printed from.

    Tokens of the printed text are nearly a subsequence of the source's: types are gone, and brackets,
    semicolons, quotes and number forms may differ. Runs of tokens that occur once in both texts anchor
    the rest; the gap between two anchors is aligned by longest common subsequence when it is small.
    """

    def __init__(self, source: str, printed: str) -> None:
        self._source = source
        self._printed = printed
        self._source_tokens = _stable(source)
        self._printed_tokens = _stable(printed)
        self._starts = [token.start for token in self._printed_tokens]
        self._matches = self._align()

    def source_offset(self, offset: int) -> int:
        """The offset in the source for an offset in the printed text: of the same token where it has one,
        else right after the nearest token before it that was found, else 0."""
        index = bisect_right(self._starts, offset) - 1
        while index >= 0 and self._matches[index] < 0:
            index -= 1
        if index < 0:
            return 0
        printed, source = self._printed_tokens[index], self._source_tokens[self._matches[index]]
        if offset < printed.end:
            return source.start + min(offset - printed.start, source.end - source.start - 1)
        return self._skip_brackets(printed.end, offset, source)

    def _skip_brackets(self, start: int, offset: int, source: Token) -> int:
        """Follow the brackets and separators between a matched token and `offset` on the source's side."""
        at = source.end
        rest = self._source[at : at + 256]
        moved = 0
        for character in self._printed[start : min(offset + 1, start + 64)]:
            found = rest.find(character, moved) if character in _UNSTABLE else -1
            if found >= 0 and not rest[moved:found].strip():
                moved = found + 1
        return at + moved - 1 if moved else source.start

    def _align(self) -> list[int]:
        left, right = _keys(self._source, self._source_tokens), _keys(self._printed, self._printed_tokens)
        matches = [-1] * len(right)
        steps = _MAX_STEPS
        gaps = [(0, len(left), 0, len(right), _LONGEST_RUN)]
        while gaps:
            low, high, first, last, run = gaps.pop()
            # The end first: what is dropped (an overload, an interface) stands before what stays.
            while first < last and low < high and left[high - 1] == right[last - 1]:
                high, last = high - 1, last - 1
                matches[last] = high
            while first < last and low < high and left[low] == right[first]:
                matches[first] = low
                low, first = low + 1, first + 1
            height, width = high - low, last - first
            exact = not run or height * width <= _SMALL_GAP
            cost = height * width if exact else (height + width) * _STEPS_PER_ANCHORED_TOKEN
            if run and not exact and cost <= steps:
                steps -= cost
                anchors = _anchors(left[low:high], right[first:last], run)
                gaps += _split(anchors, (low, high, first, last, run), matches)
                continue
            align = _longest_common if exact and cost <= steps else _in_order
            steps -= cost if align is _longest_common else 0
            for right_index, left_index in align(left[low:high], right[first:last]):
                matches[first + right_index] = low + left_index
        return matches


def _stable(text: str) -> list[Token]:
    return [
        token
        for token in tokens(text, _MAX_TOKENS)
        if token.kind is not Kind.PUNCT or text[token.start] not in _UNSTABLE
    ]


def _keys(text: str, found: Sequence[Token]) -> list[str]:
    """What two tokens must share to be the same token in both texts."""
    return [_key(token.kind, text[token.start : token.end]) for token in found]


def _key(kind: Kind, text: str) -> str:
    if kind is Kind.NUMBER:
        return "0"
    if kind is Kind.STRING:
        # Quotes and escapes may be written another way: such strings are told by their kind alone.
        # The others equal a word, as the members of an `enum` are printed as strings.
        return text[1:-1] if _PLAIN_TEXT.match(text[1:-1]) else '"'
    if kind is Kind.TEMPLATE:
        return f"`{text[1:]}"
    return text


def _anchors(left: Sequence[str], right: Sequence[str], run: int) -> list[tuple[int, int]]:
    """Pairs (left, right), rising on both sides, where `run` tokens occur exactly once on each side."""
    singles = _single_runs(right, run)
    places = _single_runs(left, run)
    pairs = sorted((places[key], at) for key, at in singles.items() if key in places)
    return _longest_rising(pairs)


def _single_runs(keys: Sequence[str], run: int) -> dict[tuple[str, ...], int]:
    seen: dict[tuple[str, ...], int] = {}
    for at, key in enumerate(zip(*(keys[shift:] for shift in range(run)), strict=False)):
        seen[key] = -1 if key in seen else at
    return {key: at for key, at in seen.items() if at >= 0}


def _longest_rising(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest part of `pairs` (sorted by the left side) whose right side rises as well."""
    tails: list[int] = []
    tops: list[int] = []
    before: list[int] = []
    for index, (_, right) in enumerate(pairs):
        place = bisect_right(tails, right)
        before.append(tops[place - 1] if place else -1)
        tails[place : place + 1] = [right]
        tops[place : place + 1] = [index]
    chain: list[tuple[int, int]] = []
    at = tops[-1] if tops else -1
    while at >= 0:
        chain.append(pairs[at])
        at = before[at]
    return chain[::-1]


_Gap = tuple[int, int, int, int, int]


def _split(anchors: Sequence[tuple[int, int]], gap: _Gap, matches: list[int]) -> list[_Gap]:
    """Fix the anchored runs in `matches`; what is left between them, to be aligned by shorter runs."""
    low, high, first, last, run = gap
    if not anchors:
        return [(low, high, first, last, run - 1)]
    gaps: list[_Gap] = []
    start, begin = low, first
    for left, right in anchors:
        at, to = low + left, first + right
        # Anchors of overlapping runs that disagree: the first one stands.
        if at < start or to < begin:
            continue
        gaps.append((start, at, begin, to, run))
        for shift in range(run):
            matches[to + shift] = at + shift
        start, begin = at + run, to + run
    gaps.append((start, high, begin, last, run))
    return [each for each in gaps if each[0] < each[1] and each[2] < each[3]]


def _in_order(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (right, left), each with the next equal token nearby: for long stretches of repeated code."""
    places: dict[str, list[int]] = {}
    for at, key in enumerate(left):
        places.setdefault(key, []).append(at)
    pairs: list[tuple[int, int]] = []
    at, window = 0, _WINDOW
    for index, key in enumerate(right):
        spots = places.get(key, [])
        spot = bisect_left(spots, at)
        if spot < len(spots) and spots[spot] - at < window:
            pairs.append((index, spots[spot]))
            at, window = spots[spot] + 1, _WINDOW
        else:
            # The longer nothing fits, the more may have been dropped.
            window += _WINDOW
    return pairs


def _longest_common(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (right, left) of a longest common subsequence; of equals, the one that stays together longest."""
    width = len(right) + 1
    table = [[0] * width]
    for key in left:
        above, row = table[-1], [0]
        for at, other in enumerate(right):
            row.append(above[at] + 1 if key == other else max(above[at + 1], row[at]))
        table.append(row)
    pairs: list[tuple[int, int]] = []
    i, j = len(left), len(right)
    while i and j:
        if left[i - 1] == right[j - 1]:
            i, j = i - 1, j - 1
            pairs.append((j, i))
        elif table[i - 1][j] >= table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return pairs
