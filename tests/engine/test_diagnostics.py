"""What the real QuickJS says of an error, turned into the author's file, line, column and stack."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quickjs_rs import Context, JSError, Runtime
from quickjs_rs._transform import SourceTransformer

from nexus_core.engine.diagnostics import (
    MAX_FRAMES,
    MAX_STACK_CHARACTERS,
    ErrorSite,
    Frame,
    error_site,
    parse_stack,
)
from nexus_core.engine.source_file import SourceFile, prepare_source
from nexus_core.engine.syntax_probe import error_offset
from nexus_core.errors import SourceLocation


class Said(NamedTuple):
    """What the guest says of an error."""

    name: str
    message: str
    stack: str | None


class Guest:
    """QuickJS as its package runs it: modules by name, errors as the engine prints them."""

    def __init__(self, transformer: SourceTransformer) -> None:
        self.transformer = transformer
        self.probes = 0

    def strip(self, name: str, source: str) -> str:
        """As `TypeScriptStripper` does, without our own bounds around it."""
        return self.transformer.transform(name, source)

    def prepare(self, files: Mapping[str, str]) -> dict[str, SourceFile]:
        """The files made ready; the first is the entry."""
        entry = next(iter(files))
        return {name: prepare_source(name, text, self, entry=name == entry) for name, text in files.items()}

    def run(self, files: Mapping[str, SourceFile]) -> Said:
        """Load the first file and call its default export with an empty event; what it throws."""
        entry = next(iter(files))
        code = f"import * as handler from './{entry}';\nawait handler.default({{}}, {{}});"
        modules = {name: file.guest for name, file in files.items()}
        with _context(modules) as context, pytest.raises(JSError) as caught:
            asyncio.run(context.eval_async(code, module=True))
        return Said(caught.value.name, caught.value.message, caught.value.stack)

    def probe(self, text: str) -> str:
        """Parse a text that has a syntax error."""
        self.probes += 1
        with _context({}) as context:
            try:
                context.eval(text, module=True)
            except JSError as error:
                return error.message
        return ""

    def site(self, files: Mapping[str, str]) -> ErrorSite:
        """Run a handler that throws, and find where."""
        prepared = self.prepare(files)
        said = self.run(prepared)
        return error_site(said.message, said.stack, prepared, probe=self.probe)


class _context:  # noqa: N801 - reads as a function
    def __init__(self, modules: Mapping[str, str]) -> None:
        self._runtime = Runtime()
        self._runtime.set_module_loader(
            normalize=lambda _base, name: name.removeprefix("./"), load=modules.get, transform_flags=0
        )

    def __enter__(self) -> Context:
        context: Context = self._runtime.new_context()
        return context

    def __exit__(self, *_: object) -> None:
        self._runtime.close()


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    """One guest for all tests of this file: each run has a runtime of its own."""
    transformer = SourceTransformer()
    yield Guest(transformer)
    transformer.close()


def place(source: str, mark: str = "☞") -> tuple[str, int, int]:
    """The source without its mark, and where the mark stood."""
    before, after = source.split(mark)
    return before + after, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


@pytest.mark.parametrize(
    "marked",
    [
        "const a = 1;\n  throw new ☞Error('x');",
        "throw new ☞Error('x');",
        "/* é😀 */ const s = '漢'; ☞nope();",
        "\n\tconst s = '漢'; ☞nope();",
        "function f() {\r\n  ☞nope();\r\n}\r\nf();",
        "return [1].map(() => {\n  return ☞nope() });",
        "const t = `a\n\n${event}`;\n☞nope();",
        "#!/usr/bin/env node\n☞nope();",
        "// a comment without end ' ` {\n☞nope()",
        "if (event) {\n  return event.a.☞b.c;\n}",
        "const f = () => {\n  const a = [nope2.a, ☞nope];\n};\nconst nope2 = {}, g = f();",
        "return [1].map((nope2) => {\n  let x = { nope: 1 };\n  x = nope2.nope ?? ☞nope });",
        "const x = 1;\nconst y = event.a;\nconst z = y?.[0] ?? y[☞'b'];",
    ],
)
def test_an_error_in_a_script_is_at_its_place(guest: Guest, marked: str) -> None:
    """A script is wrapped, QuickJS counts bytes and one line differently: the author's place is exact."""
    source, line, column = place(marked)
    site = guest.site({"hello.js": source})
    assert site.location == SourceLocation("hello.js", line, column)
    assert site.snippet is not None
    assert site.snippet.startswith(f"{line} | ")
    assert site.stack is not None
    assert f"(hello.js:{line}:{column})" in site.stack


