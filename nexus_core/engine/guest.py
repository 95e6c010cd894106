"""`Guest`: one wasm instance in a store of its own, and the crossings into it.

`enter` is the way in for anything that can run long: it steps a fiber and yields to the driver at
each epoch tick. `call` is a plain call for what is known to be short; it traps when it is not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator, Mapping
from ctypes import byref, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

import wasmtime
from wasmtime import _ffi

from nexus_core.engine import bindings
from nexus_core.engine.wasm_engine import WasmEngine

_MOST_ARGUMENTS = 8
_ONE_TICK = c_uint64(1)
_FIRST_TICKS = c_uint64(2)
"""The next tick may be a moment away: a run that needs less than a tick must not meet it."""
_SHORT_CALL_TICKS = c_uint64(5_000)
"""Ten seconds: such calls run little, and of ours; that a busy host is slow is no reason to trap."""
_UNLIMITED = c_int64(-1)


Signatures = Mapping[str, tuple[int, int]]
"""A module's exported functions: how many parameters and results each has, all of them i32."""


def signatures(module: wasmtime.Module) -> Signatures:
    """What a module exports; slow, so it is read once for all instances."""
    return {
        kind.name: (len(kind.type.params), len(kind.type.results))
        for kind in module.exports
        if isinstance(kind.type, wasmtime.FuncType)
    }


class Export:
    """One exported function, ready to be called."""

    __slots__ = ("arity", "extern", "name", "pointer", "results")

    def __init__(self, name: str, function: wasmtime.Func, arity: int, results: int) -> None:
        self.name = name
        self.extern = function
        self.pointer = c_void_p(ctypes.addressof(function._func))
        self.arity = c_size_t(arity)
        self.results = c_size_t(results)


