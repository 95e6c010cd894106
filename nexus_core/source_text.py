"""Pointing at a place in an author's file the way compilers do: line, column, and the line with a caret."""

from __future__ import annotations

import re

from nexus_core.engine.snippets import snippet
from nexus_core.errors import InvalidHandler, SourceLocation


def invalid_at(message: str, file: str, text: str, line: int, column: int) -> InvalidHandler:
    """An `InvalidHandler` that points at a place in `file`, whose content is `text`."""
    return InvalidHandler(
        f"{file}:{line}:{column}: {message}",
        location=SourceLocation(file, line, column),
        snippet=snippet(text, line, column),
    )


def find_toml_key(text: str, path: tuple[str, ...], *, index: int = 0, value: str = "") -> tuple[int, int]:
    """Where a manifest sets the key at `path`, as (line, column); (1, 1) when it cannot be told.

    `index` picks one of several `[[tables]]`. With `value`, the place of that text at or after the key.
    The TOML reader of the standard library keeps no places, so this is a search by line: it may be
    misled by text inside multi-line strings, and serves error messages only.
    """
    lines = text.split("\n")
    found = _find_in_table(lines, path[:-1], path[-1], index) or _find_in_table(lines, (), path[0], 0)
    found = found or _find_header(lines, path, index) or _find_header(lines, path[:1], index)
    if found is None:
        return (1, 1)
    if value:
        for number in range(found[0], len(lines) + 1):
            start = found[1] - 1 if number == found[0] else 0
            column = lines[number - 1].find(value, start)
            if column >= 0:
                return (number, column + 1)
    return found


def _dotted(path: tuple[str, ...]) -> str:
    """A pattern of a dotted key whose parts may be quoted."""
    return r"\s*\.\s*".join(rf"[\"']?{re.escape(part)}[\"']?" for part in path)


def _find_header(lines: list[str], table: tuple[str, ...], index: int) -> tuple[int, int] | None:
    """The place of the `index`-th `[table]` or `[[table]]` line."""
    header = re.compile(rf"\s*(\[\[?)\s*{_dotted(table)}\s*[\].]")
    places = [
        (number, match.start(1) + 1) for number, line in enumerate(lines, 1) if (match := header.match(line))
    ]
    return places[min(index, len(places) - 1)] if places else None


def _find_in_table(lines: list[str], table: tuple[str, ...], key: str, index: int) -> tuple[int, int] | None:
    """The place of `key = ...` between the table's header (or the top of the file) and the next header."""
    first = 0
    if table:
        header = _find_header(lines, table, index)
        if header is None:
            return _find_in_table(lines, (), key, 0) if len(table) > 1 else None
        first = header[0]
    setting = re.compile(rf"\s*({_dotted((key,))})\s*[=.]")
    for number, line in enumerate(lines[first:], first + 1):
        if re.match(r"\s*\[", line):
            return None
        if match := setting.match(line):
            return (number, match.start(1) + 1)
    return None