@pytest.mark.parametrize(
    "marked",
    [
        "interface A { b: { c: 1 } }\n\nexport default function (event: A): string {\n return event.b.☞c;\n}",
        "type A<T> = T | null;\nreturn (event as any)\n  .f!\n  .☞g(1 as A<number>);",
        "enum E { A = 1 }\nclass P { constructor(private a: number) {\n throw ☞nope(E[a]) } }\nnew P(1);",
        "const f = async <T,>(a: T): Promise<T> => {\n /* é */ throw new ☞Error('x') };\nreturn f('')",
    ],
)
def test_an_error_in_typescript_is_at_its_place(guest: Guest, marked: str) -> None:
    """The types are gone from what runs, the place is in the file with types."""
    source, line, column = place(marked)
    assert guest.site({"hello.ts": source}).location == SourceLocation("hello.ts", line, column)


def test_an_error_in_an_imported_file_names_that_file(guest: Guest) -> None:
    """The innermost file of the author's is the place; the stack leads to the entry."""
    source, line, column = place("export function go(a: any): void {\n  throw new ☞RangeError('x');\n}")
    entry = "import { go } from './lib/b.ts';\nexport default () => {\n  [1].forEach(go) }"
    site = guest.site({"a.js": entry, "lib/b.ts": source})
    assert site.location == SourceLocation("lib/b.ts", line, column)
    assert site.stack == (
        f"    at go (lib/b.ts:{line}:{column})\n    at forEach (native)\n    at default (a.js:3:15)"
    )


@pytest.mark.parametrize(
    "marked",
    [
        "let a = 1;\nlet b = (☞;\n",
        "foo(a ☞b)",
        "const a = 1;\nreturn { a ☞b: 1 }",
        "const é = '漢'; const y = 1 +☞* 2",
        "if (a) {\n  ☞) }",
        "const s = ☞'abc\nreturn s",
        "\n\nlet a; let ☞a;",
        "const x = `a ${b ☞c}`",
        "for (const x ☞off y) {}",
        "class A { x ☞y }",
        "export default function () {\n  retrun ☞1\n}",
        "export default 1;\n☞return 2;",
        "☞@dec class A {}",
    ],
)
def test_a_syntax_error_is_at_its_token(guest: Guest, marked: str) -> None:
    """QuickJS tells the line only; asking it about prefixes of that line gives the column."""
    source, line, column = place(marked)
    site = guest.site({"hello.js": source})
    assert site.location == SourceLocation("hello.js", line, column)
    assert site.stack == f"    at hello.js:{line}:{column}"


def test_a_syntax_error_without_a_probe_is_at_its_line(guest: Guest) -> None:
    """Where nobody can be asked, the first character of the line is the place."""
    files = guest.prepare({"a.js": "let a = 1;\n  let b = (;\n"})
    said = guest.run(files)
    assert error_site(said.message, said.stack, files).location == SourceLocation("a.js", 2, 3)


def test_a_syntax_error_that_types_hid_is_at_its_place(guest: Guest) -> None:
    """What the stripper lets pass and QuickJS does not is mapped back through both."""
    source, line, column = place("let a: number = 1;\nlet ☞a: string = '2';\nexport default a;")
    assert guest.site({"a.ts": source}).location == SourceLocation("a.ts", line, column)


def test_a_few_probes_find_the_token(guest: Guest) -> None:
    """Only the tokens of the stated line are tried, by halves."""
    source = "let a = [" + "1, " * 1_000 + "];\n" * 1 + "let b = [" + "1, " * 30 + "2 3];\n" + "f();\n" * 100
    guest.probes = 0
    site = guest.site({"a.js": source})
    assert site.location == SourceLocation("a.js", 2, len("let b = [") + 90 + 3)
    assert guest.probes <= 8


@pytest.mark.parametrize(
    ("files", "location"),
    [
        (
            {"a.js": "export default 1;\nimport d, {\n  nope } from './b.js';", "b.js": "export default 1"},
            ("a.js", 3, 3),
        ),
        ({"a.js": "const a = 1;\nexport { a, nope };\nexport default 1"}, ("a.js", 2, 13)),
    ],
)
def test_a_missing_export_is_at_its_name(
    guest: Guest, files: dict[str, str], location: tuple[str, int, int]
) -> None:
    """An error of linking has no stack; the place is the name in the braces."""
    assert guest.site(files).location == SourceLocation(*location)


