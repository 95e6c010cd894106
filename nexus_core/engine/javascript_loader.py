"""Load a JavaScript handler into a fresh guest and picture it: the compile step of this guest kind."""

from __future__ import annotations

import struct
from collections.abc import Generator

import msgspec

from nexus_core.engine.bindings import GuestTrap, TrapCode
from nexus_core.engine.call import CallPolicy
from nexus_core.engine.flush import Thrown
from nexus_core.engine.heap import AttachedHeap
from nexus_core.engine.image import HeapImage
from nexus_core.engine.javascript import (
    STATUS_OK,
    JavaScriptEngine,
    JavaScriptGuest,
    ModuleFiles,
    image_size_for,
)
from nexus_core.errors import CompilationError, LimitBreach, MemoryLimitExceeded, NexusError
from nexus_core.limits import KIB

_LEAST_HEADROOM = 512 * KIB
"""Free heap an image has at least, so that ordinary calls do not grow memory."""

_ALLOCATOR_SLACK = 128 * KIB
"""What the guest's allocator may take beyond a request: it grows by whole wasm pages."""

_PROMISE_PENDING, _PROMISE_FULFILLED = 0, 1
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
            except GuestTrap as trap:
                raise _trapped(trap) from trap
            yield from self._ask("adopt", self._string(self._policy.text))
            yield from self._reserve(memory_limit, least_size)
            pages = heap.save(guest.memory_size).pages
            return self._engine.picture(guest, base, pages, {"policy": self._policy.digest})
        finally:
            guest.modules = None
            guest.close()

    def _load(self) -> Generator[None, None, None]:
        guest, exports, handles = self._guest, self._guest.exports, self._engine.base.handles
        source = f'import * as handler from "./{self._entry}";\nglobalThis.{_REGISTER}(handler);\n'.encode()
        guest.begin_short()
        world = guest.call(exports["global_object"])
        name = guest.put(_REGISTER.encode())
        guest.call(exports["set_prop"], world, name, len(_REGISTER), handles["register"])
        place, main, out = guest.put(source), guest.put(b"nexus:main"), handles["out"]
        guest.modules = self._modules
        guest.begin()
        status = yield from guest.enter(exports["eval_module"], place, len(source), main, 10, out)
        if status != STATUS_OK:
            yield from self._fail_with_exception()
        evaluation = guest.word(out)
        yield from guest.enter(exports["execute_pending_jobs"])
        yield from self._check_settled(evaluation)
        tidy = f"delete globalThis.{_REGISTER}".encode()
        guest.begin_short()
        place = guest.put(tidy)
        guest.begin()
        yield from guest.enter(exports["eval_code"], place, len(tidy), out)

    def _check_settled(self, evaluation: int) -> Generator[None, None, None]:
        guest, exports, out = self._guest, self._guest.exports, self._engine.base.handles["out"]
        status = yield from guest.enter(exports["promise_state"], evaluation, out)
        state = guest.word(out)
        if status == STATUS_OK and state not in (_PROMISE_PENDING, _PROMISE_FULFILLED):
            yield from guest.enter(exports["promise_result"], evaluation, out)
            yield from self._fail_with(guest.word(out))
        registered = yield from self._ask("registered")
        if registered != b"true":
            raise LoadFailed(
                Thrown("Error", "the module never finished loading: a top-level await does not settle")
            )

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
        raise LoadFailed(described)

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
        size = image_size_for(guest.memory_size + _LEAST_HEADROOM, least_size)
        if size is None or size > memory_limit:
            raise MemoryLimitExceeded(
                f"the loaded handler needs more than memory_limit_bytes ({memory_limit})",
                LimitBreach("memory_limit_bytes", memory_limit, size or guest.memory_size),
            )
        room = size - guest.memory_size - _ALLOCATOR_SLACK
        guest.limit_memory(size)
        yield from self._ask("reserve", self._string(str(room).encode()))
        yield from guest.enter(exports["run_gc"])
        guest.grow_memory(size)

    def _string(self, data: bytes) -> int:
        guest = self._guest
        guest.begin_short()
        handle = guest.call(guest.exports["new_string"], guest.put(data), len(data))
        guest.begin()
        return handle


def _trapped(trap: GuestTrap) -> NexusError:
    if trap.code in (TrapCode.STACK_OVERFLOW, TrapCode.MEMORY_OUT_OF_BOUNDS):
        return CompilationError("the handler recursed too deeply while it was loaded", name="StackOverflow")
    return CompilationError("the handler's sandbox trapped while it was loaded", name="Trap")
