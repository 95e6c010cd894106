"""Stripping types: what comes out, where errors point, and what hostile text can do."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime

from nexus_core.engine.source_file import prepare_source
from nexus_core.engine.typescript import MAX_SOURCE_BYTES, TypeScriptStripper
from nexus_core.errors import CompilationError, InternalError, SourceLocation


class Modules:
    """Compiles a module once, as the engine's code cache does, and counts who asks."""

    def __init__(self, engine: wasmtime.Engine) -> None:
        self.engine = engine
        self.asked = 0
        self._module: wasmtime.Module | None = None

    def load(self, _name: str, wasm: bytes) -> wasmtime.Module:
        """The module of the one wasm file there is."""
        self.asked += 1
        if self._module is None:
            self._module = wasmtime.Module(self.engine, wasm)
        return self._module


@pytest.fixture(scope="module")
def modules() -> Modules:
    """An engine as ours is set up, with the module cached."""
    config = wasmtime.Config()
    config.epoch_interruption = True
    return Modules(wasmtime.Engine(config))


@pytest.fixture(scope="module")
def stripper(modules: Modules) -> TypeScriptStripper:
    """A stripper that all tests of this file share, as a process does."""
    return TypeScriptStripper(modules.engine, modules.load)


@pytest.fixture
def ticking(modules: Modules) -> Iterator[None]:
    """Another user of the engine who advances its epoch all the time."""
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.001):
            modules.engine.increment_epoch()

    thread = threading.Thread(target=tick)
    thread.start()
    yield
    stop.set()
    thread.join()


def squeezed(text: str) -> str:
    """`text` on one line."""
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("let a: number = 1 as number;", "let a = 1;"),
        ("const a = b! satisfies C;", "const a = b;"),
        ("function f<T>(this: X, a?: T): a is B {}", "function f(a) {}"),
        ("interface A { b: string }\ntype C = A;\ndeclare const d: A;\nx();", "x();"),
        (
            'import type { A } from "./a"; import { b, type C } from "./b"; b();',
            'import { b } from "./b"; b();',
        ),
        ('import { A } from "./a"; let x: A; export { x };', "let x; export { x };"),
        ('export type { A } from "./a"; export * from "./b";', 'export * from "./b";'),
        ("class A { constructor(private b: number) {} }", "class A { b; constructor(b) { this.b = b; } }"),
        ("abstract class A<T> implements B { abstract c(): void; private d?: T }", "class A { d; }"),
        ("function f(a: string): void; function f(a: any) { return a }", "function f(a) { return a; }"),
    ],
)
def test_types_are_gone_and_code_stays(stripper: TypeScriptStripper, source: str, code: str) -> None:
    """Annotations, assertions, interfaces, type-only imports and parameter properties become JavaScript."""
    assert squeezed(stripper.strip("a.ts", source)) == code


def test_enums_and_namespaces_become_values(stripper: TypeScriptStripper) -> None:
    """What has a value in TypeScript has one after: `enum`, `const enum` and `namespace`."""
    code = stripper.strip(
        "a.ts", "enum A { B, C = 'c' } const enum D { E } namespace N { export const f = 1 }"
    )
    assert 'A[A["B"] = 0] = "B"' in code
    assert 'A["C"] = "c"' in code
    assert 'D[D["E"] = 0] = "E"' in code
    assert "_N.f = 1" in code


def test_text_in_any_script_survives(stripper: TypeScriptStripper) -> None:
    """Strings and names outside ASCII come back as they were."""
    assert 'const é = "漢😀";' in stripper.strip("a.ts", 'const é: string = "漢😀";')


@pytest.mark.parametrize("name", ["a.tsx", "a.cts", "a.js", "a"])
def test_only_ts_and_mts_are_typescript(stripper: TypeScriptStripper, name: str) -> None:
    """JSX and CommonJS are refused by name."""
    with pytest.raises(CompilationError, match=r"name it \.ts or \.mts"):
        stripper.strip(name, "1")