def test_frames_of_the_host_vanish() -> None:
    """The bootstrap is no business of the author: its frames and natives below them are left out."""
    files = {"a.js": SourceFile("a.js", "x\ny", "x\ny")}
    stack = (
        "    at push (native)\n    at f (a.js:2:1)\n    at map (native)\n    at g (a.js:1:1)\n"
        "    at apply (native)\n    at call (nexus:bootstrap:10:2)\n    at <anonymous> (<input>:1:1)\n"
    )
    site = error_site("m", stack, files)
    assert site.stack == "    at push (native)\n    at f (a.js:2:1)\n    at map (native)\n    at g (a.js:1:1)"
    assert site.location == SourceLocation("a.js", 2, 1)
    assert site.snippet == "2 | y\n  | ^"


@pytest.mark.parametrize("stack", [None, "", "    at call (nexus:bootstrap:10:2)\n", "Error: x\nsomething"])
def test_a_stack_without_the_author_gives_nothing(stack: str | None) -> None:
    """No frame of the author's: no place, no snippet, no stack."""
    assert error_site("m", stack, {}) == ErrorSite(None, None, None)


def test_stack_lines_are_read_as_quickjs_prints_them() -> None:
    """Functions, natives, places of syntax errors, and names that hold brackets or colons."""
    assert parse_stack(
        "    at f (lib/a.js:3:14)\n    at map (native)\n    at a.js:2:9\n    at a (b) (c:d.js:1:2)\n"
        "    at x (missing)\nnot a frame\n    at y (a.js:x:1)\n    at a.js\n"
    ) == [
        Frame("f", "lib/a.js", 3, 14),
        Frame("map", "native", 0, 0),
        Frame(None, "a.js", 2, 9),
        Frame("a (b)", "c:d.js", 1, 2),
        Frame("x", "missing", 0, 0),
        Frame("y", "a.js:x:1", 0, 0),
    ]


def test_a_huge_stack_is_cut() -> None:
    """What a guest writes into `stack` is bounded before it is read."""
    assert len(parse_stack("    at f (a.js:1:1)\n" * 100_000)) == MAX_FRAMES
    assert parse_stack("x" * MAX_STACK_CHARACTERS + "\n    at f (a.js:1:1)") == []
    files = {"a.js": SourceFile("a.js", "x", "x")}
    printed = error_site("m", f"    at {'f' * 9_000} (a.js:1:1)", files).stack
    assert printed is not None
    assert len(printed) < 200


lines = st.one_of(
    st.text(max_size=30),
    st.builds(
        "    at {} ({}:{}:{})".format,
        st.text(max_size=5),
        st.sampled_from(["a.ts", "b.js", "native", "x"]),
        st.integers(-5, 10**12),
        st.integers(-5, 10**12),
    ),
    st.builds(
        "    at {}:{}:{}".format, st.sampled_from(["a.ts", "b.js"]), st.integers(0, 9), st.integers(0, 9)
    ),
)
messages = st.text() | st.builds(
    "cannot read property '{}' of undefined".format, st.text(alphabet="ab'(", max_size=3)
)


@given(messages, st.lists(lines).map("\n".join), st.text(alphabet="ab.({é\n'"), st.text(alphabet="ab.({é\n'"))
def test_nothing_the_guest_writes_breaks_the_diagnosis(
    message: str, stack: str, author: str, printed: str
) -> None:
    """Forged messages and stacks give places inside the author's files, or none."""
    files = {
        "a.ts": SourceFile("a.ts", author, printed, stripped=True),
        "b.js": SourceFile("b.js", author, author),
    }
    site = error_site(message, stack, files, probe=lambda _text: message)
    if site.location:
        assert 1 <= site.location.line <= author.count("\n") + 1
        assert site.snippet is not None


@given(st.text(alphabet="a(;'`\n{"), st.text(alphabet="a;'"))
def test_probing_ends_whatever_the_parser_answers(source: str, answer: str) -> None:
    """A parser that answers anything leads to a place in the source or to None."""
    found = error_offset(source, "a", lambda _text: answer)
    assert found is None or 0 <= found <= len(source)
