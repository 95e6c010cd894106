"""A handler's files as its guest asks for them."""

import pytest

from nexus_core.engine.modules import MAIN, HandlerModules
from nexus_core.engine.source_file import Stripper
from nexus_core.engine.typescript import TypeScriptStripper
from nexus_core.engine.wasm_engine import WasmEngine
from nexus_core.errors import CompilationError

FILES = {
    "h.js": "import './lib/a.js';\nexport default () => 1;",
    "lib/a.js": "export const a = 1;",
    "lib/b.ts": "export const b: number = 2;",
    "body.js": "return 5;",
    "broken.ts": "const x: = ;",
}


@pytest.fixture
def stripper(wasm_engine: WasmEngine) -> Stripper:
    """The one that takes types out."""
    return TypeScriptStripper(wasm_engine.engine, wasm_engine.load_module)


@pytest.fixture
def modules(stripper: Stripper) -> HandlerModules:
    """The files of a handler that starts with h.js."""
    return HandlerModules("h.js", FILES, stripper)


def test_the_host_may_name_the_entry_only(modules: HandlerModules) -> None:
    """Whatever the host's own module asks for, it gets the entry."""
    assert modules.resolve("./h.js", MAIN) == "h.js"
    assert modules.resolve("anything", MAIN) == "h.js"


def test_files_find_each_other(modules: HandlerModules) -> None:
    """A specifier is read from where it stands."""
    assert modules.resolve("./lib/a.js", "h.js") == "lib/a.js"
    assert modules.resolve("../h.js", "lib/a.js") == "h.js"


@pytest.mark.parametrize(
    "specifier", ["fs", "./none.js", "../../etc/passwd", "/etc/passwd", "", "nexus:main"]
)
def test_nothing_else_is_found(modules: HandlerModules, specifier: str) -> None:
    """Only files of the handler can be imported."""
    with pytest.raises(CompilationError):
        modules.resolve(specifier, "h.js")


def test_types_are_gone_and_bodies_are_functions(stripper: Stripper) -> None:
    """The guest gets JavaScript modules, whatever the author wrote."""
    modules = HandlerModules("body.js", FILES, stripper)
    assert "number" not in modules.text("lib/b.ts")
    assert "export default" in modules.text("body.js")
    assert modules.text("lib/a.js") == FILES["lib/a.js"]


def test_a_file_is_prepared_once(modules: HandlerModules) -> None:
    """Asking twice gives the same text and costs nothing the second time."""
    assert modules.text("lib/b.ts") is modules.text("lib/b.ts")


def test_sources_leave_out_what_cannot_be_prepared(modules: HandlerModules) -> None:
    """Error positions are mapped with the files that are right; a broken one raises when it is asked for."""
    assert set(modules.sources()) == {"h.js", "lib/a.js", "lib/b.ts", "body.js"}
    with pytest.raises(CompilationError):
        modules.text("broken.ts")