@pytest.mark.parametrize(
    ("source", "line", "column", "message"),
    [
        ("let a = 1;\nlet b: = 2;\n", 2, 8, "Unexpected token"),
        ("foo(a\n  b)", 2, 3, "Expected `,` or `)` but found `b`"),
        ("enum A { a,\n b c }", 2, 4, "Expected `,` or `}` but found `c`"),
        ("let x = `a ${b c}`", 1, 16, "Expected `}` but found `c`"),
        ("let a = 1;\nlet b = 'abc\nfoo()", 2, 9, "Unterminated string"),
        ("function f() {}\n  return 2;\nlet x = 1", 2, 3, "A 'return' statement"),
        ("x = {\n a: 1,\n", 2, 7, "Unexpected token"),
        ("let a = 1;\nconst b;\nlet c = 2", 2, 7, "Missing initializer in const declaration"),
        ('/* 😀 */ let é = "é"; let y: = 2', 1, 29, "Unexpected token"),
        ("let x = <div>a</div>", 1, 16, "Unterminated regular expression"),
        ("\n@dec class A {}; let x: = 1", 2, 25, "Unexpected token"),
    ],
)
def test_a_syntax_error_points_at_its_token(
    stripper: TypeScriptStripper, source: str, line: int, column: int, message: str
) -> None:
    """The transformer tells no place; the error has the place of the token at fault all the same."""
    with pytest.raises(CompilationError) as caught:
        stripper.strip("a.ts", source)
    assert caught.value.message.startswith(message)
    assert caught.value.location == SourceLocation("a.ts", line, column)
    assert caught.value.snippet is not None
    assert caught.value.snippet.startswith(f"{line} | ")


def test_a_syntax_error_in_a_script_is_in_the_authors_columns(stripper: TypeScriptStripper) -> None:
    """A script is wrapped before its types are stripped; the error does not show the wrapper."""
    with pytest.raises(CompilationError) as caught:
        prepare_source("a.ts", "return 1 +* 2;", stripper, entry=True)
    assert caught.value.location == SourceLocation("a.ts", 1, 11)
    assert caught.value.snippet == "1 | return 1 +* 2;\n  |           ^"


@pytest.mark.parametrize("source", ["(" * 20_000, "!" * 100_000 + "1", "a" + ".b" * 200_000, "`${" * 50_000])
def test_nesting_that_breaks_the_parser_is_an_error_and_the_next_text_is_fine(
    stripper: TypeScriptStripper, source: str
) -> None:
    """A trap in the transformer is the author's error, and leaves nothing behind."""
    with pytest.raises(CompilationError, match="nested too deeply"):
        stripper.strip("a.ts", source)
    assert stripper.strip("a.ts", "let a: number = 1;") == "let a = 1;\n"


def test_a_text_past_the_deadline_is_stopped(modules: Modules) -> None:
    """The transformer has bounded time, also when nothing else advances the engine's epoch."""
    hasty = TypeScriptStripper(modules.engine, modules.load, deadline_seconds=0.01)
    with pytest.raises(CompilationError, match="takes too much to parse"):
        hasty.strip("a.ts", ";" * MAX_SOURCE_BYTES)


def test_ticks_of_others_do_not_stop_it(stripper: TypeScriptStripper, ticking: None) -> None:
    """The engine's epoch advances every few milliseconds while handlers run; only our deadline counts."""
    assert len(stripper.strip("a.ts", "let a: number = f(1, 2);\n" * 20_000)) > 300_000


def test_a_text_may_have_the_limit_of_bytes_and_not_one_more(stripper: TypeScriptStripper) -> None:
    """The limit counts bytes of UTF-8."""
    most = "/*" + "é" * (MAX_SOURCE_BYTES // 2 - 2) + "*/"
    assert len(most.encode()) == MAX_SOURCE_BYTES
    stripper.strip("a.ts", most)
    with pytest.raises(CompilationError, match=f"{MAX_SOURCE_BYTES + 1} bytes"):
        stripper.strip("a.ts", most + " ")


def test_half_a_character_is_refused(stripper: TypeScriptStripper) -> None:
    """A lone surrogate is no text in UTF-8, and is pointed at."""
    with pytest.raises(CompilationError, match="half of a character") as caught:
        stripper.strip("a.ts", "let a =\n '\ud800'")
    assert caught.value.location == SourceLocation("a.ts", 2, 3)


def test_many_threads_share_one_compiled_module(modules: Modules) -> None:
    """The module is loaded once, with the first text, and threads do not disturb each other."""
    before = modules.asked
    shared = TypeScriptStripper(modules.engine, modules.load)
    assert modules.asked == before
    found: dict[int, str] = {}

    def strip(number: int) -> None:
        found[number] = shared.strip("a.ts", f"let a{number}: number = {number};")

    threads = [threading.Thread(target=strip, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: f"let a{number} = {number};\n" for number in range(16)}
    assert modules.asked == before + 1


def test_another_transformer_is_refused(
    modules: Modules, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The module's ABI is known for one build only, so any other file stops the compile."""
    package = tmp_path / "quickjs_rs"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_transform.wasm").write_bytes(b"\0asm\1\0\0\0")
    monkeypatch.delitem(sys.modules, "quickjs_rs", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InternalError, match="missing or was changed"):
        TypeScriptStripper(modules.engine, modules.load).strip("a.ts", "1")
