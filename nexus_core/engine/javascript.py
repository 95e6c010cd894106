"""The JavaScript guest: QuickJS-ng, its base image, and the images of handlers.

The ABI is that of the guest in the PyPI package `quickjs-rs` (crates/quickjs-wasm): values are i32
handles, functions return a status and write handles to out-addresses. The file is pinned by digest.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import struct
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Protocol

from nexus_core.engine import bindings
from nexus_core.engine.call import GuestCall
from nexus_core.engine.driver import TimeBudget, finish
from nexus_core.engine.flush import FlushReader, Thrown, demand, hold_to_count
from nexus_core.engine.guest import Guest, signatures
from nexus_core.engine.image import WASM_PAGE, HeapImage, ImageArena, decode_image, nonzero_pages
from nexus_core.engine.wasm_engine import WasmEngine
from nexus_core.errors import InternalError
from nexus_core.limits import KIB, MIB

GUEST_SHA256 = "647ab11ae29cc6d39a6d17d3aa1e7a6a0b5fb9c44b4864475a18bc644f926050"
"""`_guest.wasm` of quickjs-rs 0.2.6."""

STATUS_OK = 0

MOST_JOBS_AT_ONCE = 100_000
"""The guest's `execute_pending_jobs` stops after so many, and returns how many it ran."""

INPUT_BUFFER_BYTES = 64 * KIB
"""Room for a call's input inside the image; a longer input is allocated per call."""

