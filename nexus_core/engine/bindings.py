"""The part of wasmtime's C API that the engine calls on its hot path, and its errors as ours.

`wasmtime.Func.__call__` converts types on every call (9 µs); these bindings take prepared ctypes
objects and convert nothing (0.6 µs), which is why they declare no `argtypes`: every argument must
already be a ctypes object of the right width. Source of each signature: wasmtime's C headers
(`wasmtime/{store,func,async,memory,global,linker,trap}.h`), release 50.

Functions that may run guest code release the GIL, so that the epoch ticker can stop them.
"""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_int, c_size_t, c_uint8, c_void_p
from typing import Any

import wasmtime
from wasmtime import _ffi

TrapCode = wasmtime.TrapCode

I32 = 0
"""`wasmtime_valkind_t` of an i32."""

VALUE_WORDS = 8
"""A `wasmtime_val_t` is 32 bytes: eight 32-bit words, the kind in the first, an i32 in the third."""
VALUE_I32_WORD = 2

RAW_WORDS = 4
"""A `wasmtime_val_raw_t` is 16 bytes (it may hold a v128); an i32 is its first 32-bit word."""

_RELEASING_GIL = ctypes.CDLL(_ffi.dll._name)
_HOLDING_GIL = ctypes.PyDLL(_ffi.dll._name)
_LIBC = ctypes.PyDLL(None, use_errno=True)


def _bind(library: ctypes.CDLL, name: str, restype: Any) -> Any:
    function = getattr(library, name)
    function.restype = restype
    return function


call_async = _bind(_HOLDING_GIL, "wasmtime_func_call_async", c_void_p)
"""(context, func, args, nargs, results, nresults, trap_ret, error_ret) -> future; runs nothing yet."""
future_poll = _bind(_RELEASING_GIL, "wasmtime_call_future_poll", c_bool)
"""(future) -> done; runs guest code until it ends or yields at an epoch tick."""
future_delete = _bind(_RELEASING_GIL, "wasmtime_call_future_delete", None)
"""(future); a future that is not done unwinds the guest."""
call_unchecked = _bind(_RELEASING_GIL, "wasmtime_func_call_unchecked", c_void_p)
"""(context, func, raw_values, nvalues, trap_ret) -> error; traps when the epoch deadline has passed."""
instantiate_async = _bind(_RELEASING_GIL, "wasmtime_instance_pre_instantiate_async", c_void_p)
"""(instance_pre, context, instance, trap_ret, error_ret) -> future."""
increment_epoch = _bind(_HOLDING_GIL, "wasmtime_engine_increment_epoch", None)
"""(engine); safe from any thread."""
set_epoch_deadline = _bind(_HOLDING_GIL, "wasmtime_context_set_epoch_deadline", None)
"""(context, ticks beyond the current epoch)."""
yield_at_epoch = _bind(_HOLDING_GIL, "wasmtime_context_epoch_deadline_async_yield_and_update", None)
"""(context, delta); the header promises an error pointer, release 50 returns none (read as garbage)."""
store_limiter = _bind(_HOLDING_GIL, "wasmtime_store_limiter", None)
"""(store, memory_size, table_elements, instances, tables, memories), all i64, -1 = no limit."""
memory_data = _bind(_HOLDING_GIL, "wasmtime_memory_data", c_void_p)
memory_data_size = _bind(_HOLDING_GIL, "wasmtime_memory_data_size", c_size_t)
memory_grow = _bind(_HOLDING_GIL, "wasmtime_memory_grow", c_void_p)
"""(context, memory, delta in wasm pages, previous_size_ret u64) -> error."""
global_set = _bind(_HOLDING_GIL, "wasmtime_global_set", c_void_p)
"""(context, global, value) -> error."""
trap_new = _bind(_HOLDING_GIL, "wasmtime_trap_new", c_void_p)
"""(message, length) -> trap, owned by who returns it to wasmtime."""
linker_define = _bind(_HOLDING_GIL, "wasmtime_linker_define_func_unchecked", c_void_p)
"""(linker, module, module_len, name, name_len, type, callback, data, finalizer) -> error."""

HostCallback = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_void_p, ctypes.POINTER(ctypes.c_uint32), c_size_t)
"""`wasmtime_func_unchecked_callback_t`: (env, caller, raw values, count) -> trap or NULL."""

libc_mmap = _bind(_LIBC, "mmap", c_void_p)
libc_mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, ctypes.c_long]
libc_madvise = _bind(_LIBC, "madvise", c_int)
timerfd_create = _bind(_LIBC, "timerfd_create", c_int)
"""(clock, flags) -> descriptor, or -1."""
timerfd_settime = _bind(_LIBC, "timerfd_settime", c_int)
"""(descriptor, flags, new `itimerspec` *, old `itimerspec` *) -> 0, or -1; never waits."""
MAP_FAILED = ctypes.c_void_p(-1).value


class EngineFault(Exception):
    """Base of what wasmtime reports; `nexus_core` sees only these two, never wasmtime's own."""


class GuestTrap(EngineFault):
    """The guest trapped. `code` is None for a trap of no known kind; `backtrace` is wasmtime's text."""

    def __init__(self, message: str, code: TrapCode | None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class HostFault(EngineFault):
    """wasmtime refused an operation: a broken module, a missing import, a limit at instantiation."""


def trap_error(pointer: int) -> GuestTrap:
    """Take ownership of a `wasm_trap_t*` and describe it."""
    trap = wasmtime.Trap._from_ptr(ctypes.cast(pointer, ctypes.POINTER(_ffi.wasm_trap_t)))
    return GuestTrap(trap.message, trap.trap_code)


def host_error(pointer: int) -> HostFault:
    """Take ownership of a `wasmtime_error_t*` and describe it."""
    error = wasmtime.WasmtimeError._from_ptr(ctypes.cast(pointer, ctypes.POINTER(_ffi.wasmtime_error_t)))
    return HostFault(str(error))


def address(pointer: Any) -> c_void_p:
    """Any ctypes pointer as a prepared `void *` argument."""
    return c_void_p(ctypes.cast(pointer, c_void_p).value)


def text_argument(text: str) -> tuple[c_char_p, c_size_t]:
    """A name as the (pointer, length) pair the C API takes."""
    data = text.encode()
    return c_char_p(data), c_size_t(len(data))


class Values:
    """A prepared array of `wasmtime_val_t`, all of kind i32: set and read through `words`."""

    def __init__(self, count: int) -> None:
        self._buffer = (ctypes.c_int32 * (VALUE_WORDS * count))()
        self.words = self._buffer
        self.pointer = c_void_p(ctypes.addressof(self._buffer))
        for index in range(count):
            ctypes.cast(ctypes.addressof(self._buffer) + index * 32, ctypes.POINTER(c_uint8))[0] = I32
