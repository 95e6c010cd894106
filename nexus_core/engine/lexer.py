"""Splits JavaScript or TypeScript text into tokens, well enough to tell code from text.

It is no parser: whether a slash begins a regular expression is judged from the token before it and
from what each bracket opened. A wrong guess costs a misplaced caret or the wrong wrapping of the
author's own source; nothing that protects the host rests on it. The text is hostile all the same:
every step is linear in it (patterns are possessive, retries are counted), and callers pass a bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

MAX_TOKENS = 400_000
"""About half a second of work; a longer source is judged by its beginning."""

# A slash that opens no regular expression is tried this often, over this many characters at most:
# trying again at every slash of one long line would be quadratic.
_MISREAD_SLASHES = 64
_REGEX_CHARACTERS = 16_384

_LINE = "\n\r\u2028\u2029"

# Possessive forms (Python 3.11) throughout: a failing match never tries a second way. The empty
# groups are marks: `lastgroup` tells which branch matched.
_TOKEN = re.compile(
    rf"""
    (?:\s++|\ufeff|//[^{_LINE}]*+)*+
    (?P<at>)
    (?:
      (?P<WORD>\#?(?:(?!\d)[\w$]|\\u(?:[0-9a-fA-F]{{4}}|\{{[0-9a-fA-F]{{1,8}}\}}))
            (?:[\w$\u200c\u200d]|\\u(?:[0-9a-fA-F]{{4}}|\{{[0-9a-fA-F]{{1,8}}\}}))*+)
    | (?P<NUMBER>0[xXoObB]\w*+|(?:\d[\d_]*+(?:\.[\d_]*+)?+|\.\d[\d_]*+)(?:[eE][+-]?+[\d_]++)?+\w*+)
    | "(?:[^"\\\n\r]++|\\(?:\r\n|[\s\S]))*+(?:"(?P<STRING>)|(?P<BAD>))
    | '(?:[^'\\\n\r]++|\\(?:\r\n|[\s\S]))*+(?:'(?P<STRING2>)|(?P<BAD2>))
    | (?P<OPEN>[(\[{{])
    | (?P<CLOSE>[)\]}}])
    | (?P<PUNCT>=>|\+\+|--|\.\.\.|\?\.(?!\d)|[^/`\s])
    | (?P<SLASH>/)
    | (?P<TEMPLATE>`)
    )
    """,
    re.VERBOSE,
)
_TEMPLATE_PIECE = re.compile(r"[`}](?:[^`\\$]++|\\[\s\S]|\$(?!\{))*+(?P<end>`|\$\{)?")
_REGEX = re.compile(rf"/(?:[^\\/\[{_LINE}]++|\\[^{_LINE}]|\[(?:[^\]\\{_LINE}]++|\\[^{_LINE}])*+\])++/[\w$]*+")
_REST_OF_LINE = re.compile(rf"[^{_LINE}]*+")

# After these words comes an operand, so a slash begins a regular expression.
_BEFORE_OPERAND = frozenset(
    ("return", "typeof", "instanceof", "in", "do", "else", "new", "void", "delete", "throw", "case",
     "yield", "await", "default", "extends")
)  # fmt: skip
# After the parenthesis of these comes a statement.
_CONDITION = frozenset(("if", "while", "for", "with"))
# Before these a brace opens a block, not an object.
_BEFORE_BLOCK = frozenset(("", ";", "{", "}", ")", "=>", "else", "do"))


class Kind(IntEnum):
    """What a token is. Words are names and keywords alike; TEMPLATE is one literal piece of a template."""

    WORD = 0
    NUMBER = 1
    STRING = 2
    TEMPLATE = 3
    REGEX = 4
    PUNCT = 5
    BAD = 6


class Token(NamedTuple):
    """`source[start:end]`; `depth` counts the brackets open before it."""

    kind: Kind
    start: int
    end: int
    depth: int


_SIMPLE_KINDS = {"STRING2": Kind.STRING, "BAD2": Kind.BAD} | {
    name: Kind[name] for name in ("WORD", "NUMBER", "STRING", "PUNCT", "BAD")
}


class _Scanner:
    """The state between two tokens: what is open, and what a slash would mean."""

    def __init__(self, source: str) -> None:
        self.source = source
        # For each open bracket, whether a slash after its closing one divides; None: a template's `${`.
        self.open: list[bool | None] = []
        self.operand = False
        # The text of the last word or punctuation, "" after any other token.
        self.last = ""
        self.misread = 0

    def step(self, group: str, start: int, end: int) -> tuple[Kind, int]:
        """Take in the token that `_TOKEN` found; its kind and where it ends."""
        text = self.source[start:end]
        if group == "WORD":
            # `obj.return` is a name like any other.
            self.last = "" if self.last in (".", "?.") else text
            self.operand = self.last not in _BEFORE_OPERAND
        elif group == "PUNCT":
            # `x++ / 2` divides and `++/re/.lastIndex` does not: both keep what was before.
            self.operand = self.operand and text in ("++", "--")
            self.last = text
        elif group == "OPEN":
            self._open(text)
            return Kind.PUNCT, end
        elif group == "CLOSE":
            return self._close(text, start)
        elif group == "SLASH":
            return self._slash(start)
        elif group == "TEMPLATE":
            return self._template(start)
        else:
            self.operand, self.last = True, ""
        return _SIMPLE_KINDS[group], end

    def _open(self, bracket: str) -> None:
        if bracket == "(":
            divides = self.last not in _CONDITION
        elif bracket == "[":
            divides = True
        else:
            # A brace where an operand is awaited is an object, else a block.
            divides = not self.operand and self.last not in _BEFORE_BLOCK
        self.open.append(divides)
        self.operand, self.last = False, bracket

    def _close(self, bracket: str, start: int) -> tuple[Kind, int]:
        if bracket == "}" and self.open and self.open[-1] is None:
            self.open.pop()
            return self._template(start)
        self.operand = bool(self.open.pop()) if self.open else bracket != "}"
        self.last = bracket
        return Kind.PUNCT, start + 1

    def _template(self, start: int) -> tuple[Kind, int]:
        match = _TEMPLATE_PIECE.match(self.source, start)
        stop = match.group("end") if match else None
        if stop == "${":
            self.open.append(None)
        self.operand, self.last = stop != "${", ""
        return (Kind.TEMPLATE if stop else Kind.BAD), match.end() if match else start + 1

    def _slash(self, start: int) -> tuple[Kind, int]:
        if self.operand:
            self.operand, self.last = False, "/"
            return Kind.PUNCT, start + 1
        if match := _REGEX.match(self.source, start, start + _REGEX_CHARACTERS):
            self.operand, self.last = True, ""
            return Kind.REGEX, match.end()
        self.misread += 1
        if self.misread <= _MISREAD_SLASHES:
            self.last = "/"
            return Kind.PUNCT, start + 1
        rest = _REST_OF_LINE.match(self.source, start)
        return Kind.BAD, rest.end() if rest else len(self.source)


def tokens(source: str, limit: int = MAX_TOKENS) -> Iterator[Token]:
    """The tokens of `source` in order, at most `limit`; comments and spaces are left out.

    What cannot be read (a string, template or comment without end) is one `Kind.BAD` token.
    """
    scanner = _Scanner(source)
    at = 0
    if source.startswith("#!"):
        first = _REST_OF_LINE.match(source)
        at = first.end() if first else 0
    left = limit
    while left > 0 and (match := _TOKEN.match(source, at)):
        start, end = match.start("at"), match.end()
        if source.startswith("/*", start):
            close = source.find("*/", start + 2)
            if close < 0:
                yield Token(Kind.BAD, start, len(source), len(scanner.open))
                return
            at = close + 2
            continue
        depth = len(scanner.open)
        kind, at = scanner.step(match.lastgroup or "BAD", start, end)
        left -= 1
        yield Token(kind, start, at, depth)
