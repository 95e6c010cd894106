"""One engine for all tests of this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nexus_core.engine.image import ImageArena
from nexus_core.engine.javascript import JavaScriptEngine
from nexus_core.engine.javascript_instance import JavaScriptInstance
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.engine.wasm_engine import CodeCache, WasmEngine
from tests.engine.machine_code import disk_cache


@pytest.fixture(scope="session")
def code_cache(new_cache: Callable[[], Path]) -> CodeCache:
    """Machine code of the guests."""
    return disk_cache(new_cache())


@pytest.fixture(scope="session")
def wasm_engine(code_cache: CodeCache) -> Iterator[WasmEngine]:
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
