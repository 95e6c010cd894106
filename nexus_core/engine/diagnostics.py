"""From what QuickJS says of an error to what its author can use: file, line, column, a clean stack.

Message and stack come from the guest, which can write anything into them. So they are cut, only lines
of the shape QuickJS prints survive, and places count only in files the handler really has. A handler
that forges its own stack misleads its own author, and nobody else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from nexus_core.engine.lexer import Kind, tokens
from nexus_core.engine.snippets import snippet
from nexus_core.engine.source_file import SourceFile
from nexus_core.engine.source_map import engine_offset, position_at
from nexus_core.engine.syntax_probe import MAX_PROBED_CHARACTERS, Probe, error_offset
from nexus_core.errors import SourceLocation

MAX_STACK_CHARACTERS = 16_384
MAX_FRAMES = 50
"""QuickJS itself prints ten frames unless the handler asks for more."""

_MAX_FUNCTION_NAME = 100
_NATIVE = "native"
_FRAME_START = "at "
_NUMBER = re.compile(r"[0-9]{1,9}\Z")
_PROPERTY_READ = re.compile(r"cannot read property '([^']{1,200})' of (?:undefined|null)\Z")
_NAME_READ = re.compile(r"([\w$]{1,200}) is not (?:defined|initialized)\Z")
_MISSING_NAME = re.compile(
    r"(?:Could not find export '([^']{1,200})' in module|exported variable '([^']{1,200})' does not exist)"
)
# After these an `import` or `export` holds no more names in braces.
_ENDS_A_LIST = frozenset(
    ("from", "default", "function", "class", "async", "const", "let", "var", "enum", ";", "=")
)
_TOKENS_AHEAD = 2_000


class Frame(NamedTuple):
    """One line of a stack. `file` is "native" for the engine's own functions; `line` and `column` are
    QuickJS's, 0 where it gives none. `function` is None for the place of a syntax error."""

    function: str | None
    file: str
    line: int
    column: int


class ErrorSite(NamedTuple):
    """Where an error is: the author's place, that source line, and the stack with the author's frames."""

    location: SourceLocation | None
    snippet: str | None
    stack: str | None


def parse_stack(stack: str) -> list[Frame]:
    """The frames of a stack text, innermost first; lines of any other shape are left out."""
    frames: list[Frame] = []
    for line in stack[:MAX_STACK_CHARACTERS].split("\n"):
        if len(frames) == MAX_FRAMES:
            break
        text = line.strip()
        if text.startswith(_FRAME_START) and (frame := _frame(text.removeprefix(_FRAME_START))):
            frames.append(frame)
    return frames


def _frame(text: str) -> Frame | None:
    if text.endswith(")"):
        function, opened, place = text[:-1].rpartition(" (")
        return Frame(function, *_place(place)) if opened else None
    file, line, column = _place(text)
    return Frame(None, file, line, column) if line else None


def _place(text: str) -> tuple[str, int, int]:
    parts = text.rsplit(":", 2)
    if len(parts) == 3 and _NUMBER.match(parts[1]) and _NUMBER.match(parts[2]):
        return parts[0], int(parts[1]), int(parts[2])
    return text, 0, 0


def error_site(
    message: str, stack: str | None, files: Mapping[str, SourceFile], *, probe: Probe | None = None
) -> ErrorSite:
    """Where in `files` (by the name the guest knows each by) an error is.

    Frames of other files (the bootstrap) vanish; native ones stay between two of the author's. `probe`
    parses a text with the same guest and answers its error's message: with it, a syntax error gets its
    column too. Nothing raises, whatever the guest wrote.
    """
    frames = parse_stack(stack or "")
    places = [_author_place(frame, files, message, probe, top=not at) for at, frame in enumerate(frames)]
    location = next(filter(None, places), None) or _missing_name_place(message, files)
    source = next((file.author for file in files.values() if location and file.name == location.file), "")
    shown = snippet(source, location.line, location.column) if location else None
    return ErrorSite(location, shown, _printed(frames, places) or None)


def _printed(frames: Sequence[Frame], places: Sequence[SourceLocation | None]) -> str:
    """The stack with the author's frames, and the native ones that an author's frame called."""
    last = max((at for at, place in enumerate(places) if place), default=-1)
    lines: list[str] = []
    for frame, place in zip(frames[: last + 1], places, strict=False):
        function = (frame.function or "")[:_MAX_FUNCTION_NAME]
        if place:
            where = f"{place.file}:{place.line}:{place.column}"
            lines.append(f"    at {function} ({where})" if function else f"    at {where}")
        elif frame.file == _NATIVE:
            lines.append(f"    at {function} ({_NATIVE})")
    return "\n".join(lines)


def _author_place(
    frame: Frame, files: Mapping[str, SourceFile], message: str, probe: Probe | None, *, top: bool
) -> SourceLocation | None:
    file = files.get(frame.file)
    if file is None or not frame.line:
        return None
    offset = engine_offset(file.guest, frame.line, frame.column)
    if offset is None:
        return None
    if frame.function is None:
        offset = _syntax_error_offset(file, frame, message, probe)
    elif top:
        offset = _read_offset(file.guest, offset, message)
    return SourceLocation(file.name, *file.position_of(offset))


def _syntax_error_offset(file: SourceFile, frame: Frame, message: str, probe: Probe | None) -> int:
    """QuickJS states the line of a syntax error rightly and a stale column."""
    found = error_offset(file.guest, message, probe, line=frame.line) if probe else None
    if found is not None:
        return found
    start = engine_offset(file.guest, frame.line, 1) or 0
    end = file.guest.find("\n", start)
    row = file.guest[start : end if end >= 0 else len(file.guest)]
    return start + len(row) - len(row.lstrip())


def _read_offset(source: str, offset: int, message: str) -> int:
    """Where the name in `message` is read at or after `offset`.

    QuickJS notes no place for reads: it states the last place before that it did note, often the
    beginning of the function.
    """
    read = _PROPERTY_READ.match(message) or _NAME_READ.match(message)
    if not read or len(source) > MAX_PROBED_CHARACTERS:
        return offset
    name, property_read = read.group(1), read.re is _PROPERTY_READ
    before = ""
    ahead = (token for token in tokens(source) if token.end > offset)
    for token in islice(ahead, _TOKENS_AHEAD):
        text = source[token.start : token.end]
        if token.kind is Kind.STRING:
            text = text[1:-1] if before == "[" else ""
        if text == name and property_read == (before in (".", "?.", "[")):
            return token.start
        before = text
    return offset


def _missing_name_place(message: str, files: Mapping[str, SourceFile]) -> SourceLocation | None:
    """An error of linking has no stack: the place is the name in an `import {…}` or `export {…}`."""
    missing = _MISSING_NAME.match(message)
    if not missing:
        return None
    name = missing.group(1) or missing.group(2)
    for file in files.values():
        listing = False
        for token in tokens(file.author):
            text = file.author[token.start : token.end]
            if token.depth == 0:
                listing = text in ("import", "export") or (listing and text not in _ENDS_A_LIST)
            elif listing and text == name:
                return SourceLocation(file.name, *position_at(file.author, token.start))
    return None
