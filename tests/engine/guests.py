"""What the engine's tests build on: the engine with compiled code kept for the session, and short calls."""

from collections.abc import Generator, Mapping
from typing import Any

import msgspec

from nexus_core.capabilities import CapabilitySet
from nexus_core.engine.call import CallPolicy, GuestCall
from nexus_core.engine.driver import TimeBudget, finish
from nexus_core.engine.flush import Flush, Usage
from nexus_core.engine.image import HeapImage
from nexus_core.engine.javascript_instance import JavaScriptInstance
from nexus_core.engine.javascript_kind import JavaScriptKind
from nexus_core.limits import ResourceLimits

ALL = CapabilitySet.parse(
    ["state:read:*", "state:write:*", "events:emit:*", "view:update:*", "ext:*", "crypto:random"]
)

GENEROUS_MS = 20_000
"""A deadline that only a run which never ends can meet, also on a busy machine."""


class CodeInMemory:
    """A code cache for one session of tests."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def load(self, key: str) -> bytes | None:
        """What was stored."""
        return self.kept.get(key)

    def store(self, key: str, code: bytes) -> None:
        """Keep it."""
        self.kept[key] = code


def policy(capabilities: CapabilitySet = ALL, name: str = "h", **limits: int) -> CallPolicy:
    """A policy that allows everything unless told otherwise."""
    return CallPolicy(name, capabilities, ResourceLimits(**limits), {})


def compile_text(
    kind: JavaScriptKind, text: str, rules: CallPolicy | None = None, files: Mapping[str, str] | None = None
) -> HeapImage:
    """The image of a handler of one file, and of `files` beside it."""
    sources = {"h.js": text, **(files or {})}
    return finish(kind.compile("h.js", sources, rules or policy()), TimeBudget(GENEROUS_MS, 0))


def guest_call(rules: CallPolicy | None = None, event: Any = None, **fields: Any) -> GuestCall:
    """One call's input."""
    texts = {key: msgspec.json.encode(value) for key, value in fields.pop("state", {}).items()}
    return GuestCall(
        event=msgspec.json.encode(event),
        scope=b"{}",
        state=texts,
        request_id="r",
        session=None,
        deadline_ms=None,
        policy=rules or policy(),
        usage=Usage(),
        **fields,
    )


def run(steps: Generator[None, None, Flush], timeout_ms: int = GENEROUS_MS) -> Flush:
    """Drive a run to its end on this thread."""
    return finish(steps, TimeBudget(timeout_ms, 0))


def call_text(instance: JavaScriptInstance, call: GuestCall | None = None) -> Any:
    """Run one call and give its returned value; anything but a return fails the test."""
    flush = run(instance.execute(call or guest_call()))
    assert flush.outcome == "returned", flush.thrown
    return msgspec.json.decode(flush.value)


def check_pristine(instance: JavaScriptInstance) -> None:
    """Every byte of the memory, and the one mutable global, are the image's."""
    image, heap = instance._heap.image, instance._heap
    assert image is not None
    assert heap.changed_pages() == frozenset()
    assert heap.read(0, instance.memory_used) == image.contents()
    assert instance._guest.stack_pointer == image.stack_pointer
