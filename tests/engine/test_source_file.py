"""A file made ready for the guest: module or script, wrapped, stripped, and places back to the author."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.engine.source_file import (
    SCRIPT_PREFIX,
    SourceFile,
    classify,
    prepare_source,
    unwrap_position,
    wrap_script,
)
from nexus_core.engine.source_map import Position
from nexus_core.errors import CompilationError, SourceLocation


class NoTypeScript:
    """A stripper for handlers that have no TypeScript: it finds fault with any text."""

    def strip(self, name: str, source: str) -> str:
        """Refuse, three characters behind the wrapper's prefix."""
        raise CompilationError(f"{name}: bad", location=SourceLocation(name, 1, len(SCRIPT_PREFIX) + 3))


MODULES = [
    "export default 1",
    "import './a.js'; return 1",
    "import a from 'a'",
    "import * as a from 'a'",
    "import {a} from 'a'",
    "import type { A } from './a'",
    "const a = {}; export { a }",
    "#!/usr/bin/env node\nexport default 1",
    "/* a */ export default 1",
    'const r = /[/"]/; export default r',
    "const t = `${'}'}`; export default t",
    "if (x) { y() }\nexport default 1",
    "function f( {\n\nexport default 1",
]
SCRIPTS = [
    "",
    "return 1",
    "return await $ext.http.get('x')",
    "// export default 1\nreturn 1",
    "/* export default 1 */",
    "return 'export default 1'",
    "return `export default 1`",
    "return `${1}\nexport default 1`",
    "return /export default 1/",
    "return { export: 1, import: 2 }",
    "return obj.export",
    "return obj?.import",
    "obj.export\n= 1",
    "const a = await import('./a.js')",
    "const a = import.meta",
    "interface A { export: string }\nreturn 1",
    "class A { import() {} }",
    "return exports + exporting",
    "const x = 4 / 2; // '\nreturn x / 2",
    "'unfinished export",
]


@pytest.mark.parametrize("source", MODULES)
def test_an_export_or_a_static_import_makes_a_module(source: str) -> None:
    """A source with one of these statements is a module."""
    assert classify(source) == "module"


@pytest.mark.parametrize("source", SCRIPTS)
def test_any_other_source_is_a_script(source: str) -> None:
    """The words in text, in names of properties, or as `import(…)` and `import.meta` make no module."""
    assert classify(source) == "script"


@given(st.sampled_from(MODULES) | st.text(alphabet="export dfaul{}`'\"/*\n;"))
def test_a_module_inside_text_makes_no_module(module: str) -> None:
    """Wrapped into a comment or a string, any source is part of a script."""
    assert classify("/*" + module.replace("*/", "* /") + "*/ return 1") == "script"
    assert classify("return `" + module.replace("\\", "").replace("`", "").replace("$", "") + "`") == "script"
    quoted = module.replace("\\", "").replace("'", "").replace("\n", "\\n")
    assert classify(f"return '{quoted}'") == "script"
    assert classify("//" + module.replace("\n", " ") + "\nreturn 1") == "script"


@pytest.mark.parametrize("unit", ["export.", "import(", "(/[(export", "`${export", ".export "])
def test_classifying_hostile_text_ends(unit: str) -> None:
    """A megabyte of an awkward beginning is classified."""
    assert classify(unit * (2**20 // len(unit))) in ("module", "script")


def test_wrapping_keeps_lines_and_unwrapping_gives_the_column_back() -> None:
    """Only the columns of line 1 move, by the length of the prefix."""
    source = "const a = 1;\nreturn a;"
    wrapped = wrap_script(source)
    assert wrapped.split("\n")[1] == "return a;"
    assert wrapped.split("\n")[0][len(SCRIPT_PREFIX) :] == "const a = 1;"
    assert unwrap_position(1, len(SCRIPT_PREFIX) + 7) == Position(1, 7)
    assert unwrap_position(2, 4) == Position(2, 4)
    assert unwrap_position(1, 3) == Position(1, 1)


def test_a_script_with_a_program_line_can_be_wrapped() -> None:
    """`#!` is legal only at the very start, so inside the function it becomes a comment."""
    assert wrap_script("#!node\nreturn 1").startswith(SCRIPT_PREFIX + "//node\n")


def test_prepared_script_maps_places_to_the_author() -> None:
    """QuickJS counts bytes, on line 1 from 0 and else from 1; the author's columns are characters."""
    file = prepare_source("a.js", "é; f()\r\n é; g()", NoTypeScript(), entry=True)
    assert file.wrapped
    assert file.author == "é; f()\n é; g()"
    first_line = len((SCRIPT_PREFIX + "é; ").encode())
    assert file.author_position(1, first_line) == Position(1, 4)
    assert file.author_position(2, len(" é; ".encode()) + 1) == Position(2, 5)
    assert file.author_position(99, 1) is None
    # The line that closes the wrapper is the end of the script.
    assert file.author_position(3, 1) == Position(2, 8)


def test_only_the_entry_may_be_a_script() -> None:
    """Another file of the folder without `export` is a module like any other: it is not wrapped."""
    assert prepare_source("b.js", "f()", NoTypeScript()).guest == "f()"


def test_a_json_file_becomes_a_module() -> None:
    """`import d from './d.json'` gives its value."""
    assert prepare_source("d.json", "[1]", NoTypeScript()).guest == 'export default JSON.parse("[1]");\n'


def test_an_error_in_a_wrapped_typescript_file_is_in_the_authors_columns() -> None:
    """The stripper sees the wrapper, the author does not."""
    with pytest.raises(CompilationError) as caught:
        prepare_source("a.ts", "x y", NoTypeScript(), entry=True)
    assert caught.value.location == SourceLocation("a.ts", 1, 3)
    assert caught.value.snippet == "1 | x y\n  |   ^"


@given(st.text(alphabet="ab é😀\n"), st.integers(-3, 60), st.integers(-3, 60))
def test_any_place_the_guest_states_is_answered(text: str, line: int, column: int) -> None:
    """A place the guest forges is mapped into the file or to None; nothing raises."""
    place = SourceFile("a.js", text, wrap_script(text), wrapped=True).author_position(line, column)
    assert place is None or (place.line <= text.count("\n") + 1 and place.column >= 1)
