"""Places in printed JavaScript, back to the TypeScript it was printed from."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quickjs_rs._transform import SourceTransformer

from nexus_core.engine.source_map import Alignment, Position, engine_offset, position_at

TYPESCRIPT = """\
// a comment
import type { A } from "./a.ts";
import { b, type C, used } from './b';
/** doc */
export interface X { a: number; used: string }
type Y = { [k in keyof X]?: X[k] };
enum Color { Red, Green = "g" }
class P<T extends { id: number }> extends D<T> implements X {
    #x: number = 1;
    constructor(private a: number, readonly b = 2, opts?: { deep: boolean; list: Array<string> }) {
        super();
        if (opts?.deep) { throw new TypeError('deep'); }
    }
    abstract foo(): void;
    get v(): number { return this.a as number }
    async bar<U>(this: P<T>, ...rest: U[]): Promise<Map<string, U[]>> {
        const m = new Map<string, U[]>();
        for (const r of rest as any[]) if (r) m.set(r.name!, (m.get(r.name) ?? []).concat(r))
        return m;
    }
}
export default async function handler<T extends X>(event: T, ctx: any): Promise<T> {
    const x = event as unknown as Y;
    let s = 'single' satisfies string, n = 0x10 + 1_000;
    const r = /ab"c\\/[/]/gi;
    if (!event!.a) throw new Error(`bad ${event.a!} ${used(`inner ${1 as number}`)}`);   // trailing
    const f = (a: number): number => a * 2
    function over(a: string): void;
    function over(a: any) { nope(a) }
    return { ...event, "quoted": 1, a: (1 + 2) as any, n, s: s };
}
"""


def words(text: str) -> list[tuple[str, int]]:
    """Each word with its offset."""
    return [(match.group(), match.start()) for match in re.finditer(r"\w+", text)]


Printer = Callable[[str], str]


@pytest.fixture(scope="module")
def printer() -> Printer:
    """The printer itself, without our own bounds around it."""
    transformer = SourceTransformer()
    return lambda source: transformer.transform("a.ts", source)


@pytest.fixture(scope="module")
def example(printer: Printer) -> tuple[str, Alignment]:
    """`TYPESCRIPT` as it is printed, and how the two align."""
    printed = printer(TYPESCRIPT)
    return printed, Alignment(TYPESCRIPT, printed)


@pytest.mark.parametrize(
    ("code", "in_source"),
    [
        ("throw new TypeError", "throw new TypeError"),
        ("TypeError(", "TypeError("),
        ("(r.name) ??", "(r.name) ??"),
        ("event.a) throw", "event!.a) throw"),
        ("throw new Error", "throw new Error"),
        ("used(`inner", "used(`inner"),
        ("1}`)", "1 as number}`)"),
        ("* 2", "* 2"),
        ("nope(", "nope("),
        ("return m", "return m;"),
        ("super(", "super("),
        ("#x", "#x"),
        ("return this.a", "return this.a as"),
        ("/ab", "/ab"),
        ("...event", "...event"),
    ],
)
def test_a_token_maps_to_itself(example: tuple[str, Alignment], code: str, in_source: str) -> None:
    """Code after dropped types, overloads and changed quotes is found at its own line and column."""
    printed, alignment = example
    assert printed.count(code) == 1
    assert TYPESCRIPT.count(in_source) == 1
    found = alignment.source_offset(printed.index(code))
    assert position_at(TYPESCRIPT, found) == position_at(TYPESCRIPT, TYPESCRIPT.index(in_source))


def test_what_the_printer_added_maps_near_what_caused_it(example: tuple[str, Alignment]) -> None:
    """Code that stands for an enum or a parameter property points into its declaration's neighbourhood."""
    printed, alignment = example
    enum = position_at(TYPESCRIPT, alignment.source_offset(printed.index('"Green"')))
    assert enum.line == 7
    member = position_at(TYPESCRIPT, alignment.source_offset(printed.index("this.a = a")))
    assert 10 <= member.line <= 12


names = st.sampled_from(["a", "b", "value", "item", "event"])
types = st.recursive(
    st.sampled_from(["number", "string", "any", "T", "Item", "void"]),
    lambda inner: st.one_of(
        inner.map("Array<{}>".format),
        st.tuples(inner, inner).map(lambda pair: f"{pair[0]} | {pair[1]}"),
        st.tuples(names, inner).map(lambda pair: f"{{ {pair[0]}: {pair[1]} }}"),
        st.tuples(names, inner, inner).map(lambda trio: f"(({trio[0]}: {trio[1]}) => {trio[2]})"),
    ),
    max_leaves=4,
)


