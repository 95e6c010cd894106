"""`JavaScriptInstance`: a QuickJS guest with an image attached, run call by call."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from ctypes import c_int32
from typing import NoReturn

import msgspec

from nexus_core.engine.bindings import EngineFault, GuestTrap, TrapCode
from nexus_core.engine.call import GuestCall
from nexus_core.engine.flush import Flush, count_breach
from nexus_core.engine.heap import AttachedHeap, HeapDelta
from nexus_core.engine.image import HeapImage
from nexus_core.engine.instance import Steps
from nexus_core.engine.javascript import (
    INPUT_BUFFER_BYTES,
    STATUS_OK,
    BreachReported,
    JavaScriptEngine,
)
from nexus_core.errors import (
    GuestError,
    LimitBreach,
    MemoryLimitExceeded,
    StackOverflow,
)
from nexus_core.limits import ENGINE_STACK_BYTES, MIB, ResourceLimits
from nexus_core.result import AsyncResult

_SMALL_MEMORY_BYTES = 8 * MIB
"""Copying a string of any length that fits takes less than a tick or two; a fiber for it costs 25 us."""


_encode = msgspec.json.Encoder().encode


class JavaScriptInstance:
    """One warm instance. Attach an image, execute, perhaps resume, then reset; never two calls at once."""

    def __init__(self, engine: JavaScriptEngine) -> None:
        self._guest = engine.new_guest()
        self._heap = AttachedHeap(self._guest.address)
        self._reader = engine.flush_reader
        self._limits = ResourceLimits()
        exports = self._guest.exports
        self._new_string = exports["new_string"]
        self._call_function = exports["call_function"]
        self._get_string = exports["get_string"]
        self._last_length = exports["qjs_last_len"]
        self._last_pointer = exports["qjs_last_ptr"]

    @property
    def image(self) -> HeapImage | None:
        """The image attached now."""
        return self._heap.image

    @property
    def memory_used(self) -> int:
        """Bytes of linear memory now. It never shrinks during a call, so this is the peak too."""
        return self._guest.memory_size

    @property
    def memory_peak(self) -> int:
        """The same: a guest's memory never shrinks while a call runs."""
        return self._guest.memory_size

    def fits(self, image: HeapImage) -> bool:
        """Whether `attach` can succeed: an instance's memory grows, but never shrinks."""
        return self._guest.memory_size <= image.memory_size

    def attach(self, image: HeapImage) -> None:
        """Make this an instance of the image's handler. The instance must be idle and must fit."""
        self._guest.limit_memory(image.memory_size)
        self._guest.grow_memory(image.memory_size)
        self._heap.attach(image)
        self._guest.set_stack_pointer(image.stack_pointer)
        handles = image.handles
        self._input, self._undefined = handles["input"], handles["undefined"]
        self._arguments, self._out = handles["arguments"], handles["out"]
        self._argument = c_int32.from_address(self._guest.address + self._arguments)
        self._result = c_int32.from_address(self._guest.address + self._out)

    def execute(self, call: GuestCall) -> Steps:
        """Start a call and run it until it settles or only waits for extension calls."""
        limits = self._hold_to(call)
        if self._attached().memory_size > limits.memory_limit_bytes:
            self._memory_breach()
        state = b""
        if call.state:
            state = b",".join([b"%s:%s" % (_encode(key), value) for key, value in call.state.items()])
        deadline = b"null" if call.deadline_ms is None else b"%d" % call.deadline_ms
        text = b'[%s,%s,{%s},"%s",%s,%s,%s]' % (
            call.event,
            call.scope,
            state,
            os.urandom(16).hex().encode(),
            deadline,
            _encode(call.request_id),
            _encode(call.session),
        )
        return self._run("invoke", text, call)

    def resume(self, results: Sequence[AsyncResult], call: GuestCall) -> Steps:
        """Deliver answers of extension calls to the waiting handler and run on."""
        self._hold_to(call)
        call.usage.awaited -= len(results)
        text = b'[%s,"%s"]' % (msgspec.json.encode(results), os.urandom(16).hex().encode())
        return self._run("resume", text, call)

    def save(self) -> HeapDelta:
        """Take the waiting call out of the instance: `reset` may follow, and `restore` into any other."""
        return self._heap.save(self._guest.memory_size)

    def restore(self, delta: HeapDelta) -> None:
        """Put a saved call into this instance, to which its image was just attached; `resume` goes on."""
        self._guest.limit_memory(delta.memory_size)
        self._guest.grow_memory(delta.memory_size)
        self._heap.restore(delta)

    def reset(self) -> bool:
        """Make every byte equal to the image again. False when it cannot: then the instance must go."""
        image = self._attached()
        if self._guest.memory_size != image.memory_size:
            return False
        try:
            self._heap.reset()
        except OSError:
            return False
        self._guest.set_stack_pointer(image.stack_pointer)
        self._guest.breach = None
        self._guest.call_in_progress = None
        return True

    def terminate(self) -> None:
        """Free the instance. May be called twice."""
        self._guest.close()

    def _attached(self) -> HeapImage:
        image = self._heap.image
        if image is None:
            raise ValueError("no image is attached to this instance")
        return image

    def _hold_to(self, call: GuestCall) -> ResourceLimits:
        """Set the guest's memory and stack limits to the call's."""
        limits = self._limits = call.policy.limits
        self._guest.call_in_progress = call
        guest, top = self._guest, self._attached().stack_pointer
        guest.limit_memory(limits.memory_limit_bytes)
        guest.set_stack_pointer(top - (ENGINE_STACK_BYTES - limits.stack_size_bytes))
        return limits

    def _run(self, entry: str, text: bytes, call: GuestCall) -> Steps:
        guest = self._guest
        image = self._attached()
        handles = image.handles
        try:
            if entry == "invoke" and handles["policy"] != call.policy.digest:
                policy = yield from self._string(call.policy.text)
                guest.begin()
                yield from self._enter(handles["adopt"], policy)
            argument = yield from self._string(text)
            guest.begin()
            yield from self._enter(handles[entry], argument)
            yield from guest.run_jobs()
            data = yield from self._text_of((yield from self._enter(handles["flush"])))
        except (EngineFault, BreachReported) as fault:
            self._explain(fault)
        flush = self._reader.read(data, call.policy.capabilities, call.policy.limits, call.usage)
        self._check_exhaustion(flush, call)
        return flush

    def _string(self, text: bytes) -> Generator[None, None, int]:
        """A guest string; through the prepared buffer when it fits."""
        guest, place = self._guest, self._input
        if len(text) > INPUT_BUFFER_BYTES:
            guest.begin()
            place = yield from guest.enter(guest.exports["qjs_alloc"], len(text))
            if not place:
                self._memory_breach()
            guest.write(place, text)
            handle = yield from guest.enter(self._new_string, place, len(text))
        else:
            guest.begin_short()
            guest.write(place, text)
            handle = guest.call(self._new_string, place, len(text))
        if not handle:
            self._memory_breach()
        return handle

    def _enter(self, function: int, argument: int | None = None) -> Generator[None, None, int]:
        """Call a function of the bootstrap; returns the handle of its result."""
        guest = self._guest
        count = 0
        if argument is not None:
            self._argument.value = argument
            count = 1
        status = yield from guest.enter(
            self._call_function, function, self._undefined, self._arguments, count, self._out
        )
        if status != STATUS_OK:
            # The bootstrap catches all a handler can throw; what is left is no memory to go on.
            self._memory_breach()
        return self._result.value

    def _text_of(self, handle: int) -> Generator[None, None, bytes]:
        """The UTF-8 of a guest string."""
        guest = self._guest
        if guest.memory_size > _SMALL_MEMORY_BYTES:
            # The text can be as large as the memory: writing it must not hold the event loop.
            status = yield from guest.enter(self._get_string, handle)
            guest.begin_short()
        else:
            guest.begin_short()
            status = guest.call(self._get_string, handle)
        if status != STATUS_OK:
            # There was no memory for the copy, or the handler slipped half a surrogate pair into the text.
            if self._sought_memory():
                self._memory_breach()
            raise GuestError("the handler broke the text its sandbox hands over")
        return guest.read(guest.call(self._last_pointer), guest.call(self._last_length))

    def _explain(self, fault: Exception) -> NoReturn:
        """Say in our words why the run ended; always raises."""
        limits = self._limits
        if self._guest.breach is not None:
            limit = getattr(limits, self._guest.breach, 0)
            raise count_breach(self._guest.breach, limit, limit + 1) from None
        code = fault.code if isinstance(fault, GuestTrap) else None
        # The guest's own stack lies at the bottom of its memory: running off it is out of bounds.
        if code in (TrapCode.STACK_OVERFLOW, TrapCode.MEMORY_OUT_OF_BOUNDS):
            raise self._stack_breach() from None
        # The guest's Rust side aborts when it gets no memory.
        if code is TrapCode.UNREACHABLE and self._sought_memory():
            self._memory_breach()
        raise GuestError("the handler's sandbox trapped", name="Trap") from fault

    def _sought_memory(self) -> bool:
        """Whether the call needed more than its image has, so that a failure is likely for want of more."""
        return self._guest.memory_size > self._attached().memory_size or self._guest.near(
            self._limits.memory_limit_bytes
        )

    def _check_exhaustion(self, flush: Flush, call: GuestCall) -> None:
        """Turn the guest's own signs of exhaustion into the limits they stand for."""
        thrown, limit = flush.thrown, self._limits.memory_limit_bytes
        # A job that gets no memory is lost half done, and then nothing settles any more.
        lost = flush.outcome == "pending" and not call.usage.awaited and self._guest.near(limit)
        if lost or self._guest.lacked_memory(thrown, limit):
            self._memory_breach()
        if thrown.name in ("InternalError", "RangeError") and thrown.message in (
            "stack overflow",
            "Maximum call stack size exceeded",
        ):
            raise self._stack_breach()

    def _stack_breach(self) -> StackOverflow:
        limit = self._limits.stack_size_bytes
        return StackOverflow(
            f"the handler recursed deeper than stack_size_bytes ({limit})",
            LimitBreach("stack_size_bytes", limit, limit + 1),
        )

    def _memory_breach(self) -> NoReturn:
        limit = self._limits.memory_limit_bytes
        raise MemoryLimitExceeded(
            f"the handler needed more than memory_limit_bytes ({limit})",
            LimitBreach("memory_limit_bytes", limit, max(limit + 1, self._guest.memory_size)),
        )
