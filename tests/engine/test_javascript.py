"""The JavaScript guest: the pinned build, its base image, and what its functions may ask the host."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from nexus_core.engine import javascript as module
from nexus_core.engine.bindings import EngineFault
from nexus_core.engine.driver import TimeBudget, finish
from nexus_core.engine.flush import Thrown
from nexus_core.engine.image import WASM_PAGE, ImageArena
from nexus_core.engine.javascript import (
    BREACHES,
    GUEST_SHA256,
    IMAGE_SIZES,
    JavaScriptEngine,
    JavaScriptGuest,
    image_size_for,
)
from nexus_core.engine.wasm_engine import CodeCache, WasmEngine
from nexus_core.errors import InternalError
from nexus_core.limits import MIB, ResourceLimits


def guest_file() -> bytes:
    """The guest as it is installed."""
    spec = importlib.util.find_spec("quickjs_rs")
    assert spec is not None
    assert spec.submodule_search_locations
    return (Path(spec.submodule_search_locations[0]) / "_guest.wasm").read_bytes()


def leb(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned LEB128 number and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def sections(wasm: bytes) -> dict[int, bytes]:
    """A module's sections by their number."""
    found, at = {}, 8
    while at < len(wasm):
        number = wasm[at]
        size, start = leb(wasm, at + 1)
        found[number] = wasm[start : start + size]
        at = start + size
    return found


def test_the_guest_is_the_pinned_build() -> None:
    """The file that is installed is the one that was examined."""
    assert hashlib.sha256(guest_file()).hexdigest() == GUEST_SHA256


def test_the_guest_keeps_its_state_in_memory() -> None:
    """A reset restores the memory and one global: the guest has no other place to remember anything.

    One mutable global (the stack pointer), no passive data that could be dropped, and no instruction
    could matter that changes tables, since the module has but one, filled at start.
    """
    found = sections(guest_file())
    count, at = leb(found[6], 0)
    mutable = 0
    for _ in range(count):
        mutable += found[6][at + 1]
        assert found[6][at] == 0x7F
        assert found[6][at + 2] == 0x41
        _, at = leb(found[6], at + 3)
        at += 1
    assert mutable == 1
    assert at == len(found[6])
    assert leb(found[4], 0)[0] == 1
    segments, at = leb(found[11], 0)
    for _ in range(segments):
        flags, at = leb(found[11], at)
        assert flags == 0
        assert found[11][at] == 0x41
        _, at = leb(found[11], at + 1)
        size, at = leb(found[11], at + 1)
        at += size
    assert at == len(found[11])


def test_another_guest_build_stops_the_start(
    wasm_engine: WasmEngine, monkeypatch: pytest.MonkeyPatch, code_cache: CodeCache
) -> None:
    """A guest nobody examined is not run."""
    monkeypatch.setattr(module, "GUEST_SHA256", "0" * 64)
    with pytest.raises(InternalError, match="not the build"):
        JavaScriptEngine(WasmEngine(code_cache), ImageArena())


