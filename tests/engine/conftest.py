"""One engine for all tests of this folder: compiling the guest's machine code takes most of a second."""

from collections.abc import Iterator

import pytest

from nexus_core.engine.image import ImageArena
from nexus_core.engine.javascript import JavaScriptEngine
from nexus_core.engine.javascript_instance import JavaScriptInstance
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.engine.wasm_engine import WasmEngine
from tests.engine.guests import CodeInMemory


@pytest.fixture(scope="session")
def code_cache() -> CodeInMemory:
    """Machine code compiled by any test of the session."""
    return CodeInMemory()


@pytest.fixture(scope="session")
def wasm_engine(code_cache: CodeInMemory) -> Iterator[WasmEngine]:
    """The engine; its ticker stops at the end."""
    engine = WasmEngine(code_cache)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def kind(wasm_engine: WasmEngine) -> JavaScriptKind:
    """The JavaScript guest kind, with an arena of its own."""
    return JavaScriptKind(wasm_engine, ImageArena())


@pytest.fixture(scope="session")
def javascript(kind: JavaScriptKind) -> JavaScriptEngine:
    """The engine of the JavaScript guests of `kind`."""
    return kind._engine


@pytest.fixture
def instance(kind: JavaScriptKind) -> Iterator[JavaScriptInstance]:
    """A fresh instance, freed at the end."""
    made = kind.new_instance()
    yield made
    made.terminate()
