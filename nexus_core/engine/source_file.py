"""One file of a handler on its way to the guest: read as a module or as a script, wrapped, stripped."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Literal, Protocol

from nexus_core.engine.imports import is_typescript, json_module
from nexus_core.engine.lexer import MAX_TOKENS, Kind, tokens
from nexus_core.engine.snippets import snippet
from nexus_core.engine.source_map import Alignment, Position, engine_offset, position_at
from nexus_core.errors import CompilationError, SourceLocation

SCRIPT_PREFIX = "export default async function (event, ctx) {"
"""What stands before a source without `export`, on its first line, so that line numbers stay."""
SCRIPT_SUFFIX = "\n}\n"

_AT_LINE_START = re.compile(r"^(?:export|import)\b(?!\s*[(.:=])", re.MULTILINE)


class Stripper(Protocol):
    """What takes the types out of TypeScript; see `TypeScriptStripper`."""

    def strip(self, name: str, source: str) -> str:
        """The JavaScript of `source`; raises `CompilationError` with a place in `source`."""
        ...


def classify(source: str) -> Literal["module", "script"]:
    """A "module" has an `export` or a static `import`; any other source is a "script".

    A script is the body of an async function: `await` and `return` work at its top level. The words
    count only as statements: not in comments, strings, templates or regular expressions, not as names
    of properties, and not in `import(…)` or `import.meta`.
    """
    if "export" not in source and "import" not in source:
        return "script"
    before, importing, depth, count = "", False, 0, 0
    for token in tokens(source):
        depth = token.depth
        count += 1
        text = source[token.start : token.end] if token.end - token.start <= 6 else ""
        if importing and text not in ("(", "."):
            return "module"
        statement = token.kind is Kind.WORD and depth == 0 and before not in (".", "?.")
        if statement and text == "export":
            return "module"
        importing = statement and text == "import"
        before = text
    # Brackets left open, or more tokens than are read: an `export` that begins a line decides.
    if (depth > 1 or count == MAX_TOKENS) and _AT_LINE_START.search(source):
        return "module"
    return "script"


def normalize_newlines(text: str) -> str:
    """`text` with every line end as one line feed, which JavaScript itself cannot tell apart."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def wrap_script(source: str) -> str:
    """A source without `export` as a module whose default export is a function with that body.

    Line numbers stay; on line 1 the columns move by `len(SCRIPT_PREFIX)`.
    """
    if source.startswith("#!"):
        # Only legal at the very start, where it no longer is; a comment of the same length.
        source = "//" + source[2:]
    return f"{SCRIPT_PREFIX}{source}{SCRIPT_SUFFIX}"


def unwrap_position(line: int, column: int) -> Position:
    """The place in the author's script of a place in the text `wrap_script` made of it."""
    return Position(line, max(1, column - len(SCRIPT_PREFIX)) if line == 1 else column)


class SourceFile:
    """One file of a handler: what the author wrote (`author`) and what the guest is given (`guest`).

    `author` has line feeds as its only line ends. `wrapped`: `wrap_script` was applied, before
    TypeScript was stripped (`stripped`). `name` is the file's path in the handler's folder.
    """

    def __init__(
        self, name: str, author: str, guest: str, *, wrapped: bool = False, stripped: bool = False
    ) -> None:
        self.name = name
        self.author = author
        self.guest = guest
        self.wrapped = wrapped
        self.stripped = stripped

    def author_position(self, line: int, column: int) -> Position | None:
        """The author's place for a place QuickJS states in the guest's text; None when there is none."""
        offset = engine_offset(self.guest, line, column)
        return None if offset is None else self.position_of(offset)

    def position_of(self, guest_offset: int) -> Position:
        """The author's place for an offset in the guest's text."""
        if self.stripped:
            guest_offset = self._alignment.source_offset(guest_offset)
        return self.author_place(guest_offset)

    def author_place(self, source_offset: int) -> Position:
        """The author's place for an offset in `source`, the text that was stripped."""
        if self.wrapped:
            source_offset -= len(SCRIPT_PREFIX)
        return position_at(self.author, source_offset)

    @property
    def source(self) -> str:
        """The author's text as the TypeScript stripper was given it: wrapped when it is a script."""
        return wrap_script(self.author) if self.wrapped else self.author

    @cached_property
    def _alignment(self) -> Alignment:
        return Alignment(self.source, self.guest)


def prepare_source(name: str, text: str, stripper: Stripper, *, entry: bool = False) -> SourceFile:
    """The file `name` of a handler, made ready for the guest as an ES module.

    Only the handler's entry (`entry`) may be a script. A `.json` file becomes a module that exports its
    value. Raises `CompilationError`, which points into `text`, for bad TypeScript and bad JSON.
    """
    author = normalize_newlines(text)
    if name.endswith(".json"):
        return SourceFile(name, author, json_module(name, author))
    wrapped = entry and classify(author) == "script"
    guest = wrap_script(author) if wrapped else author
    stripped = is_typescript(name)
    if stripped:
        try:
            guest = stripper.strip(name, guest)
        except CompilationError as error:
            if wrapped and error.location:
                raise _unwrapped(error, error.location, author) from None
            raise
    return SourceFile(name, author, guest, wrapped=wrapped, stripped=stripped)


def _unwrapped(error: CompilationError, at: SourceLocation, author: str) -> CompilationError:
    """The same error with its place in the script itself."""
    line, column = unwrap_position(at.line, at.column)
    last = position_at(author, len(author))
    line, column = min((line, column), last)
    return CompilationError(
        error.message,
        name=error.name,
        location=SourceLocation(at.file, line, column),
        snippet=snippet(author, line, column),
    )
