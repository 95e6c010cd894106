"""Finds the place of a syntax error by asking a parser that does not tell it.

OXC reports no place at all, and this build of QuickJS the right line but a stale column. Both read
from left to right, so a comment without end, put behind a prefix of the source, is complained of
exactly when the parser got that far: the shortest prefix that still shows the first error ends with
the token at fault, and a binary search finds it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from nexus_core.engine.lexer import Token, tokens

_BAIT = " /*"
_BAIT_TAKEN = re.compile(r"Unterminated multiline comment|unexpected end of comment")
_AT_THE_END = re.compile(r"`EOF`|end of file|unexpected token in expression: ''")
_QUOTED_WORD = re.compile(r"['`]([\w$]+)['`]")
_MAX_LOOK_BACK = 64
MAX_PROBED_CHARACTERS = 512 * 1024
"""A longer source is not probed: each probe parses up to all of it."""

Probe = Callable[[str], str]
"""Parses a text that cannot run (it has a syntax error) and answers the parser's message, or ""."""


def error_offset(source: str, message: str, probe: Probe, *, line: int | None = None) -> int | None:
    """The offset in `source` of the token that `message`, the parser's first error, is about.

    `line` (from 1) says where the parser was when it is known, which saves probes. None when the
    place cannot be found. Calls `probe` about log2(tokens) times.
    """
    if len(source) > MAX_PROBED_CHARACTERS:
        return None
    found = list(tokens(source))
    if not found or _AT_THE_END.search(message):
        return found[-1].end if found else None
    first, last = _tokens_to_try(source, found, line)
    if first == last or not _shows(source, found[last - 1], message, probe):
        return None
    while first < last - 1:
        middle = (first + last - 1) // 2
        if _shows(source, found[middle], message, probe):
            last = middle + 1
        else:
            first = middle + 1
    return _named_before(source, found, last - 1, message).start


def _tokens_to_try(source: str, found: Sequence[Token], line: int | None) -> tuple[int, int]:
    """The range of tokens on `line`, with the one before it; all tokens when no line is given."""
    if line is None:
        return 0, len(found)
    start = 0
    for _ in range(line - 1):
        start = source.find("\n", start) + 1 or len(source)
    end = source.find("\n", start)
    end = end if end >= 0 else len(source)
    first = sum(token.end <= start for token in found)
    last = sum(token.start < end for token in found)
    return max(0, first - 1), max(first, last)


def _shows(source: str, token: Token, message: str, probe: Probe) -> bool:
    """Whether the parser meets the error before it meets the bait behind `token`."""
    answer = probe(source[: token.end] + _BAIT)
    taken = _BAIT_TAKEN.search(answer)
    return 0 <= answer.find(message) < (taken.start() if taken else len(answer) + 1)


def _named_before(source: str, found: Sequence[Token], index: int, message: str) -> Token:
    """The nearest token up to `index` whose text the message quotes: some errors show only later."""
    quoted = _QUOTED_WORD.search(message)
    if quoted:
        for at in range(index, max(-1, index - _MAX_LOOK_BACK), -1):
            if source[found[at].start : found[at].end] == quoted.group(1):
                return found[at]
    return found[index]