IMAGE_SIZES = tuple(MIB * size // 2 for size in (5, 10, 20, 40, 80, 160, 320, 640))
"""Sizes of images, in bytes: few, so that an instance fits most handlers. Each is twice the one before."""

_BOOTSTRAP = Path(__file__).with_name("bootstrap.js")
_BOOTSTRAP_RANDOM = Path(__file__).with_name("bootstrap_random.js")
_ENTRIES = ("register", "registered", "reserve", "describe", "adopt", "invoke", "resume", "flush")
BREACHES = {"calls": "max_host_calls", "mutations": "max_state_mutations", "events": "max_events"}
"""The limits whose breach the bootstrap reports, by its own word for each."""


class ModuleFiles(Protocol):
    """The files of the handler that is being loaded, as the guest's module loader asks for them."""

    def resolve(self, specifier: str, importer: str) -> str:
        """The path a specifier names; raises a `NexusError` when it names none."""

    def text(self, path: str) -> str:
        """The JavaScript of a file; raises a `NexusError` when it cannot be had."""


class JavaScriptGuest(Guest):
    """A QuickJS guest with what its host functions need to know of the run in progress."""

    modules: ModuleFiles | None = None
    """Set only while a handler is being loaded; without it every import fails."""
    call_in_progress: GuestCall | None = None
    """What the guest may ask the host for now: nothing (None) while a handler is being loaded."""
    breach: str | None = None
    """The limit the guest reported as passed, which ended the run."""
    loader_error: Exception | None = None
    """Why the last import failed: clearer than what the guest says."""

    def put(self, data: bytes) -> int:
        """Allocate inside a host function or before a run, and write; 0 when there is no memory."""
        place = self.call(self.exports["qjs_alloc"], len(data) or 1)
        if place:
            self.write(place, data)
        return place

    def run_jobs(self) -> Generator[None, None, None]:
        """Run what promises have queued until nothing is left; yields at each tick."""
        while (yield from self.enter(self.exports["execute_pending_jobs"])) >= MOST_JOBS_AT_ONCE:
            # More may be left; here the driver looks at the time.
            yield

    def near(self, limit: int) -> bool:
        """Whether memory has grown so near `limit` bytes that one more request can fail."""
        return self.memory_size + 4 * WASM_PAGE > limit

    def lacked_memory(self, thrown: Thrown, limit: int) -> bool:
        """Whether what was thrown is the guest's sign that it got no memory."""
        if thrown.name in ("InternalError", "SyntaxError"):
            return thrown.message in ("out of memory", "out of memory in regexp execution")
        # With no memory left even for an error object, null is thrown.
        return thrown.name == "Error" and thrown.message == "null" and self.near(limit)

    def word(self, place: int) -> int:
        """The i32 at a guest address."""
        return int(struct.unpack("<i", self.read(place, 4))[0])

    def property(self, handle: int, name: str) -> int:
        """The handle of a property. Runs getters: only for values the host made."""
        place, out = self.put(name.encode()), self.put(bytes(4))
        self.call(self.exports["get_prop"], handle, place, len(name.encode()), out)
        return self.word(out)


class JavaScriptEngine:
    """Makes guests, the base image and handler images. One per process."""

    def __init__(self, engine: WasmEngine, arena: ImageArena) -> None:
        self.engine = engine
        self.arena = arena
        wasm = _read_guest()
        self._module = engine.load_module("quickjs", wasm)
        self._define_imports()
        self._pre = engine.linker.instantiate_pre(self._module)
        self._pre_pointer = bindings.address(self._pre.ptr())
        self._signatures = signatures(self._module)
        bootstrap, random = _BOOTSTRAP.read_text(), _BOOTSTRAP_RANDOM.read_text()
        build = f"{GUEST_SHA256} {IMAGE_SIZES} {bootstrap} {random}"
        self.build = hashlib.sha256(build.encode()).hexdigest()
        """Names the guest build and the bootstrap: an image of another build does not fit."""
        self.base = self._make_base(bootstrap, random)
        self.flush_reader = FlushReader()

    def new_guest(self) -> JavaScriptGuest:
        """A fresh instance, with no image attached."""
        return JavaScriptGuest(self.engine, self._signatures, self._pre_pointer)

    def decode(self, data: bytes) -> HeapImage:
        """The image of a handler from a cache; raises ValueError when it does not fit."""
        image = decode_image(self.arena, self.base, data)
        # Handles are addresses the host writes to: all but the policy's digest are the base's own.
        if image.handles != {**self.base.handles, "policy": image.handles.get("policy")}:
            raise ValueError("the heap image was made over another base")
        return image

    def picture(
        self,
        guest: JavaScriptGuest,
        base: HeapImage | None,
        pages: Mapping[int, bytes],
        handles: Mapping[str, int],
    ) -> HeapImage:
        """The image of an idle guest whose memory differs from `base` in `pages`."""
        return HeapImage(
            self.arena,
            base=base,
            memory_size=guest.memory_size,
            stack_pointer=guest.stack_pointer,
            handles={**(base.handles if base else {}), **handles},
            pages=pages,
        )

    def _make_base(self, bootstrap: str, random: str) -> HeapImage:
        guest = self.new_guest()
        try:
            guest.begin_short()
            guest.limit_memory(IMAGE_SIZES[-1])
            handles = self._start(guest, bootstrap, random)
            handles |= {
                "undefined": guest.call(guest.exports["new_undefined"]),
                "input": guest.put(bytes(INPUT_BUFFER_BYTES)),
                "arguments": guest.put(bytes(4)),
                "out": guest.put(bytes(4)),
            }
            guest.call(guest.exports["run_gc"])
            return self.picture(guest, None, nonzero_pages(guest.read(0, guest.memory_size)), handles)
        finally:
            guest.close()

    def _start(self, guest: JavaScriptGuest, bootstrap: str, random: str) -> dict[str, int]:
        """Run the bootstrap; the handles of its entry functions."""
        exports = guest.exports
        breaches = guest.call(exports["new_object"])
        for key, limit in BREACHES.items():
            name = f"breach:{limit}".encode()
            callee = guest.call(exports["new_function"], guest.put(name), len(name))
            guest.call(exports["set_prop"], breaches, guest.put(key.encode()), len(key), callee)
        host_random = guest.call(exports["new_function"], guest.put(b"random"), 6)
        make_random, function = self._evaluate(guest, random), self._evaluate(guest, bootstrap)
        arguments = guest.put(struct.pack("<3i", host_random, breaches, make_random))
        undefined, out = guest.call(exports["new_undefined"]), guest.put(bytes(4))
        started = guest.enter(exports["call_function"], function, undefined, arguments, 3, out)
        if finish(started, TimeBudget(0, 0)) != STATUS_OK:
            raise InternalError("the bootstrap does not start")
        entries = guest.word(out)
        return {name: guest.property(entries, name) for name in _ENTRIES}

    def _evaluate(self, guest: JavaScriptGuest, script: str) -> int:
        source, out = script.encode(), guest.put(bytes(4))
        entered = guest.enter(guest.exports["eval_code"], guest.put(source), len(source), out)
        status = finish(entered, TimeBudget(0, 0))
        if status != STATUS_OK:
            raise InternalError("the bootstrap does not load")
        return guest.word(out)

    def _define_imports(self) -> None:
        define = self.engine.define
        define("env", "host_call", 5, 1, _host_call)
        define("env", "host_interrupt", 0, 1, lambda _guest, _values: 0)
        define("env", "host_module_normalize", 5, 1, _module_normalize)
        define("env", "host_module_load", 3, 1, _module_load)


def _read_guest() -> bytes:
    # Found, not imported: the package's own Python layer would start an engine of its own.
    spec = importlib.util.find_spec("quickjs_rs")
    if spec is None or not spec.submodule_search_locations:
        raise InternalError("the package quickjs-rs, which ships the JavaScript guest, is not installed")
    wasm = (Path(spec.submodule_search_locations[0]) / "_guest.wasm").read_bytes()
    if hashlib.sha256(wasm).hexdigest() != GUEST_SHA256:
        raise InternalError("the JavaScript guest is not the build Nexus was made for (quickjs-rs 0.2.6)")
    return wasm


class BreachReported(Exception):
    """The guest passed a count and said so; raised inside the host function to end the run."""


_HOST_CALL_FAILED = -1


def _host_call(guest: Any, values: Any) -> int:
    """`host_call(name, name_len, this, argc, argv) -> handle`; the name is the guest's word."""
    name = guest.read(values[0], min(values[bindings.RAW_WORDS], 64)).decode("ascii", "replace")
    breach = name.removeprefix("breach:")
    if breach != name and breach in BREACHES.values():
        guest.breach = breach
        raise BreachReported
    if name != "random" or guest.call_in_progress is None:
        return _HOST_CALL_FAILED
    _admit_random(guest.call_in_progress)
    guest.begin_short()
    text = os.urandom(32).hex().encode()
    handle = guest.call(guest.exports["new_string"], guest.put(text), len(text))
    guest.resume_ticks()
    return handle or _HOST_CALL_FAILED


def _admit_random(call: GuestCall) -> None:
    """Check and count it here too: a handler can reach the bootstrap's functions and lie to them."""
    demand(call.policy.capabilities, "crypto", "random")
    counts = call.usage.host_calls
    counts["random"] += 1
    hold_to_count("max_host_calls", call.policy.limits.max_host_calls, sum(counts.values()))


def _module_normalize(guest: Any, values: Any) -> int:
    """`(base, base_len, specifier, specifier_len, out_len) -> name`, 0 when it names nothing."""
    raw = bindings.RAW_WORDS
    importer = guest.read(values[0], values[raw]).decode("utf-8", "replace")
    specifier = guest.read(values[2 * raw], values[3 * raw]).decode("utf-8", "replace")
    return _answer_text(guest, lambda modules: modules.resolve(specifier, importer), values[4 * raw])


def _module_load(guest: Any, values: Any) -> int:
    """`(name, name_len, out_len) -> source`, 0 when there is none."""
    raw = bindings.RAW_WORDS
    path = guest.read(values[0], values[raw]).decode("utf-8", "replace")
    return _answer_text(guest, lambda modules: modules.text(path), values[2 * raw])


def _answer_text(guest: Any, ask: Any, out_length: int) -> int:
    if guest.modules is None:
        return 0
    try:
        data = ask(guest.modules).encode()
    except Exception as error:  # noqa: BLE001 - reported when the load fails
        guest.loader_error = error
        return 0
    guest.begin_short()
    place = int(guest.put(data))
    guest.write(out_length, struct.pack("<I", len(data)))
    guest.resume_ticks()
    return place


def image_size_for(needed: int, smallest: int = IMAGE_SIZES[0]) -> int | None:
    """The smallest image size that holds `needed` bytes and is at least `smallest`; None when none does."""
    for size in IMAGE_SIZES:
        if size >= needed and size >= smallest and size % WASM_PAGE == 0:
            return size
    return None
