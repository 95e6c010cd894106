"""What an `import` inside a handler may name: another file of its folder, and nothing else.

The specifier comes from the guest. It only ever selects a key of `files`, which the host read before
the guest ran, so no spelling of it reaches the file system.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import NoReturn

from nexus_core.engine.lexer import Kind, tokens
from nexus_core.engine.snippets import snippet
from nexus_core.engine.source_map import Position, position_at
from nexus_core.errors import CompilationError, SourceLocation

TYPESCRIPT_SUFFIXES = (".ts", ".mts")
"""Files whose types are stripped before the guest sees them."""

_SUFFIXES = (".ts", ".js", ".mts", ".mjs")
_AS_WRITTEN_FOR = {".js": ".ts", ".mjs": ".mts"}
_SHOWN_CHARACTERS = 100
_SHOWN_FILES = 8


def is_typescript(name: str) -> bool:
    """Whether a file of this name holds TypeScript."""
    return name.endswith(TYPESCRIPT_SUFFIXES)


def resolve_import(specifier: str, importer: str, files: Mapping[str, str]) -> str:
    """The key of `files` that `specifier` means in the file `importer`.

    Tried in this order: the path as written; for `x.js` also `x.ts`; then, with no suffix, `x.ts`,
    `x.js`, `x.mts`, `x.mjs` and the same of `x/index`. Raises `CompilationError`, which points at the
    import, for anything that is not a relative path to a file of the handler's folder.
    """
    if not specifier.startswith(("./", "../")) and specifier not in (".", ".."):
        reason = "only files of the handler's own folder can be imported, written as './file.js'"
        _refuse(specifier, importer, files, reason)
    path = posixpath.normpath(posixpath.join(posixpath.dirname(importer), specifier))
    if "\0" in specifier:
        # Some versions of Python cut a path there.
        _refuse(specifier, importer, files, "the folder has no such file")
    if path.startswith("../") or path == "..":
        _refuse(specifier, importer, files, "it leads out of the handler's folder")
    for candidate in _candidates(path):
        if candidate in files:
            return candidate
    names = sorted(files)
    shown = ", ".join(names[:_SHOWN_FILES]) + (", …" if len(names) > _SHOWN_FILES else "")
    return _refuse(specifier, importer, files, f"the folder has no such file; it has: {shown}")


def _candidates(path: str) -> list[str]:
    stem, suffix = posixpath.splitext(path)
    return [
        path,
        *([stem + _AS_WRITTEN_FOR[suffix]] if suffix in _AS_WRITTEN_FOR else []),
        *(path + each for each in _SUFFIXES),
        *(posixpath.normpath(f"{path}/index{each}") for each in _SUFFIXES),
    ]


def _refuse(specifier: str, importer: str, files: Mapping[str, str], reason: str) -> NoReturn:
    shown = specifier[:_SHOWN_CHARACTERS] + ("…" if len(specifier) > _SHOWN_CHARACTERS else "")
    text = files.get(importer, "")
    place = _import_place(text, specifier)
    raise CompilationError(
        f"cannot import {shown!r}: {reason}",
        name="SyntaxError",
        location=SourceLocation(importer, *place) if place else None,
        snippet=snippet(text, *place) if place else None,
    )


def _import_place(text: str, specifier: str) -> Position | None:
    """Where a file imports `specifier`: the string after `from`, `import` or `import(`."""
    before = ["", ""]
    for token in tokens(text):
        word = text[token.start : token.end]
        imports = before[1] in ("from", "import") or before == ["import", "("]
        if imports and token.kind is Kind.STRING and word[1:-1] == specifier:
            return position_at(text, token.start)
        before = [before[1], word]
    return None


def json_module(name: str, text: str) -> str:
    """An ES module whose default export is the JSON in `text`; raises `CompilationError` where it is none.

    The text travels as a string through `JSON.parse`: as an object literal, `__proto__` would mean
    something else.
    """
    import json

    try:
        json.loads(text, parse_constant=_no_constant, parse_int=float)
    except json.JSONDecodeError as error:
        place = position_at(text, error.pos)
        raise CompilationError(
            f"{name} is no JSON: {error.msg}",
            name="SyntaxError",
            location=SourceLocation(name, *place),
            snippet=snippet(text, *place),
        ) from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CompilationError(f"{name} is no JSON: {reason}", name="SyntaxError") from None
    return f"export default JSON.parse({json.dumps(text)});\n"


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not allowed")
