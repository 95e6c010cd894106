"""The line of source that a compiler prints under its message, with a caret below the column."""

from __future__ import annotations

import unicodedata

MAX_WIDTH = 120
"""A longer line is cut to so many characters around the column."""

_TAB = "    "
_CUT = "…"
# Characters that move the cursor, change the direction of text or show nothing.
_UNSAFE_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_UNSAFE = "\N{REPLACEMENT CHARACTER}"


def snippet(source: str, line: int, column: int) -> str | None:
    """Two lines of text: the source line behind its number, and a caret under `column`.

    `line` and `column` count from 1, columns in characters; lines end at line feeds. A column behind
    the line points right behind it. None when the source has no such line. The text is safe for a
    terminal: control characters are shown as pictures, tabs as spaces.
    """
    row = _row(source, line)
    if row is None:
        return None
    at = max(0, min(column - 1, len(row)))
    first = max(0, min(at - MAX_WIDTH // 2, len(row) - MAX_WIDTH))
    last = first + MAX_WIDTH
    before, after = _visible(row[first:at]), _visible(row[at:last])
    if first > 0:
        before = _CUT + before
    if last < len(row):
        after += _CUT
    gutter = str(line)
    return f"{gutter} | {before}{after}\n{' ' * len(gutter)} | {' ' * _width(before)}^"


def _row(source: str, line: int) -> str | None:
    if line < 1:
        return None
    start = 0
    for _ in range(line - 1):
        start = source.find("\n", start) + 1
        if start == 0:
            return None
    end = source.find("\n", start)
    return (source[start:end] if end >= 0 else source[start:]).removesuffix("\r")


def _visible(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_picture, text))


def _picture(character: str) -> str:
    if character == "\t":
        return _TAB
    if character < " ":
        return chr(0x2400 + ord(character))
    return _UNSAFE if unicodedata.category(character) in _UNSAFE_CATEGORIES else character


def _width(text: str) -> int:
    """Columns on a terminal: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in text
    )
