"""The engine: compiled code through a cache, and memory that never moves."""

import re

import pytest
import wasmtime

from nexus_core.engine.bindings import HostFault
from nexus_core.engine.wasm_engine import WasmEngine
from tests.engine.guests import CodeInMemory

WASM = bytes(wasmtime.wat2wasm('(module (func (export "one") (result i32) (i32.const 1)))'))


@pytest.fixture
def cache() -> CodeInMemory:
    """An empty code cache."""
    return CodeInMemory()


def test_code_is_compiled_once(cache: CodeInMemory) -> None:
    """A second engine takes the first one's code from the cache."""
    first, second = WasmEngine(cache), WasmEngine(cache)
    first.load_module("m", WASM)
    (key,) = cache.kept
    cache.kept[key] = code = bytes(cache.kept[key])
    assert [kind.name for kind in second.load_module("m", WASM).exports] == ["one"]
    assert cache.kept[key] is code
    first.close()
    second.close()


def test_code_that_does_not_fit_is_compiled_anew(cache: CodeInMemory) -> None:
    """Code of another build or CPU is replaced, not trusted."""
    engine = WasmEngine(cache)
    engine.load_module("m", WASM)
    (key,) = cache.kept
    for broken in (b"", b"junk", cache.kept[key][:-10]):
        cache.kept[key] = broken
        assert [kind.name for kind in engine.load_module("m", WASM).exports] == ["one"]
        assert cache.kept[key] != broken
    engine.close()


def test_portable_code_fits_every_processor_of_the_architecture(cache: CodeInMemory) -> None:
    """It was compiled for no feature of this processor, and an engine made for this one loads it as it is."""
    portable, native = WasmEngine(cache, portable=True), WasmEngine(cache)
    portable.load_module("m", WASM)
    (key,) = cache.kept
    cache.kept[key] = code = bytes(cache.kept[key])
    used = dict(re.findall(rb"(has_\w+)\x02(.)", code))
    assert len(used) > 2
    assert set(used.values()) == {b"\0"}
    assert [kind.name for kind in native.load_module("m", WASM).exports] == ["one"]
    assert cache.kept[key] is code
    portable.close()
    native.close()


def test_each_module_has_a_key_of_its_own(cache: CodeInMemory) -> None:
    """The key follows the name and every byte of the wasm."""
    engine = WasmEngine(cache)
    engine.load_module("m", WASM)
    engine.load_module("n", WASM)
    engine.load_module("m", bytes(wasmtime.wat2wasm("(module)")))
    assert len(cache.kept) == 3
    engine.close()


@pytest.mark.parametrize("wasm", [b"", b"not wasm", WASM[:-1]])
def test_a_broken_module_is_our_error(cache: CodeInMemory, wasm: bytes) -> None:
    """What is no module is refused with an error of ours, and nothing is kept."""
    engine = WasmEngine(cache)
    with pytest.raises(HostFault):
        engine.load_module("m", wasm)
    assert not cache.kept
    engine.close()


def test_an_import_is_defined_once(cache: CodeInMemory) -> None:
    """Two functions of one name would make it unclear which is called."""
    engine = WasmEngine(cache)
    engine.define("env", "f", 1, 1, lambda _guest, _values: 0)
    with pytest.raises(HostFault, match="defined twice"):
        engine.define("env", "f", 1, 1, lambda _guest, _values: 0)
    engine.close()