def statement(draw: Callable[..., str]) -> str:
    """One statement with types, of few names."""
    a, b, t, u = draw(names), draw(names), draw(types), draw(types)
    return draw(
        st.sampled_from(
            [
                f"let {a}: {t} = {b};",
                f"interface I {{ {a}: {t}; {b}(x: {u}): void }}",
                f"type Z<T> = {t};",
                f"{a}({b} as {t}, 'text', 0x10)",
                f"const {a} = ({b}: {t}): void => {{ {a}({b}!) }}",
                f"if ({a} == null) {b}.{a}()\n  else {{ {a} = <any>{b} }}",
                f"function {a}({b}: {t}): {u};",
                f"for (const {a} of {b} as any[]) {{\n   {b}({a} satisfies any);\n }}",
                "",
                f"// {a} {b}",
                f"class K<T> {{ {a}?: {t}; {b}({a}: {u}): any {{ return {a} }} }}",
                f"return {{ {a}: {b} as {t}, {b} }}",
            ]
        )
    )


@st.composite
def functions(draw: Callable[..., str]) -> str:
    """TypeScript whose statements repeat few names, with one `throw` that is told by its number."""
    lines: list[str] = []
    for number in range(6):
        inner = "\n    ".join(statement(draw) for _ in range(3))
        lines.append(
            f"export function f{number}<T>(value: {draw(types)}, item?: {draw(types)}): {draw(types)} {{\n"
            f"    {inner}\n    throw new Oops{number}(value);\n}}"
        )
    return "\n".join(lines)


@settings(max_examples=settings().max_examples * 60 // 100)
@given(functions())
def test_a_throw_is_found_on_its_line(printer: Printer, source: str) -> None:
    """Whatever types and statements stand around it, `throw new OopsN(…)` maps to its own place."""
    printed = printer(source)
    alignment = Alignment(source, printed)
    for number in range(6):
        code = f"throw new Oops{number}"
        for shift in (0, len("throw new "), len(code)):
            found = alignment.source_offset(printed.index(code) + shift)
            assert found == source.index(code) + shift


@settings(max_examples=settings().max_examples * 30 // 100)
@given(functions())
def test_nearly_every_word_is_found_at_a_place_where_it_stands(printer: Printer, source: str) -> None:
    """Most words of the printed text map to the same word in the source, and places rise with them.

    Where few names repeat a whole statement may be taken for its neighbour: the search for bad texts found
    none below 0.85.
    """
    printed = printer(source)
    alignment = Alignment(source, printed)
    found = [(word, alignment.source_offset(at)) for word, at in words(printed) if not word.isdigit()]
    same = sum(source.startswith(word, at) for word, at in found)
    assert same >= 0.8 * len(found)
    assert [at for _, at in found] == sorted(at for _, at in found)


@pytest.mark.parametrize(
    "source",
    [
        "let a: number = 1;\n" * 20_000,
        "type A = { a: b };\n" * 20_000 + "let z = 1;",
        "let a: a = a as a;" * 10_000,
        "enum A { a, b, c, d }\n" * 5_000,
    ],
)
def test_aligning_text_that_repeats_itself_ends(printer: Printer, source: str) -> None:
    """Where nothing is unique the work stays bounded and every place has an answer."""
    printed = printer(source)
    alignment = Alignment(source, printed)
    for offset in (0, len(printed) // 2, len(printed)):
        assert 0 <= alignment.source_offset(offset) <= len(source)


def test_repeated_code_keeps_its_order(printer: Printer) -> None:
    """Many equal functions are told apart by their order."""
    one = "function f(a: number): void {\n  if (a as any) { throw new Error('x') }\n}\n"
    source = one * 300
    printed = printer(source)
    alignment = Alignment(source, printed)
    lines = [
        position_at(source, alignment.source_offset(match.start())).line
        for match in re.finditer("throw", printed)
    ]
    assert lines == [2 + 3 * number for number in range(300)]


@given(st.text(alphabet="ab({;é\n'"), st.text(alphabet="ab({;é\n'"), st.integers(0, 40))
def test_any_two_texts_can_be_aligned(source: str, printed: str, offset: int) -> None:
    """The texts need not belong together: the answer is a place in the source."""
    assert 0 <= Alignment(source, printed).source_offset(offset) <= len(source)


@given(st.text(alphabet="aé😀 \n"), st.data())
def test_engine_places_are_bytes_of_a_line(text: str, data: st.DataObject) -> None:
    """A column of QuickJS counts UTF-8 bytes, from 1, but from 0 on the first line."""
    offset = data.draw(st.integers(0, len(text)))
    line, column = position_at(text, offset)
    before = text[offset - column + 1 : offset].encode()
    if line == 1 and not before:
        assert engine_offset(text, 1, 1) in (0, 1)
    else:
        assert engine_offset(text, line, len(before) + (line > 1)) in (
            offset,
            0 if len(before) == 1 else offset,
        )


@pytest.mark.parametrize(("line", "column"), [(0, 1), (3, 1), (10**9, 1)])
def test_a_line_the_text_does_not_have_gives_none(line: int, column: int) -> None:
    """A forged line is no place."""
    assert engine_offset("a\nb", line, column) is None


def test_positions_count_from_one() -> None:
    """The first character is line 1, column 1; offsets outside the text are moved into it."""
    assert position_at("a\nb", 0) == Position(1, 1)
    assert position_at("a\nb", 2) == Position(2, 1)
    assert position_at("a\nb", 99) == Position(2, 2)
