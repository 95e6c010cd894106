"""Load a JavaScript handler into a fresh guest and picture it: the compile step of this guest kind."""

from __future__ import annotations

import struct
from collections.abc import Generator

import msgspec

from nexus_core.engine.bindings import EngineFault, GuestTrap, TrapCode
from nexus_core.engine.call import CallPolicy
from nexus_core.engine.flush import Thrown
from nexus_core.engine.heap import AttachedHeap
from nexus_core.engine.image import WASM_PAGE, HeapImage
from nexus_core.engine.javascript import (
    STATUS_OK,
    JavaScriptEngine,
    JavaScriptGuest,
    ModuleFiles,
    image_size_for,
)
from nexus_core.engine.modules import MAIN
from nexus_core.errors import CompilationError, LimitBreach, MemoryLimitExceeded, NexusError
from nexus_core.limits import KIB

_LEAST_HEADROOM = 512 * KIB
"""Free heap an image has at least, so that ordinary calls do not grow memory."""

_FILLING_STEP = 8 * KIB
_MOST_FILLINGS = 50
"""One or two do; handlers that tampered with their heap's shape get by with less of it."""

_PROMISE_FULFILLED, _PROMISE_REJECTED = 1, 2
_REGISTER = "__nexus_register"


class LoadFailed(Exception):
    """The handler's code threw while it was loaded; `thrown` is the guest's word for why."""

    def __init__(self, thrown: Thrown) -> None:
        super().__init__(thrown.message)
        self.thrown = thrown


