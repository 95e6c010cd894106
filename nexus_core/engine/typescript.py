"""Takes the types out of TypeScript with OXC, which `quickjs-rs` ships as a WebAssembly module.

The package's own `transform_source` gives the same text, but it compiles the module in each process (a
second); here its machine code comes from the same cache as the guest's, and the first text takes 9 ms.
Only this module knows the ABI of `_transform.wasm`, so it is pinned by its SHA-256.

The source is hostile and OXC is a parser: each text gets an instance of its own, which has no files,
no clock and no output, bounded memory and time, and is dropped after. Nothing one handler's source
does to it can reach another's.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import re
import threading
import time
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_size_t, c_uint8, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Self

import wasmtime
from wasmtime import _ffi

from nexus_core.engine.imports import is_typescript
from nexus_core.engine.snippets import snippet
from nexus_core.engine.source_map import position_at
from nexus_core.engine.syntax_probe import error_offset
from nexus_core.errors import CompilationError, InternalError, SourceLocation

TRANSFORM_SHA256 = "c4710d5258585122a70f0b3ee3bc19d085742e6f94f48aa0b8057630ebaca745"
"""Digest of `quickjs_rs/_transform.wasm` in quickjs-rs 0.2.6."""

MAX_SOURCE_BYTES = 4 * 1024 * 1024
"""A longer TypeScript file is refused."""

DEADLINE_SECONDS = 5.0
"""One text takes a millisecond; the densest 4 MiB took one and a half seconds."""

_MEMORY_BYTES = 320 * 1024 * 1024
_MODULE_NAME = "typescript-transform"
_FLAGS = 1 << 0 | 1 << 8  # the source is TypeScript; strip its types
_OK, _UNCHANGED, _BAD_SOURCE = 0, 1, (2, 3)
_PREFIX = re.compile(r"\Asource \w+ error in [^:]*: ")
_NEXT_MESSAGE = re.compile(r"; (?=[A-Z])")
_WORD = re.compile(r"[\w$]++")
_MAX_MESSAGE = 300

_GO_ON = 0  # WASMTIME_UPDATE_DEADLINE_CONTINUE
_EpochCallback = CFUNCTYPE(
    c_size_t, POINTER(_ffi.wasmtime_context_t), c_void_p, POINTER(c_uint64), POINTER(c_uint8)
)


class TypeScriptStripper:
    """Strips types; safe from any thread, and each text runs alone.

    `load_module(name, wasm_bytes)` compiles the transformer for `engine`, or takes it from a cache; it
    is called once, with the first text. The engine must have epoch interruption switched on.
    """

    def __init__(
        self,
        engine: wasmtime.Engine,
        load_module: Callable[[str, bytes], wasmtime.Module],
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._engine = engine
        self._load_module = load_module
        self._deadline_seconds = deadline_seconds
        self._lock = threading.Lock()
        self._loaded: tuple[wasmtime.Linker, wasmtime.Module] | None = None

    def strip(self, name: str, source: str) -> str:
        """The JavaScript of the TypeScript in `source`; positions change, see `source_map`.

        Raises `CompilationError`, with the place where there is one, for what is no TypeScript, is too
        large, or makes the transformer fail. `name` is the author's file and appears in errors only.
        """
        if not is_typescript(name):
            raise CompilationError(f"{name} is not supported as TypeScript: name it .ts or .mts, without JSX")
        data = self._encoded(name, source)
        status, text = self._transform(name, data)
        if status == _OK:
            return text
        if status == _UNCHANGED:
            return source
        if status not in _BAD_SOURCE:
            raise CompilationError(f"{name} cannot be read as TypeScript: the transformer gave up on it")
        raise self._parse_error(name, source, text)

    def _encoded(self, name: str, source: str) -> bytes:
        try:
            data = source.encode()
        except UnicodeEncodeError as error:
            place = position_at(source, error.start)
            raise CompilationError(
                f"{name} holds half of a character (a lone surrogate)",
                name="SyntaxError",
                location=SourceLocation(name, *place),
            ) from None
        if len(data) > MAX_SOURCE_BYTES:
            raise CompilationError(
                f"{name} has {len(data)} bytes; a TypeScript file may have {MAX_SOURCE_BYTES}"
            )
        return data

    def _parse_error(self, name: str, source: str, answer: str) -> CompilationError:
        message = _first_message(answer)
        try:
            offset = error_offset(source, message, self._probe(name))
        except CompilationError:
            # Parts of it are too slow to parse; the message alone has to do.
            offset = None
        if offset is None:
            return CompilationError(message[:_MAX_MESSAGE], name="SyntaxError")
        place = position_at(source, offset)
        if word := _WORD.match(source, offset):
            message = message.replace("`Identifier`", f"`{word.group()[:40]}`")
        return CompilationError(
            message[:_MAX_MESSAGE],
            name="SyntaxError",
            location=SourceLocation(name, *place),
            snippet=snippet(source, *place),
        )

    def _probe(self, name: str) -> Callable[[str], str]:
        end = time.monotonic() + self._deadline_seconds

        def message_of(text: str) -> str:
            if time.monotonic() > end:
                raise CompilationError(f"{name} takes too much to parse")
            status, answer = self._transform(name, text.encode())
            return _PREFIX.sub("", answer) if status in _BAD_SOURCE else ""

        return message_of

    def _transform(self, name: str, data: bytes) -> tuple[int, str]:
        """OXC's status for `data`, and the text it made or its error."""
        linker, module = self._load()
        try:
            with _Transformer(self._engine, linker, module, self._deadline_seconds) as transformer:
                return transformer.run(data)
        except (wasmtime.Trap, wasmtime.WasmtimeError, _BrokenAnswer) as error:
            # A trap says nothing the author could use: code nested too deeply, or out of time or memory.
            raise CompilationError(
                f"{name} cannot be read as TypeScript: it is nested too deeply or takes too much to parse"
            ) from error

    def _load(self) -> tuple[wasmtime.Linker, wasmtime.Module]:
        with self._lock:
            if self._loaded is None:
                module = self._load_module(_MODULE_NAME, _transform_wasm())
                linker = wasmtime.Linker(self._engine)
                linker.define_wasi()
                self._loaded = linker, module
            return self._loaded


