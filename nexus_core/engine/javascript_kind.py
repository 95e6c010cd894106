"""JavaScript and TypeScript as a guest kind: compile a handler, make instances, explain its errors."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING

from nexus_core.engine.call import CallPolicy
from nexus_core.engine.flush import Thrown
from nexus_core.engine.image import HeapImage, ImageArena
from nexus_core.engine.javascript import JavaScriptEngine
from nexus_core.engine.javascript_instance import JavaScriptInstance
from nexus_core.engine.wasm_engine import WasmEngine
from nexus_core.errors import GuestError

if TYPE_CHECKING:
    from nexus_core.engine.javascript_compiler import JavaScriptCompiler


class JavaScriptKind:
    """What the core knows of this guest kind. Another kind has the same members."""

    def __init__(self, engine: WasmEngine, arena: ImageArena) -> None:
        self._engine = JavaScriptEngine(engine, arena)
        self._lock = threading.Lock()
        self._made_compiler: JavaScriptCompiler | None = None

    @property
    def build(self) -> str:
        """Names the guest build: a compiled handler of another build does not fit."""
        return self._engine.build

    def compile(
        self, entry: str, files: Mapping[str, str], policy: CallPolicy, least_size: int = 0
    ) -> Generator[None, None, HeapImage]:
        """Load a handler and picture it. Raises `CompilationError` that points into the author's source.

        `least_size`: at least so many bytes of memory, for a handler that outgrew its image.
        """
        return self._compiler().compile(entry, files, policy, least_size)

    def decode(self, data: bytes) -> HeapImage:
        """A compiled handler from a cache; raises ValueError when it does not fit."""
        return self._engine.decode(data)

    def new_instance(self) -> JavaScriptInstance:
        """A fresh instance, to which any compiled handler can be attached."""
        return JavaScriptInstance(self._engine)

    def explain(self, thrown: Thrown, entry: str, files: Mapping[str, str]) -> GuestError:
        """A handler's own error, with its place in the author's source."""
        return self._compiler().explain(thrown, entry, files)

    def _compiler(self) -> JavaScriptCompiler:
        with self._lock:
            if self._made_compiler is None:
                # Imported here: 7 ms that a process whose handlers are all compiled does not spend.
                from nexus_core.engine.javascript_compiler import JavaScriptCompiler

                self._made_compiler = JavaScriptCompiler(self._engine)
            return self._made_compiler
