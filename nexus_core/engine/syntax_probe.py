"""Finds the place of a syntax error by asking a parser that does not tell it.

OXC reports no place at all, and this build of QuickJS the right line but a stale column. Both read
from left to right, so a comment without end, put behind a prefix of the source, is complained of
exactly when the parser got that far: the shortest prefix that still shows the first error ends with
the token at fault, and a binary search finds it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from nexus_core.engine.lexer import Kind, Token, tokens

# After a line end: a string or a regular expression that the prefix leaves open ends there.
_BAIT = "\n/*"
_BAIT_TAKEN = re.compile(r"Unterminated multiline comment|unexpected end of comment")
_AT_THE_END = re.compile(r"`EOF`|end of file|unexpected token in expression: ''")
_QUOTED_WORD = re.compile(r"['`]([\w$]+)['`]")
# Told when the name has been passed already, and does not quote it.
_DECLARED_TWICE = re.compile(r"redefinition|redeclaration")
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
    if first == last:
        return None
    parser = _Parser(source, message, probe)
    whole = parser.answer(found[last - 1])
    if message not in whole:
        # Nothing is wrong up to here: the parser wanted more.
        return found[-1].end if last == len(found) and _BAIT_TAKEN.search(whole) else None
    parser.reads_on = bool(_BAIT_TAKEN.search(whole))
    while first < last - 1:
        middle = (first + last - 1) // 2
        if parser.shows_error(found[middle]):
            last = middle + 1
        else:
            first = middle + 1
    return _named_before(source, found, last - 1, message).start


class _Parser:
    """Asks whether the error shows in a prefix of the source."""

    def __init__(self, source: str, message: str, probe: Probe) -> None:
        self._source = source
        self._message = message
        self._probe = probe
        self.reads_on = False
        """Whether the parser goes on after this error, so that it takes the bait as well."""

    def answer(self, token: Token) -> str:
        """What the parser says of the source up to `token` with the bait behind it."""
        return self._probe(self._source[: token.end] + _BAIT)

    def shows_error(self, token: Token) -> bool:
        """Whether the error is at `token` or before it."""
        answer = self.answer(token)
        # Where it stops at its first error, having taken the bait means not having seen the error.
        return self._message in answer and (self.reads_on or not _BAIT_TAKEN.search(answer))


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


def _named_before(source: str, found: Sequence[Token], index: int, message: str) -> Token:
    """The nearest token up to `index` that the message means: some errors show only after it."""
    quoted = _QUOTED_WORD.search(message)
    for at in range(index, max(-1, index - _MAX_LOOK_BACK), -1):
        token = found[at]
        if quoted and source[token.start : token.end] == quoted.group(1):
            return token
        if at < index and token.kind is Kind.WORD and _DECLARED_TWICE.search(message):
            return token
    return found[index]