def test_a_missing_guest_stops_the_start(monkeypatch: pytest.MonkeyPatch, code_cache: CodeCache) -> None:
    """Without the package that ships the guest the message names it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InternalError, match="quickjs-rs"):
        JavaScriptEngine(WasmEngine(code_cache), ImageArena())


@pytest.mark.parametrize("script", ["_BOOTSTRAP", "_BOOTSTRAP_RANDOM"])
@pytest.mark.parametrize(
    ("text", "message"), [("syntax error here", "does not load"), ("(() => { throw 1 })", "")]
)
def test_a_broken_bootstrap_stops_the_start(
    code_cache: CodeCache,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    script: str,
    text: str,
    message: str,
) -> None:
    """A bootstrap that does not parse or throws never becomes a base image."""
    broken = tmp_path / "broken.js"
    broken.write_text(text)
    monkeypatch.setattr(module, script, broken)
    with pytest.raises(InternalError, match=message or "does not start"):
        JavaScriptEngine(WasmEngine(code_cache), ImageArena())


def test_the_build_follows_the_bootstrap(
    code_cache: CodeCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, javascript: JavaScriptEngine
) -> None:
    """An image of another bootstrap is never taken for one of this."""
    changed = tmp_path / "bootstrap.js"
    changed.write_text(module._BOOTSTRAP.read_text() + "\n// changed")
    monkeypatch.setattr(module, "_BOOTSTRAP", changed)
    assert JavaScriptEngine(WasmEngine(code_cache), ImageArena()).build != javascript.build


def test_every_limit_the_bootstrap_reports_exists() -> None:
    """A reported breach names a limit that the call has a value for."""
    assert set(BREACHES.values()) <= set(ResourceLimits.__struct_fields__)


@pytest.mark.parametrize(
    ("needed", "smallest", "size"),
    [
        (1, 0, IMAGE_SIZES[0]),
        (IMAGE_SIZES[0], 0, IMAGE_SIZES[0]),
        (IMAGE_SIZES[0] + 1, 0, IMAGE_SIZES[1]),
        (1, IMAGE_SIZES[2], IMAGE_SIZES[2]),
        (IMAGE_SIZES[-1], 0, IMAGE_SIZES[-1]),
        (IMAGE_SIZES[-1] + 1, 0, None),
    ],
)
def test_image_sizes(needed: int, smallest: int, size: int | None) -> None:
    """The smallest size that is enough, of few, in whole wasm pages."""
    assert image_size_for(needed, smallest) == size
    assert all(each % WASM_PAGE == 0 for each in IMAGE_SIZES)


@pytest.fixture
def guest(javascript: JavaScriptEngine) -> Any:
    """A guest with nothing attached."""
    made = javascript.new_guest()
    made.begin_short()
    yield made
    made.close()


def call_host(guest: JavaScriptGuest, name: str) -> int:
    """Call a host function of this name from JavaScript; the status."""
    exports, text = guest.exports, name.encode()
    function = guest.call(exports["new_function"], guest.put(text), len(text))
    undefined, out = guest.call(exports["new_undefined"]), guest.put(bytes(4))
    guest.begin()
    started = guest.enter(exports["call_function"], function, undefined, 0, 0, out)
    return finish(started, TimeBudget(0, 0))


@pytest.mark.parametrize(
    "name", ["", "random", "breach:", "breach:narrowed", "breach:timeout_ms", "x" * 1000]
)
def test_the_host_answers_only_what_it_offers(guest: JavaScriptGuest, name: str) -> None:
    """Any other name, and any question while no call runs, is an error in the guest and nothing more."""
    assert call_host(guest, name) != 0
    assert guest.breach is None


def test_a_breach_ends_the_run_at_once(guest: JavaScriptGuest) -> None:
    """A reported breach is remembered by name and cannot be caught."""
    with pytest.raises(module.BreachReported):
        call_host(guest, "breach:max_events")
    assert guest.breach == "max_events"


def test_a_guest_without_memory_gets_none(guest: JavaScriptGuest) -> None:
    """An allocation past the limit is told apart from an address."""
    guest.limit_memory(guest.memory_size + MIB)
    try:
        place = guest.put(bytes(4 * MIB))
    except EngineFault:
        place = 0
    assert place == 0


@pytest.mark.parametrize(
    ("thrown", "near", "lacked"),
    [
        (Thrown("InternalError", "out of memory"), False, True),
        (Thrown("SyntaxError", "out of memory"), False, True),
        (Thrown("InternalError", "out of memory in regexp execution"), False, True),
        (Thrown("Error", "out of memory"), False, False),
        (Thrown("Error", "null"), False, False),
        (Thrown("Error", "null"), True, True),
        (Thrown("TypeError", "null"), True, False),
        (Thrown(), True, False),
    ],
)
def test_signs_of_no_memory(guest: JavaScriptGuest, thrown: Thrown, near: bool, lacked: bool) -> None:
    """The guest's own words for want of memory are known; an author's like words are not taken for them."""
    limit = guest.memory_size + (WASM_PAGE if near else 100 * WASM_PAGE)
    assert guest.lacked_memory(thrown, limit) is lacked