class JavaScriptLoader:
    """One load of one handler. `run` yields at each epoch tick and ends with the image."""

    def __init__(
        self, engine: JavaScriptEngine, entry: str, modules: ModuleFiles, policy: CallPolicy
    ) -> None:
        self._engine = engine
        self._entry = entry
        self._modules = modules
        self._policy = policy
        self._guest: JavaScriptGuest = engine.new_guest()

    def run(self, least_size: int) -> Generator[None, None, HeapImage]:
        """Load, tidy and capture. Raises `LoadFailed` for the author's errors, else a `NexusError`."""
        guest, memory_limit = self._guest, self._policy.limits.memory_limit_bytes
        heap = AttachedHeap(guest.address)
        try:
            base = self._engine.base
            guest.grow_memory(base.memory_size)
            heap.attach(base, learn=False)
            guest.set_stack_pointer(base.stack_pointer)
            guest.limit_memory(memory_limit)
            guest.begin()
            try:
                yield from self._load()
                # The handler's code has run: from here on it may have changed what the bootstrap meets.
                yield from self._ask("adopt", self._string(self._policy.text))
                yield from self._reserve(memory_limit, least_size)
            except EngineFault as fault:
                raise self._trapped(fault) from fault
            pages = heap.save(guest.memory_size).pages
            return self._engine.picture(guest, base, pages, {"policy": self._policy.digest})
        finally:
            guest.modules = None
            guest.close()

    def _load(self) -> Generator[None, None, None]:
        guest, exports, handles = self._guest, self._guest.exports, self._engine.base.handles
        entry = msgspec.json.encode(f"./{self._entry}").decode()
        source = f"import * as handler from {entry};\nglobalThis.{_REGISTER}(handler);\n".encode()
        guest.begin_short()
        world = guest.call(exports["global_object"])
        name = guest.put(_REGISTER.encode())
        guest.call(exports["set_prop"], world, name, len(_REGISTER), handles["register"])
        place, main, out = guest.put(source), guest.put(MAIN.encode()), handles["out"]
        module = (place, len(source), main, len(MAIN))
        guest.modules = self._modules
        guest.begin()
        status = yield from guest.enter(exports["eval_module_async"], *module, out)
        if status != STATUS_OK:
            yield from self._fail_with_exception()
        evaluation = guest.word(out)
        yield from guest.run_jobs()
        yield from self._check_settled(evaluation)
        tidy = f"delete globalThis.{_REGISTER}".encode()
        guest.begin_short()
        place = guest.put(tidy)
        guest.begin()
        yield from guest.enter(exports["eval_code"], place, len(tidy), out)

    def _check_settled(self, evaluation: int) -> Generator[None, None, None]:
        guest, exports, out = self._guest, self._guest.exports, self._engine.base.handles["out"]
        yield from guest.enter(exports["promise_state"], evaluation, out)
        state = guest.word(out)
        if state == _PROMISE_REJECTED:
            yield from guest.enter(exports["promise_result"], evaluation, out)
            yield from self._fail_with(guest.word(out))
        if state != _PROMISE_FULFILLED:
            if guest.near(self._policy.limits.memory_limit_bytes):
                raise self._memory_breach()
            raise LoadFailed(
                Thrown("Error", "the module never finished loading: a top-level await does not settle")
            )
        if (yield from self._ask("registered")) != b"true":
            raise LoadFailed(Thrown("Error", "the module took away what takes its default export"))

    def _fail_with_exception(self) -> Generator[None, None, None]:
        out = self._engine.base.handles["out"]
        yield from self._guest.enter(self._guest.exports["last_exception"], out)
        yield from self._fail_with(self._guest.word(out))

    def _fail_with(self, thrown: int) -> Generator[None, None, None]:
        if isinstance(self._guest.loader_error, NexusError):
            raise self._guest.loader_error
        text = yield from self._ask("describe", thrown)
        try:
            described = msgspec.json.decode(text, type=Thrown)
        except (msgspec.MsgspecError, UnicodeError):
            described = Thrown("Error", "the handler failed to load")
        if self._guest.lacked_memory(described, self._policy.limits.memory_limit_bytes):
            raise self._memory_breach()
        raise LoadFailed(described.cut())

    def _ask(self, entry: str, *arguments: int) -> Generator[None, None, bytes]:
        """Call a bootstrap function and read the text it returns."""
        guest, exports, handles = self._guest, self._guest.exports, self._engine.base.handles
        if arguments:
            guest.write(handles["arguments"], struct.pack("<i", *arguments))
        status = yield from guest.enter(
            exports["call_function"],
            handles[entry],
            handles["undefined"],
            handles["arguments"],
            len(arguments),
            handles["out"],
        )
        if status != STATUS_OK:
            return b""
        if (yield from guest.enter(exports["get_string"], guest.word(handles["out"]))) != STATUS_OK:
            return b""
        guest.begin_short()
        data = guest.read(guest.call(exports["qjs_last_ptr"]), guest.call(exports["qjs_last_len"]))
        guest.begin()
        return data

    def _reserve(self, memory_limit: int, least_size: int) -> Generator[None, None, None]:
        """Leave free heap, and round the memory up to one of the few sizes of images."""
        guest, exports = self._guest, self._guest.exports
        yield from guest.enter(exports["run_gc"])
        needed = guest.memory_size + _LEAST_HEADROOM
        size = image_size_for(needed, least_size)
        if size is None or size > memory_limit:
            size = memory_limit // WASM_PAGE * WASM_PAGE
            if size < needed:
                raise self._memory_breach()
        guest.limit_memory(size)
        yield from self._fill(size)
        yield from guest.enter(exports["run_gc"])
        guest.grow_memory(size)

    def _fill(self, size: int) -> Generator[None, None, None]:
        """Let the guest's own allocator grow the memory to its last page.

        It cannot use what the host adds beside it, and aborts when memory runs out behind such a gap.
        """
        guest = self._guest
        room = size - guest.memory_size
        for _ in range(_MOST_FILLINGS):
            if guest.memory_size == size:
                return
            had = yield from self._ask("reserve", self._string(b"%d" % room))
            room += size - guest.memory_size if had else -_FILLING_STEP

    def _string(self, data: bytes) -> int:
        guest = self._guest
        guest.begin_short()
        handle = guest.call(guest.exports["new_string"], guest.put(data), len(data))
        guest.begin()
        return handle

    def _memory_breach(self) -> MemoryLimitExceeded:
        limit = self._policy.limits.memory_limit_bytes
        return MemoryLimitExceeded(
            f"the handler needed more than memory_limit_bytes ({limit}) while it was loaded",
            LimitBreach("memory_limit_bytes", limit, max(limit + 1, self._guest.memory_size)),
        )

    def _trapped(self, fault: EngineFault) -> NexusError:
        code = fault.code if isinstance(fault, GuestTrap) else None
        if code in (TrapCode.STACK_OVERFLOW, TrapCode.MEMORY_OUT_OF_BOUNDS):
            return CompilationError(
                "the handler recursed too deeply while it was loaded", name="StackOverflow"
            )
        # The guest's Rust side aborts when it gets no memory.
        if code is TrapCode.UNREACHABLE and self._guest.near(self._policy.limits.memory_limit_bytes):
            return self._memory_breach()
        return CompilationError("the handler's sandbox trapped while it was loaded", name="Trap")
