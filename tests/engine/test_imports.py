"""Which file an `import` in a handler means, and what it may not mean."""

import contextlib
import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.engine.imports import json_module, resolve_import
from nexus_core.errors import CompilationError, SourceLocation

FILES: Mapping[str, str] = {
    "index.ts": 'import { a } from "./lib/a.js";\n  const b = import("node:fs");\nexport * from "./none/x";',
    "lib/a.ts": "",
    "lib/b.js": "",
    "lib/deep/index.js": "",
    "lib/both.ts": "",
    "lib/both.js": "",
    "data.json": "",
    "m.mts": "",
}


@pytest.mark.parametrize(
    ("specifier", "importer", "found"),
    [
        ("./lib/a", "index.ts", "lib/a.ts"),
        ("./lib/a.ts", "index.ts", "lib/a.ts"),
        ("./lib/a.js", "index.ts", "lib/a.ts"),
        ("./lib/b", "index.ts", "lib/b.js"),
        ("./lib/both", "index.ts", "lib/both.ts"),
        ("./lib/both.js", "index.ts", "lib/both.js"),
        ("./lib/deep", "index.ts", "lib/deep/index.js"),
        ("./m.mjs", "index.ts", "m.mts"),
        ("./data.json", "index.ts", "data.json"),
        ("../index.ts", "lib/a.ts", "index.ts"),
        ("..", "lib/a.ts", "index.ts"),
        ("./b.js", "lib/a.ts", "lib/b.js"),
        ("./x/../b.js", "lib/a.ts", "lib/b.js"),
    ],
)
def test_a_relative_import_finds_a_file_of_the_folder(specifier: str, importer: str, found: str) -> None:
    """Imports are relative to the importing file, with the suffixes authors leave out or change."""
    assert resolve_import(specifier, importer, FILES) == found


@pytest.mark.parametrize(
    ("specifier", "message"),
    [
        ("node:fs", "only files of the handler's own folder"),
        ("lodash", "only files of the handler's own folder"),
        ("https://example.com/a.js", "only files of the handler's own folder"),
        ("/etc/passwd", "only files of the handler's own folder"),
        ("", "only files of the handler's own folder"),
        ("../other/index.ts", "out of the handler's folder"),
        ("./lib/../../x", "out of the handler's folder"),
        ("./none", r"no such file; it has: data\.json, index\.ts"),
        ("./lib/a.ts\0", "no such file"),
        ("./lib%2Fa.ts", "no such file"),
    ],
)
def test_other_imports_are_refused_with_the_reason(specifier: str, message: str) -> None:
    """Bare names, URLs, absolute paths, ways out of the folder and missing files each say what is wrong."""
    with pytest.raises(CompilationError, match=message):
        resolve_import(specifier, "index.ts", FILES)


@pytest.mark.parametrize(("specifier", "line", "column"), [("./none/x", 3, 15), ("node:fs", 2, 20)])
def test_a_refused_import_points_at_its_statement(specifier: str, line: int, column: int) -> None:
    """The error carries the place of the specifier in the importing file, and that line."""
    with pytest.raises(CompilationError) as caught:
        resolve_import(specifier, "index.ts", FILES)
    assert caught.value.location == SourceLocation("index.ts", line, column)
    assert caught.value.snippet is not None
    assert specifier in caught.value.snippet


def test_a_long_specifier_is_cut_in_the_message() -> None:
    """A guest cannot blow up the message it gets."""
    with pytest.raises(CompilationError) as caught:
        resolve_import("x" * 100_000, "index.ts", FILES)
    assert len(caught.value.message) < 300


@given(st.text(alphabet="./ab\\:%\0"), st.sampled_from(sorted(FILES)))
def test_resolving_never_answers_a_name_outside_the_folder(specifier: str, importer: str) -> None:
    """Whatever is asked for, the answer is a file the handler has, or a refusal."""
    with contextlib.suppress(CompilationError):
        assert resolve_import(specifier, importer, FILES) in FILES


def test_json_becomes_a_module_that_keeps_every_key() -> None:
    """The text goes through `JSON.parse`, so `__proto__` stays an ordinary key."""
    text = '{"__proto__": {"a": 1}, "s": "\u2028\\"", "n": 12345678901234567890}'
    code = json_module("d.json", text)
    assert json.loads(code.removeprefix("export default JSON.parse(").removesuffix(");\n")) == text


@pytest.mark.parametrize(
    ("text", "place"),
    [('{"a": 1,\n "b": }', (2, 7)), ("", (1, 1)), ("{'a': 1}", (1, 2))],
)
def test_bad_json_points_at_its_place(text: str, place: tuple[int, int]) -> None:
    """A JSON file that does not parse is a compile error with line and column."""
    with pytest.raises(CompilationError, match=r"d\.json is no JSON") as caught:
        json_module("d.json", text)
    assert caught.value.location == SourceLocation("d.json", *place)


@pytest.mark.parametrize("text", ["[NaN]", "[" * 200_000])
def test_json_that_python_alone_would_accept_or_fall_over_is_refused(text: str) -> None:
    """`NaN` is no JSON, and endless nesting is an error like any other."""
    with pytest.raises(CompilationError, match="is no JSON"):
        json_module("d.json", text)
