"""The same handler on quickjs-rs, in the three ways its users can run it.

The handler is the very file Nexus runs (`bench/handlers/counter/index.js`), less `export default`. Around it
stands `bench/guests/quickjs.js`: JSON text in, state writes and events buffered, JSON text out. Buffering is
what serves quickjs-rs best: each registered host function would cost it a crossing of its own. The host
decodes the answer, as Nexus does.

- a new runtime per call: pristine, and what isolation costs there;
- one shared context: no isolation at all, every call sees what earlier ones left;
- one context, its heap restored from a snapshot before each call: pristine too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
from quickjs_rs import Context, Runtime

from bench.peers import GUESTS, HANDLERS

INPUT = msgspec.json.encode({"event": {"who": "bob"}, "state": {"count": 1}}).decode()
EXPECTED = {"greeting": "hello bob", "count": 2}


def program() -> str:
    """The whole program: what stands around the handler, then the handler."""
    handler = (HANDLERS / "counter" / "index.js").read_text()
    return (GUESTS / "quickjs.js").read_text() + handler.replace("export default ", "") + "\n0;"


def fresh_runtime_call(source: str) -> Any:
    """One call in a runtime made for it and closed after it."""
    with Runtime() as runtime, runtime.new_context() as context:
        context.eval(source)
        return _call(context)


class SharedContext:
    """A context that stays, with the entry function at hand."""

    def __init__(self, context: Context, runtime: Runtime) -> None:
        self._context = context
        self._runtime = runtime
        context.eval(program())
        self._snapshot = context.create_snapshot()

    def call(self) -> Any:
        """One call on whatever earlier calls left."""
        return _call(self._context)

    def restored_call(self) -> Any:
        """One call in the heap as it was before any call."""
        self._runtime.restore_snapshot(self._snapshot, self._context)
        return _call(self._context)


@contextlib.contextmanager
def shared_context() -> Iterator[SharedContext]:
    """A `SharedContext`, closed at the end."""
    with Runtime() as runtime, runtime.new_context() as context:
        yield SharedContext(context, runtime)


def _call(context: Context) -> Any:
    """JSON in, JSON out. Evaluating the call was faster than calling through a handle."""
    return msgspec.json.decode(context.eval(f"$call({msgspec.json.encode(INPUT).decode()})"))