class _BrokenAnswer(Exception):
    """The transformer answered what it cannot mean, so something in the source broke it."""


class _Transformer:
    """One instance of the transformer, for one text."""

    def __init__(
        self, engine: wasmtime.Engine, linker: wasmtime.Linker, module: wasmtime.Module, seconds: float
    ) -> None:
        self._store = wasmtime.Store(engine)
        self._store.set_limits(memory_size=_MEMORY_BYTES)
        # An empty configuration: no arguments, variables, folders, input or output.
        self._store.set_wasi(wasmtime.WasiConfig())
        self._deadline = _Deadline(engine, self._store, seconds)
        self._exports = linker.instantiate(self._store, module).exports(self._store)

    def __enter__(self) -> Self:
        self._deadline.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._deadline.stop()
        self._store.close()

    def run(self, data: bytes) -> tuple[int, str]:
        """Status and text. The file's name stays here: the transformer decides nothing by it."""
        at = self._call("qjst_alloc", max(1, len(data)))
        memory: Any = self._exports["memory"]
        memory.write(self._store, data, at)
        status = self._call("qjst_transform", 0, 0, at, len(data), _FLAGS)
        part = "result" if status == _OK else "error"
        start, length = self._call(f"qjst_{part}_ptr"), self._call(f"qjst_{part}_len")
        if start < 0 or length < 0 or start + length > memory.data_len(self._store):
            raise _BrokenAnswer
        try:
            return status, bytes(memory.read(self._store, start, start + length)).decode()
        except UnicodeDecodeError:
            raise _BrokenAnswer from None

    def _call(self, name: str, *arguments: int) -> int:
        function: Any = self._exports[name]
        return int(function(self._store, *arguments))


class _Deadline:
    """Stops a store after some seconds, whoever else advances the engine's epoch meanwhile.

    The engine's ticker serves running handlers: it may sleep, or tick every few milliseconds. So a tick
    stops this store only when the timer here fired, and the timer itself gives the tick that is seen.
    """

    def __init__(self, engine: wasmtime.Engine, store: wasmtime.Store, seconds: float) -> None:
        self._engine = engine
        self._expired = threading.Event()
        # Kept alive here: the store calls it until it is closed.
        self._callback = _EpochCallback(self._at_tick)
        no_finalizer = ctypes.cast(0, CFUNCTYPE(None, c_void_p))
        _ffi.wasmtime_store_epoch_deadline_callback(store.ptr(), self._callback, None, no_finalizer)
        store.set_epoch_deadline(1)
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True

    def start(self) -> None:
        self._timer.start()

    def stop(self) -> None:
        self._timer.cancel()

    def _expire(self) -> None:
        self._expired.set()
        self._engine.increment_epoch()

    def _at_tick(self, _context: object, _data: object, delta: Any, kind: Any) -> int:
        if self._expired.is_set():
            error = _ffi.wasmtime_error_new(ctypes.create_string_buffer(b"out of time"))
            return ctypes.cast(error, c_void_p).value or 0
        delta[0], kind[0] = 1, _GO_ON
        return 0


def _transform_wasm() -> bytes:
    """The transformer's module, checked; found without importing the package, which would start it."""
    spec = importlib.util.find_spec("quickjs_rs")
    folders = (spec.submodule_search_locations if spec else None) or []
    for folder in folders:
        path = Path(folder) / "_transform.wasm"
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() == TRANSFORM_SHA256:
            return data
    raise InternalError("the TypeScript transformer of quickjs-rs 0.2.6 is missing or was changed")


def _first_message(answer: str) -> str:
    """The first of the errors in OXC's answer, which joins them with semicolons."""
    return _NEXT_MESSAGE.split(_PREFIX.sub("", answer), maxsplit=1)[0]
