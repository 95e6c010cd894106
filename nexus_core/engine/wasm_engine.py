"""`WasmEngine`: one wasmtime engine per process, its compiled code, its imports and its clock.

Host functions are defined once, on one linker, and find the guest that called them through a
thread-local: wasmtime-py keeps its own callbacks in process-wide tables, and these must not grow
with the number of instances.
"""

from __future__ import annotations

import hashlib
import platform
import threading
from collections.abc import Callable
from ctypes import c_size_t
from typing import TYPE_CHECKING, Any, Protocol

import wasmtime
from wasmtime import _bindings as raw

from nexus_core.engine import bindings
from nexus_core.engine.epoch import EpochTicker
from nexus_core.limits import ENGINE_STACK_BYTES, MIB

if TYPE_CHECKING:
    from nexus_core.engine.guest import Guest

_WASM_STACK_BYTES = 4 * ENGINE_STACK_BYTES
"""Machine code keeps about four bytes here for each byte a guest keeps on the stack in its own memory,
and that one is what `stack_size_bytes` measures: it must be the one that ends first."""
_FIBER_STACK_BYTES = _WASM_STACK_BYTES + MIB
"""A fiber holds the wasm stack and, inside host callbacks, Python's own frames above it."""

HostFunction = Callable[["Guest", Any], int]
"""(calling guest, raw argument words) -> the i32 result."""


class CodeCache(Protocol):
    """Where compiled machine code is kept between processes. What it returns is trusted and executed."""

    def load(self, key: str) -> bytes | None:
        """Code stored under `key` and verified to be ours, or None."""

    def store(self, key: str, code: bytes) -> None:
        """Keep code; a failure to do so is not the caller's concern."""


class Current(threading.local):
    """The guest whose code this thread runs now."""

    guest: Guest | None = None


class WasmEngine:
    """Owns the engine, the linker and the epoch ticker; makes modules from wasm, through `code_cache`.

    `portable`: machine code for every processor of this architecture, not for this one's features.
    Any engine of the architecture runs either kind.
    """

    def __init__(self, code_cache: CodeCache, *, portable: bool = False) -> None:
        self.engine = wasmtime.Engine(_configuration(portable=portable))
        self.pointer = bindings.address(self.engine.ptr())
        self.ticker = EpochTicker(self.engine)
        self.linker = wasmtime.Linker(self.engine)
        self.linker.define_wasi()
        self.current = Current()
        self._code_cache = code_cache
        self._callbacks: list[Any] = []

    def load_module(self, name: str, wasm: bytes) -> wasmtime.Module:
        """The compiled module of `wasm`: from the code cache, else compiled now and kept there."""
        key = f"{name}-{hashlib.sha256(wasm).hexdigest()}"
        code = self._code_cache.load(key)
        if code is not None:
            try:
                return wasmtime.Module.deserialize(self.engine, code)
            except wasmtime.WasmtimeError:
                # Another CPU or another build of wasmtime made it; the code is ours but does not fit.
                code = None
        try:
            module = wasmtime.Module(self.engine, wasm)
        except wasmtime.WasmtimeError as error:
            raise bindings.HostFault(str(error)) from error
        self._code_cache.store(key, bytes(module.serialize()))
        return module

    def define(self, module: str, name: str, parameters: int, results: int, function: HostFunction) -> None:
        """Define an import of i32 parameters and at most one i32 result."""
        i32 = wasmtime.ValType.i32
        kind = wasmtime.FuncType([i32() for _ in range(parameters)], [i32() for _ in range(results)])

        def enter(_env: int, _caller: int, values: Any, _count: int) -> int | None:
            guest = self.current.guest
            try:
                if guest is None:
                    raise RuntimeError(f"{name} was called outside a guest")
                guest.ran()
                values[0] = function(guest, values) & 0xFFFFFFFF
            except BaseException as error:  # noqa: BLE001 - nothing may unwind through wasm frames
                if guest is not None:
                    guest.host_failure = error
                message = b"host function failed"
                return int(bindings.trap_new(message, c_size_t(len(message))))
            return None

        callback = bindings.HostCallback(enter)
        self._callbacks.append(callback)
        error = bindings.linker_define(
            bindings.address(self.linker.ptr()),
            *bindings.text_argument(module),
            *bindings.text_argument(name),
            bindings.address(kind.ptr()),
            callback,
            None,
            None,
        )
        if error:
            raise bindings.host_error(error)

    def close(self) -> None:
        """Stop the ticker. Instances must be gone."""
        self.ticker.close()


def _configuration(*, portable: bool) -> wasmtime.Config:
    config = wasmtime.Config()
    if portable:
        # Naming a target, even our own, leaves out every feature that is not common to all of its
        # processors. Never a foreign one: this build of wasmtime then aborts the process.
        config.target = f"{platform.machine()}-unknown-linux-gnu"
    config.epoch_interruption = True
    raw.wasmtime_config_max_wasm_stack_set(config.ptr(), _WASM_STACK_BYTES)
    raw.wasmtime_config_async_stack_size_set(config.ptr(), _FIBER_STACK_BYTES)
    # Images are mapped over the memory's address, so it must never move.
    raw.wasmtime_config_memory_may_move_set(config.ptr(), False)
    return config