class Guest:
    """An instance of a module. Not safe for two threads at once; any one thread at a time may drive it."""

    def __init__(self, engine: WasmEngine, functions: Signatures, pre: Any) -> None:
        self._engine = engine
        self._store = wasmtime.Store(engine.engine)
        self._store.set_wasi(wasmtime.WasiConfig())
        self._store_pointer = bindings.address(self._store.ptr())
        self._context = bindings.address(self._store._context())
        bindings.yield_at_epoch(self._context, _ONE_TICK)
        self._values = bindings.Values(_MOST_ARGUMENTS)
        self._result = bindings.Values(1)
        self._raw = (c_uint32 * (bindings.RAW_WORDS * _MOST_ARGUMENTS))()
        self._raw_pointer = c_void_p(ctypes.addressof(self._raw))
        self._raw_result = c_int32.from_buffer(self._raw)
        # A plain call may happen inside a fiber's host function, so it has an out-parameter of its own.
        self._call_trap = c_void_p()
        self._call_trap_pointer = c_void_p(ctypes.addressof(self._call_trap))
        self._trap = c_void_p()
        self._error = c_void_p()
        self._trap_pointer = c_void_p(ctypes.addressof(self._trap))
        self._error_pointer = c_void_p(ctypes.addressof(self._error))
        self.host_failure: BaseException | None = None
        self._memory_limit = -1
        self._size = 0
        self._stack = -1
        self._instantiate(functions, pre)

    def _instantiate(self, functions: Signatures, pre: Any) -> None:
        instance = _ffi.wasmtime_instance_t()
        self.begin()
        future = c_void_p(
            bindings.instantiate_async(
                pre, self._context, byref(instance), self._trap_pointer, self._error_pointer
            )
        )
        while not bindings.future_poll(future):
            pass
        bindings.future_delete(future)
        self._raise_failure()
        exports = wasmtime.Instance._from_raw(instance).exports(self._store)
        self.exports: dict[str, Export] = {}
        for name, (parameters, results) in functions.items():
            extern = exports[name]
            if isinstance(extern, wasmtime.Func):
                self.exports[name] = Export(name, extern, parameters, results)
        memory, stack_pointer = exports["memory"], exports["__stack_pointer"]
        if not isinstance(memory, wasmtime.Memory) or not isinstance(stack_pointer, wasmtime.Global):
            raise bindings.HostFault("the guest exports no memory or no __stack_pointer")
        self._memory = memory._memory
        self._memory_pointer = byref(self._memory)
        self._stack_pointer = stack_pointer
        self._stack_pointer_pointer = byref(stack_pointer._global)
        self._stack_value = bindings.Values(1)
        self.address: int = bindings.memory_data(self._context, self._memory_pointer)

    @property
    def memory_size(self) -> int:
        """Bytes of linear memory now; asked anew only after the guest ran, since only that changes it."""
        if not self._size:
            self._size = int(bindings.memory_data_size(self._context, self._memory_pointer))
        return self._size

    @property
    def stack_pointer(self) -> int:
        """The guest's `__stack_pointer` global."""
        return int(self._stack_pointer.value(self._store))

    def set_stack_pointer(self, value: int) -> None:
        """Move the guest's stack pointer; only when it is not running."""
        if value == self._stack:
            return
        self._stack_value.words[bindings.VALUE_I32_WORD] = value
        error = bindings.global_set(self._context, self._stack_pointer_pointer, self._stack_value.pointer)
        if error:
            raise bindings.host_error(error)
        self._stack = value

    def limit_memory(self, limit: int) -> None:
        """From now on `memory.grow` past `limit` bytes fails inside the guest."""
        if limit != self._memory_limit:
            bindings.store_limiter(
                self._store_pointer, c_int64(limit), _UNLIMITED, _UNLIMITED, _UNLIMITED, _UNLIMITED
            )
            self._memory_limit = limit

    def grow_memory(self, size: int) -> None:
        """Grow linear memory to `size` bytes; raises `HostFault` when the limit forbids it."""
        pages = (size - self.memory_size) // 65536
        if pages <= 0:
            return
        error = bindings.memory_grow(self._context, self._memory_pointer, c_uint64(pages), byref(c_uint64()))
        self.ran()
        if error:
            raise bindings.host_error(error)

    def ran(self) -> None:
        """Say that guest code ran: its memory may have grown, and its stack pointer be anywhere."""
        self._size = 0
        self._stack = -1

    def begin(self) -> None:
        """Give the guest one whole tick before it yields; call it at the start of each run."""
        self._engine.ticker.touch()
        bindings.set_epoch_deadline(self._context, _FIRST_TICKS)

    def begin_short(self) -> None:
        """Before `call`s: far more ticks than they need, so that none traps for the clock's sake."""
        bindings.set_epoch_deadline(self._context, _SHORT_CALL_TICKS)

    def resume_ticks(self) -> None:
        """End of `begin_short` inside a host function: the run yields at the next tick again."""
        bindings.set_epoch_deadline(self._context, _ONE_TICK)

    def enter(self, export: Export, *arguments: int) -> Generator[None, None, int]:
        """Run an export on a fiber; yields at each tick; returns its i32 result (0 when it has none).

        Closing the generator between two ticks unwinds the guest and leaves its memory as it is.
        """
        words = self._values.words
        place = bindings.VALUE_I32_WORD
        for argument in arguments:
            words[place] = argument
            place += bindings.VALUE_WORDS
        future = c_void_p(
            bindings.call_async(
                self._context,
                export.pointer,
                self._values.pointer,
                export.arity,
                self._result.pointer,
                export.results,
                self._trap_pointer,
                self._error_pointer,
            )
        )
        current = self._engine.current
        try:
            current.guest = self
            while not bindings.future_poll(future):
                current.guest = None
                yield
                current.guest = self
        finally:
            current.guest = None
            bindings.future_delete(future)
            self.ran()
        if self._trap.value or self._error.value:
            self._raise_failure()
        return self._result.words[bindings.VALUE_I32_WORD]

    def call(self, export: Export, *arguments: int) -> int:
        """Call a short export on this thread's own stack, also from inside a host function."""
        words = self._raw
        place = 0
        for argument in arguments:
            words[place] = argument & 0xFFFFFFFF
            place += bindings.RAW_WORDS
        error = bindings.call_unchecked(
            self._context, export.pointer, self._raw_pointer, _RAW_COUNT, self._call_trap_pointer
        )
        self.ran()
        if error:
            raise bindings.host_error(error)
        if self._call_trap.value:
            trap, self._call_trap.value = self._call_trap.value, None
            raise bindings.trap_error(trap)
        return self._raw_result.value

    def _raise_failure(self) -> None:
        """Translate what the last fiber left: a callback's own failure first, then a trap, then an error."""
        trap, self._trap.value = self._trap.value, None
        error, self._error.value = self._error.value, None
        failure, self.host_failure = self.host_failure, None
        trapped = bindings.trap_error(trap) if trap else None
        refused = bindings.host_error(error) if error else None
        if failure is not None:
            raise failure
        if trapped or refused:
            raise trapped or refused  # type: ignore[misc]  # one of them is set

    def read(self, start: int, length: int) -> bytes:
        """Bytes of the memory. `start` and `length` may come from the guest: checked here."""
        start &= 0xFFFFFFFF
        length &= 0xFFFFFFFF
        if start + length > self.memory_size:
            raise bindings.GuestTrap("the guest handed over an address outside its memory", None)
        return ctypes.string_at(self.address + start, length)

    def write(self, start: int, data: bytes) -> None:
        """Put bytes into the memory; `start` may come from the guest: checked here."""
        start &= 0xFFFFFFFF
        if start + len(data) > self.memory_size:
            raise bindings.GuestTrap("the guest handed over an address outside its memory", None)
        ctypes.memmove(self.address + start, data, len(data))

    def close(self) -> None:
        """Free the instance and its memory. May be called twice."""
        self._store.close()


_RAW_COUNT = c_size_t(_MOST_ARGUMENTS)
